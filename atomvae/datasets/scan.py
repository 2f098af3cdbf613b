"""How the beam sees the sample: drift, shear, row jitter, and when a row is scanned."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvae.datasets.lattices import Floats
from atomvae.datasets.presets import Preset

BEND_PX = 12.0  # how far the beam needs to settle after the flyback
MAINS_HZ = 50.0


@dataclass(frozen=True)
class Scan:
    """The scan of a movie: from sample positions to positions in a frame.

    Attributes
    ----------
    preset : Preset
    seed : int
    path : ndarray (frames + 1, 2) float64
        Position (y, x) of the sample in px at the start of each frame and at the end of the last;
        linear between.
    """

    preset: Preset
    seed: int
    path: Floats

    @classmethod
    def plan(cls, preset: Preset, seed: int) -> "Scan":
        """Draw the drift of a movie.

        Parameters
        ----------
        preset : Preset
        seed : int

        Returns
        -------
        Scan
        """
        rng = np.random.default_rng([seed, 21])
        steps = np.array(preset.drift_px) + preset.drift_walk_px * rng.standard_normal(
            (preset.frames, 2)
        )
        return cls(preset, seed, np.vstack([np.zeros((1, 2)), np.cumsum(steps, axis=0)]))

    @property
    def drift(self) -> Floats:
        """Content of each frame relative to frame 0, (frames, 2) px, in the middle of the frame."""
        middle: Floats = 0.5 * (self.path[1:] + self.path[:-1])
        relative: Floats = middle - middle[0]
        return relative

    def extent_px(self) -> tuple[Floats, Floats]:
        """How far the sample moves up and left, down and right at most: (2,) and (2,), >= 0."""
        return -self.path.min(axis=0), self.path.max(axis=0)

    def row_shift(self, frame: int) -> Floats:
        """Shift along x of the content of each row of a frame in px, (rows,)."""
        preset = self.preset
        rows = preset.shape[0]
        rng = np.random.default_rng([self.seed, frame, 22])
        white = rng.standard_normal(rows)
        phase = rng.uniform(0, 2 * np.pi)
        row_time = preset.frame_time_s / rows * np.arange(rows)
        hum = np.sin(2 * np.pi * MAINS_HZ * row_time + phase)
        shift: Floats = preset.jitter_px * white + preset.hum_px * hum
        return shift

    def place(self, y_nm: Floats, x_nm: Floats, frame: int) -> tuple[Floats, Floats]:
        """Where sample positions lie in a frame, when their row is scanned, without row shifts.

        Parameters
        ----------
        y_nm, x_nm : ndarray (n,) float64
            Sample positions, nm from the middle of the field.
        frame : int

        Returns
        -------
        tuple of ndarray (n,)
            y and x in px of the frame.
        """
        preset = self.preset
        y0, x0 = sample_px(y_nm, x_nm, preset)
        start, step = self.path[frame], self.path[frame + 1] - self.path[frame]
        # The row in which it is met, while it moves: y = y0 + start + step * y / rows
        y = (y0 + start[0]) / (1 - step[0] / preset.shape[0])
        middle = (preset.shape[0] - 1) / 2
        x = x0 + start[1] + step[1] * y / preset.shape[0] + preset.shear * (y - middle)
        return y, x + preset.flyback_bend_px * np.exp(-np.maximum(x, 0) / BEND_PX)

    def lit(self, y_nm: Floats, x_nm: Floats, frame: int) -> NDArray[np.bool_]:
        """Whether sample positions lie in a frame, (n,) bool."""
        y, x = self.place(y_nm, x_nm, frame)
        height, width = self.preset.shape
        return (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)

    def seen(self, y: Floats, x: Floats, frame: int, sigma_px: float) -> Floats:
        """X as it appears: with the row shifts, averaged over the rows of a spot.

        Parameters
        ----------
        y, x : ndarray (n,) float64
            Positions from `place`.
        frame : int
        sigma_px : float
            Width of a spot.

        Returns
        -------
        ndarray (n,)
        """
        shift = self.row_shift(frame)
        half = int(np.ceil(4 * sigma_px))
        rows = np.round(y).astype(int)[:, None] + np.arange(-half, half + 1)  # (n, rows of spot)
        weight = np.exp(-0.5 * ((rows - y[:, None]) / sigma_px) ** 2)
        weight *= (rows >= 0) & (rows < len(shift))
        total = weight.sum(axis=1)
        mean = (weight * shift[np.clip(rows, 0, len(shift) - 1)]).sum(axis=1)
        seen: Floats = x + mean / np.maximum(total, 1e-12)
        return seen


def sample_px(y_nm: Floats, x_nm: Floats, preset: Preset) -> tuple[Floats, Floats]:
    """Sample positions in pixels of an undistorted frame at rest.

    Parameters
    ----------
    y_nm, x_nm : ndarray (n,) float64
        nm from the middle of the field.
    preset : Preset

    Returns
    -------
    tuple of ndarray (n,)

    Examples
    --------
    >>> y, x = sample_px(np.zeros(1), np.ones(1), Preset(shape=(9, 9), pixel_nm=0.5))
    >>> y.tolist(), x.tolist()
    ([4.0], [6.0])
    """
    height, width = preset.shape
    return y_nm / preset.pixel_nm + (height - 1) / 2, x_nm / preset.pixel_nm + (width - 1) / 2
