"""Perfect crystals: density, bonds, sublattices, angles."""

import numpy as np
import pytest

from atomvae.datasets.lattices import (
    GRAPHENE_BOND_NM,
    MOS2_BOND_NM,
    PEROVSKITE_CELL_NM,
    brightness,
    honeycomb,
    perovskite,
    rotate,
)

HALF = (3.0, 4.0)


def inner(crystal):
    """Sites with all their neighbours inside the field."""
    return np.flatnonzero((np.abs(crystal.y) < HALF[0] - 0.4) & (np.abs(crystal.x) < HALF[1] - 0.4))


CRYSTALS = [
    ("graphene", lambda g: honeycomb(("C", "C"), GRAPHENE_BOND_NM, HALF, g), 38.17, 0.142),
    ("MoS2", lambda g: honeycomb(("Mo", "S2"), MOS2_BOND_NM, HALF, g, (0.03, -0.1)), 23.13, 0.1824),
    ("perovskite", lambda g: perovskite(HALF, g), 4 / PEROVSKITE_CELL_NM**2, 0.1995),
]


@pytest.mark.parametrize("rotation", [0.0, 0.3, -1.1])
@pytest.mark.parametrize("_, make, density, bond", CRYSTALS, ids=[c[0] for c in CRYSTALS])
def test_density_and_bonds(_, make, density, bond, rotation):
    crystal = make(rotation)
    # counted under a Gaussian that no lattice plane can resonate with
    weight = np.exp(-(crystal.y**2 + crystal.x**2) / (2 * 0.5**2)).sum() / (2 * np.pi * 0.5**2)
    assert weight == pytest.approx(density, rel=1e-3)
    assert sum(crystal.per_cell) / crystal.cell_nm2 == pytest.approx(density, rel=1e-3)
    sites = inner(crystal)
    near = crystal.neighbours[sites]
    length = np.hypot(
        crystal.y[near] - crystal.y[sites, None], crystal.x[near] - crystal.x[sites, None]
    )
    assert np.abs(length[near >= 0] - bond).max() < 1e-4
    # whoever I am bonded to is bonded to me, and is of another sublattice
    for site in sites:
        others = crystal.neighbours[site][crystal.neighbours[site] >= 0]
        assert all(site in crystal.neighbours[other] for other in others)
        assert all(crystal.sublattice[other] != crystal.sublattice[site] for other in others)


@pytest.mark.parametrize("rotation", [0.0, 0.3, -1.1])
def test_honeycomb_has_three_bonds_along_its_angle(rotation):
    crystal = honeycomb(("C", "C"), GRAPHENE_BOND_NM, HALF, rotation)
    sites = inner(crystal)
    near = crystal.neighbours[sites][:, :3]
    assert (near >= 0).all() and (crystal.neighbours[sites][:, 3] == -1).all()
    dy = crystal.y[near] - crystal.y[sites, None]
    dx = crystal.x[near] - crystal.x[sites, None]
    direction = np.arctan2(-dy, dx)  # counter-clockwise on screen, y down
    turn = np.exp(3j * (direction - crystal.angle[sites, None]))
    np.testing.assert_allclose(turn, 1, atol=1e-6)
    a, b = crystal.sublattice[sites] == 0, crystal.sublattice[sites] == 1
    np.testing.assert_allclose(np.mod(crystal.angle[sites][a], 2 * np.pi / 3),
                               np.mod(rotation, 2 * np.pi / 3))  # fmt: skip
    np.testing.assert_allclose(np.exp(3j * (crystal.angle[sites][b] - rotation)), -1)


def test_rotation_turns_counter_clockwise_on_screen():
    y, x = rotate(np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.pi / 2)
    np.testing.assert_allclose(np.c_[y, x], [[-1, 0], [0, 1]], atol=1e-12)  # right->up, down->right


def test_brightness_follows_the_atomic_number():
    assert brightness("Si") / brightness("C") == pytest.approx((14 / 6) ** 1.7)
    assert brightness("S2") == 2 * brightness("S")
    assert brightness("TiO") == pytest.approx(22**1.7 + 8**1.7)
