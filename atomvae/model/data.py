"""Patches of any origin and number type, in memory or on disk."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.patches.store import CHUNK_ROWS

BLOCK_VALUES = 2**20  # numbers in a block: bounds what is copied to float64 at a time
SHARE = 0.25  # of the free memory, which patches may fill


Part = tuple[NDArray[Any], NDArray[np.bool_] | None]  # pixels (n, c, h, w) and mask (n, h, w)


@dataclass(frozen=True)
class Images:
    """Patches, in memory or on disk; whoever reads them by `rows` or `blocks` needn't know where.

    Parameters
    ----------
    pixels
        (n, c, h, w), the number type of the data: a numpy array, or one on disk (Zarr, HDF5).
    mask
        (n, h, w) bool, True for pixels inside the frame, or None.
    atom_id
        (n,) int64.
    frame
        (n,) int64, or None when unknown.
    pixel_nm
        Side of a pixel in nm, or None.
    """

    pixels: Any
    mask: Any
    atom_id: NDArray[np.int64]
    frame: NDArray[np.int64] | None
    pixel_nm: float | None

    def __len__(self) -> int:
        return len(self.atom_id)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.pixels.shape[1:]
        return c, h, w

    @property
    def in_memory(self) -> bool:
        """Whether single rows cost nothing to reach."""
        return isinstance(self.pixels, np.ndarray)

    def rows(self, index: NDArray[np.int64], room: Part | None = None) -> Part:
        """Read the pixels and the mask of some rows, in any order; into `room` if it is given."""
        pixels, mask = room or (None, None)
        pixels = gather(self.pixels, index, pixels)
        return pixels, None if self.mask is None else gather(self.mask, index, mask)

    def room(self, n: int) -> Part:
        """Make room for n rows."""
        mask = None if self.mask is None else np.empty((n, *self.shape[1:]), bool)
        return np.empty((n, *self.shape), self.pixels.dtype), mask

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.bool_] | None]]:
        """Read all patches, a few at a time: rows, pixels and mask."""
        step = block_rows(self.shape)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            mask = None if self.mask is None else np.asarray(self.mask[rows], bool)
            yield rows, np.asarray(self.pixels[rows]), mask

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Read all masks, a few at a time, where there are any."""
        step = block_rows(self.shape)
        for start in range(0, len(self) if self.mask is not None else 0, step):
            yield np.asarray(self.mask[start : start + step], bool)


def block_rows(shape: tuple[int, ...]) -> int:
    """Number of patches of a shape in a block: 1, 2, 4, ... chunks of a PatchStore.

    Examples
    --------
    >>> block_rows((1, 48, 48)), block_rows((4, 256, 256))
    (256, 64)
    """
    chunks = BLOCK_VALUES // int(np.prod(shape)) // CHUNK_ROWS
    return CHUNK_ROWS << (max(1, chunks).bit_length() - 1)


def gather(array: Any, rows: NDArray[np.int64], room: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read rows, in any order, of an array that may lie on disk.

    On disk whole chunks are read, those that follow each other at once. The rows are put into
    `room` if it is given, which is at least as long.

    Examples
    --------
    >>> gather(np.arange(10), np.array([7, 2, 7])).tolist()
    [7, 2, 7]
    """
    if room is None and isinstance(array, np.ndarray):
        return array[rows]
    out = np.empty((len(rows), *array.shape[1:]), array.dtype) if room is None else room
    out = out[: len(rows)]
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    apart = np.diff(wanted // CHUNK_ROWS) > 1
    apart |= np.diff(wanted // block_rows(array.shape[1:])) > 0  # bounds what is read at a time
    for part in np.split(np.arange(len(rows)), np.flatnonzero(apart) + 1):
        if len(part):
            start = int(wanted[part[0]]) // CHUNK_ROWS * CHUNK_ROWS  # parts of chunks are slower
            stop = -(-int(wanted[part[-1]] + 1) // CHUNK_ROWS) * CHUNK_ROWS
            block, place = np.asarray(array[start:stop]), out[part[0] : part[-1] + 1]
            np.take(block, wanted[part] - start, axis=0, out=place, mode="clip")  # no copy between
    if (np.diff(rows) < 0).any():
        out[order] = out.copy()
    return out


@dataclass(frozen=True)
class Picked:
    """Rows of an array on disk, to be read like the array itself.

    Examples
    --------
    >>> Picked(np.arange(10), np.array([7, 2, 5]))[1:].tolist()
    [2, 5]
    """

    array: Any
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows together."""
        return len(self.index), *self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return gather(self.array, self.index[rows])


def pick(array: Any, rows: NDArray[np.int64]) -> Any:
    """Take rows of an array: at once in memory, when they are read on disk."""
    return array[rows] if isinstance(array, np.ndarray) else Picked(array, rows)


def free_memory() -> int:
    """Bytes that can still be had, on this machine and in this container.

    Examples
    --------
    >>> free_memory() > 0
    True
    """
    free = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    about = Path("/proc/meminfo")
    if about.exists():
        lines = dict(line.split(":") for line in about.read_text().splitlines())
        free.append(1024 * int(lines.get("MemAvailable", lines["MemFree"]).split()[0]))
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free.append(int(text) - int(used.read_text()))
    return max(1, min(free, default=4 * 2**30))


def read_images(patches: Any, memory_gb: float | None = None) -> Images:
    """Read a PatchStore, or an array, into memory where it fits.

    Parameters
    ----------
    patches
        A PatchStore (image, mask, atom_id, frame, pixel_nm), or an array (n, h, w) or
        (n, c, h, w) of any real number type.
    memory_gb
        A stored array that is larger stays on disk; None takes a quarter of the free memory.

    Raises
    ------
    InputError
        If there are none, or they have another shape or type.

    Examples
    --------
    >>> read_images(np.zeros((5, 8, 9), np.uint8)).shape
    (1, 8, 9)
    """
    stored = hasattr(patches, "image")
    pixels, mask = (patches.image, patches.mask) if stored else (patches, None)
    if not _stays(pixels, memory_gb):
        pixels = np.asarray(pixels[:] if stored else pixels)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        mask = None if mask is None else np.asarray(mask[:], bool)
    if len(pixels.shape) != 4 or 0 in pixels.shape:
        raise InputError(
            f"patches have shape {pixels.shape}, expected (n, height, width) or "
            "(n, channels, height, width) with n of at least 1"
        )
    if pixels.dtype.kind not in "buif":
        raise InputError(f"patches are of type {pixels.dtype}, expected real numbers")
    return Images(
        pixels,
        mask,
        np.asarray(patches.atom_id[:], np.int64) if stored else np.arange(len(pixels)),
        np.asarray(patches.frame[:], np.int64) if stored else None,
        getattr(patches, "pixel_nm", None),
    )


def _stays(pixels: Any, memory_gb: float | None) -> bool:
    """Whether pixels are to be left on disk."""
    dtype = getattr(pixels, "dtype", None)
    if isinstance(pixels, np.ndarray) or not isinstance(dtype, np.dtype) or len(pixels.shape) != 4:
        return False
    room = SHARE * free_memory() if memory_gb is None else 1e9 * memory_gb
    return bool(np.prod(pixels.shape, dtype=float) * dtype.itemsize > room)


@dataclass(frozen=True)
class Survey:
    """What was found on looking at all patches once.

    Parameters
    ----------
    whole
        Whether every pixel counts.
    offset, scale
        (c,) float64 mean and standard deviation of each channel over the pixels that count.
    """

    whole: bool
    offset: Tensor
    scale: Tensor

    @property
    def has_contrast(self) -> bool:
        """Whether no channel is constant."""
        return bool((self.scale > 1e-12 * self.offset.abs()).all() and (self.scale > 0).all())


def survey(images: Images, check: Callable[[NDArray[Any]], None] | None = None) -> Survey:
    """Look at all patches once: are they finite, do all pixels count, what is their scale.

    Parameters
    ----------
    images
        The patches.
    check
        Called with the pixels that count (c, m) of every block; raises if it doesn't like them.

    Raises
    ------
    InputError
        If a pixel that counts is NaN or infinite.

    Examples
    --------
    >>> found = survey(read_images(np.array([[[1, 3]]])))
    >>> found.whole, float(found.offset[0]), float(found.scale[0])
    (True, 2.0, 1.0)
    """
    c = images.shape[0]
    shift = np.zeros(c)  # against cancellation
    whole, count, total, squares = True, 0, np.zeros(c), np.zeros(c)
    for rows, pixels, mask in images.blocks():
        _check_finite(pixels, mask, rows.start)
        if mask is not None and mask.all():
            mask = None
        whole &= mask is None
        values = pixels.swapaxes(0, 1)
        values = values.reshape(c, -1) if mask is None else values[:, mask]  # (c, m)
        if check is not None and values.size:
            check(values)
        if rows.start == 0:
            shift = pixels[0].reshape(c, -1).astype(np.float64).mean(1)
            shift = np.where(np.isfinite(shift), shift, 0.0)
        moved = values.astype(np.float64) - shift[:, None]
        count += moved.shape[1]
        total += moved.sum(1)
        squares += (moved**2).sum(1)
    mean = total / max(count, 1)
    sd = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    return Survey(whole, torch.from_numpy(mean + shift), torch.from_numpy(sd))


def _check_finite(pixels: NDArray[Any], mask: NDArray[np.bool_] | None, start: int) -> None:
    """Raise if a pixel that counts is not a number, naming the first patch."""
    bad = ~np.isfinite(pixels)
    if mask is not None:
        bad &= mask[:, None]
    if bad.any():
        first = start + int(np.flatnonzero(bad.any((1, 2, 3)))[0])
        raise InputError(
            f"patch {first} has NaN or infinite pixels, expected finite ones; mask them or "
            "leave the patch out"
        )


def split_rows(
    images: Images, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows to train on and the rows to judge by.

    Neighbouring patches overlap, so whole blocks of successive frames are held out; single frames
    and unknown frames are split at random.

    Returns
    -------
    training, held_out
        Sorted rows; held_out is empty for fewer than ten patches or a share of 0.

    Examples
    --------
    >>> images = read_images(np.zeros((40, 4, 4)))
    >>> [len(rows) for rows in split_rows(images, 0.1, seed=0)]
    [36, 4]
    """
    n = len(images)
    rows = np.arange(n)
    if n < 10 or share == 0:
        return rows, rows[:0]
    rng = np.random.default_rng([seed, 1])
    frame = rows[:0] if images.frame is None else images.frame
    frames = np.unique(frame)
    if len(frames) * share < 1:
        held = np.zeros(n, bool)
        held[rng.permutation(n)[: max(1, round(n * share))]] = True
    else:
        blocks = np.array_split(frames, max(2, round(2 / share)))  # two blocks are held out
        blocks = [block for block in blocks if len(block)]
        wanted = max(1, round(len(blocks) * share))
        chosen = rng.permutation(len(blocks))[:wanted]
        held = np.isin(frame, np.concatenate([blocks[i] for i in chosen]))
    return rows[~held], rows[held]


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there.

    Raises
    ------
    InputError
        If it isn't.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {name!r}, which torch can't use here; choose auto, cpu or cuda"
        ) from error
    return device
