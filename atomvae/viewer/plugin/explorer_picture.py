"""A scatter of many atoms as a picture, made with numpy alone: a million dots in a blink.

Pixels are uint32, 0xffRRGGBB, as Qt wants them, so that a dot is one assignment.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.maps.style import DEGREES, is_kind, robust_limits
from atomvae.viewer.colors import ColorScale, color_scale, table_scale

Pixels = NDArray[np.uint32]
Floats = NDArray[np.float64]

RING = 0xFFFF33FF  # magenta, as around the atoms in the image
FEW = 300  # chosen dots that get a ring each
SOME = 20_000  # chosen dots that get a rim around all of them; more take too long
SHADES = 256  # of a continuous scale


@dataclass(frozen=True)
class View:
    """What part of the plane a picture shows.

    Attributes
    ----------
    x, y : (float, float)
        Lower and upper end; y grows upwards.
    width, height : int
        Of the picture, px.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    def pixel(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Column and row (not rounded) of values x and y.

        Examples
        --------
        >>> View((0, 1), (0, 1), 101, 11).pixel(np.array([0.5]), np.array([1.0]))
        (array([50.]), array([0.]))
        """
        column = (x - self.x[0]) * ((self.width - 1) / (self.x[1] - self.x[0]))
        row = (self.y[1] - y) * ((self.height - 1) / (self.y[1] - self.y[0]))
        return column, row

    def value(self, column: float, row: float) -> tuple[float, float]:
        """Give x and y at a place of the picture; the inverse of `pixel`."""
        x = self.x[0] + column * (self.x[1] - self.x[0]) / max(self.width - 1, 1)
        y = self.y[1] - row * (self.y[1] - self.y[0]) / max(self.height - 1, 1)
        return x, y

    def zoomed(self, factor: float, column: float, row: float) -> "View":
        """Show less (factor > 1) or more of the plane; what lies at a place stays there."""
        x, y = self.value(column, row)
        return replace(
            self,
            x=(x + (self.x[0] - x) / factor, x + (self.x[1] - x) / factor),
            y=(y + (self.y[0] - y) / factor, y + (self.y[1] - y) / factor),
        )

    def moved(self, columns: float, rows: float) -> "View":
        """Move what is shown by so many pixels."""
        x = columns * (self.x[1] - self.x[0]) / max(self.width - 1, 1)
        y = rows * (self.y[1] - self.y[0]) / max(self.height - 1, 1)
        return replace(self, x=(self.x[0] - x, self.x[1] - x), y=(self.y[0] + y, self.y[1] + y))


def axis_values(table: pd.DataFrame, column: str) -> Floats:
    """Values of a column as an axis shows them.

    Parameters
    ----------
    table : DataFrame (n rows)
        The atoms.
    column : str
        Numbers stay; angles become degrees; kinds (class, species) become whole numbers, spread a
        little so that their atoms don't lie on one line.

    Returns
    -------
    ndarray (n,) float64
        NaN where there is no finite value.

    Examples
    --------
    >>> axis_values(pd.DataFrame({"angle": [np.pi]}), "angle")
    array([180.])
    """
    values = table[column]
    if is_kind(table, column):
        numeric = pd.api.types.is_integer_dtype(values)
        codes = values.to_numpy() if numeric else pd.factorize(values, sort=True)[0]
        spread = np.mod(np.arange(len(codes)) * 0.6180339887, 1.0) - 0.5
        return np.asarray(codes + 0.5 * spread, np.float64)
    plain = values.to_numpy(np.float64, na_value=np.nan)
    plain = np.where(np.isfinite(plain), plain, np.nan)
    return np.degrees(plain) if column in DEGREES else plain


def full_limits(values: Floats) -> tuple[float, float]:
    """Ends of an axis: all values, unless a few lie far out; with a margin.

    Examples
    --------
    >>> full_limits(np.array([0.0, 100.0]))
    (-4.0, 104.0)
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    inner = robust_limits(known, 0.1)
    width = inner[1] - inner[0]
    low, high = max(low, inner[0] - width), min(high, inner[1] + width)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def pack(rgba: NDArray[np.floating]) -> Pixels:
    """Pack colours (n, 3 or 4) in 0..1 into pixels (n,).

    Examples
    --------
    >>> [hex(c) for c in pack(np.array([[1.0, 0.0, 0.5]]))]
    ['0xffff0080']
    """
    rgb = np.round(np.asarray(rgba)[:, :3] * 255).astype(np.uint32)
    return np.uint32(0xFF000000) | rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]


def color_rows(table: pd.DataFrame, column: str) -> tuple[Pixels, ColorScale]:
    """Colours of all atoms by a column, the same as those of the layer in the image.

    Parameters
    ----------
    table : DataFrame (n rows)
        The atoms.
    column : str
        Which column.

    Returns
    -------
    colors : ndarray (n,) uint32
        0xffRRGGBB.
    scale : ColorScale
        For a legend.

    Examples
    --------
    >>> colors, scale = color_rows(pd.DataFrame({"class": [0, 1, 0]}), "class")
    >>> bool(colors[0] == colors[2] != colors[1]), scale.kind
    (True, 'steps')
    """
    values = table[column]
    numeric = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
    if not numeric or is_kind(table, column):
        codes, kinds = pd.factorize(values, use_na_sentinel=False)
        scale = color_scale(pd.Series(kinds, name=column))
        return pack(scale.rgba())[codes], scale
    scale = table_scale(table, column)
    low, high = scale.limits
    with np.errstate(invalid="ignore"):
        shade = np.clip((scale.values - low) * ((SHADES - 1) / (high - low)), 0, SHADES - 1)
    index = np.where(np.isnan(shade), SHADES, shade).astype(np.intp)
    shades = np.append(np.linspace(low, high, SHADES), np.nan)
    return pack(scale.rgba(shades))[index], scale


def rare_last(colors: Pixels) -> NDArray[np.intp] | None:
    """Order in which kinds are painted, so that rare ones lie on top; None for many colours."""
    codes, kinds = pd.factorize(colors)
    if not 1 < len(kinds) <= 32:
        return None
    rank = np.argsort(np.argsort(-np.bincount(codes), kind="stable"), kind="stable")
    return np.argsort(rank.astype(np.uint8)[codes], kind="stable")


def paint_dots(picture: Pixels, column: Floats, row: Floats, colors: Pixels, diameter: int) -> None:
    """Paint dots into a picture, later ones over earlier ones.

    Parameters
    ----------
    picture : ndarray (h, w) uint32
        Changed.
    column, row : ndarray (n,)
        Places in px; what lies outside, or is NaN, is left out.
    colors : ndarray (n,) or () uint32
        0xffRRGGBB.
    diameter : int
        In px.

    Examples
    --------
    >>> picture = np.zeros((3, 3), np.uint32)
    >>> paint_dots(picture, np.array([1.0]), np.array([1.0]), np.array([7], np.uint32), 2)
    >>> int((picture == 7).sum())
    4
    """
    grid = np.mgrid[:diameter, :diameter].reshape(2, -1) - (diameter - 1) / 2
    disc = grid[:, np.hypot(*grid) <= diameter / 2 + 0.1]
    _stamp(picture, column, row, colors, disc)


def paint_rings(
    picture: Pixels, column: Floats, row: Floats, radius: float, color: int = RING
) -> None:
    """Paint a ring, 2 px wide, around each place; parameters as for `paint_dots`."""
    reach = int(radius) + 2
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).astype(float)
    ring = grid[:, np.abs(np.hypot(*grid) - radius) <= 1.0]
    _stamp(picture, column, row, np.uint32(color), ring)


def _stamp(picture: Pixels, column: Floats, row: Floats, colors: Pixels, shape: Floats) -> None:
    """Set the pixels of a shape, offsets (2, m) as (row, column), around each place."""
    height, width = picture.shape
    flat = picture.reshape(-1)
    reach = float(np.abs(shape).max(initial=0)) + 1
    with np.errstate(invalid="ignore"):
        near = (column > -reach) & (column < width + reach) & (row > -reach)
        near &= row < height + reach
    column, row = column[near], row[near]
    colors = colors if np.ndim(colors) == 0 else colors[near]
    inside = bool(len(column)) and bool(
        column.min() >= reach and row.min() >= reach
        and column.max() < width - reach and row.max() < height - reach
    )  # fmt: skip
    for dy, dx in shape.T:
        x = np.floor(column + (dx + 0.5)).astype(np.intp)
        y = np.floor(row + (dy + 0.5)).astype(np.intp)
        if inside:
            flat[y * width + x] = colors
            continue
        good = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        flat[(y * width + x)[good]] = colors if np.ndim(colors) == 0 else colors[good]


def dim(picture: Pixels, background: int) -> Pixels:
    """Let all colours fade to three eighths over a background 0xffRRGGBB.

    Examples
    --------
    >>> hex(dim(np.array([[0xFF80C000]], np.uint32), 0xFF000000)[0, 0])
    '0xff304800'
    """
    rest = sum((((background >> shift) & 0xFF) * 5 // 8) << shift for shift in (0, 8, 16))
    quarter = (picture >> np.uint32(2)) & np.uint32(0x3F3F3F)
    eighth = (picture >> np.uint32(3)) & np.uint32(0x1F1F1F)
    return (quarter + eighth + np.uint32(rest)) | np.uint32(0xFF000000)


def paint_density(
    picture: Pixels, column: Floats, row: Floats, chosen: NDArray[np.bool_], cell: int = 3
) -> None:
    """Paint how many atoms lie in each cell of a picture, on a logarithmic scale.

    Parameters
    ----------
    picture : ndarray (h, w) uint32
        Changed where there are atoms.
    column, row : ndarray (n,)
        Places in px.
    chosen : ndarray (n,) bool
        Cells with chosen atoms are tinted magenta by their share.
    cell : int
        Edge of a cell, px.

    Examples
    --------
    >>> picture = np.zeros((3, 3), np.uint32)
    >>> paint_density(picture, np.array([1.0]), np.array([1.0]), np.array([True]))
    >>> bool(picture.all())
    True
    """
    from matplotlib import colormaps

    height, width = picture.shape
    rows, columns = -(-height // cell), -(-width // cell)
    with np.errstate(invalid="ignore"):
        good = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row[good].astype(np.intp) // cell) * columns + column[good].astype(np.intp) // cell
    count = np.bincount(index, minlength=rows * columns)
    if not count.any():
        return
    level = np.log1p(count) / np.log1p(count.max())
    shade = colormaps["viridis"](0.12 + 0.88 * level)[:, :3]
    if chosen.any():
        share = np.bincount(index[chosen[good]], minlength=rows * columns) / np.maximum(count, 1)
        ring = np.array([RING >> 16 & 255, RING >> 8 & 255, RING & 255]) / 255
        weight = np.where(share > 0, 0.35 + 0.65 * share, 0)[:, None]
        shade = (0.45 + 0.55 * (share > 0))[:, None] * shade * (1 - weight) + ring * weight
    cells = np.where(count > 0, pack(shade), 0).astype(np.uint32).reshape(rows, columns)
    full = np.repeat(np.repeat(cells, cell, 0), cell, 1)[:height, :width]
    np.copyto(picture, full, where=full > 0)


def inside(polygon: Floats, column: Floats, row: Floats) -> NDArray[np.bool_]:
    """Which places lie inside a polygon.

    Parameters
    ----------
    polygon : ndarray (m, 2)
        Corners as (column, row); fewer than three hold nothing.
    column, row : ndarray (n,)
        Places; NaN is nowhere.

    Returns
    -------
    ndarray (n,) bool

    Examples
    --------
    >>> square = np.array([[0, 0], [2, 0], [2, 2], [0, 2.0]])
    >>> inside(square, np.array([1.0, 3.0, np.nan]), np.array([1.0, 1.0, 1.0]))
    array([ True, False, False])
    """
    from matplotlib.path import Path

    found = np.zeros(len(column), bool)
    if len(polygon) < 3:
        return found
    (left, top), (right, bottom) = polygon.min(0), polygon.max(0)
    with np.errstate(invalid="ignore"):
        box = (column >= left) & (column <= right) & (row >= top) & (row <= bottom)
    near = np.flatnonzero(box)
    x, y = column[near] - left, row[near] - top
    cells = _cells(polygon - (left, top))
    state = cells[np.round(y).astype(np.intp), np.round(x).astype(np.intp)]
    found[near] = state == 1
    edge = state == 2  # only there the exact test is needed, which is slow for a million
    exact = Path(polygon, closed=False).contains_points(np.column_stack([x, y])[edge] + (left, top))
    found[near[edge]] = exact
    return found


def _cells(polygon: Floats) -> NDArray[np.uint8]:
    """Cells of 1 px that lie outside a polygon (0), inside (1), or near its edge (2)."""
    from scipy.ndimage import binary_dilation
    from skimage.draw import line, polygon2mask

    width, height = np.round(polygon.max(0)).astype(int) + 1
    cells = polygon2mask((height, width), polygon[:, ::-1]).astype(np.uint8)
    edge = np.zeros(cells.shape, bool)
    corners = np.clip(np.round(polygon).astype(int), 0, (width - 1, height - 1))
    for (x, y), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        edge[line(y, x, y2, x2)] = True
    cells[binary_dilation(edge, np.ones((5, 5), bool))] = 2
    return cells
