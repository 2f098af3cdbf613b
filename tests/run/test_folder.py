import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray
import zarr

from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.run.folder import RunFolder
from atomvae.run.images import read_image, write_image
from atomvae.run.tables import read_table, write_table


def atom_table(n: int = 7) -> pd.DataFrame:
    rng = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "atom_id": np.arange(n),
            "frame": np.sort(rng.integers(0, 4, n)),
            "y": rng.random(n),
            "x": np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
            "origin": rng.integers(0, 2, n).astype(np.int8),
            "seen": rng.random(n) < 0.5,
        }
    )


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "gold.atomvae.zarr")


@pytest.mark.parametrize("n", [0, 1, 7, 70_000])
def test_atoms_come_back_with_every_dtype(folder, n):
    atoms = atom_table(n)
    folder.write_atoms(atoms, [4])
    back = RunFolder(folder.path).atoms()
    pd.testing.assert_frame_equal(back, atoms)
    for frame in range(4):
        expected = atoms[atoms["frame"] == frame].reset_index(drop=True)
        pd.testing.assert_frame_equal(folder.atoms(frame=frame), expected)
    with pytest.raises(InputError, match="no frame 4"):
        folder.atoms(frame=4)


def test_frames_of_several_movies(folder):
    atoms = pd.DataFrame(
        {"atom_id": np.arange(5), "movie": [0, 0, 1, 1, 1], "frame": [0, 2, 0, 0, 1]}
    )
    folder.write_atoms(atoms, [3, 2])
    ids = [
        [folder.atoms(movie=m, frame=t)["atom_id"].tolist() for t in range(n)]
        for m, n in ((0, 3), (1, 2))
    ]
    assert ids == [[[0], [], [1]], [[2, 3], [4]]]


def test_others_open_it_without_us(folder):
    atoms = atom_table()
    folder.write_atoms(atoms, [4])
    folder.write_parquet("atoms", atoms)
    folder.write_listing()
    with xarray.open_zarr(folder.path, group="atoms") as dataset:  # warnings are errors here
        assert dataset["y"].dims == ("atom",)
        back = dataset.to_dataframe()
        assert dataset["y"].attrs["unit"] == "px"
    for name in atoms:
        np.testing.assert_array_equal(back[name], atoms[name])
    table = pd.read_parquet(folder.path / ".atomvae" / "tables" / "atoms.parquet")
    pd.testing.assert_frame_equal(table, atoms)
    group = zarr.open_group(folder.path, mode="r", use_consolidated=False)
    np.testing.assert_array_equal(group["atoms/x"][:], atoms["x"])


def test_opening_imports_nothing_of_ours_in_another_program(folder):
    """The same with a Python that never heard of atomvae."""
    folder.write_atoms(atom_table(), [4])
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
import xarray
print(xarray.open_zarr({str(folder.path)!r}, group="atoms").sizes["atom"])
assert not [m for m in sys.modules if m.startswith("atomvae")]
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "7"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_a_copied_movie_is_the_same_movie(folder, dtype):
    frames = (np.random.default_rng(0).random((5, 33, 20)) * 200).astype(dtype)
    if dtype.startswith("float"):
        frames[2, 3, 4] = np.nan
    movie = Movie.from_array(
        frames, pixel_size=(0.01, 0.02), frame_time=0.5, name="a", metadata={"n": np.int16(3)}
    )
    folder.write_movie(movie)
    folder.set_movies(["a"])
    back = RunFolder(folder.path).movie()
    assert back.frames.dtype == dtype
    np.testing.assert_array_equal(back.frames.compute(), frames)
    assert (back.pixel_size, back.frame_time, back.name) == ((0.01, 0.02), 0.5, "a")
    assert back.metadata["n"] == 3
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(back))[1:3].frames.compute(), frames[1:3]
    )
    assert len(pickle.dumps(back)) < 20_000  # paths travel to workers, not pixels


def test_the_image_is_ome_ngff(folder):
    frames = np.zeros((2, 8, 8), np.uint8)
    movie = Movie.from_array(frames, pixel_size=(0.01, 0.02), frame_time=0.5)
    folder.write_movie(movie)
    attributes = json.loads((folder.path / "images/movie/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["version"] == "0.5"
    (scales,) = attributes["ome"]["multiscales"]
    assert [(a["name"], a["unit"]) for a in scales["axes"]] == [
        ("t", "second"), ("y", "nanometer"), ("x", "nanometer"),
    ]  # fmt: skip
    (level,) = scales["datasets"]
    assert level["coordinateTransformations"] == [{"type": "scale", "scale": [0.5, 0.01, 0.02]}]
    array = zarr.open_array(folder.path / "images/movie" / level["path"], mode="r")
    assert array.metadata.dimension_names == ("t", "y", "x")


def test_unknown_calibration_stays_unknown(folder):
    folder.write_movie(Movie.from_array(np.ones((1, 8, 8))))
    folder.set_movies(["movie"])
    assert folder.movie().pixel_size is None and folder.movie().frame_time is None
    text = (folder.path / "images/movie/zarr.json").read_text()
    assert "nanometer" not in text


def test_a_reference_follows_its_file_and_tables_outlive_it(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    frames = np.random.default_rng(0).random((3, 16, 16))
    np.save(project / "m.npy", frames)
    folder = RunFolder.create(project / "gold.atomvae.zarr")
    movie = Movie.from_array(frames, pixel_size=0.01, name="m")
    source = {"path": str(project / "m.npy"), "pixel_size": 0.01, "frames": 2}
    folder.write_movie(movie[:2], source=source, copy=False)
    folder.set_movies(["m"])
    folder.write_atoms(atom_table(), [4])
    assert not (folder.path / "images/m/0").exists()
    np.testing.assert_array_equal(folder.movie().frames.compute(), frames[:2])
    moved = tmp_path / "elsewhere"
    shutil.move(project, moved)  # both together
    folder = RunFolder(moved / "gold.atomvae.zarr")
    np.testing.assert_array_equal(folder.movie().frames.compute(), frames[:2])
    (moved / "m.npy").unlink()
    with pytest.raises(InputError, match="were not copied and their file is gone"):
        folder.movie()
    assert len(folder.atoms()) == 7


def test_a_moved_folder_is_whole(folder, tmp_path):
    frames = np.random.default_rng(0).random((3, 16, 16))
    folder.write_movie(Movie.from_array(frames, name="a"))
    folder.set_movies(["a"])
    folder.write_atoms(atom_table(), [4])
    moved = RunFolder(shutil.move(folder.path, tmp_path / "silver.atomvae.zarr"))
    assert moved.name == "silver"
    np.testing.assert_array_equal(moved.movie("a").frames.compute(), frames)
    pd.testing.assert_frame_equal(moved.atoms(), atom_table())


def test_replacing_a_table_leaves_none_of_the_old_columns(folder):
    folder.write_atoms(atom_table().assign(extra=1), [4])
    folder.write_atoms(atom_table(), [4])
    assert "extra" not in folder.atoms()
    assert not (folder.path / "atoms/extra").exists()


def test_the_listing_never_hides_anything(folder):
    folder.write_listing()
    folder.write_atoms(atom_table(), [4])
    folder.write_atoms(atom_table(3), [4])
    assert len(RunFolder(folder.path).atoms()) == 3
    folder.forget_listing()
    assert "atoms" in zarr.open_group(folder.path, mode="r")  # with zarr's own default
    folder.write_listing()
    assert "y" in zarr.open_group(folder.path, mode="r")["atoms"]


def test_text_columns(tmp_path):
    table = pd.DataFrame({"species": ["Si", "C", "C"], "n": [1, 2, 3]})
    write_table(tmp_path / "t", table, {})
    assert read_table(tmp_path / "t")["species"].tolist() == ["Si", "C", "C"]


def test_only_one_process_writes(folder):
    code = f"""
from atomvae.run.folder import RunFolder
with RunFolder({str(folder.path)!r}).locked():
    print("locked", flush=True)
    input()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match="is being written by another process"), folder.locked():
        pass
    child.kill()  # a lock does not outlive its process
    child.wait()
    child.stdin.close()
    child.stdout.close()
    with folder.locked():
        pass


def damage_zarr_json(path):
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "gr')


def foreign(path):
    zarr.open_group(path, mode="w", zarr_format=3).attrs["ome"] = {}


def later_schema(path):
    text = json.loads((path / "zarr.json").read_text())
    text["attributes"]["atomvae"]["schema_version"] = 99
    (path / "zarr.json").write_text(json.dumps(text))


def no_zarr_json(path):
    (path / "zarr.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_zarr_json, "zarr.json is damaged"),
        (foreign, "was not written by atomvae"),
        (later_schema, "schema version 99"),
        (no_zarr_json, "zarr.json is missing"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_a_folder_that_is_none(folder, damage, words):
    damage(folder.path)
    with pytest.raises(InputError, match=words):
        RunFolder(folder.path)


def lose_chunk(path):
    next(path.glob("atoms/y/c/*")).unlink()


def truncate_chunk(path):
    chunk = next(path.glob("atoms/y/c/*"))
    chunk.write_bytes(chunk.read_bytes()[:20])


def lose_column(path):
    shutil.rmtree(path / "atoms/y")


def break_column(path):
    (path / "atoms/y/zarr.json").write_text("{")


@pytest.mark.parametrize("damage", [lose_chunk, truncate_chunk, lose_column, break_column])
def test_a_damaged_column_is_named(folder, damage):
    folder.write_atoms(atom_table(), [4])
    damage(folder.path)
    with pytest.raises(InputError, match="atoms/y is damaged"):
        folder.atoms()


def test_a_lost_frame_is_noticed(folder):
    write_image(folder.path / "images/a", Movie.from_array(np.zeros((3, 8, 8)), name="a"))
    os.unlink(folder.path / "images/a/0/data/c/1/0/0")
    with pytest.raises(InputError, match="lacks 1 of its 3 chunks"):
        read_image(folder.path / "images/a")


def test_what_is_missing_is_told_with_its_command(folder):
    for read, words in [
        (folder.atoms, r"no atom table.*run `atomvae detect"),
        (folder.patches, r"no patches.*run `atomvae patches"),
        (folder.latents, r"no latent table.*run `atomvae encode"),
        (folder.model, r"run `atomvae train"),
        (folder.movie, r"holds no movie yet"),
    ]:
        with pytest.raises(InputError, match=words):
            read()


def test_a_damaged_parquet_is_named(folder):
    folder.write_parquet("drift", atom_table())
    file = folder.tables / "drift.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"drift.parquet is damaged"):
        folder.read_parquet("drift")


def test_opening_executes_nothing(folder):
    """Settings with a Python tag are refused, not obeyed."""
    from atomvae.run.pipeline import open_settings

    trap = folder.path / "trap"
    folder.private.mkdir(exist_ok=True)
    (folder.private / "config.yaml").write_text(
        f"movie: !!python/object/apply:pathlib.Path.touch [{trap}]\n"
    )
    with pytest.raises(InputError, match="not valid YAML"):
        open_settings(folder.path)
    assert not trap.exists()


def test_the_name_is_checked(tmp_path):
    with pytest.raises(InputError, match=r"must end with .atomvae.zarr"):
        RunFolder.create(tmp_path / "gold")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RunFolder.create(tmp_path / "a.atomvae.zarr").movies == []
