"""Fields drawn from values at atoms."""

import numpy as np
import pandas as pd
import pytest
import zarr

from atomvae.errors import InputError
from atomvae.maps.raster import raster, raster_stack


@pytest.fixture
def grid():
    """A square lattice of 8 px in two frames; z_0 is linear in place, frame 1 has a hole."""
    y, x = np.mgrid[4:60:8, 4:92:8].reshape(2, -1)
    first = pd.DataFrame({"frame": 0, "y": y + 0.3, "x": x - 0.2})
    second = first.assign(frame=1)[~(np.hypot(y - 28, x - 44) < 14)]
    table = pd.concat([first, second], ignore_index=True)
    return table.assign(z_0=2 * table["y"] - table["x"] + 10)


def test_voronoi_is_the_value_of_the_nearest_atom(grid):
    picture = raster(grid, "z_0", 0, (64, 96))
    assert picture.shape == (64, 96) and picture.dtype == np.float32
    rows = grid[grid["frame"] == 0]
    for y, x in ((10, 10), (33, 51), (2, 86)):
        distance = np.hypot(rows["y"] - y, rows["x"] - x)
        assert picture[y, x] == pytest.approx(rows["z_0"].iloc[int(distance.argmin())])


HALF = 0.75**0.5
CELLS = {
    "honeycomb": ([[1.5, HALF], [1.5, -HALF]], [[0, 0], [1, 0]]),
    "square": ([[1, 0], [0, 1]], [[0, 0]]),
    "hexagonal": ([[1, 0], [0.5, HALF]], [[0, 0]]),
}


@pytest.mark.parametrize("spacing", [3.0, 8.0])
@pytest.mark.parametrize("name", CELLS)
def test_default_reach_covers_the_lattice_and_shows_holes(name, spacing):
    vectors, basis = (np.array(a) for a in CELLS[name])
    ij = np.mgrid[-40:41, -40:41].reshape(2, -1).T
    y, x = spacing * ((ij @ vectors)[:, None] + basis).reshape(-1, 2).T + 50
    table = pd.DataFrame({"frame": 0, "y": y, "x": x, "z_0": 1.0})
    table = table[table["y"].between(-20, 120) & table["x"].between(-20, 120)]
    assert np.isfinite(raster(table, "z_0", 0, (100, 100))).all()
    hole = table[np.hypot(table["y"] - 50, table["x"] - 50) > 1.1 * spacing]  # one shell gone
    assert np.isnan(raster(hole, "z_0", 0, (100, 100))[50, 50])


def test_nan_beyond_the_reach(grid):
    reach = 6.0
    full, hole = (raster(grid, "z_0", t, (64, 96), reach=reach) for t in (0, 1))
    assert np.isfinite(full[4:56, 4:84]).all()
    rows = grid[grid["frame"] == 1]
    yy, xx = np.mgrid[:64, :96]
    away = np.min([np.hypot(yy - y, xx - x) for y, x in rows[["y", "x"]].to_numpy()], axis=0)
    np.testing.assert_array_equal(np.isnan(hole), away > reach)
    assert np.isnan(hole[28, 44])


def test_gaussian_of_a_linear_field_is_linear(grid):
    picture = raster(grid, "z_0", 0, (64, 96), method="gaussian")
    yy, xx = np.mgrid[:64, :96]
    inside = np.s_[20:44, 20:70]
    assert abs(picture - (2 * yy - xx + 10))[inside].max() < 1.0  # a cell spans 16


@pytest.mark.parametrize("step", [0.5, 2.0, 5.0])
def test_pixel_step_keeps_the_place(grid, step):
    picture = raster(grid, "z_0", 0, (64, 96), pixel_step=step, method="gaussian")
    assert picture.shape == (int(np.ceil(64 / step)), int(np.ceil(96 / step)))
    i, j = int(30 / step), int(40 / step)
    y, x = (i + 0.5) * step - 0.5, (j + 0.5) * step - 0.5
    assert picture[i, j] == pytest.approx(2 * y - x + 10, abs=1.0)


def test_angles_are_averaged_on_the_circle(grid):
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.05, size=len(grid))
    around_pi = (np.pi + noise + np.pi) % (2 * np.pi) - np.pi  # half of them near -pi
    picture = raster(grid.assign(angle=around_pi), "angle", 0, (64, 96), method="gaussian")
    assert np.nanmin(np.cos(picture - np.pi)) > 0.99
    folded = noise % (2 * np.pi / 3)  # half near 0, half near 120 degrees
    table = grid.assign(angle_folded=folded, angle_n=3)
    picture = raster(table, "angle_folded", 0, (64, 96), method="gaussian")
    assert np.nanmin(np.cos(3 * picture)) > 0.95
    assert np.nanmin(picture) >= 0 and np.nanmax(picture) <= 2 * np.pi / 3


def test_values_that_are_nan_are_left_out(grid):
    grid.loc[30, "z_0"] = np.nan
    y, x = grid.loc[30, ["y", "x"]].round().astype(int)
    assert np.isnan(raster(grid, "z_0", 0, (64, 96), reach=3)[y, x])
    assert np.isfinite(raster(grid, "z_0", 0, (64, 96), reach=30)[y, x])


def test_stack_equals_the_frames(grid, tmp_path):
    out = zarr.create_array(tmp_path / "z", shape=(3, 64, 96), chunks=(1, 64, 96), dtype="float32")
    raster_stack(grid, "z_0", [0, 1, 2], (64, 96), out=out)
    stack = raster_stack(grid, "z_0", [0, 1, 2], (64, 96))
    np.testing.assert_array_equal(out[:], stack)
    np.testing.assert_array_equal(stack[1], raster(grid, "z_0", 1, (64, 96)))
    assert np.isnan(stack[2]).all()


def test_one_atom_and_refusals(grid):
    one = grid.iloc[:1]
    assert np.isfinite(raster(one, "z_0", 0, (64, 96))).any()
    for options, message in (
        ({"column": "z_9"}, "no column 'z_9'"),
        ({"method": "cubic"}, "expected 'voronoi'"),
        ({"pixel_step": 0.0}, "positive"),
    ):
        arguments = {"column": "z_0", "frame": 0, "shape": (64, 96)} | options
        with pytest.raises(InputError, match=message):
            raster(grid, **arguments)
