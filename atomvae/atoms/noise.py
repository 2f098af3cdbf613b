"""Noise of a detector: electrons per file unit, or one variance for all pixels."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atomvae.atoms.mask import local_mean

# Differences of 6th order along y: a column of sigma >= 2 px vanishes in them, white noise stays.
# The slow axis, because the fast axis of a scan carries correlated noise.
_SIXTH = np.array([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0])
_FOURTH = np.array([0.0, 1.0, -4.0, 6.0, -4.0, 1.0, 0.0])
_BINS = 12
_SMALLEST_SD = 1e-3  # of the frame's range: keeps noise-free images finite


class Noise(NamedTuple):
    """How the noise of an image depends on its values.

    ``poisson``: electrons n = (value - offset) / gain are Poisson distributed.
    ``gaussian``: every pixel has the standard deviation ``sd`` (file units).
    """

    kind: Literal["poisson", "gaussian"]
    gain: float
    offset: float
    sd: float


def estimate_noise(image: NDArray[np.float64], valid: NDArray[np.bool_], width_px: float) -> Noise:
    """Estimate gain and offset from variance against mean; one variance if there is no line.

    High-order differences along y leave only noise. Their squares, binned by the smoothed value,
    give variance against mean; a line through them gives the gain (slope) and the offset (zero
    crossing). Whole numbers whose variance equals their mean are counts: gain 1, offset 0.

    Parameters
    ----------
    image
        (y, x) float64, finite.
    valid
        bool (y, x); False pixels are not used.
    width_px
        Column width (Gaussian sigma), px.

    Returns
    -------
    Noise
        ``poisson`` when the line holds; ``gaussian`` for stretched, normalised, smoothed images.
        ``sd`` is the mean noise either way, at least a thousandth of the image's range.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(np.linspace(5, 50, 128 * 128).reshape(128, 128))
    >>> noise = estimate_noise(counts.astype(float), np.full((128, 128), True), 2.0)
    >>> noise.kind, noise.gain, noise.offset
    ('poisson', 1.0, 0.0)
    """
    floor = _SMALLEST_SD * float(np.ptp(image[valid])) if valid.any() else 0.0
    usable = ndimage.minimum_filter1d(valid, len(_SIXTH), axis=0, mode="constant", cval=0)
    if usable.sum() < 20 * _BINS:
        return Noise("gaussian", 1.0, 0.0, floor)
    squares = _squared_difference(image, _SIXTH)[usable]
    sd = max(float(np.sqrt(squares.mean())), floor)
    gaussian = Noise("gaussian", 1.0, 0.0, sd)
    level = ndimage.correlate1d(image, _SIXTH**2 / (_SIXTH**2).sum(), axis=0)[usable]
    coarse = local_mean(image, valid, max(width_px, 1.5))[usable]
    whiteness = squares.mean() / max(_squared_difference(image, _FOURTH)[usable].mean(), 1e-300)
    if sd <= floor or not 0.75 < whiteness < 1.25:
        return gaussian
    means, variances, error = _binned(coarse, level, squares)
    if _are_counts(image[valid], means, variances, error):
        return Noise("poisson", 1.0, 0.0, sd)
    slope, crossing, holds = _line(means, variances, error)
    return Noise("poisson", slope, crossing, sd) if holds else gaussian


def _squared_difference(
    image: NDArray[np.float64], kernel: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared difference along y, scaled so that white noise keeps its variance."""
    difference = ndimage.correlate1d(image, kernel / np.sqrt((kernel**2).sum()), axis=0)
    squared: NDArray[np.float64] = difference**2
    return squared


def _binned(
    by: NDArray[np.float64], level: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean level and mean square in bins of equal population; relative error of a mean square."""
    edges = np.quantile(by, np.linspace(0, 1, _BINS + 1)[1:-1])
    index = np.searchsorted(edges, by)
    count = np.bincount(index, minlength=_BINS)
    filled = count >= 0.2 * by.size / _BINS  # equal values may leave bins empty
    means = np.bincount(index, level, _BINS)[filled] / count[filled]
    variances = np.bincount(index, squares, _BINS)[filled] / count[filled]
    # Neighbouring differences share pixels: about a third of them are independent.
    error = float(np.sqrt(2 * 3 / count[filled].min()))
    return means, variances, error


def _are_counts(
    values: NDArray[np.float64],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    error: float,
) -> bool:
    """Whether whole, non-negative numbers have variance equal to mean, overall and in each bin."""
    if values.min() < 0 or (values != np.round(values)).any() or means.sum() <= 0:
        return False
    total = float(variances.sum() / means.sum())
    seen = means > 0.2  # below, a bin holds hardly a count
    ratio = variances[seen] / means[seen]
    each = bool((np.abs(ratio - 1) < 0.2 + 4 * error).all())
    return each and abs(total - 1) < 0.1 + 4 * error / np.sqrt(len(means))


def _line(
    means: NDArray[np.float64], variances: NDArray[np.float64], error: float
) -> tuple[float, float, bool]:
    """Slope, zero crossing, and whether variance against mean is a line at all."""
    if np.ptp(means) <= 0 or variances.min() <= 1e-6 * variances.max():
        return 1.0, 0.0, False
    # Relative errors of the variances are equal, hence the weights.
    slope, intercept = np.polyfit(means, variances, 1, w=1 / variances)
    fitted = slope * means + intercept
    if slope <= 0 or fitted.min() <= 0:
        return 1.0, 0.0, False
    spread = float(np.sqrt(np.mean((variances / fitted - 1) ** 2)))
    rise = float(fitted.max() / fitted.min())
    holds = spread < 0.1 and np.log(rise) > max(0.15, 4 * spread, 4 * error)
    return float(slope), float(-intercept / slope), bool(holds)
