"""Correlation of two frames: every shift that the lattice allows, and what speaks for each.

Normalised correlation with weights follows Padfield, IEEE Trans. Image Process. 21, 2706 (2012).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from atomvae.movie.spectrum import bright_spots, flatten, hann

Array = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex64]
LEAST_OVERLAP = 0.3  # of the windows, relative to no shift


@dataclass(frozen=True)
class Scale:
    """Lengths that the correlation works with, in pixels of the (binned) frame.

    Parameters
    ----------
    lattice : float or None
        Plane spacing; None without a lattice.
    smooth : float
        Width of the smoothing of a frame.
    reach : int
        Largest shift that is looked for.

    Examples
    --------
    >>> Scale(20.0, 2.0, 64).landmark
    10.0
    """

    lattice: float | None
    smooth: float
    reach: int

    @property
    def landmark(self) -> float:
        """Width that a lattice does not survive: what is left are its irregularities."""
        return 4 * self.smooth if self.lattice is None else self.lattice / 2


@dataclass(frozen=True)
class Weighted:
    """Spectra of an image and its weight, as the normalised correlation needs them."""

    image: Spectrum
    square: Spectrum
    weight: Spectrum
    smooth: float

    @classmethod
    def of(cls, image: Array, weight: Array, smooth: float, pad: tuple[int, int]) -> "Weighted":
        """Transform an image (y, x) whose pixels count by their weight."""
        total = weight.sum()
        centred = image - (image * weight).sum() / max(total, 1e-300)
        scale = np.sqrt((weight * centred**2).sum() / max(total, 1e-300)) or 1.0
        centred = (centred / scale).astype(np.float32)
        parts = (centred * weight, centred**2 * weight, weight)
        first, second, third = (fft.rfft2(part.astype(np.float32), pad) for part in parts)
        return cls(first, second, third, smooth)


@dataclass(frozen=True)
class Prepared:
    """One frame, ready to be correlated with others."""

    lattice: Weighted
    landmark: Weighted


@dataclass(frozen=True)
class Candidates:
    """Possible shifts from one frame to another.

    Parameters
    ----------
    shift : ndarray, shape (n, 2)
        ``(dy, dx)`` in pixels of the binned frame.
    score : ndarray, shape (n,)
        Normalised correlation, at most 1.
    doubt, landmark_doubt : ndarray, shape (n,)
        Negative log likelihood that the match is as good as the best one but for noise, of the
        frames and of their landmarks.
    sd : ndarray, shape (n,)
        Expected error of the shift by noise, per axis.
    """

    shift: Array
    score: Array
    doubt: Array
    landmark_doubt: Array
    sd: Array

    def __len__(self) -> int:
        return len(self.score)


def padded(shape: tuple[int, ...], reach: int) -> tuple[int, int]:
    """Shape for transforms in which shifts up to `reach` do not wrap around.

    Examples
    --------
    >>> padded((256, 250), 64)
    (320, 320)
    """
    rows, columns = (int(fft.next_fast_len(n + reach, real=True)) for n in shape)
    return rows, columns


def prepare(frame: npt.NDArray[np.floating], scale: Scale) -> Prepared:
    """Flatten a frame (y, x), set bright spots aside, and transform both parts."""
    flat = flatten(frame)
    window = hann(flat.shape)
    pad = padded(flat.shape, scale.reach)
    weight = window
    if scale.lattice is not None:  # without a lattice the spots are what shows the drift
        weight = np.where(bright_spots(flat, scale.lattice), 0, window)
    smooth = ndimage.gaussian_filter(flat, scale.smooth)
    lattice = Weighted.of(smooth, weight, scale.smooth, pad)
    irregular = ndimage.gaussian_filter(flat, scale.landmark)
    return Prepared(lattice, Weighted.of(irregular, window, scale.landmark, pad))


def correlation(a: Weighted, b: Weighted, scale: Scale) -> tuple[Array, Array]:
    """Correlate at the shifts -reach..reach; shift zero is in the middle.

    Returns
    -------
    score : ndarray, shape (2 reach + 1, 2 reach + 1)
        Normalised correlation; NaN where the windows overlap too little.
    count : ndarray, shape (2 reach + 1, 2 reach + 1)
        Number of independent pixels in the overlap: those smoothed together count once.
    """
    overlap = _product(a.weight, b.weight, scale.reach)
    power = _product(a.square, b.weight, scale.reach) * _product(a.weight, b.square, scale.reach)
    product = _product(a.image, b.image, scale.reach)
    enough = (overlap > LEAST_OVERLAP * overlap.max()) & (power > 1e-6 * abs(power).max())
    score = np.where(enough, product / np.sqrt(np.where(enough, power, 1.0)), np.nan)
    return score, np.maximum(overlap, 0) / max(4 * np.pi * a.smooth**2, 1.0)


def _product(a: Spectrum, b: Spectrum, reach: int) -> Array:
    """Correlate two transformed images and cut out the shifts within reach."""
    full = fft.irfft2(np.conj(a) * b)
    rows, columns = (np.arange(-reach, reach + 1) % n for n in full.shape)
    near: Array = full[np.ix_(rows, columns)].astype(np.float64)
    return near


def candidates(
    a: Prepared, b: Prepared, scale: Scale, fraction: float = 0.6, landmarks: bool = True
) -> Candidates:
    """Return all maxima of the correlation within `fraction` of the best, the best first.

    Without `landmarks` theirs are not compared, which halves the work.
    """
    score, count = correlation(a.lattice, b.lattice, scale)
    filled = np.nan_to_num(score, nan=-1.0)
    size = max(3, round(0.4 * (scale.lattice or 4 * scale.smooth)))
    inner = np.zeros(score.shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    peaks = (ndimage.maximum_filter(filled, size) == filled) & inner & (filled > 0)
    peaks &= filled >= fraction * filled[peaks].max(initial=1e-6)
    places = np.argwhere(peaks)
    places = places[np.argsort(-filled[peaks], kind="stable")]
    if len(places) == 0:
        return Candidates(np.empty((0, 2)), *(np.empty(0) for _ in range(4)))
    here = tuple(places.T)
    shift = np.array([_refine(score, y, x) for y, x in places]) - scale.reach
    best = np.clip(score[here], 1e-6, 0.999)
    # A wave of period p is placed to p / (2 pi SNR); without a lattice, a blob of that width.
    period = (scale.lattice or 4 * scale.smooth) / (2 * np.pi)
    sd = period * np.sqrt(1 - best**2) / (best * np.sqrt(count[here]))
    landmark_doubt = np.zeros(len(places))
    if landmarks:
        marks, few = correlation(a.landmark, b.landmark, scale)
        landmark_doubt = _doubt(np.nan_to_num(marks[here]), few[here])
    return Candidates(shift, best, _doubt(best, count[here]), landmark_doubt, sd)


def _doubt(score: Array, count: Array) -> Array:
    """Negative log likelihood that correlations differ from the best by chance.

    The inverse hyperbolic tangent of a correlation of n pairs has the variance 1 / n (Fisher).
    """
    level = np.arctanh(np.clip(score, 0, 0.999))
    doubt: Array = count * (level.max() - level) ** 2 / 4
    return doubt


def _refine(score: Array, y: int, x: int) -> Array:
    """Place a maximum between pixels by a parabola through its 3 x 3 neighbours."""
    patch = score[y - 1 : y + 2, x - 1 : x + 2]
    if patch.shape != (3, 3) or not np.isfinite(patch).all():
        return np.array([y, x], dtype=float)
    dy, dx = (patch[2] - patch[0]).mean() / 2, (patch[:, 2] - patch[:, 0]).mean() / 2
    dyy = (patch[2] - 2 * patch[1] + patch[0]).mean()
    dxx = (patch[:, 2] - 2 * patch[:, 1] + patch[:, 0]).mean()
    dxy = (patch[2, 2] - patch[2, 0] - patch[0, 2] + patch[0, 0]) / 4
    determinant = dyy * dxx - dxy**2
    if determinant <= 0 or dyy >= 0:
        return np.array([y, x], dtype=float)
    step = -np.array([dxx * dy - dxy * dx, dyy * dx - dxy * dy]) / determinant
    moved: Array = np.array([y, x]) + np.clip(step, -1, 1)
    return moved
