"""Crystals as projected atom columns: where they are, what they are, whom they are bonded to.

Lengths are nm, `(y, x)` with y down, the origin in the middle of the field. Angles are radians,
counter-clockwise as seen on screen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What a column holds: atomic numbers of the atoms in it.
SPECIES: dict[str, tuple[int, ...]] = {
    "C": (6,),
    "N": (7,),
    "Si": (14,),
    "S": (16,),
    "S2": (16, 16),
    "V": (23,),
    "Mo": (42,),
    "Ba": (56,),
    "TiO": (22, 8),
    "O": (8,),
}
SPECIES_NAMES = tuple(SPECIES)
EXPONENT = 1.7
"""Brightness goes with Z to this power (annular dark field, 1.6 to 1.7)."""

GRAPHENE_BOND_NM = 0.142
MOS2_BOND_NM = 0.316 / float(np.sqrt(3))  # projected Mo-S distance
PEROVSKITE_CELL_NM = 0.399  # BaTiO3


@dataclass(frozen=True)
class Crystal:
    """A perfect projected crystal; row i of every array is site i.

    Attributes
    ----------
    y, x : ndarray (n,) float64
        Site positions in nm.
    sublattice : ndarray (n,) int64
        0, 1, ... in the order of `hosts`.
    neighbours : ndarray (n, 4) int64
        Bonded sites, filled up with -1.
    angle : ndarray (n,) float64
        Orientation of the motif around the site in radians, in [0, 2 pi / order); NaN if none.
    order : ndarray (n,) int64
        Rotational symmetry of that motif; 0 if it has no angle.
    hosts : tuple of str
        Species of each sublattice.
    bond_nm : float
        Distance of bonded sites.
    cell_nm2 : float
        Area of the unit cell, which holds `per_cell[k]` sites of sublattice k.
    per_cell : tuple of int
    """

    y: Floats
    x: Floats
    sublattice: Ints
    neighbours: Ints
    angle: Floats
    order: Ints
    hosts: tuple[str, ...]
    bond_nm: float
    cell_nm2: float
    per_cell: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.y)

    def hosting(self, species: str) -> NDArray[np.bool_]:
        """Which sites hold a species in the perfect crystal, (n,) bool."""
        return np.array([host == species for host in self.hosts])[self.sublattice]

    @property
    def brightness_per_nm2(self) -> float:
        """Mean brightness (in units of `brightness`) of the perfect crystal per nm2."""
        cell = sum(n * brightness(s) for n, s in zip(self.per_cell, self.hosts, strict=True))
        return cell / self.cell_nm2


def brightness(species: str) -> float:
    """Brightness of a column in annular dark field, the sum of Z ** 1.7 over its atoms.

    Parameters
    ----------
    species : str
        A key of `SPECIES`.

    Returns
    -------
    float

    Examples
    --------
    >>> round(brightness("Si") / brightness("C"), 2)
    4.22
    """
    return float(sum(z**EXPONENT for z in SPECIES[species]))


def rotate(y: Floats, x: Floats, angle: float) -> tuple[Floats, Floats]:
    """Turn offsets counter-clockwise as seen on screen.

    Parameters
    ----------
    y, x : ndarray (n,) float64
        Offsets, y down.
    angle : float
        Radians.

    Returns
    -------
    tuple of ndarray
        Turned y and x.

    Examples
    --------
    >>> y, x = rotate(np.array([0.0]), np.array([1.0]), np.pi / 2)  # right becomes up
    >>> y.round(6).tolist(), x.round(6).tolist()
    ([-1.0], [0.0])
    """
    c, s = np.cos(angle), np.sin(angle)
    return c * y - s * x, s * y + c * x


def honeycomb(
    hosts: tuple[str, str],
    bond_nm: float,
    half_nm: tuple[float, float],
    rotation: float = 0.0,
    origin_nm: tuple[float, float] = (0.0, 0.0),
) -> Crystal:
    """Two triangular sublattices, bonded to each other: graphene, MoS2 from above.

    Parameters
    ----------
    hosts : tuple of str
        Species of sublattice 0 and 1.
    bond_nm : float
        Projected bond length.
    half_nm : tuple of float
        Half height and half width of the field to fill.
    rotation : float
        Radians; at 0 a bond of sublattice 0 points to the right.
    origin_nm : tuple of float
        Where a site of sublattice 0 lies.

    Returns
    -------
    Crystal

    Examples
    --------
    >>> sheet = honeycomb(("C", "C"), 0.142, (2.0, 2.0))
    >>> sheet.hosts, f"{sum(sheet.per_cell) / sheet.cell_nm2:.1f} atoms per nm2"
    (('C', 'C'), '38.2 atoms per nm2')
    """
    rise, run = np.sqrt(3) / 2 * bond_nm, 1.5 * bond_nm
    y, x, sublattice = _tile(
        np.array([[rise, run], [-rise, run]]), np.array([[0, 0], [0, bond_nm]]), half_nm, rotation,
        origin_nm,
    )  # fmt: skip
    # Bonds of the two sublattices point in opposite directions.
    angle = np.mod(rotation + np.pi * sublattice, 2 * np.pi / 3)
    return Crystal(
        y, x, sublattice,
        neighbours=_bonded(y, x, bond_nm),
        angle=angle,
        order=np.full(len(y), 3, dtype=np.int64),
        hosts=hosts, bond_nm=bond_nm,
        cell_nm2=1.5 * np.sqrt(3) * bond_nm**2,
        per_cell=(1, 1),
    )  # fmt: skip


def perovskite(
    half_nm: tuple[float, float],
    rotation: float = 0.0,
    origin_nm: tuple[float, float] = (0.0, 0.0),
) -> Crystal:
    """BaTiO3 along [001]: sublattices A (Ba), B (Ti and O in one column) and O.

    Parameters
    ----------
    half_nm : tuple of float
        Half height and half width of the field to fill.
    rotation : float
        Radians.
    origin_nm : tuple of float
        Where a Ba column lies.

    Returns
    -------
    Crystal
        Cubic; polar displacements are a matter of time (`history.Wall`).

    Examples
    --------
    >>> perovskite((1.0, 1.0)).per_cell
    (1, 1, 2)
    """
    a = PEROVSKITE_CELL_NM
    basis = np.array([[0, 0], [a / 2, a / 2], [a / 2, 0], [0, a / 2]])
    y, x, member = _tile(a * np.eye(2), basis, half_nm, rotation, origin_nm)
    sublattice = np.minimum(member, 2)
    square = np.mod(rotation, np.pi / 2)
    return Crystal(
        y, x, sublattice,
        neighbours=_bonded(y, x, a / 2),
        angle=np.where(sublattice < 2, square, np.nan),
        order=np.where(sublattice < 2, 4, 0),
        hosts=("Ba", "TiO", "O"), bond_nm=a / 2, cell_nm2=a * a, per_cell=(1, 1, 2),
    )  # fmt: skip


def _tile(
    vectors: Floats,
    basis: Floats,
    half_nm: tuple[float, float],
    rotation: float,
    origin_nm: tuple[float, float],
) -> tuple[Floats, Floats, Ints]:
    """Repeat a basis over a rectangle; positions and the number of the basis site, row by row."""
    # Rows of cells lie det / |vector| apart: so many reach the farthest corner.
    apart = abs(np.linalg.det(vectors)) / np.linalg.norm(vectors, axis=1).max()
    reach = int((np.hypot(*half_nm) + np.hypot(*origin_nm)) / apart) + 2
    steps = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) @ vectors
    points = (cells[:, None] + basis[None]).reshape(-1, 2)  # (cells * members, 2)
    member = np.tile(np.arange(len(basis)), len(cells))
    y, x = rotate(points[:, 0], points[:, 1], rotation)
    y, x = y + origin_nm[0], x + origin_nm[1]
    inside = (np.abs(y) <= half_nm[0]) & (np.abs(x) <= half_nm[1])
    return y[inside], x[inside], member[inside].astype(np.int64)


def _bonded(y: Floats, x: Floats, bond_nm: float) -> Ints:
    """Sites within 1.1 bonds, (n, 4) filled up with -1."""
    points = np.column_stack([y, x])
    distance, index = cKDTree(points).query(points, k=5, distance_upper_bound=1.1 * bond_nm)
    return np.where(np.isfinite(distance[:, 1:]), index[:, 1:], -1).astype(np.int64)
