"""Figures of detection, drift, distributions and shares show the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection

from atomvae.errors import InputError
from atomvae.maps.backdrop import ACROSS, close_up
from atomvae.maps.dynamics import wilson_interval
from atomvae.maps.figures import (
    draw_counts,
    draw_distributions,
    draw_drift,
    draw_errors,
    draw_fractions,
    draw_frames,
    draw_map,
    draw_spacings,
)
from atomvae.maps.quality import count_atoms, judge_detection, nearest_distances
from atomvae.movie.movie import Movie


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[5:40:10, 5:80:10].reshape(2, -1).astype(float)
    frame = np.repeat([0, 1, 3], len(y))
    return pd.DataFrame(
        {
            "frame": frame, "y": np.tile(y, 3), "x": np.tile(x, 3),
            "y_sd": rng.uniform(0.1, 0.2, len(frame)), "x_sd": rng.uniform(0.2, 0.4, len(frame)),
            "origin": (np.arange(len(frame)) % 4 == 0).astype(int), "class": frame % 2,
        }
    )  # fmt: skip


def test_frames_are_shown_bare_and_with_a_ring_around_every_atom(table):
    movie = Movie.from_array(np.zeros((4, 40, 80)), pixel_size=(0.02, 0.05), frame_time=0.5)
    axes = draw_frames(movie, table, [0, 3]).axes
    assert [a.get_title() for a in axes] == ["frame 0, 0 s", "frame 3, 1.5 s", "", ""]
    rings = [[c for c in a.collections if isinstance(c, EllipseCollection)] for a in axes]
    assert [len(found) for found in rings] == [0, 0, 1, 1]
    rows = table[table["frame"] == 3]
    np.testing.assert_allclose(
        rings[3][0].get_offsets(), rows[["x", "y"]].to_numpy() * (0.05, 0.02)
    )
    colours = np.unique(rings[3][0].get_edgecolor(), axis=0, return_counts=True)[1]
    assert sorted(colours) == sorted(np.bincount(rows["origin"]))
    assert len(draw_frames(movie, None, [0, 1, 2]).axes) == 3
    alone = draw_frames(movie, table, [1])
    assert len(alone.axes) == 2 and alone.axes[0].get_position().y0 == pytest.approx(
        alone.axes[1].get_position().y0
    )  # beside each other
    with pytest.raises(InputError, match="no column 'y'"):
        draw_frames(movie, table.drop(columns="y"), [0])


def test_of_crowded_frames_the_middle_is_drawn_with_rings():
    y, x = np.mgrid[2:300:4, 2:400:4].reshape(2, -1)
    crowd = pd.DataFrame({"frame": 0, "y": y, "x": x})
    movie = Movie.from_array(np.random.default_rng(0).random((1, 300, 400)), pixel_size=0.01)
    whole, middle = draw_frames(movie, crowd, [0]).axes
    (left, right), (lower, upper) = middle.get_xlim(), middle.get_ylim()
    assert right - left == pytest.approx(ACROSS * 0.04)  # 4 px apart
    assert (lower - upper) / (right - left) == pytest.approx(0.75)  # like the frame
    assert (left + right) / 2 == pytest.approx(1.995)
    box = whole.patches[-1]
    assert (box.get_x(), box.get_width()) == pytest.approx((left, right - left))
    assert whole.texts[0].get_text() == "1 nm" and middle.texts[0].get_text() == "0.2 nm"
    light = Movie.from_array(1 - np.asarray(movie.frames) ** 3, pixel_size=0.01)  # bright field
    rings = [draw_frames(m, crowd, [0]).axes[1].collections[0] for m in (movie, light)]
    dark = [np.mean(r.get_edgecolor()[0, :3]) for r in rings]
    assert dark[1] < 0.45 < dark[0]
    few = crowd[(crowd["x"] % 16 == 2) & (crowd["y"] % 16 == 2)]
    assert close_up(movie, few) is None and close_up(movie, crowd.iloc[:0]) is None


def test_maps_of_two_movies_share_a_scale(table):
    movie = Movie.from_array(np.zeros((4, 40, 80)))
    table = table.assign(z_0=np.linspace(0, 1, len(table)))
    first, last = table[table["frame"] == 0], table[table["frame"] == 3]
    figures = [draw_map(movie, rows, "z_0", [t], of=table) for rows, t in ((first, 0), (last, 3))]
    limits = [f.axes[0].collections[0].get_clim() for f in figures]
    assert limits[0] == limits[1] == pytest.approx((0.01, 0.99))


def test_counts_are_those_of_the_frames(table):
    assert count_atoms(table).sum(1).tolist() == [32, 32, 0, 32]
    assert count_atoms(table, 6).sum(1).tolist() == [32, 32, 0, 32, 0, 0]
    found, suggested = draw_counts(table).axes[0].patches
    np.testing.assert_array_equal(found.get_data().values, [24, 24, 0, 24])
    np.testing.assert_array_equal(suggested.get_data().values, [32, 32, 0, 32])
    two = pd.concat([table.assign(movie=0), table.iloc[:5].assign(movie=1)])
    assert count_atoms(two).sum(1).tolist() == [32, 32, 0, 32, 5]
    assert judge_detection(two).frames == 5
    assert len(draw_counts(table.iloc[:0]).axes) == 1


def test_lengths_are_in_pm_where_the_pixel_is_known(table):
    axis = draw_errors(table, pixel_size=(0.01, 0.02)).axes[0]
    expected = np.median(table[["y_sd", "x_sd"]].to_numpy() * (10, 20))
    assert axis.get_title() == f"median {expected:.3g} pm"
    assert draw_errors(table).axes[0].get_xlabel() == "standard deviation of a position (px)"
    assert draw_spacings(table, pixel_size=(0.01, 0.02)).axes[0].get_title() == "median 100 pm"
    assert np.unique(nearest_distances(table, (3.0, 1.0))).tolist() == [10.0]
    assert draw_spacings(table.iloc[:1]).axes[0].get_title() == ""
    nothing = table.assign(y_sd=np.nan, x_sd=np.nan)
    assert draw_errors(nothing).axes[0].get_title() == ""
    assert np.isnan(judge_detection(nothing).sd_px)


def test_drift_marks_what_is_ambiguous():
    drift = pd.DataFrame(
        {"frame": [0, 1, 2], "dy": [0.0, 1.0, 2.0], "dx": 0.5, "ambiguous": [False, True, False]}
    )
    axis = draw_drift(drift, pixel_size=(0.1, 0.2)).axes[0]
    down, ring, right, _ = axis.lines
    np.testing.assert_allclose(down.get_ydata(), [0, 0.1, 0.2])
    np.testing.assert_allclose(right.get_ydata(), 0.1)
    assert ring.get_xdata().tolist() == [1] and "lattice vector" in axis.get_title()


def test_shares_and_their_intervals(table):
    axis = draw_fractions(table).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [1, 0, np.nan, 0])  # no frame 2
    band = axis.collections[1].get_paths()[0].vertices
    low, high = wilson_interval(0, 32)
    assert [low, high] == pytest.approx(
        [band[band[:, 0] == 0, 1].min(), band[band[:, 0] == 0, 1].max()]
    )
    with pytest.raises(InputError, match="y_sd measures something"):
        draw_fractions(table, "y_sd")


def test_distributions_count_every_atom(table):
    table = table.assign(angle=np.pi / 2)
    axes = draw_distributions(table, ["y_sd", "angle"], bins=10).axes
    assert [a.get_xlabel() for a in axes] == ["y_sd (px)", "angle (deg)"]
    assert sum(p.get_height() for p in axes[1].patches) == len(table)
    assert axes[1].get_xlim()[0] < 90 < axes[1].get_xlim()[1]
