"""Figures for reports and papers; each function returns a matplotlib Figure and saves nothing.

They use no global state: no window opens, nothing has to be closed. ``figure.savefig(path)``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from atomvae.errors import InputError
from atomvae.movie.movie import Movie

_KINDS = ("class", "sublattice", "species", "origin", "movie")  # numbers that name a kind
_NOT_LOSSES = ("epoch", "step", "learning_rate", "gate", "noise")
# Okabe and Ito's colours, safe for the colour blind.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#f0e442", "#cc79a7", "#0072b2")
_UNKNOWN = "#999999"  # of the kind -1
_WIDTH = 3.2  # of a panel, inches


def robust_limits(values: ArrayLike, percent: float = 1.0) -> tuple[float, float]:
    """Find ends of a colour scale that a few outliers do not stretch.

    Parameters
    ----------
    values
        Any shape; what is not finite is left out.
    percent
        Share cut off at each end, in percent.

    Returns
    -------
    low, high : float
        Always ``low < high``.

    Examples
    --------
    >>> low, high = robust_limits([*range(1000), 1e9])
    >>> round(low), round(high)
    (10, 990)
    >>> robust_limits([3.0, 3.0])
    (2.5, 3.5)
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return 0.0, 1.0
    low, high = np.percentile(array, [percent, 100 - percent])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def draw_map(movie: Movie, table: pd.DataFrame, column: str, frames: Sequence[int]) -> Figure:
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
    _need(table, "frame", "y", "x", column)
    py, px = movie.pixel_size or (1.0, 1.0)
    unit = "px" if movie.pixel_size is None else "nm"
    height, width = movie.shape[1] * py, movie.shape[2] * px
    norm, colours, ticks = _scale(table, column)
    figure, axes = _panels(len(frames), height / width)
    for axis, t in zip(axes, frames, strict=True):
        frame = movie.frame(t)
        low, high = robust_limits(frame)
        edges = (-0.5 * px, width - 0.5 * px, height - 0.5 * py, -0.5 * py)
        axis.imshow(frame, cmap="gray", vmin=low, vmax=high, extent=edges, aspect="equal")
        rows = table[table["frame"] == t]
        place = rows[["x", "y"]].to_numpy(dtype=np.float64) * (px, py)
        size = np.full(len(rows), 0.6 * _spacing(place, width))
        dots = EllipseCollection(
            size, size, np.zeros(len(rows)), units="xy", offsets=place,
            offset_transform=axis.transData, cmap=colours, norm=norm, alpha=0.85,
        )  # fmt: skip
        dots.set_array(_numbers(table, column, rows))
        axis.add_collection(dots)
        axis.set(title=f"frame {t}", xlabel=f"x ({unit})", xlim=edges[:2], ylim=edges[2:])
        _scale_bar(axis, width, height, unit)
    axes[0].set_ylabel(f"y ({unit})")
    bar = figure.colorbar(dots, ax=axes, label=_label(column), shrink=0.8)
    if ticks:
        bar.set_ticks(range(len(ticks)), labels=ticks)
    return figure


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
    _need(table, "angle")
    folded = "angle_folded" in table and "angle_n" in table and len(table) > 0
    figure, axes = _panels(2 if folded else 1, 0.7)
    counts = {"angle": (-180.0, 180.0)}
    if folded:
        counts["angle_folded"] = (0.0, 360 / int(table["angle_n"].iloc[0]))
    for axis, (name, ends) in zip(axes, counts.items(), strict=True):
        degrees = np.degrees(table[name].to_numpy(dtype=np.float64))
        # Angles of another range, 0 to 360 say, are brought into this one.
        degrees = ends[0] + np.mod(degrees[np.isfinite(degrees)] - ends[0], ends[1] - ends[0])
        axis.hist(degrees, bins=bins, range=ends, color=_COLOURS[6])
        axis.set(xlabel=_label(name), xlim=ends, xticks=np.linspace(*ends, 5))
    axes[0].set_ylabel("atoms")
    return figure


def draw_latents(
    table: pd.DataFrame, *, x: str = "z_0", y: str = "z_1", color: str | None = None
) -> Figure:
    """Draw one column against another, coloured by any third.

    Parameters
    ----------
    table
        Latents, or a table of `map_latents`.
    x, y
        Columns of the axes.
    color
        Column of the colour: a number, an angle or a class; None for none.

    Examples
    --------
    >>> table = pd.DataFrame({"z_0": [0.0, 1.0], "z_1": [1.0, 0.0], "class": [0, 1]})
    >>> len(draw_latents(table, color="class").axes)
    2
    """
    _need(table, x, y, *([] if color is None else [color]))
    figure, (axis,) = _panels(1, 0.9, width=4.5)
    # Many points: smaller and fainter, so that density still shows.
    crowd = max(len(table), 1)
    look: dict[str, Any] = {
        "s": float(np.clip(2e4 / crowd, 1, 20)), "alpha": float(np.clip(3e4 / crowd, 0.15, 0.9)),
        "linewidths": 0, "rasterized": True,
    }  # fmt: skip
    if color is None:
        axis.scatter(table[x], table[y], color=_COLOURS[6], **look)
    else:
        norm, colours, ticks = _scale(table, color)
        order = np.random.default_rng(0).permutation(len(table))  # no colour always on top
        rows = table.iloc[order]
        dots = axis.scatter(
            rows[x], rows[y], c=_numbers(table, color, rows), norm=norm, cmap=colours, **look
        )
        bar = figure.colorbar(dots, ax=axis, label=_label(color))
        bar.set_alpha(1)
        if ticks:
            bar.set_ticks(range(len(ticks)), labels=ticks)
    axis.set(
        xlabel=_label(x), ylabel=_label(y),
        xlim=_padded(robust_limits(table[x], 0.2)), ylim=_padded(robust_limits(table[y], 0.2)),
    )  # fmt: skip
    return figure


def draw_losses(history: pd.DataFrame) -> Figure:
    """Draw the terms of the loss against the epoch, one panel each.

    Parameters
    ----------
    history
        Table of `train`: ``epoch`` and a column per term (nats per image).

    Examples
    --------
    >>> history = pd.DataFrame({"epoch": [1, 2], "z": [0.1, 0.5], "held_out": [-9.0, -5.0]})
    >>> [axis.get_title() for axis in draw_losses(history).axes]
    ['z', 'held_out']
    """
    _need(history, "epoch")
    names = [c for c in history.select_dtypes("number") if c not in _NOT_LOSSES]
    if not names:
        raise InputError("the history holds no loss terms, only " + ", ".join(map(str, history)))
    figure, axes = _panels(len(names), 0.8, width=2.6)
    for axis, name in zip(axes, names, strict=True):
        axis.plot(history["epoch"], history[name], color=_COLOURS[6], marker=".", markersize=3)
        axis.set(xlabel="epoch", title=name)
        axis.locator_params(axis="x", integer=True)
    axes[0].set_ylabel("nats per image")
    return figure


def draw_manifold(images: ArrayLike, *, pixel_nm: float | None = None) -> Figure:
    """Draw a grid of decoded images on one grey scale.

    Parameters
    ----------
    images
        ``(rows, columns, h, w)``, e.g. of `atomvae.model.decode.manifold`.
    pixel_nm
        Pixel size of a patch; if given, the figure says how wide a patch is.

    Examples
    --------
    >>> len(draw_manifold(np.zeros((2, 3, 8, 8))).axes)
    1
    """
    stack = np.asarray(images, dtype=np.float64)
    if stack.ndim != 4:
        raise InputError(
            f"the images have shape {stack.shape}; expected (rows, columns, h, w) of one channel"
        )
    rows, columns, h, w = stack.shape
    gap = max(1, min(h, w) // 12)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), np.nan)
    for i in range(rows):
        for j in range(columns):
            sheet[i * (h + gap) :, j * (w + gap) :][:h, :w] = stack[i, j]
    low, high = robust_limits(stack, 0.5)
    side = 6.0
    figure = Figure(figsize=(side, side * sheet.shape[0] / sheet.shape[1]), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(sheet, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_frame_on(False)
    if pixel_nm is not None:
        axis.set_xlabel(f"each patch {w * pixel_nm:.3g} nm wide")
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
    _need(table, "frame", *columns)
    figure, axes = _panels(len(columns), 0.9)
    frame = table["frame"].to_numpy()
    edges_t = np.arange(frame.min(initial=0), frame.max(initial=0) + 2) - 0.5
    for axis, name in zip(axes, columns, strict=True):
        turn = 180 / np.pi if name.startswith("angle") else 1.0
        values = table[name].to_numpy(dtype=np.float64) * turn
        low, high = robust_limits(values, 0.5)
        edges = np.linspace(low, high, 61)
        count = np.histogram2d(frame, values, bins=(edges_t, edges))[0]
        share = count / np.maximum(count.sum(1, keepdims=True), 1)
        shown = axis.pcolormesh(
            edges_t, edges, share.T, cmap="magma", vmax=max(robust_limits(share)[1], 1e-6),
            rasterized=True,
        )  # fmt: skip
        axis.set(xlabel="frame", ylabel=_label(name))
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
    _need(table, "track", "frame", "y", "x", column)
    unit = "px" if pixel_size is None else "nm"
    py, px = pixel_size or (1.0, 1.0)
    linked = table[table["track"] >= 0].sort_values(["track", "frame"], kind="stable")
    norm, colours, ticks = _scale(table, column)
    place = linked[["x", "y"]].to_numpy(dtype=np.float64) * (px, py)
    step = np.stack([place[:-1], place[1:]], 1)[np.diff(linked["track"]) == 0]  # (m, 2, xy)
    figure, (axis,) = _panels(1, 0.9, width=4.5)
    lines = LineCollection(list(step), cmap=colours, norm=norm, linewidths=1.2)
    values = _numbers(table, column, linked)
    lines.set_array(values[1:][np.diff(linked["track"]) == 0])
    axis.add_collection(lines)
    axis.autoscale()
    axis.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", aspect="equal")
    axis.invert_yaxis()
    bar = figure.colorbar(lines, ax=axis, label=_label(column))
    if ticks:
        bar.set_ticks(range(len(ticks)), labels=ticks)
    return figure


def _need(table: pd.DataFrame, *columns: str) -> None:
    """Refuse a table that lacks a column."""
    for name in columns:
        if name not in table:
            known = ", ".join(map(str, table))
            raise InputError(f"the table has no column {name!r}; it has {known}")


def _panels(n: int, aspect: float, width: float = _WIDTH) -> tuple[Figure, list[Axes]]:
    """Row of panels of equal size; `aspect` is height over width of one."""
    if n < 1:
        raise InputError("there is nothing to draw: the list is empty; name at least one")
    figure = Figure(figsize=(n * width + 1.0, width * aspect + 0.8), layout="constrained", dpi=150)
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _scale(table: pd.DataFrame, column: str) -> tuple[Normalize, Colormap | str, list[str]]:
    """Colour scale of a column over the whole table; names of the steps if it names a kind."""
    if column in _KINDS or table[column].dtype.kind not in "iuf":
        names = [str(kind) for kind in pd.unique(table[column].sort_values())]
        colours = [_COLOURS[i % len(_COLOURS)] for i in range(max(len(names), 1))]
        colours = [
            _UNKNOWN if name == "-1" else c for name, c in zip(names, colours, strict=False)
        ] or [_UNKNOWN]
        return Normalize(-0.5, len(colours) - 0.5), ListedColormap(colours), names
    if column == "angle_folded" and "angle_n" in table and len(table):
        return Normalize(0, 360 / int(table["angle_n"].iloc[0])), "hsv", []
    if column == "angle":
        return Normalize(-180, 180), "hsv", []
    return Normalize(*robust_limits(table[column])), "viridis", []


def _numbers(table: pd.DataFrame, column: str, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Rows of a column as the numbers that `_scale` colours."""
    if column in _KINDS or table[column].dtype.kind not in "iuf":
        kinds = list(pd.unique(table[column].sort_values()))
        return np.array([kinds.index(v) for v in rows[column]], dtype=np.float64)
    values = rows[column].to_numpy(dtype=np.float64)
    if column == "angle":
        values = np.mod(np.degrees(values) + 180, 360) - 180
    return np.degrees(values) if column == "angle_folded" else values


def _label(column: str) -> str:
    """Name of a column with its unit."""
    if column.startswith("angle"):
        return f"{column} (deg)"
    if column.endswith("_nm"):
        return f"{column[:-3]} (nm)"
    return column


def _padded(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits with a margin of 5 %."""
    margin = 0.05 * (limits[1] - limits[0])
    return limits[0] - margin, limits[1] + margin


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
        0.1 * height + 2.5 * thick, color="black", alpha=0.6, linewidth=0,
    )  # fmt: skip
    axis.add_patch(back)
    axis.add_patch(Rectangle(corner, length, thick, color="white", linewidth=0))
    axis.text(
        corner[0] + length / 2, corner[1] - thick, f"{length:g} {unit}", color="white",
        ha="center", va="bottom", fontsize=8,
    )  # fmt: skip
