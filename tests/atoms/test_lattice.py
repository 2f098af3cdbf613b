"""Lattices found in images of known ones, and none found where there is none."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from atomvae.atoms.lattice import find_lattice

SHAPE = (200, 220)
HONEYCOMB = np.array([[0.0, 18 * 3**0.5], [27.0, 9 * 3**0.5]])
KINDS = {  # vectors, motif (fractions), heights, width
    "graphene": (HONEYCOMB, [[0, 0], [1 / 3, 1 / 3]], [1, 1], 5.5),
    "mos2": (0.8 * HONEYCOMB, [[0, 0], [1 / 3, 1 / 3]], [1, 0.4], 3.5),
    "square": (np.array([[21.0, 0], [0, 21.0]]), [[0, 0], [0.5, 0.5]], [1, 0.6], 3.0),
    "rectangle": (np.array([[28.0, 0], [0, 40.0]]), [[0, 0], [0.5, 0.5], [0, 0.5]],
                  [1, 0.7, 0.6], 4.5),
}  # fmt: skip


def image_of(kind, dose, *, bend=0.0, turn=0.3, seed=0):
    """Poisson image of a lattice, its true sites (n, 2) and their sublattice (n,)."""
    vectors, motif, heights, width = KINDS[kind]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    steps = np.stack(np.meshgrid(*[np.arange(-25, 26)] * 2), -1).reshape(-1, 2)
    sites = np.concatenate([(steps + m) @ vectors @ rotation for m in motif]) + 100
    sites[:, 1] += bend * (sites[:, 0] - 100) ** 2 / 400  # a scan that speeds up
    label = np.repeat(np.arange(len(motif)), len(steps))
    near = ((sites > -20) & (sites < np.array(SHAPE) + 20)).all(1)
    sites, label = sites[near], label[near]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = np.zeros(SHAPE)
    for (a, b), k in zip(sites, label, strict=True):
        light += heights[k] * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * width**2))
    image = np.random.default_rng(seed).poisson(dose * (light / light.mean() + 0.5))
    return image, sites, label


@pytest.mark.parametrize("bend", [0.0, 0.1])
@pytest.mark.parametrize("dose", [2.5, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_sites_are_those_of_the_crystal(kind, dose, bend):
    image, sites, label = image_of(kind, dose, bend=bend)
    lattice = find_lattice(image, width_px=KINDS[kind][3])
    assert lattice is not None
    found = lattice.sites()
    assert len(lattice.motif) == len(KINDS[kind][1])
    inside = ((sites > 0) & (sites < np.array(SHAPE) - 1)).all(1)
    core = ((sites > 12) & (sites < np.array(SHAPE) - 13)).all(1)
    distance, which = cKDTree(found[["y", "x"]].to_numpy()).query(sites[core])
    assert np.percentile(distance, 95) < 2.5
    assert np.sqrt((distance**2).mean()) < (1.5 if dose < 10 else 1.0)
    assert abs(len(found) - inside.sum()) <= 0.04 * inside.sum() + 6
    # each true sublattice is one found sublattice
    got = found["sublattice"].to_numpy()[which]
    pairs = {(a, b) for a, b in zip(label[core], got, strict=True)}
    assert len(pairs) == len(KINDS[kind][1])
    if kind != "graphene":  # the brighter column is named first
        assert (0, 0) in pairs


def test_amorphous_is_no_lattice():
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        film = gaussian_filter(rng.normal(size=(200, 200)), 2.5)
        rows = 0.05 * rng.normal(size=(200, 1))
        image = rng.poisson(np.clip(8 + 20 * film + rows, 0, None))
        for y, x in rng.integers(10, 190, (15, 2)):  # single heavy atoms
            image[y - 3 : y + 4, x - 3 : x + 4] += 30
        found += find_lattice(image, width_px=2.5) is not None
        found += find_lattice(rng.poisson(2.5, (128, 128)), width_px=4) is not None
    assert found <= 1  # of 60


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), np.nan), np.ones((8, 8))])
def test_no_lattice_in_nothing(image):
    assert find_lattice(image) is None


def test_bright_exceptions_do_not_disturb():
    image, sites, _ = image_of("graphene", 2.5)
    for y, x in ((90, 80), (110, 95), (112, 70)):
        image[y - 6 : y + 7, x - 6 : x + 7] += 40
    lattice = find_lattice(image, width_px=5.5)
    assert lattice is not None and len(lattice.motif) == 2
    core = ((sites > 12) & (sites < np.array(SHAPE) - 13)).all(1)
    distance, _ = cKDTree(lattice.sites()[["y", "x"]].to_numpy()).query(sites[core])
    assert np.sqrt((distance**2).mean()) < 1.5


def test_missing_part_is_bridged():
    image, sites, _ = image_of("square", 20.0)
    valid = np.ones(SHAPE, bool)
    valid[:, 90:130] = False
    lattice = find_lattice(np.where(valid, image, 0), width_px=3, valid=valid)
    assert lattice is not None
    core = ((sites > 12) & (sites < np.array(SHAPE) - 13)).all(1)
    core &= (sites[:, 1] < 88) | (sites[:, 1] > 132)
    distance, _ = cKDTree(lattice.sites()[["y", "x"]].to_numpy()).query(sites[core])
    assert np.percentile(distance, 95) < 2


def test_indices_and_sites_belong_together():
    image, _, _ = image_of("mos2", 20.0, bend=0.1)
    lattice = find_lattice(image, width_px=3.5)
    sites = lattice.sites()
    place = lattice.indices(sites[["y", "x"]].to_numpy())
    whole = sites[["h", "k"]].to_numpy() + lattice.motif[sites["sublattice"]]
    np.testing.assert_allclose(place, whole, atol=1e-3)
    again = find_lattice(image, width_px=3.5)
    np.testing.assert_array_equal(again.sites(), sites)
