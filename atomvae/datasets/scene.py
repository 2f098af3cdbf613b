"""Sample and scan together: what is where in any frame, and the frame itself.

A scene is small and holds no pixels. Everything of frame t follows from (scene, t), so that
frames can be made in any order, on any worker, again and again with the same bytes.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.datasets.detector import dark_rows, detect
from atomvae.datasets.events import live, settle
from atomvae.datasets.history import (
    KIND_NAMES,
    KINDS,
    History,
    Occupation,
    Wall,
    bonded,
)
from atomvae.datasets.lattices import (
    GRAPHENE_BOND_NM,
    MOS2_BOND_NM,
    SPECIES_NAMES,
    Crystal,
    Floats,
    Ints,
    brightness,
    honeycomb,
    perovskite,
)
from atomvae.datasets.presets import Preset
from atomvae.datasets.probe import Spots, contamination, draw, probe_shape
from atomvae.datasets.scan import Scan, sample_px

MARGIN_NM = 0.8  # crystal beyond the edges of the frame
BRIGHTNESS = np.array([brightness(name) for name in SPECIES_NAMES])


@dataclass(frozen=True)
class Scene:
    """All that is needed to make any frame of a movie and its truth.

    Attributes
    ----------
    preset : Preset
        With the faults of the chosen difficulty only.
    seed : int
    history : History
    scan : Scan
    """

    preset: Preset
    seed: int
    history: History
    scan: Scan

    @classmethod
    def build(cls, preset: Preset, seed: int, whole_frames: bool) -> "Scene":
        """Grow the crystal, place its defects and let the events happen.

        Parameters
        ----------
        preset : Preset
        seed : int
        whole_frames : bool
            Events only between frames.

        Returns
        -------
        Scene
        """
        scan = Scan.plan(preset, seed)
        view = (preset.shape[0] * preset.pixel_nm, preset.shape[1] * preset.pixel_nm)
        crystal = _grow(preset, scan, seed)
        first = settle(crystal, preset.defects, view, seed)
        lit = [partial(scan.lit, crystal.y, crystal.x, t) for t in range(preset.frames)]
        history = live(crystal, preset.events, first, lit, seed, whole_frames)
        if preset.material == "perovskite" and preset.polar_nm:
            wall = Wall(preset.polar_nm, preset.rotation, preset.wall_nm_per_frame)
            passed = tuple(
                (time, "switch", site, -1, site, site)
                for time, site in wall.switches(crystal, preset.frames)
            )
            history = replace(history, wall=wall, events=history.events + passed)
        return cls(preset, seed, history, scan)

    def render(self, frame: int) -> NDArray[np.generic]:
        """Make the frame as a detector would have written it, (rows, columns) of preset.dtype."""
        expected = self.expected(frame)
        expected[dark_rows(self.preset, frame, self.seed)] = 0
        rng = np.random.default_rng([self.seed, frame, 61])
        return detect(expected, self.preset, rng)

    def expected(self, frame: int) -> Floats:
        """Return the expected electrons per pixel, (rows, columns) float64, no row lost."""
        preset = self.preset
        shape = probe_shape(preset, frame, self.seed)
        image = draw(preset, self._spots(frame), self.scan.row_shift(frame), shape)
        image += preset.dose * preset.background
        return image + contamination(preset, self.scan.path[frame], frame, self.seed)

    def truth(self, frame: int) -> pd.DataFrame:
        """Atoms in a frame; the columns are those of `Simulation.truth`."""
        edges = self._edges(frame)
        parts = []
        for start, stop in pairwise(edges):
            part = self._atoms(frame, frame + start / self.preset.shape[0])
            part["scanned"] = (part["y"] >= start) & (part["y"] < stop)
            parts.append(part)
        table = _one_row_each(parts)
        height, width = self.preset.shape
        inside = table["y"].between(-0.5, height - 0.5, inclusive="left")
        inside &= table["x"].between(-0.5, width - 0.5, inclusive="left")
        table = table[inside].drop(columns="scanned").reset_index(drop=True)
        table["time_s"] = (frame + table["y"] / height) * self.preset.frame_time_s
        row = np.clip(np.round(table["y"]).astype(int), 0, height - 1)
        table["visible"] = ~dark_rows(self.preset, frame, self.seed)[row]
        return table

    def defects(self, frame: int) -> pd.DataFrame:
        """Defects with their centres at the start of a frame, as in `Simulation.defects`."""
        now = self.history.at(frame)
        sites = np.flatnonzero(now["kind"] >= 0)
        y_nm, x_nm = self.history.positions(now, frame)
        y, x = self.scan.place(y_nm[sites], x_nm[sites], frame)
        kinds = [KIND_NAMES[code] for code in now["kind"][sites]]
        return pd.DataFrame(
            {
                "frame": np.full(len(sites), frame, dtype=np.int64),
                "defect": now["defect"][sites],
                "kind": pd.Categorical(kinds, categories=KIND_NAMES),
                "site": sites,
                "y": y,
                "x": x,
                "angle": self._defect_angles(now, sites),
                "order": np.array([KINDS[kind].order for kind in kinds], dtype=np.int64),
            }
        )

    def _edges(self, frame: int) -> list[float]:
        """Rows between which nothing changes: 0, rows of events ..., infinity."""
        moments = self.history.moments(frame, frame + 1)
        return [-np.inf, *((t - frame) * self.preset.shape[0] for t in moments), np.inf]

    def _spots(self, frame: int) -> Spots:
        """Atoms to draw, with the rows during which they are there."""
        preset, edges = self.preset, self._edges(frame)
        unit = preset.dose * (1 - preset.background)
        unit /= self.history.crystal.brightness_per_nm2 * preset.pixel_nm**2
        columns: list[Floats] = []
        for start, stop in pairwise(edges):
            time = frame + max(start, 0.0) / preset.shape[0]
            now = self.history.at(time)
            y, x = self.scan.place(*self.history.positions(now, self._wall_time(frame)), frame)
            there = now["species"] >= 0
            electrons = unit * BRIGHTNESS[now["species"]]
            rows = np.broadcast_to([[start], [stop]], (2, len(y)))
            reach = 5 * preset.tail_width * preset.probe_nm / preset.pixel_nm
            there &= (y > max(start, 0) - reach) & (y < min(stop, preset.shape[0]) + reach)
            there &= (x > -reach) & (x < preset.shape[1] + reach)
            columns.append(np.vstack([y, x, electrons, rows])[:, there])
        return Spots(*np.hstack(columns))

    def _wall_time(self, frame: int) -> float:
        """Middle of the frame: a wall moves little while a frame is scanned."""
        return frame + 0.5

    def _atoms(self, frame: int, time: float) -> pd.DataFrame:
        """Truth of all atoms of the crystal with the occupation of one moment of a frame."""
        time = max(time, float(frame))
        now, crystal = self.history.at(time), self.history.crystal
        y_nm, x_nm = self.history.positions(now, self._wall_time(frame))
        y, x = self.scan.place(y_nm, x_nm, frame)
        near = (np.abs(y / self.preset.shape[0] - 0.5) < 0.6) & (
            np.abs(x / self.preset.shape[1] - 0.5) < 0.6
        )
        sites = np.flatnonzero((now["species"] >= 0) & near)
        y_nm, x_nm, y, x = y_nm[sites], x_nm[sites], y[sites], x[sites]
        core = self.preset.probe_nm / self.preset.pixel_nm
        y_sample, x_sample = sample_px(y_nm, x_nm, self.preset)
        bonds = self._bonds(now)[sites]
        angle, order = self._motif(sites, self._wall_time(frame))
        owner = self._owners(now)[sites]
        center = np.where(owner >= 0, owner, 0)
        kinds = np.where(owner >= 0, now["kind"][center], -1)
        orders = np.array([kind.order for kind in KINDS.values()])
        return pd.DataFrame(
            {
                "frame": np.full(len(sites), frame, dtype=np.int64),
                "id": now["atom"][sites],
                "y": y,
                "x": self.scan.seen(y, x, frame, core),
                "y_sample": y_sample,
                "x_sample": x_sample,
                "species": _named(now["species"][sites], SPECIES_NAMES),
                "site": sites,
                "sublattice": crystal.sublattice[sites],
                "n_bonds": (bonds >= 0).sum(axis=1),
                **{f"bond_{k}": bonds[:, k] for k in range(bonds.shape[1])},
                "defect": np.where(owner >= 0, now["defect"][center], -1),
                "defect_kind": _named(kinds, KIND_NAMES),
                "defect_angle": np.where(owner >= 0, self._defect_angles(now, center), np.nan),
                "defect_order": np.where(owner >= 0, orders[kinds], 0),
                "angle": angle,
                "angle_order": order,
            }
        )

    def _bonds(self, now: Occupation) -> Ints:
        """Atoms bonded to the atom of each site, (n, 4), filled up with -1."""
        crystal = self.history.crystal
        links = crystal.neighbours.copy()
        for site in np.flatnonzero(now["partner"] >= 0).tolist():  # a Si that stands for two sites
            partner = int(now["partner"][site])
            mine = [s for s in bonded(crystal, int(site)) if s != partner]
            others = [s for s in bonded(crystal, partner) if s != site]
            links[site, :] = (mine + others + [-1] * 4)[:4]
            for other in others:
                links[other][links[other] == partner] = site
        atoms = np.where(links >= 0, now["atom"][links], -1)
        return -np.sort(-atoms, axis=1)

    def _owners(self, now: Occupation) -> Ints:
        """Site of the defect that each site belongs to, as its centre or next to it; -1 if none."""
        owner = np.full(len(now), -1, dtype=np.int64)
        centers = np.flatnonzero(now["kind"] >= 0)
        for site in centers.tolist():
            owner[bonded(self.history.crystal, site)] = site
            if now["partner"][site] >= 0:
                owner[bonded(self.history.crystal, int(now["partner"][site]))] = site
        owner[centers] = centers
        return owner

    def _defect_angles(self, now: Occupation, sites: Ints) -> Floats:
        """Orientation of the motif at defects: that of the site, or of the axis of a divacancy."""
        crystal = self.history.crystal
        angle = crystal.angle[sites].copy()
        partner = now["partner"][sites]
        two = np.flatnonzero(partner >= 0)
        dy = crystal.y[partner[two]] - crystal.y[sites[two]]
        dx = crystal.x[partner[two]] - crystal.x[sites[two]]
        angle[two] = np.mod(np.arctan2(-dy, dx), np.pi)
        return angle

    def _motif(self, sites: Ints, time: float) -> tuple[Floats, Ints]:
        """Orientation around sites and its symmetry; of a polar column that of its displacement."""
        crystal, wall = self.history.crystal, self.history.wall
        angle, order = crystal.angle[sites].copy(), crystal.order[sites].copy()
        if wall is not None:
            dy, dx = wall.displacement(crystal, time)
            polar = crystal.sublattice[sites] == 1
            angle[polar] = np.mod(np.arctan2(-dy, dx)[sites][polar], 2 * np.pi)
            order[polar] = 1
        return angle, order


def _named(codes: Ints, names: tuple[str, ...]) -> "pd.Categorical[str]":
    """Names of codes as a column of categories; -1 is missing."""
    return pd.Categorical.from_codes(codes, categories=pd.Index(names))


def _grow(preset: Preset, scan: Scan, seed: int) -> Crystal:
    """Crystal of a preset at a random place, over all that comes into view as the sample drifts."""
    before, after = scan.extent_px()
    faults = [0, abs(preset.shear) * preset.shape[0] / 2 + abs(preset.flyback_bend_px)]
    half = ((before + after) / 2 + faults + np.array(preset.shape) / 2) * preset.pixel_nm
    half += MARGIN_NM
    # What moves down and right into the frame lies above and left of it at first.
    middle = (before - after) / 2 * preset.pixel_nm
    where = np.random.default_rng([seed, 71]).uniform(-0.2, 0.2, 2)
    size = (float(half[0]), float(half[1]))
    origin = (float(where[0]), float(where[1]))
    if preset.material == "perovskite":
        crystal = perovskite(size, preset.rotation, origin)
    elif preset.material == "mos2":
        crystal = honeycomb(("Mo", "S2"), MOS2_BOND_NM, size, preset.rotation, origin)
    else:
        crystal = honeycomb(("C", "C"), GRAPHENE_BOND_NM, size, preset.rotation, origin)
    return replace(crystal, y=crystal.y + middle[0], x=crystal.x + middle[1])


def _one_row_each(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Of the rows of an atom at different moments of a frame, the one at which it was scanned.

    An atom that moved against the scan may have been met twice: the first counts. One that moved
    with it may never have been met: the last place counts.
    """
    rows = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    same = rows.groupby("id")
    moved = same[["y", "x"]].transform("max") - same[["y", "x"]].transform("min") > 0.01
    species = same["species"].transform("nunique") > 1
    rows["changed"] = moved.any(axis=1) | species | (same["id"].transform("size") < len(parts))
    first = rows[rows["scanned"]].drop_duplicates("id", keep="first")
    never = rows[~rows["id"].isin(first["id"])].drop_duplicates("id", keep="last")
    return pd.concat([first, never]).sort_values("site", kind="stable", ignore_index=True)
