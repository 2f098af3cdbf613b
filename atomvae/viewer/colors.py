"""How a column of the table becomes colours: one scale for the whole movie."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.errors import InputError

# Columns of whole numbers that name a kind and do not measure anything.
KINDS = ("class", "sublattice", "species", "origin", "movie", "motif", "state", "site")
ANGLES = ("angle", "angle_folded")
SHADES = 1024  # of a scale of numbers; one step is less than can be seen
UNKNOWN = np.array([0.55, 0.55, 0.55, 1.0])  # value missing, or class -1: grey
# Okabe and Ito's colours, safe for the colour blind, ordered so that neighbours differ.
COLORS = {
    "orange": (0.90, 0.62, 0.00),
    "sky blue": (0.34, 0.71, 0.91),
    "green": (0.00, 0.62, 0.45),
    "red": (0.84, 0.37, 0.00),
    "yellow": (0.94, 0.89, 0.26),
    "pink": (0.80, 0.47, 0.65),
    "blue": (0.00, 0.45, 0.70),
    "light green": (0.60, 0.87, 0.54),
}
PALETTE = np.array(list(COLORS.values()))


@dataclass(frozen=True)
class ColorScale:
    """The colours of one column, the same in every frame.

    Attributes
    ----------
    values : ndarray (n,)
        The column as it must stand in the layer: float64, or text for a scale of names.
    kind : str
        ``"continuous"``, ``"cyclic"`` (the two ends are one), ``"steps"`` (numbered kinds) or
        ``"names"`` (kinds that are text).
    limits : (float, float)
        Values at the two ends of the scale; without meaning for names.
    colors : ndarray (k, 4) float64
        RGBA from the lower to the upper limit, or one per name.
    names : tuple of str
        The names, for a scale of names.
    """

    values: NDArray[Any]
    kind: str
    limits: tuple[float, float]
    colors: NDArray[np.float64]
    names: tuple[str, ...] = ()

    def rgba(self, values: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Colours of values, by default of the whole column.

        Parameters
        ----------
        values : ndarray (m,), optional
            Values of the same kind as the column.

        Returns
        -------
        ndarray (m, 4) float64
            RGBA in 0..1; grey where a value is missing.

        Examples
        --------
        >>> scale = color_scale(pd.Series([0, 1, 1], name="class"))
        >>> bool((scale.rgba()[1] == scale.rgba()[2]).all())
        True
        """
        values = self.values if values is None else np.asarray(values)
        if self.kind == "names":
            known = dict(zip(self.names, self.colors, strict=True))
            index, kinds = pd.factorize(values)
            return np.array([*(known.get(str(kind), UNKNOWN) for kind in kinds), UNKNOWN])[index]
        low, high = self.limits
        position = (np.asarray(values, float) - low) / (high - low)
        if self.kind == "steps":
            index = np.clip(np.nan_to_num(position) * len(self.colors), 0, len(self.colors) - 1)
            rgba = self.colors[index.astype(int)]
            missing = ~((position >= 0) & (position <= 1))
        else:
            grid, fine = np.linspace(0, 1, len(self.colors)), np.linspace(0, 1, SHADES)
            shades = np.stack([np.interp(fine, grid, c) for c in self.colors.T], axis=-1)
            index = np.clip(np.nan_to_num(position) * (SHADES - 1), 0, SHADES - 1)
            rgba = shades[np.round(index).astype(int)]
            missing = np.isnan(position)
        return np.where(missing[:, None], UNKNOWN, rgba)

    def about(self, name: str) -> dict[str, Any]:
        """Say in the metadata of a layer what its colours mean, for captions.

        Parameters
        ----------
        name : str
            What is coloured, usually the column.

        Returns
        -------
        dict
            ``colors`` is the kind of scale; ``shows`` the name and, for a scale of kinds, one
            line per kind with the name of its colour, since a colour bar can't say it; ``legend``
            the kinds with their colours as (text, (r, g, b, a)).

        Examples
        --------
        >>> print(color_scale(pd.Series(["Si", "C"])).about("species")["shows"])
        species
          C  orange
          Si  sky blue
        """
        lines, legend = [name], []
        if self.kind in ("steps", "names"):
            kinds = self.names or tuple(str(i) for i in range(len(self.colors)))
            for kind, color in zip(kinds, COLORS, strict=False):
                lines.append(f"  {kind}  {'grey' if kind == 'unknown' else color}")
            rgba = self.colors.round(4).tolist()
            legend = [(kind, tuple(c)) for kind, c in zip(kinds, rgba, strict=True)]
        return {"colors": self.kind, "shows": "\n".join(lines), "legend": legend}

    def settings(self, part: str, column: str) -> dict[str, Any]:
        """Arguments of a napari layer that colours one of its parts by a column.

        Parameters
        ----------
        part : str
            ``"face"`` or ``"border"`` of points, ``"edge"`` of vectors.
        column : str
            Name of the column among the features of the layer.

        Returns
        -------
        dict
            ``{part}_color`` and what belongs to it; plain numbers, no napari object. Kinds that are
            text come as colours, all else as the column with its map of colours.

        Examples
        --------
        >>> scale = color_scale(pd.Series([0.0, 1.0], name="z_0"))
        >>> sorted(scale.settings("face", "z_0"))
        ['face_color', 'face_colormap', 'face_contrast_limits']
        """
        if self.kind == "names":
            return {f"{part}_color": self.rgba()}  # napari would look up each name, slowly
        colormap: dict[str, Any] = {
            "colors": self.colors,
            "name": f"atomvae {self.kind} {len(self.colors)}",
            "nan_color": UNKNOWN,
        }
        if self.kind == "steps":
            colormap |= {"interpolation": "zero", "low_color": UNKNOWN}
        return {
            f"{part}_color": column,
            f"{part}_colormap": colormap,
            f"{part}_contrast_limits": self.limits,
        }


def color_scale(column: "pd.Series[Any]", *, period: float | None = None) -> ColorScale:
    """Choose how a column is coloured, from its name and its values in all frames.

    Text, truth values and numbered kinds (class, sublattice, ...) get one colour each; angles a
    cyclic scale; everything else a sequential one between the 1st and 99th percentile of the
    whole movie, so that a few wild values do not use up the colours and a colour means the same
    in every frame.

    Parameters
    ----------
    column : Series (n,)
        Named column of the table, all frames together.
    period : float, optional
        Value after which the column repeats, for a column that is an angle in other words.

    Returns
    -------
    ColorScale

    Raises
    ------
    InputError
        If the column holds neither numbers nor text.

    Examples
    --------
    >>> column = pd.Series(np.r_[np.linspace(0, 1, 1000), 1e6], name="amplitude")
    >>> low, high = color_scale(column).limits
    >>> 0 < low < 0.02 and 0.98 < high < 1
    True
    """
    if column.dtype == bool:
        column = column.map({True: "yes", False: "no"})
    if not pd.api.types.is_numeric_dtype(column):
        return _names(column)
    values = column.to_numpy(np.float64, na_value=np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[np.isfinite(values)]
    if column.name == "angle" and period is None:
        period = 2 * np.pi
    if period is not None:
        return ColorScale(np.mod(values, period), "cyclic", (0.0, period), hue_circle())
    if column.name in KINDS and (known == np.round(known)).all():
        count = int(max(known.max(initial=0), 0)) + 1
        colors = np.c_[PALETTE[np.arange(count) % len(PALETTE)], np.ones(count)]
        return ColorScale(values, "steps", (-0.5, count - 0.5), colors)
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return ColorScale(values, "continuous", (float(low), float(high)), _viridis())


def table_scale(table: pd.DataFrame, column: str) -> ColorScale:
    """Choose how a column of a table is coloured; a folded angle repeats with its symmetry.

    Parameters
    ----------
    table : DataFrame
        All frames; ``angle_n`` is the order of the motif, if known.
    column : str
        Which column.

    Returns
    -------
    ColorScale

    Raises
    ------
    InputError
        If there is no such column, or it holds neither numbers nor text.

    Examples
    --------
    >>> table = pd.DataFrame({"angle_folded": [0.1, 2.0], "angle_n": 3})
    >>> round(table_scale(table, "angle_folded").limits[1], 3)
    2.094
    """
    if column not in table:
        raise InputError(
            f"there is no column {column!r} to colour by; the table has "
            f"{', '.join(map(str, table.columns))}"
        )
    fold = motif_order(table) if column == "angle_folded" else 1
    period = 2 * np.pi / fold if column in ANGLES else None
    return color_scale(table[column], period=period)


def motif_order(table: pd.DataFrame) -> int:
    """Order n of the motif as the table says in ``angle_n``; 1 if it says nothing.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    int

    Examples
    --------
    >>> motif_order(pd.DataFrame({"angle_n": [3, 3]}))
    3
    """
    known = table["angle_n"].dropna().to_numpy() if "angle_n" in table else np.empty(0)
    return int(known[0]) if len(known) else 1


def hue_circle(count: int = 64, lightness: float = 0.76, chroma: float = 0.122) -> Any:
    """Colours of equal lightness around the circle of hues, first and last the same.

    Steps of equal angle look equally large, and no direction is brighter than another, which an
    HSV circle does not give. Computed in the Oklab space (B. Ottosson, 2020).

    Parameters
    ----------
    count : int
        Number of colours, both ends included.
    lightness, chroma : float
        Oklab lightness and chroma; the defaults lie inside sRGB for every hue.

    Returns
    -------
    ndarray (count, 4) float64
        RGBA in 0..1.

    Examples
    --------
    >>> circle = hue_circle()
    >>> bool(np.allclose(circle[0], circle[-1])) and bool((np.ptp(circle[:, :3], 0) > 0.2).all())
    True
    """
    hue = np.linspace(0, 2 * np.pi, count) + 0.35  # the reference direction is red
    lab = np.stack([np.full(count, lightness), chroma * np.cos(hue), chroma * np.sin(hue)], -1)
    to_lms = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
              [1, -0.0894841775, -1.2914855480]]  # fmt: skip
    to_rgb = [[4.0767416621, -3.3077115913, 0.2309699292],
              [-1.2684380046, 2.6097574011, -0.3413193965],
              [-0.0041960863, -0.7034186147, 1.7076147010]]  # fmt: skip
    linear = np.clip((lab @ np.transpose(to_lms)) ** 3 @ np.transpose(to_rgb), 0, 1)
    rgb = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.c_[rgb, np.ones(count)]


def _names(column: "pd.Series[Any]") -> ColorScale:
    """One colour per name, in the order of the alphabet; missing is grey."""
    try:
        index, kinds = pd.factorize(column)  # of the kinds; -1 where missing
    except TypeError as error:  # unhashable
        raise InputError(f"column {column.name!r} holds lists, expected numbers or text") from error
    values = np.array([*map(str, kinds), "unknown"], object)[index]
    names = tuple(sorted(set(values)))
    colors = np.c_[PALETTE[np.arange(len(names)) % len(PALETTE)], np.ones(len(names))]
    colors[[i for i, name in enumerate(names) if name == "unknown"]] = UNKNOWN
    return ColorScale(values, "names", (0.0, 1.0), colors, names)


def _viridis() -> NDArray[np.float64]:
    """Viridis without its darkest sixth, which drowns in a dark frame."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.linspace(0.15, 1, 64)), np.float64)
