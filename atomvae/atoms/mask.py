"""Which pixels can be trusted: inside the frame, numbers, not under contamination."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from atomvae.errors import InputError

_CORE, _RIM = 6.0, 3.0  # column widths over which contamination is averaged: to find, to outline
_CORE_EXCESS, _RIM_EXCESS = 1.5, 1.0  # above the typical level, in swings of the lattice


def clean_frame(frame: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Split a frame into plain numbers and the mask of its valid pixels.

    Parameters
    ----------
    frame
        Image (y, x) of any real dtype; NaN and infinity mark missing pixels.

    Returns
    -------
    image
        float64 (y, x); missing pixels hold the mean of the valid ones near by.
    valid
        bool (y, x), False where a pixel was missing.

    Raises
    ------
    InputError
        If the array is not two-dimensional or not real numbers.

    Examples
    --------
    >>> image, valid = clean_frame([[1, np.nan], [1, 1]])
    >>> image.tolist(), int(valid.sum())
    ([[1.0, 1.0], [1.0, 1.0]], 3)
    """
    array = np.asarray(frame)
    if array.ndim != 2:
        raise InputError(
            f"the frame has shape {array.shape}, expected (y, x); pass one frame at a time"
        )
    if array.dtype.kind not in "buif":
        raise InputError(f"the frame holds {array.dtype} values, expected real numbers")
    image = array.astype(np.float64)
    valid = np.isfinite(image)
    if not valid.all():
        image = np.where(valid, image, 0.0)
        image = np.where(valid, image, local_mean(image, valid, 3.0))
    return image, valid


def local_mean(
    image: NDArray[np.float64], valid: NDArray[np.bool_], sigma: float
) -> NDArray[np.float64]:
    """Mean of the valid pixels under a Gaussian; far from any, the mean of all of them.

    Parameters
    ----------
    image
        (y, x), finite everywhere.
    valid
        bool (y, x).
    sigma
        Width of the Gaussian, px.

    Returns
    -------
    numpy.ndarray
        float64 (y, x).

    Examples
    --------
    >>> valid = np.array([[True, True, False]])
    >>> local_mean(np.array([[2.0, 2.0, 9.0]]), valid, 1.0).round(6).tolist()
    [[2.0, 2.0, 2.0]]
    """
    if valid.all():
        return _blur(image, sigma)
    weight = _blur(valid.astype(np.float64), sigma)
    total = _blur(np.where(valid, image, 0.0), sigma)
    everywhere = float(image[valid].mean()) if valid.any() else 0.0
    near = weight > 1e-3
    return np.where(near, total / np.where(near, weight, 1.0), everywhere)


def _blur(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur that treats what lies outside the frame like its edge."""
    blurred: NDArray[np.float64] = ndimage.gaussian_filter(
        image, sigma, mode="nearest", truncate=3.0
    )
    return blurred


def contaminated(
    image: NDArray[np.float64], valid: NDArray[np.bool_], width_px: float
) -> NDArray[np.bool_]:
    """Find bright amorphous contamination on a lattice.

    Averaged over several columns, contamination is brighter than the frame's median by more than
    the lattice swings between its columns and its holes. A few heavy atoms are not. It is
    outlined where a finer average falls back to one swing.

    Parameters
    ----------
    image
        (y, x) float64, finite, of a lattice that fills most of the frame; columns bright.
    valid
        bool (y, x).
    width_px
        Column width, px.

    Returns
    -------
    numpy.ndarray
        bool (y, x), True where the frame is contaminated.

    Examples
    --------
    >>> y, x = np.mgrid[:128, :128]
    >>> image = np.cos(y / 2) + np.cos(x / 2) + 20 * ((y < 50) & (x < 50))
    >>> found = contaminated(image, image > -9, 2.5)
    >>> bool(found[:40, :40].all()), bool(found[70:, 70:].any())
    (True, False)
    """
    step = max(1, round(width_px))
    fine = local_mean(image, valid, width_px)[::step, ::step]  # nothing finer is left to lose
    seen = valid[::step, ::step]
    rim, core = (local_mean(fine, seen, k * width_px / step) for k in (_RIM, _CORE))
    low, high = np.quantile((fine - rim)[seen], [0.1, 0.9]) if seen.any() else (0.0, 0.0)
    level = np.median(core[seen]) if seen.any() else 0.0
    outline, _ = ndimage.label(rim - level > _RIM_EXCESS * (high - low))
    hit = np.unique(outline[(core - level > _CORE_EXCESS * (high - low)) & (high > low)])
    found = np.isin(outline, hit[hit > 0])
    rows, columns = (
        np.minimum(np.arange(n) // step, m - 1)
        for n, m in zip(image.shape, found.shape, strict=True)
    )
    return found[np.ix_(rows, columns)]
