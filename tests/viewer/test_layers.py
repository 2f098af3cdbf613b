import subprocess
import sys
from dataclasses import replace

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.viewer.colors import PALETTE, UNKNOWN, color_scale, hue_circle
from atomvae.viewer.layers import LARGE, angle_marks, to_layers


def by_name(layers):
    return {options["name"]: (data, options, kind) for data, options, kind in layers}


def test_all_layers_share_the_axes(movie, table):
    table = table.assign(angle=0.1, track=table.groupby("frame").cumcount())
    layers = to_layers(
        movie, table, rasters={"strain": np.random.default_rng(0).random((4, 96, 128))}
    )
    assert [kind for _, _, kind in layers] == ["image", "image", "tracks", "vectors", "points"]
    for _, options, _ in layers:
        assert options["scale"] == (0.5, 0.02, 0.02)
        assert options["units"] == ("s", "nm", "nm")
        assert options["axis_labels"] == ("t", "y", "x")


def test_unknown_calibration_is_pixels_and_frames(table):
    movie = Movie.from_array(np.zeros((4, 96, 128)))
    for _, options, _ in to_layers(movie, table):
        assert options["scale"] == (1.0, 1.0, 1.0)
        assert options["units"] == ("pixel", "pixel", "pixel")
    assert [kind for _, _, kind in to_layers(None, table)] == ["points"]


def test_atoms_carry_positions_and_every_column(movie, table):
    data, options, _ = by_name(to_layers(movie, table))["atoms"]
    np.testing.assert_array_equal(data, table[["frame", "y", "x"]])
    assert list(options["features"]) == list(table)
    assert options["face_color"] == "z_0"
    # neighbours never overlap, whatever the spacing is
    assert 0 < options["size"] < 16


def test_rows_keep_their_order_whatever_the_index_is(movie, table):
    shuffled = table.iloc[::-1]
    data, options, _ = by_name(to_layers(movie, shuffled))["atoms"]
    np.testing.assert_array_equal(data[:, 1], shuffled["y"])
    np.testing.assert_array_equal(options["features"]["atom_id"], shuffled["atom_id"])


def test_movie_is_lazy_and_contrast_ignores_hot_pixels(movie):
    frames = np.random.default_rng(0).normal(50, 5, (40, 64, 64)).astype(np.float32)
    frames[:, 3, 3] = 1e6
    read = []

    def block(array, block_info=None):
        if block_info:
            read.append(block_info[0]["chunk-location"][0])
        return array

    counted = da.from_array(frames, chunks=(1, 64, 64)).map_blocks(block, dtype=np.float32)
    lazy = replace(movie, frames=counted)
    data, options, _ = to_layers(lazy)[0]
    assert data is counted
    assert len(set(read)) <= 8  # a sample, not the movie
    low, high = options["contrast_limits"]
    assert 30 < low < 45 and 55 < high < 75


def test_large_frames_come_in_several_resolutions(movie):
    frames = da.zeros((2, LARGE + 2, 512), chunks=(1, -1, -1), dtype=np.uint16)
    data, options, _ = to_layers(replace(movie, frames=frames))[0]
    assert options["multiscale"]
    assert [level.shape for level in data] == [(2, 2050, 512), (2, 1025, 256), (2, 512, 128)]
    assert {level.dtype for level in data} == {np.dtype(np.uint16)}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_constant_and_missing_pixels_have_limits(movie, shape):
    for value in (7.0, np.nan):
        frames = da.full(shape, value, chunks=(1, -1, -1))
        low, high = to_layers(replace(movie, frames=frames))[0][1]["contrast_limits"]
        assert low < high


@pytest.mark.parametrize(
    ("degrees", "step"), [(0, (0, 1)), (90, (-1, 0)), (180, (0, -1)), (-90, (1, 0))]
)
def test_arrows_turn_counter_clockwise_on_screen(degrees, step):
    table = pd.DataFrame({"frame": [2], "y": [5.0], "x": [6.0], "angle": [np.radians(degrees)]})
    vectors, rows = angle_marks(table, 1, 3.0)
    np.testing.assert_allclose(vectors[0, 0], [2, 5, 6])
    np.testing.assert_allclose(vectors[0, 1], [0, 3 * step[0], 3 * step[1]], atol=1e-12)
    assert rows.tolist() == [0]


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_equivalent_angles_look_the_same(n):
    table = pd.DataFrame({"frame": [0], "y": [5.0], "x": [6.0], "angle": [0.4]})

    def ends(angle):
        vectors, _ = angle_marks(table.assign(angle=angle), n, 3.0)
        assert len(vectors) == n
        return np.sort_complex(np.round(vectors[:, 1] @ [0, 1j, 1], 9))

    def color(angle):
        layers = to_layers(None, table.assign(angle=angle), symmetry=n)
        options = by_name(layers)["angles"][1]
        position = options["features"]["angle_deg"] / options["edge_contrast_limits"][1]
        return np.exp(2j * np.pi * position.iloc[0])

    np.testing.assert_allclose(ends(0.4), ends(0.4 - 2 * np.pi / n), atol=1e-8)
    assert not np.allclose(ends(0.4), ends(0.5), atol=1e-3)
    assert abs(color(0.4) - color(0.4 + 2 * np.pi / n)) < 1e-9
    # the colour goes once around within one n-th of a turn
    assert abs(color(0.4) + color(0.4 + np.pi / n)) < 1e-9


def test_symmetry_is_taken_from_the_table(movie, table):
    table = table.assign(angle=0.4, angle_folded=0.4, angle_n=3)
    layers = by_name(to_layers(movie, table, color_by="angle_folded"))
    assert len(layers["angles"][0]) == 3 * len(table)
    assert layers["atoms"][1]["face_contrast_limits"] == (0, pytest.approx(2 * np.pi / 3))
    assert len(by_name(to_layers(movie, table, symmetry=1))["angles"][0]) == len(table)
    full = to_layers(movie, table, color_by="angle")[-1][1]
    assert full["face_contrast_limits"] == (0, pytest.approx(2 * np.pi))


def test_arrows_show_angles_of_the_specimen_when_pixels_are_not_square(movie):
    table = pd.DataFrame({"frame": [0], "y": [5.0], "x": [6.0], "angle": [np.pi / 4]})
    movie = replace(movie, pixel_size=(0.02, 0.01))
    vectors, options, _ = by_name(to_layers(movie, table))["angles"]
    _, dy, dx = vectors[0, 1] * options["scale"]
    assert dx > 0
    assert dy == pytest.approx(-dx)


def test_uncertain_and_unknown_angles_fade():
    table = pd.DataFrame({"frame": 0, "y": [1.0, 2, 3], "x": 0.0, "angle": [0.0, 0.0, np.nan]})
    table["angle_sd"] = [0.0, 2.0, 0.1]
    vectors, rows = angle_marks(table, 1, 1.0)
    assert rows.tolist() == [0, 1]
    np.testing.assert_allclose(vectors[:, 1, 2], [1, np.exp(-2)])


def test_tracks_leave_out_the_unlinked(movie, table):
    track = table.groupby("frame").cumcount().where(table["left"], -1)
    data, _, _ = by_name(to_layers(movie, table.assign(track=track)))["tracks"]
    assert len(data) == table["left"].sum()
    assert (data[:, 0] >= 0).all()
    first = data[data[:, 0] == data[0, 0]]
    np.testing.assert_array_equal(first[:, 1], range(4))
    np.testing.assert_array_equal(np.diff(first[:, 3]), 3)
    assert "tracks" not in by_name(to_layers(movie, table.assign(track=-1)))


def test_errors_at_the_door(movie, table):
    with pytest.raises(InputError, match="no column 'x'"):
        to_layers(movie, table.drop(columns="x"))
    with pytest.raises(InputError, match="frame 9, but the movie ends with frame 3"):
        to_layers(movie, table.assign(frame=9))
    with pytest.raises(InputError, match="no column 'z_7' to colour by; the table has atom_id"):
        to_layers(movie, table, color_by="z_7")
    with pytest.raises(InputError, match="symmetry is 0"):
        to_layers(movie, table.assign(angle=0.0), symmetry=0)
    with pytest.raises(InputError, match="'strain' has shape"):
        to_layers(movie, rasters={"strain": np.zeros((2, 2))})


def test_no_atoms_and_one_atom(movie, table):
    data, options, _ = by_name(to_layers(movie, table.iloc[:0]))["atoms"]
    assert data.shape == (0, 3)
    assert "face_color" not in options
    assert by_name(to_layers(movie, table.iloc[:1]))["atoms"][1]["size"] > 0


def test_scale_is_that_of_the_whole_movie():
    column = pd.Series(np.r_[np.linspace(0, 1, 500), np.linspace(4, 5, 500), 1e9], name="z_1")
    scale = color_scale(column)
    assert scale.kind == "continuous"
    assert 0 < scale.limits[0] < 0.1 and 4.9 < scale.limits[1] <= 5
    np.testing.assert_array_equal(scale.rgba([5.0]), scale.rgba([1e9]))


def test_kinds_get_a_colour_each_and_the_unknown_is_grey():
    scale = color_scale(pd.Series([0, 2, -1, 2], name="class"))
    assert scale.kind == "steps"
    np.testing.assert_array_equal(
        scale.rgba()[:, :3], [PALETTE[0], PALETTE[2], UNKNOWN[:3], PALETTE[2]]
    )
    names = color_scale(pd.Series(["Si", "C", None], name="species"))
    assert names.names == ("C", "Si", "unknown")
    np.testing.assert_array_equal(names.rgba()[2], UNKNOWN)
    assert color_scale(pd.Series([True, False], name="edge")).names == ("no", "yes")
    assert "Si  sky blue" in names.about("species")["shows"]


def test_missing_numbers_are_grey_and_constant_columns_work():
    scale = color_scale(pd.Series([1.0, np.nan, np.inf], name="z_0"))
    np.testing.assert_array_equal(scale.rgba()[1:], [UNKNOWN, UNKNOWN])
    assert scale.limits[0] < 1 < scale.limits[1]
    assert color_scale(pd.Series([], dtype=float, name="z_0")).limits == (0, 1)


def test_hue_circle_is_even():
    """No hue is brighter than another, and equal steps look equally large (in Oklab)."""
    rgb = hue_circle(61)[:, :3]
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ np.array(  # sRGB to CIE XYZ (D65)
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    to_lms = np.array(
        [[0.8189330101, 0.3618667424, -0.1288597137], [0.0329845436, 0.9293118715, 0.0361456387],
         [0.0482003018, 0.2643662691, 0.6338517070]]
    )  # fmt: skip
    to_lab = np.array(
        [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.8086757660]]
    )  # fmt: skip
    lab = np.cbrt(xyz @ to_lms.T) @ to_lab.T
    assert np.ptp(lab[:, 0]) < 0.01
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() < 1.1 * steps.min()


def test_layers_load_neither_napari_nor_qt_nor_torch():
    code = (
        "import sys, numpy as np, pandas as pd; from atomvae.viewer.layers import to_layers\n"
        "to_layers(None, pd.DataFrame({'frame': [0], 'y': [1.], 'x': [1.], 'z_0': [0.]}))\n"
        "print(sorted({'napari', 'qtpy', 'PySide6', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
