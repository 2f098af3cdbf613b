"""Patches of any origin and number type as normalised tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomvae.errors import InputError

ROWS = 4096  # patches converted at a time: bounds the float64 copies


@dataclass(frozen=True)
class Images:
    """Patches in memory, checked.

    Parameters
    ----------
    pixels
        (n, c, h, w), the number type of the data.
    mask
        (n, h, w) bool, True for pixels inside the frame, or None.
    atom_id
        (n,) int64.
    frame
        (n,) int64, or None when unknown.
    pixel_nm
        Side of a pixel in nm, or None.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_] | None
    atom_id: NDArray[np.int64]
    frame: NDArray[np.int64] | None
    pixel_nm: float | None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.pixels.shape[1:]
        return c, h, w


def read_images(patches: Any) -> Images:
    """Read a PatchStore, or an array, whole into memory.

    Parameters
    ----------
    patches
        A PatchStore (image, mask, atom_id, frame, pixel_nm), or an array (n, h, w) or
        (n, c, h, w) of any real number type.

    Raises
    ------
    InputError
        If there are none, they have another shape or type, or a pixel that counts is NaN.

    Examples
    --------
    >>> read_images(np.zeros((5, 8, 9), np.uint8)).shape
    (1, 8, 9)
    """
    stored = hasattr(patches, "image")
    pixels = np.asarray(patches.image[:] if stored else patches)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise InputError(
            f"patches have shape {pixels.shape}, expected (n, height, width) or "
            "(n, channels, height, width) with n of at least 1"
        )
    if pixels.dtype.kind not in "buif":
        raise InputError(f"patches are of type {pixels.dtype}, expected real numbers")
    mask = np.asarray(patches.mask[:], bool) if stored and patches.mask is not None else None
    if mask is not None and mask.all():
        mask = None
    _check_finite(pixels, mask)
    n = len(pixels)
    return Images(
        pixels,
        mask,
        np.asarray(patches.atom_id[:], np.int64) if stored else np.arange(n),
        np.asarray(patches.frame[:], np.int64) if stored else None,
        getattr(patches, "pixel_nm", None),
    )


def _check_finite(pixels: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
    """Raise if a pixel that counts is not a number, naming the first patch."""
    for start in range(0, len(pixels), ROWS):
        rows = slice(start, start + ROWS)
        bad = ~np.isfinite(pixels[rows])
        if mask is not None:
            bad &= mask[rows, None]
        if bad.any():
            first = start + int(np.flatnonzero(bad.any((1, 2, 3)))[0])
            raise InputError(
                f"patch {first} has NaN or infinite pixels, expected finite ones; mask them or "
                "leave the patch out"
            )


def measure_scale(images: Images) -> tuple[Tensor, Tensor]:
    """Measure mean and standard deviation of each channel over the pixels that count.

    Returns
    -------
    offset, scale
        (c,) float64.

    Raises
    ------
    InputError
        If a channel is constant.

    Examples
    --------
    >>> offset, scale = measure_scale(read_images(np.array([[[1, 3]]])))
    >>> float(offset[0]), float(scale[0])
    (2.0, 1.0)
    """
    c = images.shape[0]
    shift = images.pixels[0].reshape(c, -1).astype(np.float64).mean(1)  # against cancellation
    shift = np.where(np.isfinite(shift), shift, 0.0)
    count, total, squares = 0, np.zeros(c), np.zeros(c)
    for start in range(0, len(images), ROWS):
        rows = slice(start, start + ROWS)
        block = images.pixels[rows].transpose(1, 0, 2, 3).astype(np.float64)  # (c, n, h, w)
        valid = np.ones(block.shape[1:], bool) if images.mask is None else images.mask[rows]
        values = block[:, valid] - shift[:, None]  # (c, m)
        count += values.shape[1]
        total += values.sum(1)
        squares += (values**2).sum(1)
    mean = total / max(count, 1)
    sd = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    if not (sd > 1e-12 * np.abs(mean + shift)).all() or not (sd > 0).all():
        raise InputError(
            "all pixels of a channel are equal, expected patches with contrast; check the data"
        )
    return torch.from_numpy(mean + shift), torch.from_numpy(sd)


def normalise(images: Images, offset: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Bring patches to the units of a model.

    Returns
    -------
    pixels, mask
        (n, c, h, w) float32, zero where masked, and (n, h, w) bool or None.

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> normalise(read_images(np.full((1, 1, 2), 3)), one, 2 * one)[0].flatten().tolist()
    [1.0, 1.0]
    """
    a, b = offset.cpu().numpy()[:, None, None], scale.cpu().numpy()[:, None, None]
    out = np.empty(images.pixels.shape, np.float32)
    for start in range(0, len(images), ROWS):
        rows = slice(start, start + ROWS)
        block = (images.pixels[rows].astype(np.float64) - a) / b
        if images.mask is not None:
            block = np.where(images.mask[rows, None], block, 0.0)
        out[rows] = block
    mask = None if images.mask is None else torch.from_numpy(images.mask)
    return torch.from_numpy(out), mask


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
