"""Settings of the detection: what is not given is taken from the data, and shown."""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from atomvae.atoms.candidates import (
    Peaks,
    local_peaks,
    noise_threshold,
    score_map,
    score_threshold,
)
from atomvae.atoms.mask import clean_frame, contaminated, local_mean
from atomvae.atoms.noise import Noise, estimate_noise
from atomvae.atoms.scale import PERIODIC, bright_columns, column_scale
from atomvae.movie.movie import Movie
from atomvae.settings import Settings, unit

_FILTER = 0.92  # of the width: a narrower filter tells close columns apart
_SAMPLES = 5  # frames of a movie that are looked at


class DetectConfig(Settings):
    """Settings of `detect_atoms`.

    Examples
    --------
    >>> DetectConfig(width_px=2.5).width_px
    2.5
    """

    width_px: float | None = Field(None, gt=0.3, allow_inf_nan=False)
    """Width (Gaussian sigma) of a column, px; from the autocorrelation."""
    spacing_px: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Distance of nearest columns, px; the median over the brighter candidates."""
    polarity: Literal["bright", "dark"] | None = None
    """Whether columns are bright or dark (annular bright field); from the file's signal name, else
    from the skewness of the image."""
    crystal: bool | None = None
    """Whether the columns form a lattice that fills the frame; from the autocorrelation."""
    noise: Literal["poisson", "gaussian"] | None = None
    """Likelihood of a pixel: poisson when variance against mean is a line, else gaussian."""
    gain: float | None = Field(
        None, gt=0, allow_inf_nan=False, json_schema_extra=unit("file units")
    )
    """File units per electron (poisson); slope of variance against mean."""
    offset: float | None = Field(None, allow_inf_nan=False, json_schema_extra=unit("file units"))
    """File value without electrons (poisson); zero of variance against mean."""
    noise_sd: float | None = Field(
        None, ge=0, allow_inf_nan=False, json_schema_extra=unit("file units")
    )
    """Standard deviation of a pixel, file units (gaussian)."""
    threshold: float | None = Field(
        None, gt=0, allow_inf_nan=False, json_schema_extra=unit("noise sd")
    )
    """Least signal to noise ratio of a candidate, in the matched filter; from the noise, the
    texture of the background, or the gap between columns and noise."""
    contamination: Literal["mask", "keep"] | None = None
    """Whether bright contamination is left out or searched like the rest; masked in a crystal."""
    joint: Literal["auto", "on", "off"] = "auto"
    """Joint fit of overlapping columns; auto: when the spacing is below four widths."""
    lattice: Literal["auto", "on", "off"] = "auto"
    """Completion of the atoms by the lattice; auto: when the frame shows one."""
    neighbour_passes: int = Field(2, ge=0, le=10, json_schema_extra=unit("fits"))
    """Fits repeated with the light of the neighbours taken into account."""
    detector: str = "columns"
    """Name of the function that proposes candidates, see `atomvae.atoms.detect.DETECTORS`."""

    def resolve(self, source: Movie | ArrayLike) -> "DetectConfig":
        """Fill in everything that is None, from the data.

        Parameters
        ----------
        source
            A movie, of which up to five frames are looked at, or one frame (y, x).

        Returns
        -------
        DetectConfig
            Without None. Resolving it again changes nothing.

        Raises
        ------
        InputError
            If a frame is not two-dimensional or not real numbers.

        Examples
        --------
        >>> image = np.random.default_rng(0).poisson(9.0, (64, 64))
        >>> config = DetectConfig(width_px=2).resolve(image)
        >>> config.noise, config.gain, config.polarity
        ('poisson', 1.0, 'bright')
        """
        missing = {name for name in _FROM_DATA if getattr(self, name) is None}
        if not missing:
            return self
        frames = [clean_frame(frame) for frame in _sample(source)]
        # A constant frame, a lost one say, has nothing to tell.
        frames = [f for f in frames if f[1].any() and np.ptp(f[0][f[1]]) > 0] or [_NOTHING]
        images, valid = [f[0] for f in frames], [f[1] for f in frames]
        scale = column_scale(images, valid, self.width_px)
        width = scale.width_px
        crystal = scale.periodicity > PERIODIC if self.crystal is None else self.crystal
        polarity = self.polarity or _named_polarity(source)
        if polarity is None:
            polarity = "bright" if bright_columns(images, valid, scale) else "dark"
        noise = self._noise(images, valid, width)
        found = self.model_copy(
            update={
                "width_px": width,
                "polarity": polarity,
                "noise": noise.kind,
                "gain": noise.gain,
                "offset": noise.offset,
                "noise_sd": noise.sd,
                "contamination": self.contamination or ("mask" if crystal else "keep"),
                "crystal": crystal,
            }
        )
        return found._with_threshold(images, valid)

    def noise_model(self) -> Noise:
        """Return the noise of a resolved config."""
        assert self.noise and self.gain and self.offset is not None and self.noise_sd is not None
        return Noise(self.noise, self.gain, self.offset, self.noise_sd)

    @property
    def sign(self) -> int:
        """1 for bright columns, -1 for dark ones."""
        return -1 if self.polarity == "dark" else 1

    def scores(
        self,
        image: NDArray[np.float64],
        valid: NDArray[np.bool_],
        mean: Callable[..., NDArray[np.float64]] = local_mean,
    ) -> NDArray[np.float64]:
        """Return the signal to noise ratio of a column at each pixel, for a resolved config."""
        assert self.width_px is not None
        width = _FILTER * self.width_px
        return self.sign * score_map(image, valid, width, self.noise_model(), mean)

    def usable(self, image: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the pixels (y, x) to search, for a resolved config."""
        if self.contamination != "mask" or self.width_px is None:
            return valid
        return valid & ~contaminated(self.sign * image, valid, self.width_px)

    def _noise(
        self, images: list[NDArray[np.float64]], valid: list[NDArray[np.bool_]], width: float
    ) -> Noise:
        """Noise of the middle frame, with what the user has given."""
        found = estimate_noise(images[len(images) // 2], valid[len(images) // 2], width)
        given = self.gain is not None or self.offset is not None
        kind = self.noise or ("poisson" if given else found.kind)
        counted = found.kind == "poisson" and kind == "poisson"
        gain = self.gain if self.gain is not None else (found.gain if counted else 1.0)
        offset = self.offset if self.offset is not None else (found.offset if counted else 0.0)
        return Noise(kind, gain, offset, found.sd if self.noise_sd is None else self.noise_sd)

    def _with_threshold(
        self, images: list[NDArray[np.float64]], valid: list[NDArray[np.bool_]]
    ) -> "DetectConfig":
        """Fill in threshold and spacing from the candidates of the frames."""
        assert self.width_px is not None
        valid = [self.usable(i, v) for i, v in zip(images, valid, strict=True)]
        scores = [self.scores(i, v) for i, v in zip(images, valid, strict=True)]
        frames = [local_peaks(s, v, self.width_px) for s, v in zip(scores, valid, strict=True)]
        threshold = self.threshold
        if threshold is None:
            pits = [local_peaks(-s, v, self.width_px) for s, v in zip(scores, valid, strict=True)]
            threshold = score_threshold(
                np.concatenate([peaks.score for peaks in frames]),
                np.concatenate([pit.score for pit in pits]),
                noise_threshold(int(np.mean([v.sum() for v in valid])), self.width_px),
                bool(self.crystal),
            )
        spacing = self.spacing_px or _spacing(frames, threshold, self.width_px)
        return self.model_copy(update={"threshold": threshold, "spacing_px": spacing})


_FROM_DATA = (
    "width_px", "spacing_px", "polarity", "noise", "gain", "offset", "noise_sd", "threshold",
    "crystal", "contamination",
)  # fmt: skip
_NOTHING = (np.zeros((1, 1)), np.ones((1, 1), bool))


def _sample(source: Movie | ArrayLike) -> list[ArrayLike]:
    """Frames to look at: the one given, or a few spread over the movie."""
    if not isinstance(source, Movie):
        return [source]
    chosen = np.unique(np.linspace(0, source.n_frames - 1, _SAMPLES).round().astype(int))
    return [source.frame(int(t)) for t in chosen] if source.n_frames else []


def _named_polarity(source: Movie | ArrayLike) -> Literal["bright", "dark"] | None:
    """Polarity by the name of the signal: dark field is bright columns, bright field dark ones."""
    signal = str(source.metadata.get("signal") or "").upper() if isinstance(source, Movie) else ""
    if "BF" in signal:
        return "dark"
    return "bright" if "DF" in signal else None


def _spacing(frames: Iterable[Peaks], threshold: float, width_px: float) -> float:
    """Median distance to the nearest candidate; six widths when there is hardly any."""
    nearest = []
    for peaks in frames:
        strong = peaks.score >= threshold
        if strong.sum() >= 3:
            points = np.stack([peaks.y[strong], peaks.x[strong]], axis=1)
            nearest.append(cKDTree(points).query(points, k=2)[0][:, 1])
    return float(np.median(np.concatenate(nearest))) if nearest else 6.0 * width_px
