"""The default window reaches past the second shell of known lattices."""

import numpy as np
import pandas as pd
import pytest

from atomvae.movie.movie import Movie
from atomvae.patches.window import coordination_shells, default_window

CELLS = {
    # vectors, basis, second shell in nearest distances
    "graphene": ([[1.5, 3**0.5 / 2], [1.5, -(3**0.5) / 2]], [[0, 0], [1, 0]], 3**0.5),
    "square": ([[1, 0], [0, 1]], [[0, 0]], 2**0.5),
    "hexagonal": ([[1, 0], [0.5, 3**0.5 / 2]], [[0, 0]], 3**0.5),
    "dumbbell": ([[3, 0], [0, 3]], [[0, 0], [1, 0]], 2.0),
}


def lattice(name, turn=0.3):
    vectors, basis, _ = CELLS[name]
    ij = np.mgrid[-30:31, -30:31].reshape(2, -1).T
    points = (ij @ np.array(vectors))[:, None] + np.array(basis)
    c, s = np.cos(turn), np.sin(turn)
    points = points.reshape(-1, 2) @ np.array([[c, s], [-s, c]])
    return points[(abs(points) < 12).all(1)]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("noise", "missing"), [(0, 0), (0.04, 0.05)])
def test_shells_of_known_lattices(name, noise, missing):
    rng = np.random.default_rng(0)
    points = lattice(name)
    points = points[rng.random(len(points)) >= missing]
    points = points + rng.normal(scale=noise or 1e-12, size=points.shape)
    first, second = coordination_shells([points])
    assert first == pytest.approx(1, abs=0.08)
    assert second == pytest.approx(CELLS[name][2], abs=0.08)


def test_window_of_graphene_in_nm():
    points = lattice("graphene") * 0.142 / 0.01 + 200  # px
    atoms = pd.DataFrame(
        {"atom_id": np.arange(len(points)), "frame": 0, "y": points[:, 0], "x": points[:, 1]}
    )
    movie = Movie.from_array(np.zeros((400, 400)), pixel_size=0.01)
    assert default_window(movie, atoms) == pytest.approx(2 * (0.246 + 0.071), rel=0.02)
    stretched = atoms.assign(y=atoms["y"] * 2)  # the same lattice in pixels half as high
    tall = Movie.from_array(np.zeros((800, 400)), pixel_size=(0.005, 0.01))
    assert default_window(tall, stretched) == pytest.approx(2 * (0.246 + 0.071), rel=0.02)
    small = Movie.from_array(np.zeros((400, 40)), pixel_size=0.01)
    assert default_window(small, atoms) == pytest.approx(0.4)  # never larger than the frame
