"""How a crystal changes under the beam: where its defects are at first, what events do to it.

A new event is one small function and one entry in `EVENTS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atomvae.datasets.history import KIND_NAMES, KINDS, RECORD, History, Occupation, bonded
from atomvae.datasets.lattices import SPECIES_NAMES, Crystal
from atomvae.errors import InputError

Random = np.random.Generator


@dataclass
class Recorder:
    """The growing list of changes, and the occupation after the last of them."""

    crystal: Crystal
    now: Occupation
    next_atom: int
    next_defect: int = 0
    where: dict[int, int] = field(default_factory=dict)  # defect -> its site
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
            if record[3] >= 0:
                self.where[record[3]] = site


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


def live(
    crystal: Crystal,
    rates: tuple[tuple[str, float], ...],
    first: tuple[Occupation, int],
    lit: Sequence[Callable[[], NDArray[np.bool_]]],
    seed: int,
    whole_frames: bool,
) -> History:
    """Let the beam make events happen to a crystal, where it scans.

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
    for site in np.flatnonzero(occupation["kind"] >= 0).tolist():
        now.where[int(occupation["defect"][site])] = site
    for frame, sites in enumerate(lit):
        if (frame == 0 and whole_frames) or not rates:
            continue  # events before the movie do not count
        rng = np.random.default_rng([seed, frame, 11])
        for time, name, target in _due(now, rates, sites(), rng):
            _happen(now, name, target, frame + (0.0 if whole_frames else time), rng)
    return History(
        crystal,
        first=occupation,
        time=np.array(now.time),
        site=np.array(now.site, dtype=np.int64),
        record=np.array(now.record, dtype=RECORD),
        events=tuple(now.events),
    )


def _due(
    now: Recorder, rates: tuple[tuple[str, float], ...], lit: NDArray[np.bool_], rng: Random
) -> list[tuple[float, str, int]]:
    """List what to try in this frame, by time: time within it, event, defect (or site)."""
    due = []
    for name, rate in rates:
        _, kind, host = EVENTS[name]
        if kind is None:
            sites = np.flatnonzero(lit & now.crystal.hosting(host))
            area = lit.sum() / sum(now.crystal.per_cell) * now.crystal.cell_nm2
            targets = rng.choice(sites, size=rng.poisson(rate * area / 100))
        else:
            # Any defect: it may become this kind within the frame, which is checked in time.
            targets = np.array([d for d, s in sorted(now.where.items()) if lit[s]], dtype=np.int64)
            targets = targets[rng.random(len(targets)) < 1 - np.exp(-rate)]
        due += [(float(rng.random()), name, int(target)) for target in targets]
    return sorted(due)


def _happen(now: Recorder, name: str, target: int, time: float, rng: Random) -> None:
    """Let one event happen if its target still is what it needs; log it."""
    event, kind, _ = EVENTS[name]
    site = target
    if kind is not None:
        site = now.where[target]
        if now.now["kind"][site] != KIND_NAMES.index(kind):
            return
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
        host = crystal.hosting(KINDS[name].host)
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
