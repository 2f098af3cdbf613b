"""Figures for reports and papers; each function returns a matplotlib Figure and saves nothing.

They use no global state: no window opens, nothing has to be closed. ``figure.savefig(path)``.
Here are those of atoms on the lattice and in time; what a model draws, where patches lie in its
latent space, how it was trained and how well atoms were found have files of their own, and are
found here, too.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atomvae.maps.backdrop import aspect, brightness, close_up, draw_backdrop, draw_circles, outline
from atomvae.maps.losses import draw_losses
from atomvae.maps.pictures import (
    draw_manifold,
    draw_reconstructions,
    draw_samples,
    draw_traversals,
)
from atomvae.maps.quality import draw_counts, draw_drift, draw_errors, draw_spacings
from atomvae.maps.scatter import draw_latents, draw_tsne, embed_tsne
from atomvae.maps.style import (
    BLUE,
    DEGREES,
    WIDTH,
    colour_bar,
    label,
    need,
    numbers,
    panels,
    robust_limits,
    scale,
)
from atomvae.maps.trends import draw_distributions, draw_fractions
from atomvae.movie.movie import Movie

DIM = 0.75  # of the light of a frame behind coloured atoms
RINGS = ("#56d0f5", "#ffb000")  # around atoms: found in the pixels, suggested by the lattice
DARK_RINGS = ("#0067b0", "#d55e00")  # the same in bright field

__all__ = [
    "draw_angles",
    "draw_counts",
    "draw_distributions",
    "draw_drift",
    "draw_errors",
    "draw_evolution",
    "draw_fractions",
    "draw_frames",
    "draw_latents",
    "draw_losses",
    "draw_manifold",
    "draw_map",
    "draw_reconstructions",
    "draw_samples",
    "draw_spacings",
    "draw_tracks",
    "draw_traversals",
    "draw_tsne",
    "embed_tsne",
    "robust_limits",
]


def draw_map(
    movie: Movie,
    table: pd.DataFrame,
    column: str,
    frames: Sequence[int],
    *,
    of: pd.DataFrame | None = None,
    width: float | None = None,
) -> Figure:
    """Draw a column at the atoms of chosen frames, on one colour scale over the whole table.

    Parameters
    ----------
    movie
        Drawn in grey behind the atoms, with a scale bar, in px if its pixel size is unknown.
    table
        With ``frame``, ``y``, ``x`` and ``column``, e.g. of `map_latents`.
    column
        What the colours show.
    frames
        Numbers of the frames, one panel each.
    of
        Table whose values set the colours, if not this one: that of several movies, say.
    width
        Of a panel in inches; the fewer, the wider by default.

    Raises
    ------
    InputError
        If a column is missing.

    Examples
    --------
    >>> movie = Movie.from_array(np.zeros((2, 40, 40)), pixel_size=0.02)
    >>> table = pd.DataFrame({"frame": [0, 1], "y": 20.0, "x": 20.0, "z_0": [1.0, 2.0]})
    >>> len(draw_map(movie, table, "z_0", [0, 1]).axes)  # two panels and a colour bar
    3
    """
    need(table, "frame", "y", "x", column)
    whole = table if of is None else of
    norm, colours, _ = scale(whole, column)
    figure, axes = panels(len(frames), aspect(movie), width or _panel_width(len(frames)))
    figure.set_layout_engine("compressed")  # the colour bar is as high as the frames
    for axis, t in zip(axes, frames, strict=True):
        draw_backdrop(axis, movie, t, light=DIM)
        rows = table[table["frame"] == t]
        dots = draw_circles(axis, movie, rows, 0.72)
        dots.set(cmap=colours, norm=norm, alpha=0.95)
        dots.set_array(numbers(whole, column, rows))
    colour_bar(figure, axes, whole, column)
    return figure


def draw_frames(
    movie: Movie, table: pd.DataFrame | None, frames: Sequence[int], *, width: float | None = None
) -> Figure:
    """Draw chosen frames as they are, and beneath or beside with a ring around every atom.

    Of a frame with so many atoms that rings would hide them, it is the middle that is drawn with
    rings, enlarged; see `atomvae.maps.backdrop.close_up`.

    Parameters
    ----------
    movie
        Each frame has grey levels of its own, and a scale bar, in px if its pixel size is unknown.
    table
        With ``frame``, ``y`` and ``x``; None draws no rings. Atoms that the lattice suggested
        (``origin`` is 1) have a ring of another colour.
    frames
        Numbers of the frames, one column each; a single one is drawn twice in a row.
    width
        Of a panel in inches; the fewer, the wider by default.

    Raises
    ------
    InputError
        If a column is missing.

    Examples
    --------
    >>> movie = Movie.from_array(np.zeros((2, 40, 40)), pixel_size=0.02)
    >>> table = pd.DataFrame({"frame": [0, 1], "y": 20.0, "x": 20.0})
    >>> len(draw_frames(movie, table, [0, 1]).axes)
    4
    """
    if table is not None:
        need(table, "frame", "y", "x")
    part = close_up(movie, table)
    rows = 1 if table is None else 2
    across = rows if len(frames) == 1 else len(frames)
    wide = width or _panel_width(across)
    figure, axes = panels(rows * len(frames), aspect(movie), wide, across=across)
    figure.set_layout_engine("compressed")
    for k, axis in enumerate(axes):
        t, ringed = frames[k % len(frames)], k >= len(frames)
        draw_backdrop(axis, movie, t, part=part if ringed else None)
        if part is not None and not ringed:
            outline(axis, part)
        if k >= across:
            axis.set_title("")
        if ringed and table is not None:
            here = table[table["frame"] == t]
            origin = here.get("origin", pd.Series(0, here.index))
            rings = draw_circles(axis, movie, here, 0.9)
            rings.set(facecolor="none", linewidth=1.0)
            colours = DARK_RINGS if brightness(movie.frame(t)) > 0.5 else RINGS
            rings.set_edgecolor([colours[int(kind == 1)] for kind in origin])
    return figure


def _panel_width(across: int) -> float:
    """Width of a frame in inches: one or two are shown larger."""
    return {1: 6.0, 2: 5.0}.get(across, WIDTH)


def draw_angles(table: pd.DataFrame, *, bins: int = 60) -> Figure:
    """Draw histograms of the angles, as they are and folded by the symmetry, in degrees.

    Parameters
    ----------
    table
        With ``angle`` (rad), and ``angle_folded``, ``angle_n`` if there is a symmetry.
    bins
        Number of bars.

    Examples
    --------
    >>> len(draw_angles(pd.DataFrame({"angle": [0.1, 0.2]})).axes)
    1
    """
    need(table, "angle")
    folded = "angle_folded" in table and "angle_n" in table and len(table) > 0
    figure, axes = panels(2 if folded else 1, 0.7)
    turns = {"angle": (-180.0, 360.0)}
    if folded:
        turns["angle_folded"] = (0.0, 360 / int(table["angle_n"].iloc[0]))
    for axis, (name, (low, turn)) in zip(axes, turns.items(), strict=True):
        degrees = np.degrees(table[name].to_numpy(dtype=np.float64))
        low = _seam(degrees[np.isfinite(degrees)], low, turn)
        # Angles of another range, 0 to 360 say, are brought into this one.
        degrees = low + np.mod(degrees[np.isfinite(degrees)] - low, turn)
        axis.hist(degrees, bins=bins, range=(low, low + turn), color=BLUE)
        ends = (low, low + turn)
        axis.set(xlabel=label(name), xlim=ends, xticks=np.linspace(*ends, 5))
    axes[0].set_ylabel("atoms")
    return figure


def _seam(degrees: NDArray[np.float64], usual: float, turn: float) -> float:
    """Where a circle is cut open: at the usual place, unless that would cut a peak in two."""
    places = usual + turn / 4 * np.arange(4)
    away = np.mod(degrees[:, None] - places + turn / 2, turn) - turn / 2
    near = (np.abs(away) < turn / 24).sum(0)  # a twelfth of the circle
    return float(usual if near[0] <= len(degrees) / 6 else places[near.argmin()])


def draw_evolution(table: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """Draw how the distribution of each column changes from frame to frame.

    Every frame is normalised by its number of atoms, so that a growing count does not look like
    a change.

    Parameters
    ----------
    table
        With ``frame`` and the columns.
    columns
        One panel each; angles are drawn in degrees.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 1], "z_0": [0.0, 0.1, 1.0]})
    >>> len(draw_evolution(table, ["z_0"]).axes)
    2
    """
    need(table, "frame", *columns)
    figure, axes = panels(len(columns), 0.9)
    frame = table["frame"].to_numpy()
    edges_t = np.arange(frame.min(initial=0), frame.max(initial=0) + 2) - 0.5
    for axis, name in zip(axes, columns, strict=True):
        turn = 180 / np.pi if name in DEGREES else 1.0
        values = table[name].to_numpy(dtype=np.float64) * turn
        low, high = robust_limits(values, 0.5)
        edges = np.linspace(low, high, 61)
        count = np.histogram2d(frame, values, bins=(edges_t, edges))[0]
        share = count / np.maximum(count.sum(1, keepdims=True), 1)
        shown = axis.pcolormesh(
            edges_t, edges, share.T, cmap="magma", rasterized=True,
            norm=PowerNorm(0.5, 0, max(robust_limits(share)[1], 1e-6)),  # rare kinds show, too
        )  # fmt: skip
        axis.set(xlabel="frame", ylabel=label(name))
    figure.colorbar(shown, ax=axes, label="share of the atoms of a frame")
    return figure


def draw_tracks(
    table: pd.DataFrame, column: str, *, pixel_size: tuple[float, float] | None = None
) -> Figure:
    """Draw the path of every track, coloured by a column along it.

    Parameters
    ----------
    table
        With ``track`` (-1: none), ``frame``, ``y``, ``x`` and ``column``.
    column
        What the colours show, e.g. a latent: a jump of colour is an event.
    pixel_size
        ``(y, x)`` in nm; axes are in px without it.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {"track": 0, "frame": [0, 1], "y": [1.0, 2.0], "x": 1.0, "z_0": [0.0, 1.0]}
    ... )
    >>> len(draw_tracks(table, "z_0").axes)
    2
    """
    need(table, "track", "frame", "y", "x", column)
    unit = "px" if pixel_size is None else "nm"
    py, px = pixel_size or (1.0, 1.0)
    linked = table[table["track"] >= 0].sort_values(["track", "frame"], kind="stable")
    norm, colours, _ = scale(table, column)
    place = linked[["x", "y"]].to_numpy(dtype=np.float64) * (px, py)
    step = np.stack([place[:-1], place[1:]], 1)[np.diff(linked["track"]) == 0]  # (m, 2, xy)
    figure, (axis,) = panels(1, 0.9, width=4.5)
    lines = LineCollection(list(step), cmap=colours, norm=norm, linewidths=1.2)
    values = numbers(table, column, linked)
    lines.set_array(values[1:][np.diff(linked["track"]) == 0])
    axis.add_collection(lines)
    axis.autoscale()
    axis.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", aspect="equal")
    axis.invert_yaxis()
    colour_bar(figure, axis, table, column)
    return figure
