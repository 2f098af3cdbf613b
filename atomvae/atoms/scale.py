"""Width and polarity of the columns, read off an image."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from atomvae.atoms.mask import local_mean

_FALLBACK_PX = 2.0  # width when an image shows nothing to measure
_NARROWEST, _WIDEST = 0.7, 30.0  # px


def column_width(images: list[NDArray[np.float64]], valid: list[NDArray[np.bool_]]) -> float:
    """Width of the columns from the central peak of the autocorrelation.

    The autocorrelation of Gaussian columns of width s falls as exp(-r^2 / 4 s^2) around its
    centre; the noise adds a spike at r = 0 only, which is left out. A slow background is removed
    first, over a length that follows the width found.

    Parameters
    ----------
    images
        Frames (y, x), finite float64; their autocorrelations are averaged.
    valid
        bool (y, x) per frame.

    Returns
    -------
    float
        Gaussian sigma, px; 2.0 when the images are constant or too small to tell.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64] % 16 - 8.0
    >>> image = np.exp(-(y**2 + x**2) / (2 * 2.5**2))
    >>> abs(column_width([image], [image > -1]) - 2.5) < 0.2
    True
    """
    width = _FALLBACK_PX
    for _ in range(3):
        blur = max(10.0, 3.0 * width)
        profile = np.mean([_autocorrelation(i, v, blur) for i, v in zip(images, valid, strict=True)], axis=0)
        found = _central_width(profile)
        if found is None:
            return width
        if abs(found - width) < 0.05 * width:
            return found
        width = found
    return width


def _autocorrelation(
    image: NDArray[np.float64], valid: NDArray[np.bool_], blur: float
) -> NDArray[np.float64]:
    """Autocorrelation by ring of lag, zero-lag first, up to a quarter of the frame."""
    rest = np.where(valid, image - local_mean(image, valid, blur), 0.0)
    power = np.abs(np.fft.rfft2(rest)) ** 2
    correlation = np.fft.irfft2(power, s=rest.shape) / rest.size
    reach = max(2, min(64, min(rest.shape) // 4))
    lag = np.arange(-reach, reach + 1)
    ring = np.rint(np.hypot(lag[:, None], lag[None, :])).astype(int)
    cut = correlation[np.ix_(lag % rest.shape[0], lag % rest.shape[1])]
    profile: NDArray[np.float64] = ndimage.mean(cut, ring, np.arange(reach + 1))
    padded = np.full(65, np.nan)
    padded[: reach + 1] = profile
    return padded


def _central_width(padded: NDArray[np.float64]) -> float | None:
    """Gaussian width of the central peak without lag 0; None when there is no peak."""
    profile = padded[np.isfinite(padded)]
    rising = np.flatnonzero(np.diff(profile[1:]) >= 0)
    end = int(rising[0]) + 1 if rising.size else len(profile) - 1
    height = profile[1] - profile[end]
    if end < 3 or height <= 1e-9 * max(abs(profile[0]), 1e-300):
        return None
    lag, value = np.arange(1, end + 1), (profile[1 : end + 1] - profile[end]) / height

    def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
        residual: NDArray[np.float64] = (
            p[0] * np.exp(-((lag / p[1]) ** 2) / 4) + p[2] - value
        ) * np.sqrt(lag)
        return residual

    bounds = ([0.1, _NARROWEST, -1.0], [10.0, _WIDEST, 0.5])
    start = np.clip([1.0, end / 3.0, 0.0], *bounds)
    return float(optimize.least_squares(misfit, start, bounds=bounds).x[1])


def bright_columns(
    images: list[NDArray[np.float64]], valid: list[NDArray[np.bool_]], width_px: float
) -> bool:
    """Whether columns stand out bright: the band-passed image is skewed to the bright side.

    Parameters
    ----------
    images
        Frames (y, x), finite float64.
    valid
        bool (y, x) per frame.
    width_px
        Column width, px.

    Returns
    -------
    bool
        False for dark columns (annular bright field).

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64] % 16 - 8.0
    >>> image = np.exp(-(y**2 + x**2) / (2 * 2.5**2))
    >>> inside = [image > -1]
    >>> bright_columns([image], inside, 2.5), bright_columns([-image], inside, 2.5)
    (True, False)
    """
    skew = 0.0
    for image, inside in zip(images, valid, strict=True):
        fine, broad = (local_mean(image, inside, k * width_px) for k in (1.0, 4.0))
        band = (fine - broad)[inside]
        spread = band.std() if band.size else 0.0
        skew += float(np.mean(((band - band.mean()) / spread) ** 3)) if spread > 0 else 0.0
    return skew > -0.05
