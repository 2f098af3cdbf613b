"""What a crystal is at any moment: its occupation, relaxation around defects, a domain wall.

The occupation of the sites at the start plus a list of changes in order of time gives the
occupation at any moment, so that frames need not be visited in order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvae.datasets.lattices import Crystal, Floats, Ints

# One record per site. A vacant site has atom and species -1.
RECORD = np.dtype(
    [("atom", "i8"), ("species", "i8"), ("kind", "i8"), ("defect", "i8"), ("partner", "i8")]
)
Occupation = NDArray[np.void]


@dataclass(frozen=True)
class Kind:
    """A kind of defect on one site.

    Attributes
    ----------
    host : str
        Species that it replaces.
    species : str or None
        What is there instead; None for nothing.
    outward_nm : float
        How far bonded neighbours move away.
    order : int
        Rotational symmetry of the motif.
    """

    host: str
    species: str | None
    outward_nm: float
    order: int


KINDS: dict[str, Kind] = {
    "Si3": Kind("C", "Si", 0.024, 3),  # three bonds, 1.66 angstrom in projection
    "Si4": Kind("C", "Si", 0.0, 2),  # four bonds, in the middle of a divacancy
    "N": Kind("C", "N", -0.001, 3),
    "vacancy": Kind("C", None, 0.008, 3),
    "S vacancy": Kind("S2", "S", -0.002, 3),  # one of the two atoms of the column is missing
    "S2 vacancy": Kind("S2", None, -0.008, 3),
    "V": Kind("Mo", "V", -0.004, 3),
}
KIND_NAMES = tuple(KINDS)


def bonded(crystal: Crystal, site: int) -> list[int]:
    """Sites bonded to a site.

    Parameters
    ----------
    crystal : Crystal
    site : int

    Returns
    -------
    list of int
    """
    return [int(s) for s in crystal.neighbours[site] if s >= 0]


@dataclass(frozen=True)
class Wall:
    """A polar domain wall: B columns are displaced one way before it, another way behind it.

    The polarisation turns by 90 degrees, head to tail, so that the wall carries no charge. The O
    columns move against B by 0.4 of its displacement.

    Attributes
    ----------
    polar_nm : float
        Displacement of B in a domain.
    direction : float
        Radians; polarisation of the domain that grows, the other is 90 degrees further.
    speed : float
        nm per frame.
    width_nm : float
    """

    polar_nm: float
    direction: float
    speed: float
    width_nm: float = 0.5

    def along(self, crystal: Crystal) -> Floats:
        """Distance of each site from the wall at time 0 along its normal, nm."""
        normal = self.direction + np.pi / 4
        along: Floats = crystal.x * np.cos(normal) - crystal.y * np.sin(normal)  # y is down
        return along

    def fraction(self, crystal: Crystal, time: float) -> Floats:
        """Share of the growing domain at each site, 0 to 1."""
        share: Floats = 0.5 - 0.5 * np.tanh(
            (self.along(crystal) - self.speed * time) / self.width_nm
        )
        return share

    def switches(self, crystal: Crystal, frames: int) -> list[tuple[float, int]]:
        """Time and site of every B column that the wall passes within a number of frames."""
        if self.speed == 0:
            return []
        time = self.along(crystal) / self.speed
        passed = (crystal.sublattice == 1) & (time > 0) & (time < frames)
        return sorted((float(time[site]), int(site)) for site in np.flatnonzero(passed))

    def displacement(self, crystal: Crystal, time: float) -> tuple[Floats, Floats]:
        """Displacement (y, x) of every site in nm, (n,) each."""
        share = self.fraction(crystal, time)
        scale = np.choose(crystal.sublattice, [0.0, 1.0, -0.4]) * self.polar_nm
        c, s = np.cos(self.direction), np.sin(self.direction)
        right = share * c - (1 - share) * s
        up = share * s + (1 - share) * c
        return -scale * up, scale * right


@dataclass(frozen=True)
class History:
    """The life of a crystal.

    Attributes
    ----------
    crystal : Crystal
    first : ndarray (n,) of RECORD
        Occupation at time 0.
    time : ndarray (m,) float64
        Times of the changes in frames, ascending.
    site : ndarray (m,) int64
    record : ndarray (m,) of RECORD
    events : tuple of (time, kind, atom, other, site_from, site_to)
    wall : Wall or None
    """

    crystal: Crystal
    first: Occupation
    time: Floats
    site: Ints
    record: Occupation
    events: tuple[tuple[float, str, int, int, int, int], ...]
    wall: Wall | None = None

    def at(self, time: float) -> Occupation:
        """Occupation of the sites at a time (in frames), changes at that time included."""
        count = int(np.searchsorted(self.time, time, side="right"))
        now = self.first.copy()
        now[self.site[:count]] = self.record[:count]  # of a repeated site the last one stays
        return now

    def moments(self, start: float, stop: float) -> list[float]:
        """Return the times of changes with start < time < stop, each once."""
        inside = (self.time > start) & (self.time < stop)
        return [float(t) for t in np.unique(self.time[inside])]

    def positions(self, now: Occupation, time: float) -> tuple[Floats, Floats]:
        """Where the atom of each site is at a time: nm, (n,) each; vacant sites count too."""
        crystal = self.crystal
        y, x = crystal.y.copy(), crystal.x.copy()
        if self.wall is not None:
            dy, dx = self.wall.displacement(crystal, time)
            y, x = y + dy, x + dx
        for site in np.flatnonzero(now["kind"] >= 0):
            outward = KINDS[KIND_NAMES[now["kind"][site]]].outward_nm / crystal.bond_nm
            near = bonded(crystal, int(site))
            y[near] += outward * (crystal.y[near] - crystal.y[site])
            x[near] += outward * (crystal.x[near] - crystal.x[site])
            partner = now["partner"][site]
            if partner >= 0:
                y[site] += 0.5 * (crystal.y[partner] - crystal.y[site])
                x[site] += 0.5 * (crystal.x[partner] - crystal.x[site])
        return y, x
