"""Figures show what the tables hold: scales, units, counts, pixels."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection, LineCollection, QuadMesh
from matplotlib.figure import Figure

from atomvae.errors import InputError
from atomvae.maps.figures import (
    draw_angles,
    draw_evolution,
    draw_latents,
    draw_map,
    draw_tracks,
    robust_limits,
)
from atomvae.movie.movie import Movie


def pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


@pytest.fixture
def movie():
    frames = np.random.default_rng(0).random((3, 40, 80))
    return Movie.from_array(frames, pixel_size=(0.02, 0.05))


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    frame = np.repeat([0, 1, 2], 200)
    y, x = np.mgrid[2:40:4, 2:80:4].reshape(2, -1)
    folded = rng.uniform(0, 2 * np.pi / 3, 600)
    return pd.DataFrame(
        {
            "frame": frame, "y": np.tile(y, 3) + 0.0, "x": np.tile(x, 3) + 0.0,
            "track": np.tile(np.arange(200), 3), "z_0": frame * 10 + rng.normal(size=600),
            "z_1": rng.normal(size=600), "class": rng.integers(-1, 2, 600),
            "angle": folded - np.pi, "angle_folded": folded, "angle_n": 3,
        }
    )  # fmt: skip


def dots_of(figure):
    found = [c for a in figure.axes for c in a.collections if isinstance(c, EllipseCollection)]
    return found


def test_limits_ignore_outliers():
    values = np.random.default_rng(0).normal(size=10_000)
    spoiled = np.append(values, [1e12, -1e12, np.nan, np.inf])
    assert robust_limits(spoiled) == pytest.approx(robust_limits(values), abs=0.03)
    assert robust_limits([np.nan]) == (0, 1)


def test_map_has_one_scale_for_the_movie_and_is_in_nm(movie, table):
    figure = draw_map(movie, table, "z_0", [0, 2])
    first, last = dots_of(figure)
    assert first.get_clim() == last.get_clim() == robust_limits(table["z_0"])
    np.testing.assert_array_equal(last.get_array(), table.loc[table["frame"] == 2, "z_0"])
    place = table.loc[table["frame"] == 0, ["x", "y"]].to_numpy() * (0.05, 0.02)
    np.testing.assert_allclose(first.get_offsets(), place)
    axis = figure.axes[0]
    assert axis.get_xlim() == pytest.approx((-0.025, 3.975))
    assert axis.get_ylim() == pytest.approx((0.79, -0.01))  # downwards
    assert [t.get_text() for t in axis.texts] == ["1 nm"]  # a quarter of 4 nm
    (bar,) = axis.patches
    assert bar.get_width() == 1.0
    assert pixels(figure).std() > 10


def test_map_without_calibration_is_in_pixels(table):
    movie = Movie.from_array(np.zeros((3, 40, 80)))
    axis = draw_map(movie, table, "z_0", [1]).axes[0]
    assert axis.texts[0].get_text() == "20 px" and axis.patches[0].get_width() == 20


def test_colours_stand_out_on_bright_frames_as_on_dark_ones(table):
    """Annular bright field is bright between its columns; behind colours it is dimmed."""
    noise = np.random.default_rng(0).random((40, 80))
    grey = []
    for frame in (noise**3, 1 - noise**3):
        figure = draw_map(Movie.from_array(frame[None]), table.iloc[:0], "z_0", [0])
        figure.axes[1].remove()
        picture = pixels(figure)
        h, w = picture.shape[:2]
        grey.append(np.median(picture[h // 3 : -h // 3, w // 3 : -w // 3]))
    assert grey[1] < 100 and grey[0] < 100


def test_map_shows_the_values(movie, table):
    one = pixels(draw_map(movie, table, "z_1", [1]))
    other = pixels(draw_map(movie, table.assign(z_1=table["z_1"].to_numpy()[::-1]), "z_1", [1]))
    same = pixels(draw_map(movie, table.copy(), "z_1", [1]))
    assert (one == same).all() and abs(one - other).mean() > 0.5


def test_map_of_classes_and_angles(movie, table):
    figure = draw_map(movie, table, "class", [0])
    labels = [t.get_text() for t in figure.axes[-1].get_yticklabels()]
    assert labels == ["-1", "0", "1"]
    scale = dots_of(figure)[0]
    assert scale.to_rgba([0])[0, :3] == pytest.approx([0.6] * 3)  # unknown is grey
    angles = dots_of(draw_map(movie, table, "angle_folded", [0]))[0]
    assert angles.get_clim() == pytest.approx((0, 120))
    np.testing.assert_allclose(
        angles.get_array(), np.degrees(table["angle_folded"].to_numpy()[:200])
    )


def test_evolution_and_tracks_of_angles_are_in_degrees(movie, table):
    axis = draw_evolution(table, ["angle"]).axes[0]
    assert axis.get_ylabel() == "angle (deg)" and axis.get_ylim()[0] < -170
    bar = draw_tracks(table, "angle").axes[1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["−180", "−90", "0", "90", "180"]


def test_angles_are_counted_in_degrees(table):
    whole, folded = draw_angles(table, bins=12).axes
    expected = np.histogram(np.degrees(table["angle_folded"]), 12, (0, 120))[0]
    assert [p.get_height() for p in folded.patches] == expected.tolist()
    assert whole.get_xlim() == (-180, 180) and folded.get_xlim() == pytest.approx((0, 120))
    turned = draw_angles(table.assign(angle=table["angle"] + 2 * np.pi), bins=12).axes[0]
    assert [p.get_height() for p in turned.patches] == [p.get_height() for p in whole.patches]


def test_a_peak_of_angles_is_not_cut_in_two():
    angle = np.random.default_rng(0).normal(np.pi, 0.05, 500)
    axis = draw_angles(pd.DataFrame({"angle": np.mod(angle + np.pi, 2 * np.pi) - np.pi})).axes[0]
    low, high = axis.get_xlim()
    assert low < 150 < 210 < high and high - low == pytest.approx(360)
    heights = np.array([p.get_height() for p in axis.patches])
    assert heights.sum() == 500 and np.diff(np.flatnonzero(heights)).max() <= 2  # one heap


def test_evolution_is_a_share_of_each_frame(table):
    axis = draw_evolution(table.drop(index=range(100)), ["z_0"]).axes[0]
    mesh = next(c for c in axis.collections if isinstance(c, QuadMesh))
    share = np.asarray(mesh.get_array())  # (values, frames)
    assert share.shape == (60, 3)
    assert share.sum(0) == pytest.approx([1, 1, 1])
    assert share[:30, 2].sum() < 0.01 and share[30:, 0].sum() < 0.01  # it rises


def test_tracks_join_frames_of_the_same_atom(table):
    moved = table.assign(x=table["x"] + table["frame"])
    axis = draw_tracks(moved, "z_0", pixel_size=(0.02, 0.05)).axes[0]
    lines = next(c for c in axis.collections if isinstance(c, LineCollection))
    steps = np.array(lines.get_segments())  # (m, 2, xy)
    assert len(steps) == 400
    np.testing.assert_allclose(np.diff(steps, axis=1)[:, 0], [[0.05, 0.0]] * 400, atol=1e-12)
    assert sorted(lines.get_array()) == sorted(table.loc[table["frame"] > 0, "z_0"])
    none = table.assign(track=-1)
    assert not list(draw_tracks(none, "z_0").axes[0].collections[0].get_segments())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda m, t: draw_map(m, t, "z_9", [0]), "no column 'z_9'"),
        (lambda m, t: draw_map(m, t, "z_0", []), "nothing to draw"),
        (lambda m, t: draw_evolution(t, []), "nothing to draw"),
        (lambda m, t: draw_angles(t[["frame"]]), "no column 'angle'"),
    ],
)
def test_refused_at_the_door(draw, message, movie, table):
    with pytest.raises(InputError, match=message):
        draw(movie, table)


def test_empty_tables_draw_empty_figures(movie, table):
    none = table.iloc[:0]
    for figure in (
        draw_map(movie, none, "z_0", [0]), draw_angles(none), draw_latents(none, color="class"),
        draw_evolution(none, ["z_0"]), draw_tracks(none, "z_0"),
    ):  # fmt: skip
        assert pixels(figure).size


def test_no_global_state():
    code = "import sys, atomvae.maps.figures; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
