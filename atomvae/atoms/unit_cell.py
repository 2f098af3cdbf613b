"""The unit cell of an image: vectors from its Fourier peaks, motif from its Fourier series."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

Floats = NDArray[np.float64]

STRONG = 12.0  # times the local noise power: the two peaks a lattice stands on
SIGNIFICANT = 6.0  # times the local noise power: further peaks, if they fit
PEAKS = 24
CELLS = 25  # in a frame: fewer make no lattice


class FourierPeaks(NamedTuple):
    """Significant peaks of the power spectrum, one of each pair g, -g, strongest first."""

    vector: Floats  # (n, 2) cycles per px, (y, x)
    ratio: Floats  # (n,) power over that of the noise around


def flattened(
    image: NDArray[Any], valid: NDArray[np.bool_] | None = None, blur_px: float = 1.0
) -> Floats:
    """Prepare an image for lattice work: blurred, levelled, without what is no lattice.

    Parameters
    ----------
    image
        Frame ``(y, x)``.
    valid
        Pixels to use; others become the level 0.
    blur_px
        Width of the Gaussian blur that takes away the shot noise.

    Returns
    -------
    numpy.ndarray
        ``(y, x)`` float64, mean about 0; 0 where not usable and around spots that are far
        brighter or darker than the rest.

    Examples
    --------
    >>> frame = np.random.default_rng(0).poisson(5.0, (32, 32)).astype(float)
    >>> frame[16, 16] = 1e6
    >>> bool(np.abs(flattened(frame)).max() < 10)
    True
    """
    usable = np.isfinite(image) if valid is None else np.isfinite(image) & valid
    flat = _levelled(image, usable, blur_px)
    if not usable.any():
        return flat
    low, high = np.percentile(flat[usable], [5, 95])
    strange = (flat > 2 * high - low) | (flat < 2 * low - high)
    if strange.any():
        strange = gaussian_filter(strange.astype(float), 2 * blur_px) > 0.03
        flat = _levelled(image, usable & ~strange, blur_px)
    return flat


def _levelled(image: NDArray[Any], usable: NDArray[np.bool_], blur_px: float) -> Floats:
    """Blurred image minus its level around; 0 where not usable."""
    weight = usable.astype(float)
    data = np.where(usable, image, 0.0)

    def smooth(sigma: float) -> Floats:
        share = gaussian_filter(weight, sigma, mode="constant", truncate=2.5)
        total = gaussian_filter(data, sigma, mode="constant", truncate=2.5)
        mean: Floats = total / np.maximum(share, 1e-3)
        return mean

    return np.where(usable, smooth(blur_px) - smooth(max(20.0, 4 * blur_px)), 0.0)


def fourier_peaks(flat: Floats, blur_px: float = 1.0) -> FourierPeaks:
    """Find the significant peaks of the power spectrum of a flattened image.

    The noise is the median power on the ring of the same radius, so that neither the shape of the
    probe nor the texture of an amorphous film counts as a lattice.

    Parameters
    ----------
    flat
        Image ``(y, x)`` from `flattened`.
    blur_px
        Blur it was given; nothing is sought where that leaves no signal.

    Returns
    -------
    FourierPeaks
        At most 24 peaks.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> wave = np.cos(2 * np.pi * (0.125 * y + 0.0625 * x)) + 0.1 * np.random.default_rng(0).normal(
    ...     size=(64, 64))
    >>> fourier_peaks(wave).vector.round(3).tolist()
    [[0.125, 0.063]]
    """
    window = np.hanning(flat.shape[0] + 2)[1:-1, None] * np.hanning(flat.shape[1] + 2)[1:-1]
    shape = [int(2 ** np.ceil(np.log2(n))) for n in flat.shape]
    power = np.abs(np.fft.fftshift(np.fft.fft2(flat * window, s=shape))) ** 2
    fy, fx = (np.fft.fftshift(np.fft.fftfreq(n)) for n in shape)
    radius = np.hypot(fy[:, None], fx)
    ring = np.rint(radius * min(flat.shape) / 3).astype(int)
    noise = _ring_median(power, ring)[ring]
    line = np.abs(fx) < 1.5 / flat.shape[1]  # rows carry an offset noise of their own
    noise[:, line] = np.maximum(noise[:, line], np.median(power[:, line], axis=0))
    ratio = power / (noise / np.log(2) + 1e-300)
    tops = (power == maximum_filter(power, 7)) & (ratio > SIGNIFICANT)
    tops &= (radius > 3.5 / min(flat.shape)) & (radius < min(0.47, 0.35 / blur_px))
    tops &= (fy[:, None] > 0) | ((fy[:, None] == 0) & (fx > 0))
    iy, ix = np.nonzero(tops)
    best = np.argsort(-power[iy, ix], kind="stable")[:PEAKS]
    iy, ix = iy[best], ix[best]
    log = np.log(power + 1e-300)
    vector = np.stack(
        [
            fy[iy] + _vertex(log, iy, ix, (1, 0)) / shape[0],
            fx[ix] + _vertex(log, iy, ix, (0, 1)) / shape[1],
        ],
        axis=1,
    )
    return FourierPeaks(vector, ratio[iy, ix])


def _ring_median(power: Floats, ring: NDArray[np.int64]) -> Floats:
    """Median of the power over each ring."""
    order = np.argsort(ring, axis=None, kind="stable")
    sizes = np.bincount(ring.ravel())
    parts = np.split(power.ravel()[order], np.cumsum(sizes)[:-1])
    return np.array([np.median(p) if len(p) else np.inf for p in parts])


def _vertex(
    values: Floats, iy: NDArray[np.int64], ix: NDArray[np.int64], axis: tuple[int, int]
) -> Floats:
    """Sub-pixel offset of maxima along one axis, by a parabola."""
    h, w = values.shape
    dy, dx = axis
    before = values[(iy - dy) % h, (ix - dx) % w]
    after = values[(iy + dy) % h, (ix + dx) % w]
    bend = before - 2 * values[iy, ix] + after
    offset: Floats = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0.0)
    return np.clip(offset, -0.5, 0.5)


def reciprocal_basis(peaks: FourierPeaks, size: int) -> tuple[Floats, float] | None:
    """Find the coarsest reciprocal lattice that explains the peaks.

    Parameters
    ----------
    peaks
        Significant peaks.
    size
        Shorter side of the image, px: sets how exactly a peak is known.

    Returns
    -------
    tuple of numpy.ndarray and float, or None
        ``(2, 2)``, rows are the two reduced vectors (cycles per px), and the ratio of the weaker
        of the two main peaks; None if the peaks do not stand on two
        strong directions with a third peak that fits both.

    Examples
    --------
    >>> peaks = FourierPeaks(np.array([[0.1, 0.1], [0.1, -0.1], [0.1, 0.0], [0.0, 0.1]]),
    ...                      np.array([90.0, 90.0, 50.0, 50.0]))
    >>> np.abs(reciprocal_basis(peaks, 256)[0]).round(6).tolist()
    [[0.1, 0.0], [0.0, 0.1]]
    """
    g = peaks.vector
    weight = np.maximum(np.sqrt(peaks.ratio) - np.sqrt(STRONG), 0)  # the weak may be chance
    best: tuple[float, float, Floats] | None = None
    found = []
    for i in range(min(len(g), 12)):
        for j in range(i + 1, min(len(g), 12)):
            pair = reduced(g[[i, j]])
            area = abs(np.linalg.det(pair))
            short = 0.5 * min(np.hypot(*g[i]), np.hypot(*g[j]))
            flat = area < 0.25 * np.hypot(*pair[0]) * np.hypot(*pair[1])
            if flat or np.hypot(*pair[0]) < short or area * size**2 < CELLS:
                continue  # nearly in line, or a fine net that anything fits
            found.append((float(weight[_indexed(g, pair, size)[1]].sum()), area, pair))
    if not found:
        return None
    enough = 0.93 * max(explained for explained, _, _ in found)
    best = max((f for f in found if f[0] >= enough), key=lambda f: (f[1], f[0]))
    index, near = _indexed(g, best[2], size)
    scale = weight[near, None]
    fit = np.linalg.lstsq(index[near] * scale, g[near] * scale, rcond=None)[0]
    if _directions(index[near]) < 3:
        return None  # two directions without a third that fits both may be chance
    strength = _strength(index[near], peaks.ratio[near])
    return (reduced(fit), strength) if strength > STRONG else None


def _directions(index: Floats) -> int:
    """Count the different directions among whole-numbered vectors."""
    whole = index.astype(int)
    whole = whole[np.abs(whole).sum(1) > 0]
    shortest = whole // np.gcd(*whole.T)[:, None] if len(whole) else whole
    sign = np.where(shortest[:, :1] != 0, np.sign(shortest[:, :1]), np.sign(shortest[:, 1:]))
    return len(np.unique(sign * shortest, axis=0))


def _strength(index: Floats, ratio: Floats) -> float:
    """Ratio of the strongest peak that is not in line with the strongest of all."""
    first = index[np.argmax(ratio)]
    across = np.abs(index @ [first[1], -first[0]]) > 0.5
    return float(ratio[across].max(initial=0.0))


def _indexed(g: Floats, pair: Floats, size: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Whole indices of the vectors on a basis, and which of them fit."""
    index = np.rint(g @ np.linalg.inv(pair))
    miss = np.hypot(*(index @ pair - g).T)
    near = miss < 1.5 / size + 0.03 * np.hypot(*g.T)
    # On a dense lattice everything is near something: the tolerance must stay a small part.
    return index, near & (miss < 0.2 * np.hypot(*pair[0]))


def reduced(pair: Floats) -> Floats:
    """Reduce two vectors to the shortest ones of the same lattice (Gauss).

    Examples
    --------
    >>> reduced(np.array([[10.0, 0.0], [31.0, 9.0]])).tolist()
    [[1.0, 9.0], [10.0, 0.0]]
    """
    a, b = np.asarray(pair, dtype=float)
    for _ in range(64):
        if a @ a > b @ b:
            a, b = b, a
        steps = np.rint(a @ b / max(a @ a, 1e-300))
        if steps == 0:
            break
        b = b - steps * a
    return np.stack([a, b])
