"""Symmetry orders of known motifs; angles on the circle."""

import numpy as np
import pytest

from atomvae.errors import InputError
from atomvae.maps.symmetry import (
    ORDERS,
    circular_mean,
    circular_sd,
    fold,
    model_symmetry,
    sublattice_from_angle,
    symmetry_order,
)


def lattice(vectors, basis, reach=4.0):
    ij = np.mgrid[-8:9, -8:9].reshape(2, -1).T
    points = ((ij @ np.array(vectors))[:, None] + np.array(basis)).reshape(-1, 2)
    return points[np.linalg.norm(points, axis=1) < reach]


def without(points, k):
    """The lattice less its k-th nearest neighbour of the centre."""
    return np.delete(points, np.argsort(np.linalg.norm(points, axis=1), kind="stable")[k], 0)


HALF = 3**0.5 / 2
GRAPHENE = lattice([[1.5, HALF], [1.5, -HALF]], [[0, 0], [1, 0]])
SQUARE = lattice([[1, 0], [0, 1]], [[0, 0]])
HEXAGONAL = lattice([[1, 0], [0.5, HALF]], [[0, 0]])
MOTIFS = {
    "graphene": (GRAPHENE, 3),
    "square": (SQUARE, 4),
    "hexagonal": (HEXAGONAL, 6),
    "bar": (np.array([[0, 0], [0, 1.0], [0, -1.0]]), 2),
    "graphene beside a vacancy": (without(GRAPHENE, 1), 1),
    "square beside a vacancy": (without(SQUARE, 1), 1),
    "hexagonal beside a vacancy": (without(HEXAGONAL, 1), 1),
    "dimer": (np.array([[0, 0], [0, 1.0]]), 1),
}


def draw(points, size=32, width=0.3, turn=0.2, window=2.23):
    """Gaussians of unit height at points (y, x); the picture reaches `window` to each side."""
    grid = (np.arange(size) - (size - 1) / 2) / (size / 2) * window
    c, s = np.cos(turn), np.sin(turn)
    y, x = (points @ np.array([[c, -s], [s, c]])).T  # turned by `turn`, whichever way
    rows = np.exp(-((grid[:, None] - y) ** 2) / (2 * width**2))  # (size, n)
    columns = np.exp(-((grid[:, None] - x) ** 2) / (2 * width**2))
    return rows @ columns.T


@pytest.mark.parametrize("name", MOTIFS)
@pytest.mark.parametrize("size", [16, 24, 47])
@pytest.mark.parametrize("width", [0.25, 0.35])
def test_known_motifs(name, size, width):
    points, order = MOTIFS[name]
    for turn in (0.0, 0.3, 1.0):
        found = symmetry_order(draw(points, size=size, width=width, turn=turn))
        assert found.n == order, found
        assert found.confidence > 0.95
        assert found.scores[1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", MOTIFS)
def test_noise_and_distortion(name):
    """Sixteen images, each with noise of a third of an atom and its own displacements."""
    points, order = MOTIFS[name]
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(20):
        images = [
            draw(points + rng.normal(scale=0.02, size=points.shape), width=0.3)
            + rng.normal(scale=0.33, size=(32, 32))
            for _ in range(16)
        ]
        right += symmetry_order(images).n == order
    assert right >= 19


def test_similarity_is_unbiased_by_noise():
    rng = np.random.default_rng(1)
    clean = draw(GRAPHENE, width=0.3)
    for level in (0.1, 0.3):
        noisy = [clean + rng.normal(scale=level, size=clean.shape) for _ in range(300)]
        assert symmetry_order(noisy).scores[3] == pytest.approx(1, abs=0.04)


def test_confidence_means_what_it_says():
    """Among single noisy images, those called with confidence p are right p of the time."""
    rng = np.random.default_rng(2)
    said, right = [], []
    for points, order in MOTIFS.values():
        for level in np.linspace(0.05, 0.5, 40):
            image = draw(points, size=24, width=0.3, turn=rng.uniform(0, 6))
            found = symmetry_order(image + rng.normal(scale=level, size=image.shape))
            if found.confidence:
                said.append(found.confidence)
                right.append(found.n == order)
    said, right = np.array(said), np.array(right)
    sure = said > 0.9
    assert sure.sum() > 100 and right[sure].mean() > 0.9
    assert right[~sure].mean() < right[sure].mean()


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_round_motif_has_no_direction(noise):
    image = draw(np.zeros((1, 2)))
    image = image + noise * np.random.default_rng(0).normal(size=image.shape)
    found = symmetry_order(image)
    assert (found.n, found.confidence) == (1, 0.0) and np.isnan(list(found.scores.values())).all()
    assert symmetry_order(np.full((9, 9), 0.1)).confidence == 0


def test_contrast_and_offset_do_not_matter():
    image = draw(GRAPHENE)
    plain, scaled = symmetry_order(image), symmetry_order(1000 - 30 * image)
    assert scaled.scores == pytest.approx(plain.scores, abs=1e-9) and scaled.n == plain.n


@pytest.mark.parametrize("images", [np.zeros((4, 4)), np.zeros((0, 9, 9)), np.zeros(9)])
def test_symmetry_refuses(images):
    with pytest.raises(InputError, match="expected"):
        symmetry_order(images)
    with pytest.raises(InputError, match="NaN"):
        symmetry_order(np.full((9, 9), np.nan))


@pytest.mark.parametrize("n", ORDERS)
def test_fold(n):
    angle = np.random.default_rng(0).uniform(-20, 20, 1000)
    folded = fold(angle, n)
    assert (folded >= 0).all() and (folded < 2 * np.pi / n).all()
    np.testing.assert_allclose(np.exp(1j * n * folded), np.exp(1j * n * angle), atol=1e-12)
    assert fold([-1e-17, 0.0, 2 * np.pi / n], n).tolist() == [0, 0, 0]


@pytest.mark.parametrize("n", ORDERS)
def test_circular_statistics(n):
    rng = np.random.default_rng(n)
    truth, sd = 0.05, 0.1
    angle = truth + sd * rng.normal(size=20_000) + rng.integers(0, n, 20_000) * 2 * np.pi / n
    off = circular_mean(angle, n) - truth
    assert abs((off + np.pi / n) % (2 * np.pi / n) - np.pi / n) < 4 * sd / np.sqrt(20_000)
    assert circular_sd(angle, n) == pytest.approx(sd, rel=0.03)


def test_circular_statistics_of_little():
    assert np.isnan(circular_mean([])) and np.isnan(circular_sd([np.nan]))
    assert circular_sd([1.0]) == 0 and circular_sd([0, np.pi]) > 8
    assert circular_mean([0.1, np.nan]) == pytest.approx(0.1)
    assert circular_mean([0.0, 1.0], weight=[1, 0]) == 0


def test_sublattices_of_graphene():
    """A and B sites of a turned honeycomb, angles noisy and modulo 120 degrees."""
    rng = np.random.default_rng(0)
    site = rng.integers(0, 2, 2000)
    angle = 0.3 + site * np.pi / 3 + rng.integers(0, 3, 2000) * 2 * np.pi / 3
    labels, agreement = sublattice_from_angle(angle + rng.normal(scale=0.1, size=2000), 3)
    same = (labels == site).mean()
    assert max(same, 1 - same) > 0.995 and agreement > 0.8
    assert labels[0] == 0
    _, chance = sublattice_from_angle(rng.uniform(-np.pi, np.pi, 5000), 3)
    assert abs(chance) < 0.05
    labels, _ = sublattice_from_angle([np.nan, 0.0, np.pi / 3], 3)
    assert labels.tolist() == [-1, 0, 1]
    assert np.isnan(sublattice_from_angle([np.nan], 3)[1])


@pytest.mark.parametrize("name", ["graphene", "square", "graphene beside a vacancy"])
def test_symmetry_of_what_a_model_has_learnt(name):
    from atomvae.model import zoo
    from atomvae.model.config import TrainConfig
    from atomvae.model.encode import encode
    from atomvae.model.train import train

    points, order = MOTIFS[name]
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.7, 1.3, (256, 1, 1))
    images = draw(points, size=16) * bright + 0.05 * rng.normal(size=(256, 16, 16))
    model = zoo.vae((16, 16))
    train(model, images.astype(np.float32), TrainConfig(epochs=30))
    found = model_symmetry(model, encode(model, images))
    assert found.n == order and found.confidence > 0.9
    with pytest.raises(InputError, match="empty"):
        model_symmetry(model, encode(model, images).iloc[:0])
