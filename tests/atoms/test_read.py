import re

import numpy as np
import pandas as pd
import pytest
import tifffile

from atomvae.atoms.read import order_test, read_atoms
from atomvae.atoms.table import COLUMNS
from atomvae.errors import InputError
from atomvae.movie.movie import Movie

Y = np.array([12.0, 20.0, 31.0, 44.0, 50.0, 58.0])
X = np.array([80.0, 61.0, 90.0, 40.0, 66.0, 51.0])


@pytest.fixture
def movie():
    rows, columns = np.mgrid[:100, :120]
    spots = sum(
        np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8) for y, x in zip(Y, X, strict=True)
    )
    return Movie.from_array(np.random.default_rng(0).normal(spots, 0.05))


def write(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def rows(first, second, mark=","):
    return "\n".join(f"{a:g}{mark}{b:g}" for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "y,x\n" + rows(Y, X),
        "X,Y\r\r\n" + rows(X, Y).replace("\n", "\r\r\n"),
        "Row;Column\n" + rows(Y, X, ";"),
        "# made by hand\nx\ty\n" + rows(X, Y, "\t") + "\n\n",
        ",X,Y\n" + "\n".join(f"{i},{x},{y}" for i, (y, x) in enumerate(zip(Y, X, strict=True))),
    ],
    ids=["yx", "CR CR LF", "semicolons", "tabs", "counter"],
)
def test_named_columns_are_read_by_name(tmp_path, text):
    atoms = read_atoms(write(tmp_path, text))
    assert list(atoms.columns) == list(COLUMNS)
    np.testing.assert_array_equal(atoms[["y", "x"]], np.c_[Y, X])
    assert (atoms["track"] == -1).all() and atoms["y_sd"].isna().all()


def test_unnamed_coordinates_are_ordered_by_the_image(tmp_path, movie):
    right = write(tmp_path, rows(Y, X))
    np.testing.assert_array_equal(read_atoms(right, movie)[["y", "x"]], np.c_[Y, X])
    swapped = tmp_path / "swapped.npy"
    np.save(swapped, np.c_[X, Y])
    with pytest.warns(UserWarning, match=re.escape("swapped.npy: by the image")):
        atoms = read_atoms(swapped, movie)
    np.testing.assert_array_equal(atoms[["y", "x"]], np.c_[Y, X])


def test_swapped_names_are_believed_with_a_warning(tmp_path, movie):
    path = write(tmp_path, "y,x\n" + rows(X, Y))
    with pytest.warns(UserWarning, match="swapped"):
        atoms = read_atoms(path, movie)
    np.testing.assert_array_equal(atoms[["y", "x"]], np.c_[X, Y])
    atoms = read_atoms(path, movie, order="xy")  # the order overrides the names
    np.testing.assert_array_equal(atoms[["y", "x"]], np.c_[Y, X])


def test_dark_columns_tell_the_order_too(tmp_path, movie):
    dark = Movie.from_array(-movie.frames.compute())
    atoms = read_atoms(write(tmp_path, rows(Y, X)), dark)
    np.testing.assert_array_equal(atoms[["y", "x"]], np.c_[Y, X])


def test_refuses_to_guess(tmp_path, movie):
    path = write(tmp_path, rows(Y, X))
    with pytest.raises(InputError, match="pass order='yx' or 'xy', or movie"):
        read_atoms(path)
    noise = Movie.from_array(np.random.default_rng(1).normal(size=(100, 120)))
    with pytest.raises(InputError, match="neither order"):
        read_atoms(path, noise)
    constant = Movie.from_array(np.zeros((100, 120)))
    with pytest.raises(InputError, match="neither order"):
        read_atoms(path, constant)
    assert len(read_atoms(path, noise, order="yx")) == 6


def test_frames_parquet_and_full_tables(tmp_path):
    table = pd.DataFrame({"frame": [1, 0, 1], "y": [1.0, 2.0, 3.0], "x": [4.0, 5.0, 6.0]})
    table.to_parquet(tmp_path / "atoms.parquet")
    atoms = read_atoms(tmp_path / "atoms.parquet")
    assert atoms["frame"].tolist() == [0, 1, 1] and atoms["y"].tolist() == [2.0, 1.0, 3.0]
    assert atoms["atom_id"].tolist() == [0, 1, 2]
    atoms.assign(sublattice=2).to_csv(tmp_path / "again.csv", index=False)
    again = read_atoms(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(again, atoms.assign(sublattice=again["sublattice"]))
    assert (again["sublattice"] == 2).all()


def test_no_positions(tmp_path):
    assert read_atoms(write(tmp_path, "")).empty
    assert read_atoms(write(tmp_path, "X,Y\r\n")).empty


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xlsx", "", "expected .csv"),
        ("a.csv", "y,x\n1,two\n", "can't be read"),
        ("a.csv", "y,x\n1,nan\n", "holds NaN"),
        ("a.csv", "area,mean\n1,2\n", "columns area, mean"),
        ("a.npy", "nothing", "can't be read"),
        ("a.parquet", "nothing", "can't be read"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_atoms(write(tmp_path, text, name))


def test_bad_arguments(tmp_path, movie):
    with pytest.raises(InputError, match="there is no file"):
        read_atoms(tmp_path / "absent.csv")
    path = write(tmp_path, "y,x\n5,500\n6,6\n")
    with pytest.raises(InputError, match="1 of 2 positions lie outside the frame of 100 x 120"):
        read_atoms(path, movie)
    with pytest.raises(InputError, match="expected 'yx', 'xy'"):
        read_atoms(path, order="zyx")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    with pytest.raises(InputError, match=re.escape("shape (4,)")):
        read_atoms(tmp_path / "flat.npy")


REAL = [
    ("re_on_carbon/bpy_crop19.tif", "re_on_carbon/bpy_crop19.csv", 118),
    ("pt_on_carbon/066_HAADF_15nm_Sample_PtNC_21Oct20.tif", "pt_on_carbon/066_Results.csv", 101),
]


@pytest.mark.real_data
@pytest.mark.parametrize(("image", "labels", "count"), REAL, ids=["Re", "Pt"])
def test_real_labels(real_data, tmp_path, image, labels, count):
    movie = Movie.from_array(tifffile.imread(real_data / image))
    atoms = read_atoms(real_data / labels, movie)
    assert len(atoms) == count
    test = order_test(atoms, movie)
    assert test.winner == "yx" and test.yx > 20 and abs(test.xy) < 5
    np.save(tmp_path / "bare.npy", atoms[["x", "y"]].to_numpy())
    with pytest.warns(UserWarning, match="are \\(x, y\\), read so"):
        again = read_atoms(tmp_path / "bare.npy", movie)
    np.testing.assert_array_equal(again[["y", "x"]], atoms[["y", "x"]])
