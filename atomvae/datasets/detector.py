"""From expected electrons to the numbers in a file."""

import numpy as np
from numpy.typing import NDArray

from atomvae.datasets.lattices import Floats
from atomvae.datasets.presets import Preset


def detect(expected: Floats, preset: Preset, rng: np.random.Generator) -> NDArray[np.generic]:
    """Count electrons and digitise: `offset + gain * electrons`, rounded and clipped to the type.

    Parameters
    ----------
    expected : ndarray (rows, columns) float64
        Expected electrons per pixel.
    preset : Preset
        Gain, offset, type and the faults of the detector.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray (rows, columns) of preset.dtype

    Examples
    --------
    >>> detect(np.zeros((8, 8)), Preset(offset=10), np.random.default_rng(0)).max()
    np.uint16(10)
    """
    # Rounded, so that the last bit of a sum cannot change the random numbers that follow.
    signal = rng.poisson(np.round(expected, 6)).astype(np.float64)
    if preset.pulse_spread:
        signal += preset.pulse_spread * np.sqrt(signal) * rng.standard_normal(signal.shape)
    if preset.row_noise:
        signal += preset.row_noise * rng.standard_normal((signal.shape[0], 1))
    if preset.afterglow:
        late = np.roll(signal, 1, axis=1)
        late[:, 0] = signal[:, 0]
        signal = (1 - preset.afterglow) * signal + preset.afterglow * late
    value = preset.offset + preset.gain * signal
    if preset.dtype != "float32":
        top = np.iinfo(preset.dtype).max
        value = np.clip(np.round(value), 0, top)
    return value.astype(preset.dtype)


def dark_rows(preset: Preset, frame: int, seed: int) -> NDArray[np.bool_]:
    """Rows that the beam did not reach: single ones, or all from some row on.

    Parameters
    ----------
    preset : Preset
    frame : int
    seed : int

    Returns
    -------
    ndarray (rows,) bool
    """
    rng = np.random.default_rng([seed, frame, 51])
    rows = preset.shape[0]
    dark = rng.random(rows) < preset.lost_rows
    if rng.random() < preset.lost_frames:
        dark[int(rng.integers(0, rows)) :] = True
    return dark
