"""From values at atoms to pictures: one field per frame."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from atomvae.errors import InputError

Method = Literal["voronoi", "gaussian"]
_REACH = 0.9  # default reach, in roots of the area per atom: covers a honeycomb, not a hole
_NEAREST = 12  # atoms that a Gaussian average looks at
_BATCH = 2**18  # pixels drawn at once


def raster(
    table: pd.DataFrame,
    column: str,
    frame: int,
    shape: tuple[int, int],
    *,
    pixel_step: float = 1.0,
    method: Method = "voronoi",
    reach: float | None = None,
) -> NDArray[np.float32]:
    """Draw one column of one frame as a picture.

    Parameters
    ----------
    table
        With columns ``frame``, ``y``, ``x`` (px) and ``column``, e.g. of `map_latents`. Rows
        where the column is NaN are left out.
    column
        What to draw. ``angle`` and ``angle_folded`` are averaged on the circle.
    frame
        Number of the frame.
    shape
        ``(y, x)`` of the frame in pixels.
    pixel_step
        Side of a pixel of the picture in pixels of the frame; its pixel (i, j) shows the place
        ``((i + 0.5) * pixel_step - 0.5, ...)``.
    method
        "voronoi": the value of the nearest atom. "gaussian": the average of the atoms around,
        weighted by a Gaussian of standard deviation ``2 / 3 reach``.
    reach
        Distance in px from the nearest atom beyond which the picture is NaN; default 0.9 times
        the root of the median area per atom in this frame.

    Returns
    -------
    ndarray
        float32, ``ceil(shape / pixel_step)``; NaN far from atoms.

    Raises
    ------
    InputError
        If the table has no such column, or the method or step is none.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": 0, "y": [1.0, 1.0], "x": [1.0, 6.0], "z_0": [3.0, 5.0]})
    >>> raster(table, "z_0", 0, (3, 9), reach=2)[1].tolist()
    [3.0, 3.0, 3.0, 3.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    """
    _check(table, column, method, pixel_step)
    rows = table[(table["frame"] == frame) & table[column].notna()]
    size = [int(np.ceil(n / pixel_step)) for n in shape]
    places = np.meshgrid(*(_places(n, pixel_step) for n in size), indexing="ij")
    grid = np.stack(places, -1).reshape(-1, 2)
    if rows.empty:
        return np.full(size, np.nan, dtype=np.float32)
    place = rows[["y", "x"]].to_numpy(dtype=np.float64)  # (n, 2)
    value = rows[column].to_numpy(dtype=np.float64)
    tree = cKDTree(place)
    if reach is None:
        reach = _REACH * _cell(tree, shape)
    k = 1 if method == "voronoi" else min(_NEAREST, len(place))
    picture = np.empty(len(grid))
    for start in range(0, len(grid), _BATCH):
        part = slice(start, start + _BATCH)
        distance, index = tree.query(grid[part], k=[*range(1, k + 1)])  # (pixels, k)
        weight = np.exp(-9 / 8 * (distance**2 - distance[:, :1] ** 2) / reach**2)
        mean = _average(value[index], weight, _period(rows, column), column == "angle_folded")
        picture[part] = np.where(distance[:, 0] <= reach, mean, np.nan)
    return picture.reshape(size).astype(np.float32)


def raster_stack(
    table: pd.DataFrame,
    column: str,
    frames: Sequence[int],
    shape: tuple[int, int],
    *,
    pixel_step: float = 1.0,
    method: Method = "voronoi",
    out: Any = None,
) -> Any:
    """Draw one column of many frames, one after the other.

    Parameters are those of `raster`, and:

    Parameters
    ----------
    frames
        Numbers of the frames, e.g. ``range(movie.n_frames)``.
    out
        Array ``(len(frames), ...)`` to write to frame by frame, e.g. a Zarr array on disk, so
        that nothing but one frame is in memory; default: a new float32 array.

    Returns
    -------
    ndarray or out
        ``(t, y, x)``.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 1], "y": 1.0, "x": 1.0, "z_0": [3.0, 5.0]})
    >>> raster_stack(table, "z_0", [0, 1, 2], (3, 3))[:, 1, 1].tolist()
    [3.0, 5.0, nan]
    """
    _check(table, column, method, pixel_step)
    if out is None:
        size = (int(np.ceil(n / pixel_step)) for n in shape)
        out = np.empty((len(frames), *size), dtype=np.float32)
    rows_of = table.groupby("frame").indices
    for i, frame in enumerate(frames):
        rows = table.iloc[rows_of.get(frame, [])]
        out[i] = raster(rows, column, frame, shape, pixel_step=pixel_step, method=method)
    return out


def _cell(tree: cKDTree, shape: tuple[int, int]) -> float:
    """Root of the median area per atom in px, from the discs that hold 13 atoms each."""
    n = min(13, tree.n - 1)
    if n < 1:
        return float(min(shape)) / 10
    # Half-way to the next atom: a disc through atoms would count them whole.
    radius = tree.query(tree.data, k=[n, n + 1])[0].mean(1)
    return float(np.sqrt(np.pi / n) * np.median(radius))


def _check(table: pd.DataFrame, column: str, method: str, pixel_step: float) -> None:
    """Refuse what cannot be drawn."""
    for name in ("frame", "y", "x", column):
        if name not in table:
            raise InputError(
                f"the table has no column {name!r}; it has {', '.join(map(str, table))}"
            )
    if method not in ("voronoi", "gaussian"):
        raise InputError(f"method is {method!r}; expected 'voronoi' or 'gaussian'")
    if not pixel_step > 0:
        raise InputError(f"pixel_step is {pixel_step}; expected a positive number of pixels")


def _places(n: int, step: float) -> NDArray[np.float64]:
    """Centres of the pixels of the picture in pixels of the frame."""
    places: NDArray[np.float64] = np.arange(0.5, n) * step - 0.5
    return places


def _period(rows: pd.DataFrame, column: str) -> float | None:
    """Period of a circular column, None for the others."""
    if column == "angle_folded" and "angle_n" in rows:
        return float(2 * np.pi / rows["angle_n"].iloc[0])
    return 2 * np.pi if column in ("angle", "angle_folded") else None


def _average(
    value: NDArray[np.float64], weight: NDArray[np.float64], period: float | None, wrapped: bool
) -> NDArray[np.float64]:
    """Weighted mean over the last axis, on the circle if there is a period."""
    mean: NDArray[np.float64]
    if value.shape[-1] == 1:
        mean = value[..., 0]
    elif period is None:
        mean = (weight * value).sum(-1) / weight.sum(-1)
    else:
        turn = 2 * np.pi / period
        mean = np.angle((weight * np.exp(1j * turn * value)).sum(-1)) / turn
        if wrapped:  # to [0, period), as folded angles are; else -pi to pi
            mean = np.where(mean < 0, mean + period, mean)
    return mean
