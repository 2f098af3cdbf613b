"""Drift of lattices, where the truth is known: simulated, and a defect's own motion."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from atomvae.errors import InputError
from atomvae.movie.drift import correct_drift, estimate_drift
from atomvae.movie.movie import Movie
from atomvae.movie.read import read_movie

SPACING = 20.0  # px, of the planes
SIDE = 192
TURN = np.deg2rad(11)  # of the lattice against the frame


def lattice_movie(path, *, landmark, dose=6.0, side=SIDE, seed=0):
    """Hexagonal lattice of Gaussian atoms that follows a path (t, 2), with Poisson noise.

    Landmarks are three atoms that are much brighter; they move with the lattice.
    """
    rng = np.random.default_rng(seed)
    a = SPACING * 2 / np.sqrt(3)
    i, j = np.meshgrid(np.arange(-40, 40), np.arange(-40, 40), indexing="ij")
    rotate = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
    sites = np.stack([i * SPACING, (j + i / 2) * a], -1).reshape(-1, 2) @ rotate.T + side / 2
    height = np.ones(len(sites))
    if landmark:
        order = np.argsort(np.hypot(*(sites - side / 2 - [9, -14]).T))
        height[order[[0, 1, 5]]] = 8.0
    rows = np.arange(side)
    frames = []
    for dy, dx in path:
        wy = np.exp(-((rows[:, None] - sites[:, 0] - dy) ** 2) / (2 * 4.0**2))
        wx = np.exp(-((rows[:, None] - sites[:, 1] - dx) ** 2) / (2 * 4.0**2))
        expected = dose * (0.15 + (wy * height) @ wx.T)
        frames.append(rng.poisson(expected))
    return Movie.from_array(np.array(frames, dtype=np.uint16), pixel_size=0.01)


def wander(n, velocity, walk, seed=1):
    steps = np.asarray(velocity) + np.random.default_rng(seed).normal(0, walk, (n - 1, 2))
    return np.vstack([np.zeros(2), steps.cumsum(axis=0)])


def error(drift, path):
    return drift[["dy", "dx"]].to_numpy() - path


def test_small_drift_is_exact_to_a_fifth_of_a_pixel():
    path = wander(24, (1.5, -0.8), 1.0)
    drift = estimate_drift(lattice_movie(path, landmark=False))
    assert np.abs(error(drift, path)).max() < 0.2
    assert not drift["ambiguous"].any()
    # the stated errors are neither empty nor exaggerated
    pull = error(drift, path)[1:] / drift["sd"].to_numpy()[1:, None]
    assert 0.3 < np.sqrt((pull**2).mean()) < 3


@pytest.mark.parametrize("velocity", [(0.0, 13.0), (9.0, 9.0), (-12.0, 4.0)])
def test_drift_above_half_a_spacing_is_found_by_landmarks(velocity):
    """The nearest match of the lattice alone is wrong in every frame."""
    path = wander(10, velocity, 1.0)
    drift = estimate_drift(lattice_movie(path, landmark=True, side=256))
    assert np.abs(error(drift, path)).max() < 0.2
    blind = estimate_drift(lattice_movie(path, landmark=False, side=256))
    assert np.abs(error(blind, path)).max() > SPACING  # so it is the landmarks that tell


def test_ambiguous_where_nothing_tells():
    """A perfect lattice that jumps by half a lattice vector has two answers."""
    half = SPACING / np.sqrt(3) * np.array([-np.sin(TURN), np.cos(TURN)])
    path = np.vstack([np.zeros((6, 2)), np.tile(half, (6, 1))])
    drift = estimate_drift(lattice_movie(path, landmark=False))
    assert drift["ambiguous"].tolist() == [t == 6 for t in range(12)]


def test_frame_index_with_gaps_is_time():
    """Constant velocity, frames missing: the step is long because the time is."""
    numbers = np.array([0, 1, 2, 3, 4, 7, 8, 9, 10])
    path = numbers[:, None] * np.array([4.5, 0.0])
    movie = lattice_movie(path, landmark=False)
    movie.metadata["frame_index"] = numbers.tolist()
    np.testing.assert_allclose(estimate_drift(movie)[["dy", "dx"]], path, atol=0.2)


def test_trimer_in_graphene_moves_with_the_drift(real_data):
    """The trimer is its own landmark: the lattice follows it except where it hops itself."""
    folder = real_data / "si_graphene"
    sites = json.loads((folder / "Si3C6_007-077.json").read_text())["si_yx_px"]
    own = np.diff(np.mean(sites, axis=1), axis=0)
    drift = estimate_drift(read_movie(folder / "Si3C6_007-077.npz"))
    off = np.hypot(*(np.diff(drift[["dy", "dx"]], axis=0) - own).T)
    assert (off < 3).sum() >= 42  # of 43; in one it may hop itself
    assert np.median(off) < 1.5


def test_empty_frames_are_bridged():
    path = wander(10, (1.0, 0.5), 0.5)
    pixels = lattice_movie(path, landmark=False).frames.compute().astype(float)
    pixels[4] = 0
    pixels[6, :40] = np.nan
    drift = estimate_drift(Movie.from_array(pixels))
    known = np.arange(10) != 4
    assert np.abs(error(drift, path)[known]).max() < 0.25
    assert drift["ambiguous"].tolist() == [t in (4, 5) for t in range(10)]
    assert drift["score"].isna().tolist() == [t in (0, 4, 5) for t in range(10)]


def test_one_frame_and_frames_without_content():
    one = estimate_drift(Movie.from_array(np.ones((16, 16))))
    assert one[["frame", "dy", "dx", "sd", "ambiguous"]].to_numpy().tolist() == [
        [0, 0, 0, 0, False]
    ]
    blank = estimate_drift(Movie.from_array(np.zeros((3, 32, 32))))
    assert blank["ambiguous"].tolist() == [False, True, True]
    assert np.isfinite(blank[["dy", "dx", "sd"]].to_numpy()).all()


def test_large_frames_are_binned_and_not_square():
    path = np.array([[0, 0], [3.4, -7.2], [6.1, -15.5]])
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:1100, :1300]
    frames = []
    for dy, dx in path:
        waves = np.cos(2 * np.pi * (y - dy) / 40) + np.cos(2 * np.pi * (x - dx) / 40)
        frames.append(rng.poisson(5 * (2.2 + waves)))
    drift = estimate_drift(Movie.from_array(np.array(frames)))
    np.testing.assert_allclose(drift[["dy", "dx"]], path, atol=0.2)


def test_same_table_on_every_chunking():
    path = wander(6, (1.0, 1.0), 0.5)
    movie = lattice_movie(path, landmark=True)
    whole = estimate_drift(movie)
    for chunks in ((6,), (1,) * 6, (2, 3, 1)):
        other = Movie(movie.frames.rechunk({0: chunks}))
        pd.testing.assert_frame_equal(estimate_drift(other), whole)


def smooth_scene(path, side=96):
    y, x = np.mgrid[:side, :side]
    return np.array([
        np.sin((y - dy) / 9) * np.cos((x - dx) / 7) + 0.02 * (x - dx) for dy, dx in path
    ])  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 5])
def test_correct_drift_brings_every_frame_to_the_first(block):
    path = wander(5, (2.3, -3.7), 1.0)
    movie = Movie.from_array(smooth_scene(path), pixel_size=0.01)
    movie = Movie(movie.frames.rechunk({0: block}), 0.01)
    table = pd.DataFrame({"frame": range(5), "dy": path[:, 0], "dx": path[:, 1]})
    corrected = correct_drift(movie, table)
    assert corrected.shape == movie.shape
    assert corrected.pixel_size == movie.pixel_size
    for t in range(5):
        there = corrected.frame(t)
        lost = np.isnan(there)
        np.testing.assert_allclose(there[~lost], movie.frame(0)[~lost], atol=0.02)
        y, x = np.mgrid[:96, :96] + path[t][:, None, None]  # pixels that the frame did not have
        outside = (y < 0) | (y > 95) | (x < 0) | (x > 95)
        np.testing.assert_array_equal(lost, outside)


def test_correct_drift_refuses_tables_that_do_not_fit():
    movie = Movie.from_array(np.ones((3, 16, 16)))
    table = pd.DataFrame({"frame": [0, 1], "dy": [0.0, 1.0], "dx": [0.0, 0.0]})
    with pytest.raises(InputError, match="2 rows; expected one finite shift for each of the 3"):
        correct_drift(movie, table)
    with pytest.raises(InputError, match="lacks dx"):
        correct_drift(movie, table.drop(columns="dx"))


def test_two_frames_are_enough():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(120, 120)), 2.0)
    movie = Movie.from_array(np.stack([field[10:106, 10:106], field[6:102, 13:109]]))
    found = estimate_drift(movie)
    assert found[["dy", "dx"]].to_numpy()[1] == pytest.approx([4, -3], abs=0.2)
