"""What changes with time, as curves: means of a column, or shares of kinds."""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.maps.dynamics import wilson_interval
from atomvae.maps.symmetry import circular_mean, circular_sd
from atomvae.viewer.colors import ANGLES, KINDS, color_scale, motif_order
from atomvae.viewer.plugin.plot import Curve

ALL, CHOSEN = (0.34, 0.71, 0.91), (1.0, 0.35, 1.0)  # the chosen as they are marked in the image
COUNT = "number of atoms"
SHARE = "share of each {}"
MOST_KINDS, FEW_ROWS = 12, 1000
DETAILS = ("flag", "origin", "sublattice")  # kinds that the detection found, not of first interest
LATENT = re.compile(r"z_\d+$")
WITHOUT = ("atom_id", "frame", "track", "angle_n", "movie")


def what_to_plot(table: pd.DataFrame) -> list[str]:
    """List what can be drawn against time, what is asked most first.

    Parameters
    ----------
    table : DataFrame
        Atoms.

    Returns
    -------
    list of str

    Examples
    --------
    >>> what_to_plot(pd.DataFrame({"frame": [0], "y": 2.0, "z_0": 1.0, "class": 1, "origin": 0}))
    ['share of each class', 'z_0', 'y', 'share of each origin', 'number of atoms']
    """
    if table.empty or "frame" not in table:
        return []
    kinds = [str(name) for name in table if is_kind(table[name])]
    numbers = [
        str(name)
        for name in table.select_dtypes("number")
        if name not in WITHOUT and name not in kinds
    ]
    early, late = (
        [SHARE.format(name) for name in kinds if (name in DETAILS) == found]
        for found in (False, True)
    )
    latents = [name for name in numbers if LATENT.match(name)]
    others = [name for name in numbers if name not in latents]
    return [*early, *latents, *others, *late, COUNT]


def is_kind(column: "pd.Series[Any]") -> bool:
    """Whether a column names kinds: text, truth values, or whole numbers under a known name."""
    if column.name in WITHOUT:
        return False
    if column.name not in KINDS and pd.api.types.is_float_dtype(column):
        return False
    first = column.iloc[
        :FEW_ROWS
    ]  # text of each atom shows at once; a million rows need not be read
    return first.nunique() <= MOST_KINDS and column.nunique() <= MOST_KINDS


def curves(
    table: pd.DataFrame, chosen: NDArray[np.bool_], what: str, *, frame_time: float = 1.0
) -> list[Curve]:
    """Curves against time with their uncertainty.

    Parameters
    ----------
    table : DataFrame
        ``frame`` and the columns.
    chosen : ndarray (n,) bool
        Rows that get curves of their own, if there are any.
    what : str
        From `what_to_plot`.
    frame_time : float
        Seconds from frame to frame; 1 to count frames.

    Returns
    -------
    list of Curve
        Means with twice their standard error (angles: on the circle, in degrees); shares with
        their 95 % Wilson interval.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 1], "z_0": [1.0, 3.0, 5.0]})
    >>> [c.y.tolist() for c in curves(table, np.zeros(3, bool), "z_0")]
    [[2.0, 5.0]]
    """
    groups = [("all atoms", table, False)]
    if chosen.any():
        groups.append(("chosen atoms", table[chosen], True))
    found: list[Curve] = []
    for name, rows, own in groups:
        if what.startswith(SHARE.format("")):
            found += _shares(rows, table, what.removeprefix(SHARE.format("")), own, frame_time)
        elif what == COUNT:
            number = rows.groupby("frame").size().reindex(_frames(table), fill_value=0)
            color = CHOSEN if own else ALL
            found.append(
                Curve(name, number.index * frame_time, number.to_numpy(float), color=color)
            )
        else:
            found.append(_mean(rows, what, name, CHOSEN if own else ALL, frame_time))
    return found


def _frames(table: pd.DataFrame) -> "pd.Index[Any]":
    """All frames from the first to the last with atoms."""
    return pd.RangeIndex(int(table["frame"].min()), int(table["frame"].max()) + 1)


def _mean(
    rows: pd.DataFrame, column: str, name: str, color: tuple[float, ...], frame_time: float
) -> Curve:
    """Mean over the atoms of each frame with twice its standard error."""
    values = rows[["frame", column]].dropna()
    groups = values.groupby("frame")[column]
    if column in ANGLES:
        fold = motif_order(rows) if column == "angle_folded" else 1
        mean = np.degrees(groups.agg(lambda v: circular_mean(v, fold)))
        sem = np.degrees(groups.agg(lambda v: circular_sd(v, fold))) / np.sqrt(groups.size())
    else:
        mean, sem = groups.mean(), groups.sem().fillna(0.0)
    x = mean.index.to_numpy(float) * frame_time
    y, spread = mean.to_numpy(float), 2 * sem.to_numpy(float)
    return Curve(name, x, y, y - spread, y + spread, color)


def _shares(
    rows: pd.DataFrame, table: pd.DataFrame, column: str, own: bool, frame_time: float
) -> list[Curve]:
    """Share of each kind among the atoms of each frame, with its interval."""
    scale = color_scale(table[column])
    count = pd.crosstab(rows["frame"], rows[column])
    total = count.sum(axis=1)
    found = []
    for kind in count:
        low, high = wilson_interval(count[kind], total)
        number = isinstance(kind, int | float) and not isinstance(kind, bool)
        word = f"{kind:g}" if number else str(kind)
        yes_no = {"True": "yes", "False": "no"}.get(word, word)
        value = kind if scale.kind == "steps" else yes_no
        color = tuple(scale.rgba(np.array([value], object if scale.names else float))[0, :3])
        label = f"{column} {yes_no}" + (" of the chosen" if own else "")
        x, y = count.index.to_numpy(float) * frame_time, (count[kind] / total).to_numpy(float)
        found.append(Curve(label, x, y, np.asarray(low), np.asarray(high), color, dashed=own))
    return found
