"""Where atoms would be found in a frame, fast enough to follow a slider."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from atomvae.atoms.candidates import Peaks, local_peaks, noise_threshold, score_threshold
from atomvae.atoms.config import DetectConfig
from atomvae.atoms.detect import DETECTORS
from atomvae.atoms.mask import clean_frame

SLOW = ("polarity", "crystal", "noise", "gain", "offset", "noise_sd", "contamination")
TRUNCATE = 3.0  # widths: where a Gaussian ends, as in the detection
FAR = 1e-3  # weight below which a pixel is far from all valid ones, as in the detection


class Preview(NamedTuple):
    """Candidates in one frame: positions in px, scores, and the settings as they were resolved."""

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    score: NDArray[np.float64]
    config: DetectConfig


class Previewer:
    """One frame, prepared so that a change of width or threshold costs little.

    The candidates are those of the detection itself (`atomvae.atoms.detect.columns_detector`).
    The fit and the completion by the lattice, which take seconds to minutes, are left out.

    Parameters
    ----------
    frame : array (y, x)
        Any real dtype.

    Examples
    --------
    >>> image = np.zeros((64, 64)); image[20, 11] = 100.0
    >>> found = Previewer(image).find(DetectConfig(width_px=1.5))
    >>> round(float(found.y[0])), round(float(found.x[0]))
    (20, 11)
    """

    def __init__(self, frame: ArrayLike) -> None:
        self._image, self._valid = clean_frame(frame)
        self._means: dict[Any, tuple[DetectConfig, FastMean]] = {}
        self._last: tuple[Any, NDArray[np.float64], Peaks] | None = None

    def find(self, config: DetectConfig) -> Preview:
        """Find the candidates.

        Parameters
        ----------
        config : DetectConfig
            What it leaves open is taken from this frame.

        Returns
        -------
        Preview
        """
        if not self._valid.any() or np.ptp(self._image[self._valid]) == 0:
            return Preview(np.zeros(0), np.zeros(0), np.zeros(0), config)
        base, mean = self._measured(config)
        open_ = {
            name for name in (*SLOW, "width_px", "spacing_px") if getattr(config, name) is None
        }
        asked = config.model_copy(update={name: getattr(base, name) for name in open_})
        width = float(asked.width_px or 1.0)
        if asked.detector != "columns" and asked.detector in DETECTORS:
            asked = asked.model_copy(update={"threshold": config.threshold or base.threshold})
            table = DETECTORS[asked.detector](self._image, mean.valid, asked)
            return Preview(*(table[name].to_numpy(float) for name in ("y", "x", "score")), asked)
        score, peaks = self._peaks(asked, mean)
        threshold = config.threshold or base.threshold
        if config.threshold is None and width != base.width_px:
            pits = local_peaks(-score, mean.valid, width)
            least = noise_threshold(int(mean.valid.sum()), width)
            threshold = score_threshold(peaks.score, pits.score, least, bool(asked.crystal))
        asked = asked.model_copy(update={"threshold": threshold})
        keep = peaks.score >= float(threshold or 0.0)
        return Preview(peaks.y[keep], peaks.x[keep], peaks.score[keep], asked)

    def _measured(self, config: DetectConfig) -> tuple[DetectConfig, "FastMean"]:
        """What hardly depends on width and threshold: taken from the frame once."""
        given = {name: getattr(config, name) for name in SLOW}
        key = tuple(given.values())
        if key not in self._means:
            base = DetectConfig(**given).resolve(np.where(self._valid, self._image, np.nan))
            usable = base.usable(self._image, self._valid)
            self._means[key] = base, FastMean(self._image, usable)
        return self._means[key]

    def _peaks(self, config: DetectConfig, mean: "FastMean") -> tuple[NDArray[np.float64], Peaks]:
        """Signal to noise ratio at each pixel and its maxima; kept while the width stays."""
        key = (config.width_px, config.sign, config.noise_model(), id(mean))
        if self._last is None or self._last[0] != key:
            score = config.scores(self._image, mean.valid, mean)
            self._last = key, score, local_peaks(score, mean.valid, float(config.width_px or 1.0))
        return self._last[1:]


class FastMean:
    """`atomvae.atoms.mask.local_mean` of one image for any width, by Fourier transforms.

    Parameters
    ----------
    image : ndarray (y, x) float64
        Finite.
    valid : ndarray (y, x) bool
        Pixels that count.

    Examples
    --------
    >>> from atomvae.atoms.mask import local_mean
    >>> image = np.random.default_rng(0).random((40, 50)); valid = image < 0.9
    >>> fast = FastMean(image, valid)(image, valid, 2.5)
    >>> bool(np.abs(fast - local_mean(image, valid, 2.5)).max() < 1e-5)
    True
    """

    def __init__(self, image: NDArray[np.float64], valid: NDArray[np.bool_]) -> None:
        self.valid = valid
        self._middle = float(image[valid].mean()) if valid.any() else 0.0
        # Deviations from the mean: single precision then loses nothing that matters.
        parts = [np.where(valid, image - self._middle, 0.0)]
        self._parts = parts if valid.all() else [*parts, valid.astype(np.float64)]
        self._room = 0
        self._spectra: list[NDArray[np.complex64]] = []
        self._size: tuple[int, int] = (0, 0)

    def __call__(self, image: Any, valid: Any, sigma: float) -> NDArray[np.float64]:
        """Mean of the valid pixels under a Gaussian, of the image given before."""
        radius = int(TRUNCATE * sigma + 0.5)
        if radius > self._room:
            self._prepare(max(24, 2 * radius))
        x = np.arange(-radius, radius + 1)
        weight = np.exp(-0.5 * (x / sigma) ** 2)
        weight /= weight.sum()
        rows, columns = (_response(weight, n) for n in self._size)
        kernel = rows[:, None] * columns[None, : self._size[1] // 2 + 1]
        inside = tuple(slice(self._room, self._room + n) for n in self.valid.shape)
        blurred = [fft.irfft2(s * kernel, self._size)[inside] for s in self._spectra]
        if len(blurred) == 1:
            return np.asarray(blurred[0], np.float64) + self._middle
        near = blurred[1] > FAR
        mean = np.where(near, blurred[0] / np.where(near, blurred[1], 1.0), 0.0)
        return np.asarray(mean, np.float64) + self._middle

    def _prepare(self, room: int) -> None:
        """Transform the image with room around it, where its edge goes on."""
        self._room = room
        size = [fft.next_fast_len(n + 2 * room, real=True) for n in self.valid.shape]
        self._size = (size[0], size[1])
        around = [(room, total - n - room) for total, n in zip(size, self.valid.shape, strict=True)]
        padded = [np.pad(part.astype(np.float32), around, mode="edge") for part in self._parts]
        self._spectra = [fft.rfft2(part) for part in padded]


def _response(weight: NDArray[np.float64], n: int) -> NDArray[np.float32]:
    """Fourier transform of a symmetric kernel on a circle of n places."""
    circle = np.zeros(n)
    reach = len(weight) // 2
    np.add.at(circle, np.arange(-reach, reach + 1) % n, weight)
    return np.asarray(fft.fft(circle).real, np.float32)
