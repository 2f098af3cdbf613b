"""The expected number of electrons per pixel: atoms seen through a probe, and contamination."""

from dataclasses import dataclass

import numpy as np

from atomvae.datasets.lattices import Floats
from atomvae.datasets.presets import Preset

BLOCK = 1000  # atoms drawn at once: bounds the memory


@dataclass(frozen=True)
class Spots:
    """Atoms to draw in a frame.

    Attributes
    ----------
    y, x : ndarray (n,) float64
        Positions in px, without row shifts.
    electrons : ndarray (n,) float64
        Expected electrons of the whole spot.
    start, stop : ndarray (n,) float64
        An atom is there while rows start <= row < stop are scanned.
    """

    y: Floats
    x: Floats
    electrons: Floats
    start: Floats
    stop: Floats

    def part(self, rows: slice) -> "Spots":
        """Return some of the atoms."""
        return Spots(*(a[rows] for a in (self.y, self.x, self.electrons, self.start, self.stop)))


def wander(frame: float, seed: int, key: int) -> float:
    """Smooth random function of time with values in [-1, 1], for whatever changes slowly.

    Parameters
    ----------
    frame : float
    seed : int
    key : int
        Different keys give independent functions.

    Returns
    -------
    float

    Examples
    --------
    >>> -1 <= wander(3, seed=0, key=1) <= 1
    True
    """
    phases = np.random.default_rng([seed, 31, key]).uniform(0, 2 * np.pi, 3)
    periods = np.array([13.0, 29.0, 67.0])
    return float(np.sin(2 * np.pi * frame / periods + phases).mean())


def probe_shape(preset: Preset, frame: int, seed: int) -> tuple[float, float, float]:
    """Inverse covariance (yy, yx, xx) in px^-2 of the core of the probe in a frame.

    Parameters
    ----------
    preset : Preset
    frame : int
    seed : int

    Returns
    -------
    tuple of float
    """
    sigma = preset.probe_nm / preset.pixel_nm * (1 + preset.defocus * wander(frame, seed, 1))
    stretch = preset.astigmatism * (0.5 + 0.5 * wander(frame, seed, 2))
    angle = np.pi * wander(frame, seed, 3)
    long, short = (sigma * (1 + stretch)) ** -2, (sigma * (1 - stretch)) ** -2
    c, s = np.cos(angle), np.sin(angle)
    return long * s * s + short * c * c, (long - short) * c * s, long * c * c + short * s * s


def draw(
    preset: Preset, spots: Spots, row_shift: Floats, inverse: tuple[float, float, float]
) -> Floats:
    """Draw the expected electrons of the atoms.

    Parameters
    ----------
    preset : Preset
    spots : Spots
    row_shift : ndarray (rows,) float64
        Shift of each row along x, px.
    inverse : tuple of float
        Inverse covariance of the core, from `probe_shape`.

    Returns
    -------
    ndarray (rows, columns) float64
    """
    image = np.zeros(preset.shape)
    for first in range(0, len(spots.y), BLOCK):
        part = spots.part(slice(first, first + BLOCK))
        image += (1 - preset.tail) * _cores(preset.shape, part, row_shift, inverse)
        if preset.tail:
            image += preset.tail * _tails(preset, part)
    return image


def _cores(
    shape: tuple[int, int], spots: Spots, row_shift: Floats, inverse: tuple[float, float, float]
) -> Floats:
    """Gaussian cores, each in a window of its own; row shifts are exact, not interpolated."""
    height, width = shape
    yy, yx, xx = inverse
    determinant = yy * xx - yx * yx
    half = int(np.ceil(4.2 * np.sqrt(max(yy, xx) / determinant)))
    steps = np.arange(-half, half + 1)
    rows = np.round(spots.y).astype(np.int64)[:, None] + steps  # (n, k)
    columns = np.round(spots.x).astype(np.int64)[:, None] + steps  # (n, k)
    scanned = (rows >= 0) & (rows < height)
    scanned &= (rows >= spots.start[:, None]) & (rows < spots.stop[:, None])
    rows = np.clip(rows, 0, height - 1)
    dy = (rows - spots.y[:, None])[:, :, None]  # (n, k, 1)
    dx = columns[:, None, :] - spots.x[:, None, None] - row_shift[rows][:, :, None]  # (n, k, k)
    value = np.exp(-0.5 * (yy * dy * dy + 2 * yx * dy * dx + xx * dx * dx))
    value *= (spots.electrons * np.sqrt(determinant) / (2 * np.pi))[:, None, None]
    value *= scanned[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    flat = rows[:, :, None] * width + np.clip(columns, 0, width - 1)[:, None, :]
    image = np.zeros(height * width)
    image += np.bincount(flat.ravel(), value.ravel(), minlength=height * width)
    return image.reshape(shape)


def _tails(preset: Preset, spots: Spots) -> Floats:
    """Broad round tails as a product of rows and columns; row shifts do not matter to them."""
    sigma = preset.tail_width * preset.probe_nm / preset.pixel_nm
    rows, columns = (np.arange(n)[:, None] for n in preset.shape)
    along_y = np.exp(-0.5 * ((rows - spots.y) / sigma) ** 2)  # (rows, n)
    along_y *= (rows >= spots.start) & (rows < spots.stop)
    along_x = np.exp(-0.5 * ((columns - spots.x) / sigma) ** 2)  # (columns, n)
    return (along_y * (spots.electrons / (2 * np.pi * sigma**2))) @ along_x.T


def contamination(preset: Preset, offset_px: Floats, frame: int, seed: int) -> Floats:
    """Amorphous matter on the sample that spreads with time, in electrons per px.

    A random field of long waves, above a threshold that sinks, times a texture of short waves.

    Parameters
    ----------
    preset : Preset
    offset_px : ndarray (2,) float64
        Where the sample is in this frame.
    frame : int
    seed : int

    Returns
    -------
    ndarray (rows, columns) float64
    """
    if not preset.contamination:
        return np.zeros(preset.shape)
    threshold = 1.3 - preset.contamination_growth * frame
    patches = np.clip(_waves(preset, offset_px, 3.0, seed, 41) - threshold, 0, None)
    texture = np.clip(1 + 0.35 * _waves(preset, offset_px, 0.35, seed, 42), 0, None)
    return preset.dose * preset.contamination * patches * texture


def _waves(preset: Preset, offset_px: Floats, length_nm: float, seed: int, key: int) -> Floats:
    """Sum of random plane waves of about one length, unit variance."""
    rng = np.random.default_rng([seed, key])
    count = 32
    number = 2 * np.pi * preset.pixel_nm / (length_nm * rng.uniform(0.7, 1.6, count))
    direction, phase = rng.uniform(0, 2 * np.pi, (2, count))
    rows, columns = (np.arange(n)[:, None] for n in preset.shape)
    along_y = np.exp(1j * ((rows - offset_px[0]) * number * np.sin(direction) + phase))
    along_x = np.exp(1j * (columns - offset_px[1]) * number * np.cos(direction))
    waves: Floats = np.real(along_y @ along_x.T) * np.sqrt(2 / count)
    return waves
