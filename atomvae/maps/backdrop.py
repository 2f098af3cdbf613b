"""A frame in grey with a scale bar, and circles at its atoms."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from atomvae.maps.style import robust_limits
from atomvae.movie.movie import Movie

ACROSS = 20  # atoms in a row that can be told apart in a panel
CROWDED = 1.3  # times as many: then the middle is shown enlarged
Edges = tuple[float, float, float, float]
"""Left, right, lower and upper end of what is shown, nm or px; y grows downwards."""


def aspect(movie: Movie) -> float:
    """Height of a frame over its width."""
    left, right, lower, upper = edges(movie)
    return (lower - upper) / (right - left)


def edges(movie: Movie) -> Edges:
    """Ends of a frame, in nm if its pixel size is known, else in px."""
    py, px = movie.pixel_size or (1.0, 1.0)
    height, width = movie.shape[1:]
    return -0.5 * px, (width - 0.5) * px, (height - 0.5) * py, -0.5 * py


def close_up(movie: Movie, table: pd.DataFrame | None) -> Edges | None:
    """Find the middle of a frame in which atoms can be told apart.

    Parameters
    ----------
    movie
        In whose frames they are.
    table
        With ``frame``, ``y``, ``x`` (px).

    Returns
    -------
    (float, float, float, float) or None
        Left, right, lower and upper end; None if that is possible in the whole frame.

    Examples
    --------
    >>> movie = Movie.from_array(np.zeros((1, 100, 100)))
    >>> y, x = np.mgrid[:100:2, :100:2].reshape(2, -1)
    >>> close_up(movie, pd.DataFrame({"frame": 0, "y": y, "x": x}))
    (29.5, 69.5, 69.5, 29.5)
    """
    left, right, lower, upper = edges(movie)
    if table is None or not len(table):
        return None
    place = _places(movie, table[table["frame"] == table["frame"].iloc[0]])
    share = ACROSS * _spacing(place, right - left) / (right - left)
    if share * CROWDED >= 1:
        return None
    x, y = (left + right) / 2, (lower + upper) / 2
    wide, high = share * (right - left) / 2, share * (lower - upper) / 2
    return x - wide, x + wide, y + high, y - high


def draw_backdrop(
    axis: Axes, movie: Movie, t: int, *, light: float = 1.0, part: Edges | None = None
) -> None:
    """Draw a frame in grey with its number, its time and a scale bar.

    Parameters
    ----------
    axis
        To draw in.
    movie
        Its frame has grey levels of its own.
    t
        Number of the frame.
    light
        Below 1 it is dimmed, so that colours stand out; a bright frame more than a dark one.
    part
        Ends of what is shown of it; all by default.
    """
    frame = movie.frame(t)
    low, high = robust_limits(frame)
    if light < 1:  # half of a bright frame still is brighter than most colours
        light *= min(1.0, 0.35 / max(brightness(frame), 0.01))
    axis.set_facecolor("black")
    axis.imshow(frame, cmap="gray", vmin=low, vmax=high, extent=edges(movie), alpha=light)
    time = "" if movie.frame_time is None else f", {t * movie.frame_time:.4g} s"
    left, right, lower, upper = part or edges(movie)
    axis.set(xlim=(left, right), ylim=(lower, upper), xticks=[], yticks=[])
    axis.set_title("" if part else f"frame {t}{time}")
    _scale_bar(axis, "px" if movie.pixel_size is None else "nm")


def brightness(frame: NDArray[np.float32]) -> float:
    """Grey level of most of a frame as it is drawn, 0 (black) to 1; above 0.5 in bright field.

    Examples
    --------
    >>> dark = np.linspace(0, 1, 101) ** 2
    >>> brightness(dark) < 0.3, brightness(1 - dark) > 0.7
    (True, True)
    """
    low, high = robust_limits(frame)
    middle = np.nanmedian(frame) if np.isfinite(frame).any() else low
    return float(np.clip((middle - low) / (high - low), 0, 1))


def draw_circles(axis: Axes, movie: Movie, rows: pd.DataFrame, share: float) -> EllipseCollection:
    """Add a circle at every atom; its width is a share of the spacing."""
    place, (left, right, _, _) = _places(movie, rows), edges(movie)
    size = np.full(len(rows), share * _spacing(place, right - left))
    circles = EllipseCollection(
        size, size, np.zeros(len(rows)), units="xy", offsets=place,
        offset_transform=axis.transData,
    )  # fmt: skip
    axis.add_collection(circles)
    return circles


def outline(axis: Axes, part: Edges) -> None:
    """Draw a line around a part of a frame."""
    left, right, lower, upper = part
    box = Rectangle((left, upper), right - left, lower - upper, fill=False, ec="white", lw=1.2)
    box.set_path_effects([withStroke(linewidth=2.4, foreground="black")])
    axis.add_patch(box)


def _places(movie: Movie, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Positions (n, xy) in the unit of the axes."""
    py, px = movie.pixel_size or (1.0, 1.0)
    return rows[["x", "y"]].to_numpy(dtype=np.float64) * (px, py)


def _spacing(place: NDArray[np.float64], width: float) -> float:
    """Median nearest distance; a twentieth of the frame for a lone atom."""
    if len(place) < 2:
        return width / 20
    return float(np.median(cKDTree(place).query(place, k=2)[0][:, 1]))


def _scale_bar(axis: Axes, unit: str) -> None:
    """Bar of a round length, about a quarter of what is shown, in the lower left corner."""
    (left, right), (lower, upper) = axis.get_xlim(), axis.get_ylim()
    width, height = right - left, lower - upper
    most = width / 4 * (1 + 1e-9)
    power = 10.0 ** np.floor(np.log10(most))
    length = power * max(k for k in (1, 2, 5) if k * power <= most)
    x, y, thick = left + 0.05 * width, lower - 0.07 * height, 0.018 * height
    bar = Rectangle((x, y), length, thick, color="white", linewidth=0, zorder=6)
    bar.set_path_effects([withStroke(linewidth=2, foreground="black")])
    axis.add_patch(bar)
    axis.text(
        x + length / 2, y - thick, f"{length:g} {unit}", color="white", ha="center", va="bottom",
        fontsize=10, weight="bold", zorder=6,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip
