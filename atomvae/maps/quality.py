"""How well atoms were found: numbers, error bars, distances, and what is known of misses."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from atomvae.atoms.table import Flag
from atomvae.maps.dynamics import wilson_interval
from atomvae.maps.style import BLUE, COLOURS, need, panels, robust_limits

ORANGE = COLOURS[0]


@dataclass(frozen=True)
class Quality:
    """What the table itself says of a detection, see `judge_detection`.

    Examples
    --------
    >>> Quality(atoms=2, frames=1, per_frame=(2, 2.0, 2)).refound is None
    True
    """

    atoms: int
    """Rows of the table."""
    frames: int
    """Frames, those without atoms included."""
    per_frame: tuple[int, float, int]
    """Least, median and largest number of atoms of a frame."""
    sd_px: float = float("nan")
    """Median standard deviation of a coordinate, px."""
    refound: tuple[float, float, float] | None = None
    """Of the atoms seen in the frame before and the frame after, the share that is found in
    between, and its 95 % interval; None where nothing can be said. It is blind to atoms that are
    always missed."""
    jitter: float | None = None
    """Scatter of the positions from frame to frame over what their error bars make of it: 1 if
    they explain all; more if atoms move or the scan does; less if positions are tied to a lattice.
    None without tracks over three frames."""
    suggested: float = 0.0
    """Share of atoms that the lattice suggested and the pixels bore out."""
    flags: tuple[tuple[str, int], ...] = ()
    """Reasons to look twice, in words, and the number of atoms of each."""


FLAGS = {
    "FAINT": "faint: the amplitude is below 3 of its standard deviations",
    "MISFIT": "misfit: the residual is not that of noise",
    "MOVED": "moved: the fit went more than 1.5 px from its start",
    "CROWDED": "crowded: a brighter atom is closer than 0.4 of the spacing",
}


def judge_detection(table: pd.DataFrame, *, n_frames: int | None = None) -> Quality:
    """Say what the table of atoms tells of the detection, without knowing the truth.

    Parameters
    ----------
    table
        Atom table: ``frame``, and whatever else it has of ``movie``, ``track``, ``y``, ``x``,
        ``y_sd``, ``x_sd``, ``origin`` and ``flag``.
    n_frames
        Number of frames of all movies; by default those up to the last one with atoms.

    Examples
    --------
    An atom that is missed in one of five frames:

    >>> table = pd.DataFrame({"frame": [0, 1, 3, 4], "track": 0, "y": 1.0, "x": 2.0})
    >>> judge_detection(table).refound[0]  # frames 1 and 3 are asked for, 2 lacks
    0.0
    """
    need(table, "frame")
    counts = count_atoms(table, n_frames).sum(1)
    spread = (0, 0.0, 0)
    if len(counts):
        spread = int(counts.min()), float(np.median(counts)), int(counts.max())
    flag = table["flag"].to_numpy(np.int64) if "flag" in table else np.zeros(len(table), np.int64)
    named = [(text, int(((flag & Flag[name]) > 0).sum())) for name, text in FLAGS.items()]
    return Quality(
        atoms=len(table), frames=len(counts), per_frame=spread, sd_px=_typical_sd(table),
        refound=_refound(table), jitter=_jitter(table),
        suggested=float((table["origin"] == 1).mean()) if "origin" in table and len(table) else 0.0,
        flags=tuple((text, count) for text, count in named if count),
    )  # fmt: skip


def draw_counts(table: pd.DataFrame, *, n_frames: int | None = None) -> Figure:
    """Draw the number of atoms of each frame, those that the lattice suggested on top.

    Parameters
    ----------
    table
        With ``frame``; ``movie`` and ``origin`` if there are such.
    n_frames
        Number of frames; by default those up to the last one with atoms.

    Examples
    --------
    >>> draw_counts(pd.DataFrame({"frame": [0, 0, 2]})).axes[0].get_ylabel()
    'atoms'
    """
    need(table, "frame")
    counts = count_atoms(table, n_frames)
    figure, (axis,) = panels(1, 0.66, width=3.5)
    edges = np.arange(max(len(counts), 1) + 1) - 0.5
    counts = np.pad(counts, ((0, len(edges) - 1 - len(counts)), (0, 0)))
    axis.stairs(counts[:, 0], edges, fill=True, color=BLUE, label="found in the pixels")
    if counts[:, 1].any():
        axis.stairs(
            counts.sum(1), edges, baseline=counts[:, 0], fill=True, color=ORANGE,
            label="suggested by the lattice",
        )  # fmt: skip
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    several = "movie" in table and table["movie"].nunique() > 1
    axis.set(xlabel="frame, movie after movie" if several else "frame", ylabel="atoms")
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.05 * max(counts.sum(1).max(initial=0), 1)))
    axis.locator_params(axis="x", integer=True)
    return figure


def draw_errors(table: pd.DataFrame, *, pixel_size: tuple[float, float] | None = None) -> Figure:
    """Draw the distribution of the standard deviations of the positions.

    Parameters
    ----------
    table
        With ``y_sd`` and ``x_sd`` (px).
    pixel_size
        ``(y, x)`` in nm; the axis is in pm with it, in px without.

    Examples
    --------
    >>> table = pd.DataFrame({"y_sd": [0.1, 0.2], "x_sd": [0.1, 0.1]})
    >>> draw_errors(table, pixel_size=(0.01, 0.01)).axes[0].get_xlabel()
    'standard deviation of a position (pm)'
    """
    need(table, "y_sd", "x_sd")
    scale, unit = _unit(pixel_size)
    values = table[["y_sd", "x_sd"]].to_numpy(np.float64) * scale
    figure, (axis,) = panels(1, 0.66, width=3.5)
    high = robust_limits(values, 0.5)[1]
    for k, (name, colour) in enumerate((("y", BLUE), ("x", ORANGE))):
        axis.hist(
            values[np.isfinite(values[:, k]), k], bins=60, range=(0, high), histtype="step",
            color=colour, label=name, linewidth=1.4, linestyle=("-", "--")[k],
        )  # fmt: skip
    known = values[np.isfinite(values)]
    if known.size:
        middle = float(np.median(known))
        axis.axvline(middle, color="0.4", linewidth=0.8)
        axis.set_title(f"median {middle:.3g} {unit}", fontsize=9)
    axis.set(xlabel=f"standard deviation of a position ({unit})", ylabel="atoms", xlim=(0, high))
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_spacings(table: pd.DataFrame, *, pixel_size: tuple[float, float] | None = None) -> Figure:
    """Draw the distribution of the distances from each atom to its nearest neighbour.

    A second peak at half the main one speaks of atoms found twice, one at a longer distance of
    atoms that were missed.

    Parameters
    ----------
    table
        With ``frame``, ``y`` and ``x``; ``movie`` if there are several.
    pixel_size
        ``(y, x)`` in nm; the axis is in pm with it, in px without.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": 0, "y": 0.0, "x": [0.0, 10.0, 21.0]})
    >>> draw_spacings(table).axes[0].get_title()
    'median 10 px'
    """
    need(table, "frame", "y", "x")
    scale, unit = _unit(pixel_size)
    distance = nearest_distances(table, scale)
    figure, (axis,) = panels(1, 0.66, width=3.5)
    middle = float(np.median(distance)) if len(distance) else 0.0
    reach = 2 * middle or 1.0
    axis.hist(distance, bins=80, range=(0, reach), color=BLUE)
    if len(distance):
        axis.set_title(f"median {middle:.4g} {unit}", fontsize=9)
    axis.set(xlabel=f"distance to the nearest atom ({unit})", ylabel="atoms", xlim=(0, reach))
    return figure


def draw_drift(drift: pd.DataFrame, *, pixel_size: tuple[float, float] | None = None) -> Figure:
    """Draw where the sample lies in each frame, relative to the first.

    Parameters
    ----------
    drift
        Table of `estimate_drift`: ``frame``, ``dy``, ``dx`` (px); frames that are ``ambiguous``
        are marked.
    pixel_size
        ``(y, x)`` in nm; the axis is in nm with it, in px without.

    Examples
    --------
    >>> drift = pd.DataFrame({"frame": [0, 1], "dy": [0.0, 1.0], "dx": 0.0})
    >>> draw_drift(drift).axes[0].get_ylabel()
    'drift (px)'
    """
    need(drift, "frame", "dy", "dx")
    unit = "px" if pixel_size is None else "nm"
    figure, (axis,) = panels(1, 0.66, width=3.5)
    frame = drift["frame"].to_numpy()
    doubtful = drift["ambiguous"].to_numpy(bool) if "ambiguous" in drift else np.zeros(len(drift))
    doubtful = doubtful.astype(bool)
    for k, (name, colour) in enumerate((("dy", BLUE), ("dx", ORANGE))):
        values = drift[name].to_numpy(np.float64) * (pixel_size or (1.0, 1.0))[k]
        axis.plot(
            frame, values, ("-", "--")[k], color=colour, marker=".", markersize=4, linewidth=1.2,
            label=f"{name[1]}, {('down', 'right')[k]}",
        )  # fmt: skip
        axis.plot(frame[doubtful], values[doubtful], "o", color="#d55e00", fillstyle="none")
    if doubtful.any():
        axis.set_title("rings: may be off by a lattice vector", fontsize=9)
    axis.set(xlabel="frame", ylabel=f"drift ({unit})")
    axis.locator_params(axis="x", integer=True)
    axis.legend(frameon=False, fontsize=8)
    return figure


def count_atoms(table: pd.DataFrame, n_frames: int | None = None) -> NDArray[np.int64]:
    """Count the atoms of each frame: (frames, 2), found in the pixels and suggested by the lattice.

    Frames of several movies follow one another.

    Examples
    --------
    >>> count_atoms(pd.DataFrame({"frame": [0, 2], "origin": [0, 1]})).tolist()
    [[1, 0], [0, 0], [0, 1]]
    """
    frame = table["frame"].to_numpy(np.int64)
    if "movie" in table and len(table):
        last = table.groupby("movie")["frame"].max() + 1
        start = last.cumsum() - last
        frame = frame + table["movie"].map(start).to_numpy(np.int64)
    n = max(n_frames or 0, int(frame.max(initial=-1)) + 1)
    origin = table["origin"].to_numpy(np.int64) if "origin" in table else np.zeros_like(frame)
    counts = np.zeros((n, 2), np.int64)
    np.add.at(counts, (frame, (origin == 1).astype(int)), 1)
    return counts


def nearest_distances(
    table: pd.DataFrame, scale: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float64]:
    """Measure the distance from each atom to its nearest one in the same frame.

    Parameters
    ----------
    table
        With ``frame``, ``y``, ``x`` and, if there are several, ``movie``.
    scale
        Length of a pixel along (y, x).

    Examples
    --------
    >>> table = pd.DataFrame({"frame": 0, "y": 0.0, "x": [0.0, 3.0]})
    >>> nearest_distances(table, (1.0, 2.0)).tolist()
    [6.0, 6.0]
    """
    keys = ["movie", "frame"] if "movie" in table else ["frame"]
    found = [np.empty(0)]
    for _, rows in table.groupby(keys):
        place = rows[["y", "x"]].to_numpy(np.float64) * scale
        place = place[np.isfinite(place).all(1)]
        if len(place) > 1:
            found.append(cKDTree(place).query(place, k=2)[0][:, 1])
    return np.concatenate(found)


def _unit(pixel_size: tuple[float, float] | None) -> tuple[tuple[float, float], str]:
    """Length of a pixel and its unit: pm if it is known."""
    if pixel_size is None:
        return (1.0, 1.0), "px"
    return (1000 * pixel_size[0], 1000 * pixel_size[1]), "pm"


def _typical_sd(table: pd.DataFrame) -> float:
    """Median standard deviation of a coordinate, px."""
    if not {"y_sd", "x_sd"} <= set(table):
        return float("nan")
    values = table[["y_sd", "x_sd"]].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


def _refound(table: pd.DataFrame) -> tuple[float, float, float] | None:
    """Share of the atoms seen before and after that are seen in between."""
    if "track" not in table:
        return None
    linked = table[table["track"] >= 0]
    key = _moments(linked)
    both = np.isin(key + 2, key)
    if not both.any():
        return None
    count = int((both & np.isin(key + 1, key)).sum())
    low, high = wilson_interval(count, both.sum())
    return count / int(both.sum()), float(low), float(high)


def _jitter(table: pd.DataFrame) -> float | None:
    """Second differences along tracks, over what the error bars make of them."""
    if not {"track", "y", "x", "y_sd", "x_sd"} <= set(table):
        return None
    linked = table[table["track"] >= 0].sort_values(["track", "frame"], kind="stable")
    key = _moments(linked)
    if len(key) < 3:
        return None
    rows = np.flatnonzero((np.diff(key)[:-1] == 1) & (np.diff(key)[1:] == 1))
    if not len(rows):
        return None
    ratios = []
    for name in ("y", "x"):
        value = linked[name].to_numpy(np.float64)
        variance = linked[f"{name}_sd"].to_numpy(np.float64) ** 2
        second = pd.Series(value[rows] - 2 * value[rows + 1] + value[rows + 2])
        second -= second.groupby(linked["frame"].to_numpy()[rows]).transform("median")  # the stage
        sd = np.sqrt(variance[rows] + 4 * variance[rows + 1] + variance[rows + 2])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(second.to_numpy()) / sd
        ratios.append(ratio[np.isfinite(ratio)])
    all_ratios = np.concatenate(ratios)
    return float(np.median(all_ratios) / 0.6745) if len(all_ratios) else None


def _moments(linked: pd.DataFrame) -> NDArray[np.int64]:
    """A number for each track and frame; the next frame of a track has the next number."""
    frame = linked["frame"].to_numpy(np.int64)
    room = int(frame.max(initial=0)) + 3  # no track runs into the next
    return np.asarray(linked["track"].to_numpy(np.int64) * room + frame)
