"""What all figures share: colours that the colour blind tell apart, scales, labels, panels."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError

# Columns of whole numbers that name a kind and do not measure anything.
KINDS = (
    "class", "sublattice", "species", "origin", "movie", "motif", "state", "site", "suit", "label",
    "digit",
)  # fmt: skip
# Angles are radians in tables, degrees on screen.
DEGREES = ("angle", "angle_sd", "angle_folded", "rotation", "rotation_sd")
PERIODIC = ("angle", "angle_folded")
# Okabe and Ito's colours, safe for the colour blind, and three more for ten digits.
COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#f0e442", "#cc79a7", "#0072b2", "#000000",
    "#99dd8a", "#7a4f2b",
)  # fmt: skip
BLUE = COLOURS[6]  # of what has but one colour
UNKNOWN = "#999999"  # of the kind -1
WIDTH = 3.2  # of a panel, inches
# Viridis without its darkest part, which drowns in a dark frame.
VIRIDIS = ListedColormap(colormaps["viridis"](np.linspace(0.13, 1, 256)), "viridis")
# Around a circle of lightness and of blue to yellow, which dichromats see, too: for any two
# angles 30 degrees apart the colours differ by 10 or more (CIE 1976) in every kind of blindness.
CYCLE = LinearSegmentedColormap.from_list(
    "cycle",
    ["#d8daad", "#f0c57c", "#f19f41", "#d56823", "#b34735", "#8e3344", "#642b53", "#393771",
     "#0062a8", "#0093ca", "#44bcd2", "#a0d8cb", "#d8daad"],
)  # fmt: skip


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


def need(table: pd.DataFrame, *columns: str) -> None:
    """Refuse a table that lacks a column."""
    for name in columns:
        if name not in table:
            known = ", ".join(map(str, table))
            raise InputError(f"the table has no column {name!r}; it has {known}")


def panels(
    n: int, aspect: float, width: float = WIDTH, *, across: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Make n panels of equal size; `aspect` is height over width of one, `across` how many fit."""
    if n < 1:
        raise InputError("there is nothing to draw: the list is empty; name at least one")
    columns = min(n, across or n)
    rows = -(-n // columns)
    size = (columns * width + 1.0, rows * (width * aspect + 0.4) + 0.4)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[n:]:
        axis.remove()
    return figure, axes[:n]


def is_kind(table: pd.DataFrame, column: str) -> bool:
    """Whether a column names kinds: text, or the numbers of classes, also of those of a model.

    Examples
    --------
    >>> is_kind(pd.DataFrame({"kind": [0, 1], "kind_p": [0.9, 1.0]}), "kind")
    True
    """
    kind = table[column].dtype.kind
    return column in KINDS or kind not in "iuf" or (kind in "iu" and f"{column}_p" in table)


def scale(table: pd.DataFrame, column: str) -> tuple[Normalize, Colormap | str, list[str]]:
    """Colour scale of a column over the whole table; names of the steps if it names a kind."""
    if is_kind(table, column):
        names = [str(kind) for kind in pd.unique(table[column].sort_values())]
        colours = [COLOURS[i % len(COLOURS)] for i in range(max(len(names), 1))]
        colours = [
            UNKNOWN if name == "-1" else c for name, c in zip(names, colours, strict=False)
        ] or [UNKNOWN]
        return Normalize(-0.5, len(colours) - 0.5), ListedColormap(colours), names
    if column == "angle_folded" and "angle_n" in table and len(table):
        return Normalize(0, 360 / int(table["angle_n"].iloc[0])), CYCLE, []
    if column == "angle":
        return Normalize(-180, 180), CYCLE, []
    return Normalize(*robust_limits(numbers(table, column, table))), VIRIDIS, []


def numbers(table: pd.DataFrame, column: str, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Rows of a column as the numbers that `scale` colours and axes show."""
    if is_kind(table, column):
        kinds = list(pd.unique(table[column].sort_values()))
        return np.array([kinds.index(v) for v in rows[column]], dtype=np.float64)
    values = rows[column].to_numpy(dtype=np.float64)
    if column == "angle":
        return np.asarray(np.mod(np.degrees(values) + 180, 360) - 180)
    return np.degrees(values) if column in DEGREES else values


def colour_bar(figure: Figure, axes: Axes | list[Axes], table: pd.DataFrame, column: str) -> None:
    """Explain the colours of a column beside axes, opaque whatever the points are."""
    norm, colours, names = scale(table, column)
    n = len(axes) if isinstance(axes, list) else 1  # as wide and as near as beside one panel
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, label=label(column), fraction=0.15 / n, pad=0.03 / n
    )
    if names:
        bar.set_ticks(range(len(names)), labels=names)
        bar.ax.minorticks_off()
    elif column in PERIODIC:
        bar.set_ticks(list(np.linspace(norm.vmin or 0, norm.vmax or 0, 5)))


def label(column: str) -> str:
    """Name of a column with its unit.

    Examples
    --------
    >>> label("angle"), label("angle_p"), label("shift_y"), label("shift_y_nm"), label("z_0")
    ('angle (deg)', 'angle_p', 'shift_y (px)', 'shift_y (nm)', 'z_0')
    """
    if column in DEGREES:
        return f"{column} (deg)"
    if column.endswith("_nm"):
        return f"{column[:-3]} (nm)"
    if column.startswith("shift_") or column in ("y", "x", "y_sd", "x_sd"):
        return f"{column} (px)"
    return {
        "tsne_0": "t-SNE 1", "tsne_1": "t-SNE 2",
        "reconstruction_error": "reconstruction error (noise sd)",
    }.get(column, column)  # fmt: skip


def padded(limits: tuple[float, float], share: float = 0.05) -> tuple[float, float]:
    """Limits with a margin at both ends, a share of their distance."""
    margin = share * (limits[1] - limits[0])
    return limits[0] - margin, limits[1] + margin
