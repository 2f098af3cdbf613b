"""Where columns may be: maxima of a matched filter, in units of its noise."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atomvae.atoms.mask import local_mean
from atomvae.atoms.noise import Noise

_SURROUND = 1.6  # the filter is a Gaussian of the column's width minus one this much wider
_LEAST_ELECTRONS = 0.05  # floor of the noise, electrons per px, where an image is empty
_BACKGROUND = 0.995  # share of the maxima of a textured background that are turned down
_ALONE = 0.1  # share of fainter maxima below which columns have no noise between them
_FAINT = 0.35  # of the typical score: a column may be this faint beside the others
_FALSE_PER_FRAME = 1.0  # noise maxima above the threshold that a frame may hold


class Peaks(NamedTuple):
    """Local maxima: position (px) and height in standard deviations of the noise."""

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    score: NDArray[np.float64]


def score_map(
    image: NDArray[np.float64],
    valid: NDArray[np.bool_],
    width_px: float,
    noise: Noise,
    mean: Callable[..., NDArray[np.float64]] = local_mean,
) -> NDArray[np.float64]:
    """Filter for columns and divide by the noise that passes.

    The filter is a Gaussian of the column's width minus a wider one, so that a constant or slowly
    varying background gives zero.

    Parameters
    ----------
    image
        (y, x) float64, finite. Dark columns give negative scores.
    valid
        bool (y, x).
    width_px
        Column width, px.
    noise
        Its noise.
    mean
        Does what `local_mean` does, of image, valid and a width.

    Returns
    -------
    numpy.ndarray
        float64 (y, x), signal to noise ratio of a column centred on each pixel.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40]
    >>> image = 10 * np.exp(-((y - 20) ** 2 + (x - 15) ** 2) / (2 * 2.0**2))
    >>> score = score_map(image, image > -1, 2.0, Noise("gaussian", 1.0, 0.0, 1.0))
    >>> [int(i) for i in np.unravel_index(score.argmax(), score.shape)]
    [20, 15]
    """
    wide = _SURROUND * width_px
    broad = mean(image, valid, wide)
    response = mean(image, valid, width_px) - broad
    norm = 1 / width_px**2 + 1 / wide**2 - 4 / (width_px**2 + wide**2)
    norm = np.sqrt(norm / (4 * np.pi))
    if noise.kind == "gaussian":
        scaled: NDArray[np.float64] = response / max(noise.sd * norm, 1e-300)
        return scaled
    electrons = (broad - noise.offset) / noise.gain
    least = max(_LEAST_ELECTRONS, 0.02 * float(electrons.mean()))
    score: NDArray[np.float64] = response / (
        abs(noise.gain) * np.sqrt(np.maximum(electrons, least)) * norm
    )
    return score


def local_peaks(score: NDArray[np.float64], valid: NDArray[np.bool_], width_px: float) -> Peaks:
    """Positive local maxima of a score map, one per column width, to sub-pixel precision.

    Parameters
    ----------
    score
        (y, x) from `score_map`.
    valid
        bool (y, x); no maximum is reported outside.
    width_px
        Column width; two maxima are at least this far apart in y or in x.

    Returns
    -------
    Peaks
        In raster order.

    Examples
    --------
    >>> score = np.zeros((9, 9)); score[4, 5] = 3.0; score[4, 6] = 1.0
    >>> peaks = local_peaks(score, score > -1, 1.0)
    >>> len(peaks.y), float(peaks.y[0]), bool(5 < peaks.x[0] < 5.5)
    (1, 4.0, True)
    """
    size = 2 * max(1, round(width_px)) + 1
    top = ndimage.maximum_filter(score, size, mode="nearest")
    rows, columns = np.nonzero((score == top) & (score > 0) & valid)
    y = rows + _vertex(score, rows, columns, axis=0)
    x = columns + _vertex(score, rows, columns, axis=1)
    return Peaks(y, x, score[rows, columns])


def _vertex(
    score: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], axis: int
) -> NDArray[np.float64]:
    """Offset of the top of a parabola through three points, within half a pixel."""
    padded = np.pad(score, 1, mode="edge")
    step = (1, 0) if axis == 0 else (0, 1)
    before = padded[rows + 1 - step[0], columns + 1 - step[1]]
    after = padded[rows + 1 + step[0], columns + 1 + step[1]]
    here = padded[rows + 1, columns + 1]
    curve = 2 * here - before - after
    offset = np.where(curve > 0, (after - before) / np.where(curve > 0, 2 * curve, 1.0), 0.0)
    clipped: NDArray[np.float64] = np.clip(offset, -0.5, 0.5)
    return clipped


def score_threshold(
    peaks: NDArray[np.float64], pits: NDArray[np.float64], from_noise: float, periodic: bool
) -> float:
    """Score above which a maximum is a column, judged from maxima and minima of the score.

    Noise alone sets the height of the highest of its maxima. Two things correct it. Without a
    lattice the frame is mostly background: a textured background makes minima as deep as its
    false maxima are high, so columns must exceed the depth of nearly all of them. On a lattice
    columns fill the frame; their scores and those of the noise between them are two heaps, and
    the valley between the heaps is the threshold; without a second heap there is hardly any noise
    between the columns, and a third of their typical score is enough.

    Parameters
    ----------
    peaks, pits
        Scores of the maxima and depths (positive) of the minima.
    from_noise
        Score that noise alone rarely exceeds, see `noise_threshold`.
    periodic
        Whether the columns form a lattice.

    Returns
    -------
    float
        In standard deviations of the noise.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise, columns = np.abs(rng.normal(1.5, 0.5, 300)), rng.normal(9, 1, 1000)
    >>> 2 < score_threshold(np.r_[noise, columns], np.full(900, 5.0), 4.5, True) < 6.5
    True
    """
    if len(peaks) < 20 or len(pits) < 20:
        return from_noise
    if not periodic:
        return max(from_noise, float(np.quantile(pits, _BACKGROUND)))
    clear = peaks[peaks > from_noise]
    faint = _FAINT * float(np.median(clear)) if clear.size else from_noise
    if np.mean(peaks < faint) < _ALONE:
        return min(faint, from_noise)
    valley = _valley(peaks, min(faint, from_noise), from_noise)
    return from_noise if valley is None else valley


def noise_threshold(n_pixels: int, width_px: float) -> float:
    """Score that noise alone exceeds about once in a frame, by Rice's count of maxima.

    Parameters
    ----------
    n_pixels
        Valid pixels searched.
    width_px
        Width of the filter, px.

    Returns
    -------
    float
        In standard deviations of the noise.

    Examples
    --------
    >>> round(noise_threshold(512 * 512, 2.0), 1)
    4.4
    """
    resels = max(n_pixels / width_px**2 / (2 * np.pi) ** 1.5, 1.0)
    level = 4.0
    for _ in range(20):  # resels * t * exp(-t^2 / 2) = false maxima
        level = np.sqrt(2 * np.log(max(resels * level / _FALSE_PER_FRAME, np.e)))
    return float(level)


def _valley(scores: NDArray[np.float64], low: float, high: float) -> float | None:
    """Emptiest score between two heaps of a histogram, if it lies between low and high."""
    logs = np.log(np.maximum(scores, 0.1))
    edges = np.linspace(logs.min(), logs.max(), 65)
    heaps = ndimage.gaussian_filter1d(np.histogram(logs, edges)[0].astype(float), 2.0)
    centres = (edges[1:] + edges[:-1]) / 2
    inside = np.flatnonzero((centres > np.log(low)) & (centres < np.log(high)))
    if not inside.size:
        return None
    lowest = heaps[inside].min()
    at = inside[int(np.median(np.flatnonzero(heaps[inside] <= lowest)))]
    left, right = heaps[: at + 1].max(), heaps[at:].max()
    deep = lowest < 0.5 * min(left, right) and inside[0] < at < inside[-1]
    return float(np.exp(centres[at])) if deep else None
