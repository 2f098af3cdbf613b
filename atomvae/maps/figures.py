"""Figures for reports and papers; each function returns a matplotlib Figure and saves nothing.

They use no global state: no window opens, nothing has to be closed. ``figure.savefig(path)``.
Here are those of atoms on the lattice and in time; what a model draws, where patches lie in its
latent space, how it was trained and how well atoms were found have files of their own, and are
found here, too.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.spatial import cKDTree

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
        Drawn in grey behind the atoms. Axes are in nm if its pixel size is known, else in px.
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
    figure, axes = panels(len(frames), _aspect(movie), width or _panel_width(len(frames)))
    figure.set_layout_engine("compressed")  # the colour bar is as high as the frames
    for axis, t in zip(axes, frames, strict=True):
        _backdrop(axis, movie, t, DIM)
        rows = table[table["frame"] == t]
        dots = _dots(axis, movie, rows, 0.66)
        dots.set(cmap=colours, norm=norm, alpha=0.95)
        dots.set_array(numbers(whole, column, rows))
    _name_sides(axes, len(frames), _unit(movie))
    colour_bar(figure, axes, whole, column)
    return figure


def draw_frames(
    movie: Movie, table: pd.DataFrame | None, frames: Sequence[int], *, width: float | None = None
) -> Figure:
    """Draw chosen frames as they are, and beneath or beside with a ring around every atom.

    Parameters
    ----------
    movie
        Axes are in nm if its pixel size is known, else in px; each frame has grey levels of its
        own.
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
    rows = [None] if table is None else [None, table]
    across = len(rows) if len(frames) == 1 else len(frames)
    wide = width or _panel_width(across)
    figure, axes = panels(len(rows) * len(frames), _aspect(movie), wide, across=across)
    figure.set_layout_engine("compressed")
    for k, axis in enumerate(axes):
        row, t = rows[k // len(frames)], frames[k % len(frames)]
        _backdrop(axis, movie, t)
        if k >= across:
            axis.set_title("")
        if row is not None:
            need(row, "frame", "y", "x")
            here = row[row["frame"] == t]
            origin = here.get("origin", pd.Series(0, here.index))
            rings = _dots(axis, movie, here, 0.9)
            rings.set(facecolor="none", linewidth=0.9)
            rings.set_edgecolor([RINGS[int(kind == 1)] for kind in origin])
    _name_sides(axes, across, _unit(movie))
    return figure


def _panel_width(across: int) -> float:
    """Width of a frame in inches: one or two are shown larger."""
    return {1: 6.0, 2: 5.0}.get(across, WIDTH)


def _name_sides(axes: list[Axes], across: int, unit: str) -> None:
    """Write numbers and names of the axes at the left and below only."""
    for k, axis in enumerate(axes):
        left, below = k % across == 0, k >= len(axes) - across
        axis.set(xlabel=f"x ({unit})" if below else "", ylabel=f"y ({unit})" if left else "")
        axis.tick_params(labelleft=left, labelbottom=below)


def _aspect(movie: Movie) -> float:
    """Height of a frame over its width."""
    py, px = movie.pixel_size or (1.0, 1.0)
    return movie.shape[1] * py / (movie.shape[2] * px)


def _unit(movie: Movie) -> str:
    """Unit of the axes."""
    return "px" if movie.pixel_size is None else "nm"


def _backdrop(axis: Axes, movie: Movie, t: int, light: float = 1.0) -> None:
    """Draw a frame in grey, at a share of its light, with its number, its time and a scale bar."""
    py, px = movie.pixel_size or (1.0, 1.0)
    height, width = movie.shape[1] * py, movie.shape[2] * px
    frame = movie.frame(t)
    low, high = robust_limits(frame)
    edges = (-0.5 * px, width - 0.5 * px, height - 0.5 * py, -0.5 * py)
    axis.set_facecolor("black")
    axis.imshow(frame, cmap="gray", vmin=low, vmax=high, extent=edges, alpha=light)
    time = "" if movie.frame_time is None else f", {t * movie.frame_time:.4g} s"
    axis.set(title=f"frame {t}{time}", xlim=edges[:2], ylim=edges[2:])
    _scale_bar(axis, width, height, _unit(movie))


def _dots(axis: Axes, movie: Movie, rows: pd.DataFrame, share: float) -> EllipseCollection:
    """Add a circle at every atom; its width is a share of the spacing."""
    py, px = movie.pixel_size or (1.0, 1.0)
    place = rows[["x", "y"]].to_numpy(dtype=np.float64) * (px, py)
    size = np.full(len(rows), share * _spacing(place, movie.shape[2] * px))
    dots = EllipseCollection(
        size, size, np.zeros(len(rows)), units="xy", offsets=place,
        offset_transform=axis.transData,
    )  # fmt: skip
    axis.add_collection(dots)
    return dots


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
    counts = {"angle": (-180.0, 180.0)}
    if folded:
        counts["angle_folded"] = (0.0, 360 / int(table["angle_n"].iloc[0]))
    for axis, (name, ends) in zip(axes, counts.items(), strict=True):
        degrees = np.degrees(table[name].to_numpy(dtype=np.float64))
        # Angles of another range, 0 to 360 say, are brought into this one.
        degrees = ends[0] + np.mod(degrees[np.isfinite(degrees)] - ends[0], ends[1] - ends[0])
        axis.hist(degrees, bins=bins, range=ends, color=BLUE)
        axis.set(xlabel=label(name), xlim=ends, xticks=np.linspace(*ends, 5))
    axes[0].set_ylabel("atoms")
    return figure


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


def _spacing(place: NDArray[np.float64], width: float) -> float:
    """Median nearest distance; a twentieth of the frame for a lone atom."""
    if len(place) < 2:
        return width / 20
    return float(np.median(cKDTree(place).query(place, k=2)[0][:, 1]))


def _scale_bar(axis: Axes, width: float, height: float, unit: str) -> None:
    """Bar of a round length, about a quarter of the frame, in its lower left corner."""
    power = 10.0 ** np.floor(np.log10(width / 4))
    length = power * max(k for k in (1, 2, 5) if k * power <= width / 4)
    corner, thick = (0.05 * width, 0.93 * height), 0.015 * height
    back = Rectangle(
        (corner[0] - 0.02 * width, corner[1] - 0.1 * height), length + 0.04 * width,
        0.1 * height + 2.5 * thick, color="black", alpha=0.6, linewidth=0, zorder=5,
    )  # fmt: skip
    axis.add_patch(back)
    axis.add_patch(Rectangle(corner, length, thick, color="white", linewidth=0, zorder=6))
    axis.text(
        corner[0] + length / 2, corner[1] - thick, f"{length:g} {unit}", color="white",
        ha="center", va="bottom", fontsize=8, zorder=6,
    )  # fmt: skip
