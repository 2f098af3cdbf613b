"""Which pixels can be trusted: inside the frame, numbers, not under contamination."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from atomvae.errors import InputError

_REGION = 16.0  # column widths across the region that is judged for contamination ...
_LOW = 30.0  # ... by this percentile of its pixels: between the columns, if there are any
_EXCESS = 1.0  # of that percentile above the frame's, in swings of the lattice


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

    Contamination lights up the holes of the lattice too. So it is where a low percentile over a
    few columns is higher than in the frame by more than the lattice swings between its columns
    and its holes. A few heavy atoms leave dark pixels between them.

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
    >>> y, x = np.mgrid[:192, :192]
    >>> image = np.cos(y / 2) + np.cos(x / 2) + 20 * ((y < 80) & (x < 80))
    >>> found = contaminated(image, image > -9, 2.5)
    >>> bool(found[:70, :70].all()), bool(found[90:, 90:].any())
    (True, False)
    """
    step = max(1, round(2 * width_px))
    fine = local_mean(image, valid, width_px)[::step, ::step]  # nothing finer is left to lose
    size = 2 * round(_REGION * width_px / step / 2) + 1
    level = ndimage.percentile_filter(fine, _LOW, size, mode="nearest")
    calm = level <= np.median(level)  # the clean half of the frame
    low, high = np.quantile((fine - level)[calm], [0.1, 0.9])
    high_level = (level - np.median(level) > _EXCESS * (high - low)) & (high > low)
    # The percentile gives way before the rim is reached: grow back by four widths.
    found: NDArray[np.bool_] = ndimage.binary_dilation(high_level, iterations=2)
    rows, columns = (
        np.minimum((np.arange(n) + step // 2) // step, m - 1)
        for n, m in zip(image.shape, found.shape, strict=True)
    )
    mask: NDArray[np.bool_] = found[np.ix_(rows, columns)]
    return mask
