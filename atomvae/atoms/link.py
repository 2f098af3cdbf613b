"""Tracks: which rows of the atom table are the same atom at different times.

Atoms of a crystal stay near their sites, so linking is an assignment: the atoms of a frame to the
tracks so far, one to one, at least cost, nothing farther than a gate. Positions are de-drifted
first; what is left of the drift is taken from the atoms themselves.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import block_array, coo_array, csr_array, diags_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from atomvae.atoms.neighbours import nearest_distance
from atomvae.atoms.table import check_atoms
from atomvae.errors import InputError
from atomvae.settings import Settings, unit

Floats = NDArray[np.float64]

_GATE = 0.45  # of the spacing: at half of it the neighbour's site begins
_MEMORY = 0.5  # weight of a new position in that of its track, which averages noise out
_ROUNDS = 3  # of matching nearest atoms and moving on by their median offset


class LinkConfig(Settings):
    """Settings of the linking.

    Examples
    --------
    >>> LinkConfig(max_gap=5).max_gap
    5
    """

    max_step_px: float | None = Field(default=None, gt=0)
    """Farthest step between two frames, px; None: 0.45 of the spacing of the atoms."""
    max_gap: int = Field(default=3, ge=0, json_schema_extra=unit("frames"))
    """Number of frames in a row that an atom may be missed without losing its track."""


def link_atoms(
    atoms: pd.DataFrame, drift: pd.DataFrame | None = None, config: LinkConfig | None = None
) -> pd.DataFrame:
    """Link atoms from frame to frame.

    Parameters
    ----------
    atoms
        Atom table of one movie, sorted by frame.
    drift
        ``frame, dy, dx`` (px) as `atomvae.movie.drift.estimate_drift` gives; needed when the
        sample moves by half a spacing or more between frames.
    config
        Settings.

    Returns
    -------
    DataFrame
        The table with ``track`` filled in: int64, 0, 1, ... in order of first appearance. Each
        track has at most one atom per frame.

    Raises
    ------
    InputError
        If a column is missing, or the drift lacks a frame of the atoms.

    Notes
    -----
    The assignment of a frame is the minimum of the summed squared distance, where leaving an atom
    or a track alone costs the squared gate: the linear assignment problem of Jaqaman et al.,
    Nature Methods 5, 695 (2008), with a track's gaps closed on the way.

    Examples
    --------
    >>> from atomvae.atoms.table import make_atoms
    >>> table = make_atoms({"frame": [0, 0, 1, 1], "y": [5, 25, 26, 6], "x": [5, 5, 5, 5]})
    >>> link_atoms(table)["track"].tolist()
    [0, 1, 1, 0]
    """
    config = config or LinkConfig()
    check_atoms(atoms)
    linked = atoms.copy()
    if atoms.empty:
        return linked
    frame = atoms["frame"].to_numpy()
    position = atoms[["y", "x"]].to_numpy(float) - _drift_of(frame, drift)
    gate = config.max_step_px or _GATE * nearest_distance(atoms)
    linked["track"] = _tracks(frame, position, gate, config.max_gap)
    return linked


def _drift_of(frame: NDArray[np.int64], drift: pd.DataFrame | None) -> Floats:
    """Drift (n, 2) of each atom's frame, px."""
    if drift is None:
        return np.zeros((len(frame), 2))
    known = drift.set_index("frame")[["dy", "dx"]]
    missing = np.setdiff1d(frame, known.index)
    if len(missing):
        raise InputError(
            f"the drift has no frame {missing[0]}, the atoms have; estimate it on the same movie"
        )
    return known.loc[frame].to_numpy(float)


def _tracks(
    frame: NDArray[np.int64], position: Floats, gate: float, max_gap: int
) -> NDArray[np.int64]:
    """Track of each atom; frames are visited in order, the state is the open tracks."""
    track = np.full(len(frame), -1, dtype=np.int64)
    where, seen, name = np.empty((0, 2)), np.empty(0, np.int64), np.empty(0, np.int64)
    offset, known = np.zeros(2), 0
    for t in np.unique(frame):
        rows = np.flatnonzero(frame == t)
        still_open = t - seen <= max_gap + 1
        where, seen, name = where[still_open], seen[still_open], name[still_open]
        offset = _moved_on(where, position[rows], offset, gate)
        here = position[rows] - offset
        old, new = _match(where, here, gate)
        track[rows[new]] = name[old]
        where[old] += _MEMORY * (here[new] - where[old])
        seen[old] = t
        born = np.setdiff1d(np.arange(len(rows)), new)
        track[rows[born]] = known + np.arange(len(born))
        where = np.concatenate([where, here[born]])
        seen = np.concatenate([seen, np.full(len(born), t)])
        name = np.concatenate([name, known + np.arange(len(born))])
        known += len(born)
    return track


def _moved_on(where: Floats, here: Floats, offset: Floats, gate: float) -> Floats:
    """Offset (2,) px of a frame's atoms from the tracks: the median over nearest pairs."""
    if len(where) < 3 or len(here) < 3:
        return offset
    tree = cKDTree(where)
    for _ in range(_ROUNDS):
        distance, nearest = tree.query(here - offset, distance_upper_bound=gate)
        near = np.isfinite(distance)
        if near.sum() < 3:
            return offset
        offset = offset + np.median(here[near] - offset - where[nearest[near]], axis=0)
    return offset


def _match(where: Floats, here: Floats, gate: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (tracks, atoms) of the cheapest assignment."""
    n, m = len(where), len(here)
    pairs = cKDTree(where).sparse_distance_matrix(cKDTree(here), gate, output_type="ndarray")
    if not len(pairs):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # One is added everywhere, which changes no comparison: stored zeros would count as absent.
    cost = coo_array((1 + pairs["v"] ** 2, (pairs["i"], pairs["j"])), shape=(n, m))
    alone = 1 + gate**2
    rest = coo_array((np.ones(len(pairs)), (pairs["j"], pairs["i"])), shape=(m, n))
    graph = block_array([[cost, alone * diags_array(np.ones(n))],
                         [alone * diags_array(np.ones(m)), rest]])  # fmt: skip
    rows, columns = min_weight_full_bipartite_matching(csr_array(graph))
    linked = (rows < n) & (columns < m)
    return rows[linked].astype(np.int64), columns[linked].astype(np.int64)
