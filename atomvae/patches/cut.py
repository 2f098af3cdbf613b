"""From atoms to patches: a physical window around every atom, resampled about its centre."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dask
import numpy as np
import pandas as pd
from dask.system import CPU_COUNT
from numpy.typing import NDArray
from scipy import ndimage

from atomvae.atoms.table import check_atoms
from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.patches.store import Patches, PatchLayout, PatchStore, write_shard
from atomvae.patches.window import default_size, default_window

Normalise = Literal["robust", "none"]
_ORDER = 5  # of the spline: at a width of 2 px its error is 4e-5 of the amplitude, a cubic's 6e-4
_BATCH = 256  # patches resampled at once, so that the coordinates stay small
_SHARDS_AT_ONCE = 4  # bounds the memory on machines of many cores


def cut_patches(
    movie: Movie,
    atoms: pd.DataFrame,
    *,
    window_nm: float | None = None,
    size: int | None = None,
    normalise: Normalise = "robust",
    path: str | Path | None = None,
) -> PatchStore:
    """Cut a patch around every atom.

    Row i of the store belongs to row i of ``atoms``. Patches have square pixels whatever the
    pixels of the movie, and their middle is the atom's sub-pixel position. Atoms at the edge are
    kept: what lies outside the frame, and pixels that are NaN or infinite, have mask False and
    the frame's median (0 after robust normalisation). A movie is read frame by frame; the memory
    needed does not grow with its length.

    Parameters
    ----------
    movie
        With a known pixel size.
    atoms
        Atom table, sorted by frame.
    window_nm
        Side of the window; default: `default_window`, two coordination shells.
    size
        Side of the patch in its own pixels; default: `default_size`, two per column width, no
        finer than the movie, even, 16 to 48. Where this is coarser than the movie, the frame is
        smoothed first.
    normalise
        "robust": each frame minus its median, divided by the distance of its 1st and 99th
        percentile, so that atoms of one frame keep their contrast and one hot pixel changes
        nothing. "none": file units. ``store.denormalise`` undoes it.
    path
        Folder of the Zarr group to write, replaced if it exists; None keeps it in memory.

    Returns
    -------
    PatchStore
        Of length 0 if there are no atoms.

    Raises
    ------
    InputError
        If the movie has no pixel size, the window does not fit into the frame, or the table has
        missing columns, positions that are NaN, or frames that the movie lacks.

    Examples
    --------
    >>> frames = np.random.default_rng(0).random((2, 64, 80))
    >>> movie = Movie.from_array(frames, pixel_size=(0.1, 0.1))
    >>> atoms = pd.DataFrame(
    ...     {"atom_id": [0, 1], "frame": [0, 1], "y": [20.2, 40.0], "x": [30.0, 79.0]}
    ... )
    >>> store = cut_patches(movie, atoms, window_nm=2.0, size=20)
    >>> store
    PatchStore(2 patches, 1 x 20 x 20, 2 nm)
    >>> store.mask[:].mean(axis=(1, 2)).tolist()  # the second atom sits at the right edge
    [1.0, 0.5]
    """
    layout = plan_patches(movie, atoms, window_nm=window_nm, size=size, normalise=normalise)
    store = PatchStore.create(path, layout)
    table = atoms[["atom_id", "frame", "y", "x"]]
    # partial hides the movie's graph from dask, which would compute all of it beforehand.
    tasks = [
        dask.delayed(partial(_fill_shard, store, movie, table.iloc[layout.rows(k)]))(k)
        for k in range(layout.n_shards)
    ]
    # Another process could not write to a store that lives in this one's memory.
    scheduler = "threads" if path is None else None
    workers = min(_SHARDS_AT_ONCE, CPU_COUNT)
    dask.compute(*tasks, scheduler=scheduler, num_workers=workers)
    return store


def plan_patches(
    movie: Movie,
    atoms: pd.DataFrame,
    *,
    window_nm: float | None = None,
    size: int | None = None,
    normalise: Normalise = "robust",
) -> PatchLayout:
    """Check the input and settle number, window and size: the first pass of `cut_patches`.

    A caller that runs shards by itself goes on with::

        store = PatchStore.create(path, layout)
        for k in range(layout.n_shards):  # in any order, in any process
            write_shard(store, k, cut_rows(movie, atoms.iloc[layout.rows(k)], layout))

    Parameters and errors are those of `cut_patches`.

    Returns
    -------
    PatchLayout
        Its ``key`` is a hash of positions, window, pixel size and name of the movie (not of its
        pixels).

    Examples
    --------
    >>> movie = Movie.from_array(np.zeros((1, 64, 64)), pixel_size=(0.1, 0.1))
    >>> atoms = pd.DataFrame({"atom_id": [0], "frame": [0], "y": [20.2], "x": [30.0]})
    >>> layout = plan_patches(movie, atoms)
    >>> layout.n, layout.shape, layout.window_nm
    (1, (1, 32, 32), 3.2)
    """
    atoms = check_atoms(atoms, shape=movie.shape)
    pixel = movie.require_pixel_size()
    if normalise not in ("robust", "none"):
        raise InputError(f"normalise is {normalise!r}; expected 'robust' or 'none'")
    extent = (movie.shape[1] * pixel[0], movie.shape[2] * pixel[1])
    window = default_window(movie, atoms) if window_nm is None else float(window_nm)
    if not 0 < window <= min(extent) * (1 + 1e-9):
        raise InputError(
            f"window_nm is {window:.4g}; expected more than 0 and at most {min(extent):.4g}, "
            f"the smaller side of the frame ({extent[0]:.4g} x {extent[1]:.4g} nm)"
        )
    if size is None:
        size = default_size((window / pixel[0], window / pixel[1]), _column_width(atoms))
    if size < 2:
        raise InputError(f"size is {size}; a patch needs at least 2 pixels a side")
    digest = hashlib.sha256(repr((movie.name, movie.shape, pixel, window, size)).encode())
    for column in ("atom_id", "frame", "y", "x"):
        digest.update(np.ascontiguousarray(atoms[column]).tobytes())
    return PatchLayout(
        n=len(atoms),
        shape=(1, size, size),
        pixel_nm=window / size,
        normalise=normalise,
        key=digest.hexdigest()[:16],
    )


def _column_width(atoms: pd.DataFrame) -> float | None:
    """Typical width of the columns in px, where it was fitted."""
    if "sigma" not in atoms:
        return None
    width = float(atoms["sigma"].median())
    return width if width > 0 else None


def cut_rows(movie: Movie, rows: pd.DataFrame, layout: PatchLayout) -> Patches:
    """Cut the patches of some atoms, e.g. of those of one shard, in memory.

    Only the frames that these atoms lie in are read, one block of frames after the other.

    Parameters
    ----------
    movie
        The movie that ``layout`` was planned for.
    rows
        Rows of the atom table.
    layout
        From `plan_patches`.

    Returns
    -------
    Patches
        In the order of ``rows``.
    """
    n, (_, size, _) = len(rows), layout.shape
    frame = rows["frame"].to_numpy(dtype=np.int64)
    centre = rows[["y", "x"]].to_numpy(dtype=np.float64)  # (n, 2)
    py, px = movie.require_pixel_size()
    side = size * float(layout.pixel_nm or np.nan)
    patches = Patches(
        image=np.empty((n, 1, size, size), dtype=np.float32),
        mask=np.empty((n, size, size), dtype=bool),
        atom_id=rows["atom_id"].to_numpy(dtype=np.int64),
        frame=frame,
        remainder=centre - np.round(centre),
        norm=np.empty((n, 2)),
    )
    for t, pixels in _read_frames(movie, np.unique(frame)):
        here = np.flatnonzero(frame == t)
        offset, scale = frame_norm(pixels) if layout.normalise == "robust" else (0.0, 1.0)
        image, mask = cut_frame(
            (pixels - offset) / scale, *centre[here].T, window_px=(side / py, side / px), size=size
        )
        patches.image[here, 0], patches.mask[here] = image, mask
        patches.norm[here] = offset, scale
    return patches


def cut_frame(
    frame: NDArray[Any],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    *,
    window_px: tuple[float, float],
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample a window around each position of one frame, by a quintic spline.

    Pixel (i, j) of a patch samples the frame at ``y + (i - (size - 1) / 2) * window_px[0] /
    size``, and x alike. Where that step exceeds one pixel, the frame is smoothed first by a
    Gaussian of ``(step - 1) / 2`` pixels, against aliasing.

    Parameters
    ----------
    frame
        ``(y, x)``; NaN and infinite pixels count as missing.
    y, x
        ``(n,)`` centres in pixels, pixel centres at integers; may lie outside.
    window_px
        Height and width of the window in pixels of the frame.
    size
        Side of the patch in its own pixels.

    Returns
    -------
    image : ndarray
        ``(n, size, size)`` float32; the frame's median where there is nothing to sample.
    mask : ndarray
        ``(n, size, size)`` bool, True where all pixels next to the sample exist.

    Examples
    --------
    >>> ramp = np.arange(30.0) * np.ones((20, 1))  # value = x
    >>> image, mask = cut_frame(
    ...     ramp, np.array([10.0]), np.array([12.3]), window_px=(3, 3), size=3
    ... )
    >>> [round(float(v), 3) for v in image[0, 1]], bool(mask.all())
    ([11.3, 12.3, 13.3], True)
    """
    step = np.asarray(window_px, dtype=np.float64) / size
    bad = ~np.isfinite(frame)
    median = 0.0 if bad.all() else float(np.median(frame[~bad]))
    filled = _fill_missing(np.asarray(frame, dtype=np.float64), bad)
    smooth = ndimage.gaussian_filter(filled, np.maximum(0, (step - 1) / 2), mode="mirror")
    spline = ndimage.spline_filter(smooth, _ORDER, mode="mirror")
    grid = np.arange(size) - (size - 1) / 2
    image = np.empty((len(y), size, size), dtype=np.float32)
    mask = np.empty((len(y), size, size), dtype=bool)
    for start in range(0, len(y), _BATCH):
        part = slice(start, start + _BATCH)
        at_y = y[part, None] + grid * step[0]  # (b, size)
        at_x = x[part, None] + grid * step[1]
        inside_y, inside_x = (
            (at >= -_EDGE) & (at <= n - 1 + _EDGE)
            for at, n in zip((at_y, at_x), frame.shape, strict=True)
        )
        shape = (len(at_y), size, size)
        at = np.empty((2, *shape))
        at[0], at[1] = at_y[:, :, None], at_x[:, None, :]
        values = ndimage.map_coordinates(spline, at, order=_ORDER, mode="mirror", prefilter=False)
        exists = inside_y[:, :, None] & inside_x[:, None, :]
        if bad.any():
            exists &= ndimage.map_coordinates(bad * 1.0, at, order=1, mode="nearest") < 1e-6
        image[part], mask[part] = np.where(exists, values, median), exists
    return image, mask


_EDGE = 1e-6  # rounding: a sample meant to lie on the outermost pixel lies on it


def frame_norm(frame: NDArray[Any]) -> tuple[float, float]:
    """Offset and scale that bring a frame to about -0.5 to 1, whatever its units.

    Parameters
    ----------
    frame
        ``(y, x)``; NaN and infinite pixels are left out.

    Returns
    -------
    offset, scale : float
        Median and distance of the 1st and 99th percentile. If those coincide the full range, and
        1 for a constant frame.

    Examples
    --------
    >>> frame_norm(np.arange(101.0))
    (50.0, 98.0)
    >>> frame_norm(np.full((4, 4), 7.0))
    (7.0, 1.0)
    """
    values = frame[np.isfinite(frame)].astype(np.float64)
    if not len(values):
        return 0.0, 1.0
    low, offset, high = np.percentile(values, [1, 50, 99])
    scale = high - low or values.max() - values.min() or 1.0
    return float(offset), float(scale)


def _fill_shard(store: PatchStore, movie: Movie, rows: pd.DataFrame, k: int) -> None:
    """Task: cut the rows of one shard and write them."""
    write_shard(store, k, cut_rows(movie, rows, store.layout))


def _read_frames(movie: Movie, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read some frames in order; a block of frames is read once, and one at a time."""
    ends = np.cumsum(movie.frames.chunks[0])
    block = np.searchsorted(ends, numbers, side="right")
    for b in np.unique(block):
        wanted = numbers[block == b]
        # The caller is a task already: reading must not wait for another worker.
        pixels = movie.frames[wanted[0] : wanted[-1] + 1].compute(scheduler="synchronous")
        for t in wanted:
            yield int(t), pixels[t - wanted[0]]


def _fill_missing(frame: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give missing pixels the value of the nearest one, so that a spline does not ring."""
    if not bad.any():
        return frame
    if bad.all():
        return np.zeros_like(frame)
    nearest = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    filled: NDArray[np.float64] = frame[tuple(nearest)]
    return filled
