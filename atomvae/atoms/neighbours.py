"""Who stands beside whom: distances and coordination of the atoms of each frame."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

_SOME_FRAMES = 8  # of a movie are enough for its spacing
_ALONE_PX = 20.0  # spacing when no frame has two atoms
_SHELL = 1.25  # of the spacing: a bond is at most this long


def nearest_distance(atoms: pd.DataFrame) -> float:
    """Typical distance between an atom and its nearest neighbour.

    Parameters
    ----------
    atoms
        Columns ``frame, y, x`` (px).

    Returns
    -------
    float
        Median in px over at most eight frames; 20 when no frame has two atoms.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 0], "y": [0, 0, 0], "x": [0, 10, 20]})
    >>> nearest_distance(table)
    10.0
    """
    frames = np.unique(atoms["frame"])
    if not len(frames):
        return _ALONE_PX
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, _SOME_FRAMES).astype(int))]
    found = [np.empty(0)]
    for _, one in atoms[atoms["frame"].isin(chosen)].groupby("frame"):
        if len(one) > 1:
            position = one[["y", "x"]].to_numpy(float)
            found.append(cKDTree(position).query(position, k=2)[0][:, 1])
    distances = np.concatenate(found)
    return float(np.median(distances)) if len(distances) else _ALONE_PX


def neighbour_table(
    atoms: pd.DataFrame, *, least_px: float = 0.0, most_px: float | None = None
) -> pd.DataFrame:
    """Count and measure the bonds of every atom within its frame.

    Parameters
    ----------
    atoms
        Columns ``frame, y, x`` (px), any index.
    least_px, most_px
        Shortest and longest distance that counts as a bond; by default up to 1.25 spacings.

    Returns
    -------
    DataFrame
        Index of `atoms`; ``n_neighbours`` (int64), ``mean_bond`` (px, NaN without bonds),
        ``interior`` (bool): the bonds go round the atom, no two successive ones are more than
        180 degrees apart, so none can be missing because the frame ends.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": 0, "y": [0, 0, 0], "x": [0, 10, 20]})
    >>> neighbour_table(table)["n_neighbours"].tolist()
    [1, 2, 1]
    """
    most = _SHELL * nearest_distance(atoms) if most_px is None else most_px
    result = pd.DataFrame(
        {"n_neighbours": np.int64(0), "mean_bond": np.nan, "interior": False}, index=atoms.index
    )
    for _, one in atoms.groupby("frame"):
        position = one[["y", "x"]].to_numpy(float)
        pairs = cKDTree(position).query_pairs(most, output_type="ndarray")
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        step = position[pairs[:, 1]] - position[pairs[:, 0]]
        length = np.hypot(*step.T)
        bonded = length >= least_px
        pairs, step, length = pairs[bonded], step[bonded], length[bonded]
        count = np.bincount(pairs[:, 0], minlength=len(one))
        total = np.bincount(pairs[:, 0], length, minlength=len(one))
        result.loc[one.index, "n_neighbours"] = count
        result.loc[one.index, "mean_bond"] = total / np.where(count > 0, count, np.nan)
        result.loc[one.index, "interior"] = _surrounded(pairs[:, 0], step, len(one))
    return result


def _surrounded(atom: NDArray[np.int64], step: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Whether the bonds (m, 2) of each atom leave no open side."""
    angle = np.arctan2(step[:, 0], step[:, 1])
    order = np.lexsort([angle, atom])
    inside = np.zeros(n, bool)
    for i, group in pd.Series(angle[order]).groupby(atom[order]):
        turns = np.append(group.to_numpy(), group.iloc[0] + 2 * np.pi)
        inside[int(str(i))] = len(group) > 1 and bool(np.diff(turns).max() < np.pi)
    return inside
