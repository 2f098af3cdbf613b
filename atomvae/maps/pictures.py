"""What a model draws: grids of decoded images, and patches beside their reconstructions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError
from atomvae.maps.style import BLUE, DEGREES, label, padded, panels, robust_limits

TICKS = {1: 13, 2: 7, 3: 5}  # numbers at an axis at most, by panels in a row

Floats = NDArray[np.floating[Any]]


def draw_manifold(
    images: ArrayLike | Mapping[str, ArrayLike],
    *,
    axes: Mapping[str, ArrayLike] | None = None,
    pixel_nm: float | None = None,
) -> Figure:
    """Draw a grid of decoded images on one grey scale, or of spectra as lines.

    Parameters
    ----------
    images
        ``(rows, columns, h, w)``, e.g. of `atomvae.model.decode.manifold`; or several of them by
        title, e.g. one for each class.
    axes
        Values along rows and columns by name, of `atomvae.model.decode.manifold_axes`.
    pixel_nm
        Pixel size of a patch; if given, the figure says how wide a patch is.

    Examples
    --------
    >>> len(draw_manifold(np.zeros((2, 3, 8, 8))).axes)
    1
    """
    grids = images if isinstance(images, Mapping) else {"": images}
    stacks = {title: _stack(grid, 4, "(rows, columns, h, w)") for title, grid in grids.items()}
    if not stacks:
        raise InputError("there is nothing to draw: no grid of images is given")
    along = "yx"
    if all(stack.shape[1] == 1 for stack in stacks.values()):  # one dimension lies better
        stacks, along = {title: stack.swapaxes(0, 1) for title, stack in stacks.items()}, "x"
    limits = _limits(*stacks.values())
    rows, columns, h, w = next(iter(stacks.values())).shape
    aspect = rows * _height(h, w) / (columns * w)
    across = min(3, math.ceil(math.sqrt(len(stacks))))
    width = min((6.0, 3.6, 3.0)[across - 1], 9 / aspect)
    figure, places = panels(len(stacks), aspect, width, across=across)
    for axis, (title, stack) in zip(places, stacks.items(), strict=True):
        centres = dict(zip("yx", _sheet(axis, stack, limits), strict=True))
        axis.set_title(title)
        for (name, values), side in zip((axes or {}).items(), along, strict=False):
            _ticks(axis, side, centres[side], name, values, TICKS[across])
    _say_width(figure, w, pixel_nm)
    return figure


def draw_samples(images: ArrayLike, *, columns: int = 8, pixel_nm: float | None = None) -> Figure:
    """Draw images on one grey scale, e.g. of `atomvae.model.draw.sample`, row by row.

    Parameters
    ----------
    images
        ``(n, h, w)``; spectra, of one row, are drawn as lines.
    columns
        Images in a row.
    pixel_nm
        Pixel size; if given, the figure says how wide an image is.

    Examples
    --------
    >>> len(draw_samples(np.zeros((5, 8, 8))).axes)
    1
    """
    stack = _stack(images, 3, "(n, h, w)")
    n, h, w = stack.shape
    columns = min(n, columns)
    grid = np.full((-(-n // columns) * columns, h, w), np.nan)
    grid[:n] = stack
    return draw_manifold(grid.reshape(-1, columns, h, w), pixel_nm=pixel_nm)


def draw_traversals(
    strips: Mapping[str, tuple[ArrayLike, ArrayLike]], *, pixel_nm: float | None = None
) -> Figure:
    """Draw strips of images along one latent each, with its values beneath.

    Parameters
    ----------
    strips
        By the name of the latent: values (n,) and images ``(n, h, w)``, as they went into and came
        out of `atomvae.model.draw.traverse` or `interpolate`. Angles are shown in degrees.
    pixel_nm
        Pixel size; if given, the figure says how wide an image is.

    Examples
    --------
    >>> strip = np.array([-1.0, 1.0]), np.zeros((2, 8, 8))
    >>> [axis.get_xlabel() for axis in draw_traversals({"z_0": strip, "angle": strip}).axes]
    ['z_0', 'angle (deg)']
    """
    if not strips:
        raise InputError("there is nothing to draw: no strip is given; name at least one")
    stacks = {name: _stack(images, 3, "(n, h, w)") for name, (_, images) in strips.items()}
    limits = _limits(*stacks.values())
    width = 7.0
    heights = [width * _height(*s.shape[1:]) / (len(s) * s.shape[2]) + 0.6 for s in stacks.values()]
    figure = Figure(figsize=(width + 0.4, sum(heights)), layout="constrained", dpi=150)
    grid = figure.subplots(len(stacks), 1, squeeze=False, height_ratios=heights)
    for axis, (name, stack) in zip(grid[:, 0], stacks.items(), strict=True):
        values = np.asarray(strips[name][0], dtype=np.float64)
        if values.shape != stack.shape[:1]:
            raise InputError(
                f"{name} has values of shape {values.shape} and {len(stack)} images, expected one "
                "value for each"
            )
        _, along = _sheet(axis, stack[None], limits)
        _ticks(axis, "x", along, name, values, 16, digits=3)
    _say_width(figure, stack.shape[2], pixel_nm)
    return figure


def draw_reconstructions(
    patches: ArrayLike,
    images: ArrayLike,
    *,
    error: ArrayLike | None = None,
    seen: ArrayLike | None = None,
    each: int = 3,
    pixel_nm: float | None = None,
) -> Figure:
    """Draw patches, their reconstructions and what is left: the best, the median and the worst.

    A patch and its reconstruction share grey levels, which are those of no other patch; what is
    left has one scale for all.

    Parameters
    ----------
    patches
        ``(n, h, w)``, or the targets of an encoder-decoder. Spectra, of one row, are drawn as
        lines, grey behind their reconstructions.
    images
        ``(n, h, w)`` of `atomvae.model.draw.reconstruct`.
    error
        (n,) by which they are ranked, e.g. the column ``reconstruction_error``; by default the
        root mean square of what is left, in data units.
    seen
        Pixels that count, ``(h, w)`` or ``(n, h, w)``, e.g. of `atomvae.model.draw.seen_pixels`;
        nothing is said of the others.
    each
        Patches of each sort.
    pixel_nm
        Pixel size; if given, the figure says how wide a patch is.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> figure = draw_reconstructions(noise, 0 * noise)
    >>> len(figure.axes)  # three rows, nine columns, a colour bar
    28
    """
    measured, drawn = _stack(patches, 3, "(n, h, w)"), _stack(images, 3, "(n, h, w)")
    if measured.shape != drawn.shape:
        raise InputError(f"patches have shape {measured.shape}, reconstructions {drawn.shape}")
    left = np.where(True if seen is None else np.asarray(seen, bool), measured - drawn, np.nan)
    rank = np.sqrt(np.nanmean(left**2, (1, 2))) if error is None else np.asarray(error, float)
    if rank.shape != measured.shape[:1]:
        raise InputError(f"error has shape {rank.shape}, expected ({len(measured)},)")
    chosen = rank_rows(rank, each)
    rows = [row for row, _ in chosen]
    h, w = measured.shape[1:]
    figure = Figure(
        figsize=(len(rows) + 1.8, 3.1 * _height(h, w) / w + 1), dpi=150, layout="constrained"
    )
    grid = figure.subplots(3, len(rows), squeeze=False)
    common = _limits(measured[rows])
    reach = max(map(abs, _limits(left[rows])))
    for column, (row, title) in enumerate(chosen):
        grid[0, column].set_title(title, fontsize=8)
        if h == 1:
            grid[1, column].plot(measured[row, 0], color="0.6", linewidth=0.8)
        limits = common if h == 1 else _limits(measured[row])
        for axis, image in zip(grid[:2, column], (measured[row], drawn[row]), strict=True):
            _picture(axis, image, limits, "gray")
        rest = _picture(grid[2, column], left[row], (-reach, reach), "PuOr_r")
    names = ("patch" if h > 1 else "target", "reconstruction", "residual")
    for axis, name in zip(grid[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=8)
        if h == 1:
            axis.tick_params(labelsize=7)
            axis.yaxis.set_major_locator(MaxNLocator(3))
    if h > 1:
        figure.colorbar(rest, ax=grid[2:], label="data units", aspect=15)
    by = label(str(getattr(error, "name", None) or "error given"))
    wide = "" if pixel_nm is None else f"; each patch {w * pixel_nm:.3g} nm wide"
    by = "root mean square of the residual; both in data units" if error is None else by
    figure.supxlabel(f"ranked by {by}{wide}", fontsize=8)
    return figure


def rank_rows(error: ArrayLike, each: int) -> list[tuple[int, str]]:
    """Choose the rows with the smallest, median and largest errors, each row once.

    Parameters
    ----------
    error
        (n,).
    each
        Rows of each sort, if there are so many.

    Returns
    -------
    list of (int, str)
        Row and what it is, with its error.

    Examples
    --------
    >>> [row for row, _ in rank_rows([0.5, 0.1, 0.9, 0.3, 0.7], 1)]
    [1, 0, 2]
    """
    values = np.asarray(error, float)
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    if not len(order) or each < 1:
        raise InputError(f"found {len(order)} finite errors for {each} of each, expected some")
    each = min(each, -(-len(order) // 3))
    middle = (len(order) - each) // 2
    chosen = {"best": order[:each], "median": order[middle : middle + each]}
    chosen["worst"] = order[-each:]
    found: dict[int, str] = {}
    for name, rows in chosen.items():
        for row in rows:
            found.setdefault(int(row), f"{name}\n{values[row]:.3g}")
    return list(found.items())


def _stack(images: ArrayLike, ndim: int, expected: str) -> Floats:
    """Check images of one channel."""
    stack = np.asarray(images, dtype=np.float64)
    if stack.ndim != ndim or 0 in stack.shape:
        raise InputError(
            f"the images have shape {stack.shape}; expected {expected} of one channel: choose it "
            "with images[..., channel, :, :]"
        )
    return stack


def _limits(*stacks: Floats) -> tuple[float, float]:
    """Ends of the grey scale of all pictures; lines are seen whole, with a margin."""
    values = np.concatenate([stack.ravel() for stack in stacks])
    if stacks[0].shape[-2] == 1:
        return padded(robust_limits(values, 0))
    return robust_limits(values, 0.5)


def _height(h: int, w: int) -> float:
    """Height of a picture in its pixels; that of a spectrum is of our choice."""
    return h if h > 1 else 0.6 * w


def _sheet(axis: Axes, stack: Floats, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """Draw (rows, columns, h, w) as one sheet; gives the centres of its rows and columns."""
    rows, columns, h, w = stack.shape
    gap = max(1, min(h, w) // 12) if h > 1 else 0
    axis.set(xticks=[], yticks=[])
    if h == 1:
        _lines(axis, stack[:, :, 0], limits)
        return np.arange(rows) + 0.5, np.arange(columns) + 0.5
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), np.nan)
    for i in range(rows):
        for j in range(columns):
            sheet[i * (h + gap) :, j * (w + gap) :][:h, :w] = stack[i, j]
    axis.imshow(sheet, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for spine in axis.spines.values():
        spine.set_visible(False)
    centres = [np.arange(n) * (k + gap) + (k - 1) / 2 for n, k in ((rows, h), (columns, w))]
    return np.asarray(centres[0], np.float64), np.asarray(centres[1], np.float64)


def _lines(axis: Axes, spectra: Floats, limits: tuple[float, float]) -> None:
    """Draw (rows, columns, length) as lines in cells of side one, all on one scale."""
    rows, columns, length = spectra.shape
    place = np.linspace(0.06, 0.94, length)
    for i in range(rows):
        for j in range(columns):
            height = (spectra[i, j] - limits[0]) / (limits[1] - limits[0])
            axis.plot(j + place, i + 0.94 - 0.88 * height, color=BLUE, linewidth=0.8)
    axis.set(xlim=(0, columns), ylim=(rows, 0))
    for k in range(1, max(rows, columns)):
        if k < rows:
            axis.axhline(k, color="0.85", linewidth=0.5)
        if k < columns:
            axis.axvline(k, color="0.85", linewidth=0.5)


def _picture(axis: Axes, image: Floats, limits: tuple[float, float], colours: str) -> Any:
    """Draw one image, or a spectrum as a line."""
    axis.set(xticks=[], yticks=[])
    if len(image) == 1:
        axis.set_ylim(limits)
        return axis.plot(image[0], color=BLUE, linewidth=0.8)
    return axis.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")


def _ticks(
    axis: Axes,
    side: str,
    centres: Floats,
    name: str,
    values: ArrayLike,
    most: int,
    digits: int = 2,
) -> None:
    """Write values of a latent at the centres of pictures, degrees for angles."""
    shown = np.asarray(values, dtype=np.float64) + 0.0  # no minus before a zero
    if shown.shape != centres.shape:
        raise InputError(
            f"axis {name!r} has {shown.size} values for {len(centres)} rows or columns of images"
        )
    shown = np.degrees(shown) if name in DEGREES else shown
    last = len(shown) - 1
    steps = range(max(1, math.ceil(last / (most - 1))), max(last, 1) // 3 + 1)
    # Evenly, and both ends, if that can be.
    step = next((k for k in steps if last % k == 0), max(1, math.ceil(last / (most - 1))))
    some = np.arange(0, len(shown), step)
    texts = [f"{v:.{3 if abs(v) >= 100 else digits}g}" for v in shown[some]]
    if side == "x":
        axis.set_xticks(centres[some], texts, fontsize=8)
        axis.set_xlabel(label(name))
    else:
        axis.set_yticks(centres[some], texts, fontsize=8)
        axis.set_ylabel(label(name))
    axis.tick_params(length=2)


def _say_width(figure: Figure, w: int, pixel_nm: float | None) -> None:
    """Say how wide a picture is, where that is known."""
    if pixel_nm is not None:
        figure.supxlabel(f"each patch {w * pixel_nm:.3g} nm wide", fontsize=9)
