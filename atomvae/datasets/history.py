"""What happens to a crystal in time: defects, events, relaxation, a moving domain wall.

The occupation of the sites at the start plus a list of changes in order of time gives the
occupation at any moment, so that frames need not be visited in order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atomvae.datasets.lattices import SPECIES_NAMES, Crystal, Floats, Ints
from atomvae.errors import InputError

# One record per site. A vacant site has atom and species -1.
RECORD = np.dtype(
    [("atom", "i8"), ("species", "i8"), ("kind", "i8"), ("defect", "i8"), ("partner", "i8")]
)
Occupation = NDArray[np.void]
Random = np.random.Generator


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


@dataclass
class Recorder:
    """The growing list of changes, and the occupation after the last of them."""

    crystal: Crystal
    now: Occupation
    next_atom: int
    next_defect: int = 0
    time: list[float] = field(default_factory=list)
    site: list[int] = field(default_factory=list)
    record: list[tuple[int, ...]] = field(default_factory=list)
    events: list[tuple[float, str, int, int, int, int]] = field(default_factory=list)

    def plain(self, site: int) -> bool:
        """Whether a site holds its host and belongs to no defect."""
        here = self.now[site]
        host = SPECIES_NAMES.index(self.crystal.hosts[self.crystal.sublattice[site]])
        return bool(here["species"] == host and here["kind"] < 0)

    def alone(self, site: int, ignore: tuple[int, ...] = ()) -> bool:
        """Whether all neighbours of a site, but for those to ignore, are plain."""
        return all(self.plain(s) for s in bonded(self.crystal, site) if s not in ignore)

    def change(self, time: float, changes: dict[int, tuple[int, ...]]) -> None:
        """Write new records at some sites."""
        for site, record in changes.items():
            self.now[site] = record
            self.time.append(time)
            self.site.append(site)
            self.record.append(record)


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


# An event gets the recorder, a site, the time and a generator. It returns None when it cannot
# happen there, else the atoms and sites for the log: atom, other atom, from site, to site.
Entry = tuple[int, int, int, int]
Event = Callable[[Recorder, int, float, Random], Entry | None]


def _pick(sites: list[int], rng: Random) -> int | None:
    return int(rng.choice(sites)) if sites else None


def exchange(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Let Si change places with a bonded C."""
    near = bonded(now.crystal, site)
    there = _pick([s for s in near if now.plain(s) and now.alone(s, (site,))], rng)
    if there is None:
        return None
    here_record, there_record = now.now[site].item(), now.now[there].item()
    now.change(time, {site: there_record, there: here_record})
    return here_record[0], there_record[0], site, there


def loss(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Knock out a C next to a Si; the Si moves into the middle of the divacancy."""
    near = bonded(now.crystal, site)
    there = _pick([s for s in near if now.plain(s) and now.alone(s, (site,))], rng)
    if there is None:
        return None
    atom, species, _, defect, _ = now.now[site].item()
    lost = int(now.now[there]["atom"])
    now.change(
        time,
        {site: (atom, species, KIND_NAMES.index("Si4"), defect, there), there: (-1,) * 5},
    )
    return lost, atom, there, -1


def capture(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Fill the second half of the divacancy of a Si with a C adatom."""
    atom, species, _, defect, partner = now.now[site].item()
    new = now.next_atom
    now.next_atom += 1
    carbon = (new, SPECIES_NAMES.index("C"), -1, -1, -1)
    now.change(time, {site: (atom, species, KIND_NAMES.index("Si3"), defect, -1), partner: carbon})
    return new, atom, -1, partner


def hop(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Move a neighbour into a vacancy."""
    near = bonded(now.crystal, site)
    there = _pick([s for s in near if now.plain(s) and now.alone(s, (site,))], rng)
    if there is None:
        return None
    here_record, there_record = now.now[site].item(), now.now[there].item()
    now.change(time, {site: there_record, there: here_record})
    return there_record[0], -1, there, site


def knock(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Knock out an atom, which leaves a vacancy."""
    if not (now.plain(site) and now.alone(site)):
        return None
    lost = int(now.now[site]["atom"])
    now.change(time, {site: (-1, -1, KIND_NAMES.index("vacancy"), now.next_defect, -1)})
    now.next_defect += 1
    return lost, -1, site, -1


def sulfur_loss(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Knock out one of the two S of a column."""
    if not (now.plain(site) and now.alone(site)):
        return None
    column = int(now.now[site]["atom"])
    sulfur, kind = SPECIES_NAMES.index("S"), KIND_NAMES.index("S vacancy")
    now.change(time, {site: (column, sulfur, kind, now.next_defect, -1)})
    now.next_defect += 1
    return column, -1, site, -1


def sulfur_hop(now: Recorder, site: int, time: float, rng: Random) -> Entry | None:
    """Move a S of a neighbouring full column into a half-empty one."""
    around = {t for s in bonded(now.crystal, site) for t in bonded(now.crystal, s)} - {site}
    there = _pick(sorted(s for s in around if now.plain(s)), rng)
    if there is None:
        return None
    column, sulfur, kind, defect, _ = now.now[site].item()
    other, full, *_ = now.now[there].item()
    now.change(time, {site: (column, full, -1, -1, -1), there: (other, sulfur, kind, defect, -1)})
    return other, column, there, site


# name -> what it does, and the defect it happens to (None: to any site of that host)
EVENTS: dict[str, tuple[Event, str | None, str]] = {
    "exchange": (exchange, "Si3", "C"),
    "loss": (loss, "Si3", "C"),
    "capture": (capture, "Si4", "C"),
    "hop": (hop, "vacancy", "C"),
    "knock": (knock, None, "C"),
    "sulfur_loss": (sulfur_loss, None, "S2"),
    "sulfur_hop": (sulfur_hop, "S vacancy", "S2"),
}


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
        last = {int(site): i for i, site in enumerate(self.site[:count])}
        now[list(last)] = self.record[list(last.values())]
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


def live(
    crystal: Crystal,
    rates: tuple[tuple[str, float], ...],
    first: tuple[Occupation, int],
    frames: int,
    seed: int,
    whole_frames: bool,
) -> History:
    """Let events happen to a crystal.

    Parameters
    ----------
    crystal : Crystal
    rates : tuple of (str, float)
        Events per defect and frame; events that make a new defect per 100 nm2 and frame.
    first : tuple
        What `settle` returned.
    frames : int
        How long, in frames.
    seed : int
    whole_frames : bool
        Events only between frames.

    Returns
    -------
    History

    Raises
    ------
    InputError
        An unknown event, or one that cannot happen in this crystal.
    """
    for name, _ in rates:
        if name not in EVENTS or EVENTS[name][2] not in crystal.hosts:
            fits = [n for n, (_, _, host) in EVENTS.items() if host in crystal.hosts]
            raise InputError(f"event {name!r} is unknown here, expected some of {fits}")
    occupation, defects = first
    now = Recorder(crystal, occupation.copy(), next_atom=len(crystal), next_defect=defects)
    area = np.ptp(crystal.y) * np.ptp(crystal.x) / 100
    for frame in range(frames):
        rng = np.random.default_rng([seed, frame, 11])
        for time, name, target in _due(now, rates, area, rng):
            moment = frame + (0.0 if whole_frames else time)
            if frame == 0 and whole_frames:
                continue  # that would be before the movie
            _happen(now, name, target, moment, rng)
    return History(
        crystal,
        first=occupation,
        time=np.array(now.time),
        site=np.array(now.site, dtype=np.int64),
        record=np.array(now.record, dtype=RECORD),
        events=tuple(now.events),
    )


def _due(
    now: Recorder, rates: tuple[tuple[str, float], ...], area: float, rng: Random
) -> list[tuple[float, str, int]]:
    """List what to try in this frame, by time: time within it, event, defect (or site)."""
    due = []
    for name, rate in rates:
        _, kind, host = EVENTS[name]
        if kind is None:
            sublattice = now.crystal.hosts.index(host)
            sites = np.flatnonzero(now.crystal.sublattice == sublattice)
            targets = rng.choice(sites, size=rng.poisson(rate * area))
        else:
            # Any defect that may become this kind within the frame; checked when its time comes.
            targets = np.unique(now.now["defect"][now.now["kind"] >= 0])
            targets = targets[rng.random(len(targets)) < 1 - np.exp(-rate)]
        due += [(float(rng.random()), name, int(target)) for target in targets]
    return sorted(due)


def _happen(now: Recorder, name: str, target: int, time: float, rng: Random) -> None:
    """Let one event happen if its target still is what it needs; log it."""
    event, kind, _ = EVENTS[name]
    site = target
    if kind is not None:
        fits = (now.now["defect"] == target) & (now.now["kind"] == KIND_NAMES.index(kind))
        if not fits.any():
            return
        site = int(np.flatnonzero(fits)[0])
    entry = event(now, site, time, rng)
    if entry is not None:
        now.events.append((time, name, *entry))


def settle(
    crystal: Crystal,
    defects: tuple[tuple[str, float], ...],
    view_nm: tuple[float, float],
    seed: int,
) -> tuple[Occupation, int]:
    """Fill the sites and place defects at random, apart from each other.

    Parameters
    ----------
    crystal : Crystal
    defects : tuple of (str, float)
        Kind and number per nm2; what lies in the view is rounded up to at least one.
    view_nm : tuple of float
        Height and width of the first frame.
    seed : int

    Returns
    -------
    tuple of (ndarray of RECORD, int)
        Occupation and the next free defect number.

    Raises
    ------
    InputError
        An unknown kind, or one that this crystal has no host for.
    """
    first = np.full(len(crystal), -1, dtype=RECORD)
    first["atom"] = np.arange(len(crystal))
    first["species"] = np.array([SPECIES_NAMES.index(h) for h in crystal.hosts])[crystal.sublattice]
    now = Recorder(crystal, first, next_atom=len(crystal))
    inner = tuple(0.4 * side for side in view_nm)
    inside = (np.abs(crystal.y) < inner[0]) & (np.abs(crystal.x) < inner[1])
    rng = np.random.default_rng([seed, 12])
    taken: list[int] = []
    for name, density in defects:
        if name not in KINDS or KINDS[name].host not in crystal.hosts:
            fits = [n for n, kind in KINDS.items() if kind.host in crystal.hosts]
            raise InputError(f"defect {name!r} is unknown here, expected some of {fits}")
        host = crystal.sublattice == crystal.hosts.index(KINDS[name].host)
        view = view_nm[0] * view_nm[1]
        around = max(np.ptp(crystal.y) * np.ptp(crystal.x) - view, 0)
        counts = (max(round(density * view), int(density > 0)), round(density * around))
        for count, where in zip(counts, (inside, ~inside), strict=True):
            for site in rng.permutation(np.flatnonzero(host & where)):
                if count == 0:
                    break
                if _free(now, taken, int(site)):
                    taken.append(int(site))
                    _place(now, name, int(site), rng)
                    count -= 1
    return now.now, now.next_defect


def _free(now: Recorder, taken: list[int], site: int) -> bool:
    """Whether a site is four bonds away from other defects and has all its neighbours."""
    crystal = now.crystal
    apart = np.hypot(crystal.y[taken] - crystal.y[site], crystal.x[taken] - crystal.x[site])
    return bool((apart > 4 * crystal.bond_nm).all() and len(bonded(crystal, site)) == 3)


def _place(now: Recorder, name: str, site: int, rng: Random) -> None:
    """Put a new defect on a site."""
    species = KINDS[name].species
    atom = -1 if species is None else int(now.now[site]["atom"])
    code = -1 if species is None else SPECIES_NAMES.index(species)
    partner = -1
    if name == "Si4":
        partner = int(rng.choice(bonded(now.crystal, site)))
        now.now[partner] = (-1,) * 5
    now.now[site] = (atom, code, KIND_NAMES.index(name), now.next_defect, partner)
    now.next_defect += 1
