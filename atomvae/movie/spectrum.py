"""The periodic part of a frame: its Fourier peaks, found beside bright spots and background."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Image = npt.NDArray[np.float64]

BROAD_PX = 20.0  # contamination and thickness vary more slowly than that
SMOOTH_PX = 2.0  # about a probe
SPOT_FACTOR = 2.5  # a spot stands out by that many times the spread of the lattice
SPOT_RADIUS_PX = 10
LEAST_RATIO = 25.0  # times the local noise power; pure noise reaches 17 in 512 x 512 pixels
LEAST_PERIODS = 6  # a lattice repeats at least that often in a frame


def flatten(frame: npt.NDArray[np.floating]) -> Image:
    """Frame (y, x) without its broad background; missing pixels become zero.

    Examples
    --------
    >>> float(abs(flatten(np.full((32, 32), 7.0))).max())
    0.0
    """
    pixels = np.asarray(frame, dtype=np.float64)
    finite = np.isfinite(pixels)
    if not finite.any():
        return np.zeros_like(pixels)
    filled = np.where(finite, pixels, np.median(pixels[finite]))
    flat: Image = np.where(finite, filled - ndimage.gaussian_filter(filled, BROAD_PX), 0.0)
    return flat


def bright_spots(flat: Image, radius_px: float = SPOT_RADIUS_PX) -> npt.NDArray[np.bool_]:
    """Mask (y, x) of discs around what is much brighter than the lattice: dopants, dirt.

    A spot stands 2.5 times the 5 to 95 per cent range of the smoothed frame above its 5 per cent.

    Examples
    --------
    >>> y, x = np.indices((64, 64))
    >>> lattice = np.cos(0.7 * x) + np.cos(0.7 * y)
    >>> spot = 20 * np.exp(-((y - 30) ** 2 + (x - 20) ** 2) / 8)
    >>> bool(bright_spots(lattice).any()), bool(bright_spots(lattice + spot)[30, 20])
    (False, True)
    """
    smooth = ndimage.gaussian_filter(flat, SMOOTH_PX)
    low, high = np.percentile(smooth, [5, 95])
    centres = smooth - low > SPOT_FACTOR * (high - low)
    if not centres.any() or high <= low:
        return np.zeros(flat.shape, dtype=bool)
    distance = ndimage.distance_transform_edt(~centres)
    mask: npt.NDArray[np.bool_] = distance <= radius_px
    return mask


def hann(shape: tuple[int, ...]) -> Image:
    """Window (y, x) that falls to zero at the border.

    Examples
    --------
    >>> hann((5, 5))[2, 2].item(), hann((5, 5))[0, 0].item() < 0.1
    (1.0, True)
    """
    rows, columns = (np.hanning(n + 2)[1:-1] for n in shape)
    window: Image = np.outer(rows, columns)
    return window


@dataclass(frozen=True)
class Peaks:
    """Fourier peaks, the strongest first; of each pair of opposite peaks one is kept.

    Parameters
    ----------
    frequency : ndarray, shape (n, 2)
        ``(fy, fx)`` in periods per pixel, refined between the samples.
    power : ndarray, shape (n,)
        Relative to the strongest.

    Examples
    --------
    >>> _, x = np.indices((64, 64))
    >>> peaks = fourier_peaks([np.cos(2 * np.pi * x / 8)])
    >>> float(peaks.spacing_px()[0].round(2))
    8.0
    """

    frequency: npt.NDArray[np.float64]
    power: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.power)

    def spacing_px(self) -> npt.NDArray[np.float64]:
        """Plane spacings in pixels, (n,)."""
        return self.spacing((1.0, 1.0))

    def spacing(self, pixel_size: tuple[float, float]) -> npt.NDArray[np.float64]:
        """Plane spacings in the unit of the pixel size ``(y, x)``, (n,)."""
        spacings: npt.NDArray[np.float64] = 1 / np.hypot(*(self.frequency / pixel_size).T)
        return spacings


def fourier_peaks(frames: Iterable[npt.NDArray[np.floating]], most: int = 12) -> Peaks:
    """Find the Fourier peaks of frames (y, x) of one shape; their power is averaged.

    Background and bright spots are taken out before, so that neither a thickness gradient nor a
    dopant hides the lattice. A peak stands out of the median power at its radius, and out of
    that of its row and column, which carry the noise of the scan.

    Parameters
    ----------
    frames : iterable of ndarray (y, x)
        Any number type; NaN is allowed.
    most : int
        How many peaks to return at most.

    Examples
    --------
    >>> len(fourier_peaks([np.random.default_rng(0).normal(size=(64, 64))]))
    0
    """
    power = None
    for frame in frames:
        flat = flatten(frame)
        flat[bright_spots(flat)] = 0
        one = np.abs(np.fft.fftshift(np.fft.fft2(flat * hann(flat.shape)))) ** 2
        power = one if power is None else power + one
    if power is None or not power.any():
        return Peaks(np.empty((0, 2)), np.empty(0))
    centre = np.array(power.shape) // 2
    y, x = np.indices(power.shape) - centre[:, None, None]
    maxima = ndimage.maximum_filter(power, 7) == power
    half = (y > 0) | ((y == 0) & (x > 0))
    # Ellipses, so that "periods in a frame" holds for frames that are not square.
    radius = np.hypot(y / power.shape[0], x / power.shape[1]) * max(power.shape)
    ok = maxima & half & (radius >= LEAST_PERIODS) & (power > LEAST_RATIO * _noise(power, radius))
    found = np.argwhere(ok)
    order = np.argsort(-power[ok], kind="stable")[:most]
    frequency = np.array([_refine(power, *found[i]) - centre for i in order]).reshape(-1, 2)
    strength = power[ok][order]
    return Peaks(frequency / power.shape, strength / strength.max(initial=1e-300))


def _noise(power: Image, radius: Image) -> Image:
    """Noise power around each frequency: of its ring, on the axes also of its row or column."""
    rings = radius.astype(int)
    median = ndimage.median(power, rings, np.arange(rings.max() + 1))
    noise: Image = np.maximum(np.asarray(median)[rings], power.max() * 1e-12)
    row, column = np.array(power.shape) // 2
    for lines in (np.s_[row - 1 : row + 2, :], np.s_[:, column - 1 : column + 2]):
        axis = 0 if lines[0] == slice(None) else 1
        along = np.median(power[lines], axis=axis, keepdims=True)
        noise[lines] = np.maximum(noise[lines], along)
    return noise


def _refine(power: Image, y: int, x: int) -> npt.NDArray[np.float64]:
    """Position of a maximum between samples, by parabolas through the logarithm."""
    position = np.array([y, x], dtype=float)
    for axis, (i, n) in enumerate(zip((y, x), power.shape, strict=True)):
        if 0 < i < n - 1:
            line = power[i - 1 : i + 2, x] if axis == 0 else power[y, i - 1 : i + 2]
            a, b, c = np.log(np.maximum(line, 1e-300))
            if (curve := a - 2 * b + c) < 0:
                position[axis] += np.clip(0.5 * (a - c) / curve, -0.5, 0.5)
    return position
