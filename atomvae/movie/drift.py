"""Drift between the frames of a periodic sample, where the nearest match is often wrong."""

from collections import deque
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy import ndimage

from atomvae.errors import InputError
from atomvae.movie.correlate import Candidates, Prepared, Scale, candidates, prepare
from atomvae.movie.movie import Movie
from atomvae.movie.spectrum import fourier_peaks
from atomvae.movie.trajectory import SUREST, Step, choose_path, solve_positions
from atomvae.settings import Settings

Array = npt.NDArray[np.float64]

COLUMNS = ["frame", "dy", "dx", "sd", "ambiguous", "score"]
LAGS = (2, 4)  # further pairs, so that the errors of the neighbours do not add up
BINNED_SIDE = 512  # px; larger frames are binned, as long as the lattice stays resolved
BINNED_SPACING = 10.0  # px
LOST = 1e3  # px; error of a shift that nothing is known about


class DriftConfig(Settings):
    """Settings of the drift estimate."""

    max_shift_px: float | None = Field(default=None, gt=0)
    """Largest shift from one frame to the next, px; a quarter of the frame when not given."""

    spacing_px: float | None = Field(default=None, gt=0)
    """Plane spacing of the lattice, px; from the Fourier peaks when not given."""

    candidate_fraction: float = Field(default=0.6, gt=0, le=1)
    """Correlation maxima this high, relative to the best, are possible shifts."""

    velocity_spread_px: float | None = Field(default=None, gt=0)
    """Usual change of the shift from frame to frame, px; a third of the spacing when not given."""

    landmark_weight: float = Field(default=1.0, ge=0)
    """How much bright spots, edges and vacancies count against smoothness; 0: not at all."""

    ambiguous_margin: float = Field(default=3.0, ge=0)
    """A frame is ambiguous when another answer is less than this worse (natural log of odds)."""


def estimate_drift(movie: Movie, config: DriftConfig | None = None) -> pd.DataFrame:
    """Where the content of each frame lies, relative to the first frame.

    Neighbouring frames are correlated without their background and bright spots. A lattice
    matches itself in many places: all of them are kept, and one path through the movie is chosen
    by correlation, smooth velocity and landmarks together (dynamic programming). Pairs of frames
    further apart then sharpen it by least squares. Frames are read one by one.

    Parameters
    ----------
    movie : Movie
        Calibration is not needed. Gaps in ``metadata["frame_index"]`` are respected.
    config : DriftConfig, optional
        Default: everything from the data.

    Returns
    -------
    DataFrame
        One row per frame: ``frame``; ``dy``, ``dx`` (px): what is at (y, x) in frame 0 is at
        (y + dy, x + dx) here; ``sd`` (px, per axis, of dy and dx); ``ambiguous``: the step to
        this frame might as well be another lattice vector; ``score``: normalised correlation
        with the frame before, NaN where nothing was found.

    Examples
    --------
    >>> y, x = np.indices((96, 96))
    >>> blob = [np.exp(-((y - 40 - 2 * t) ** 2 + (x - 50 + t) ** 2) / 50) for t in range(3)]
    >>> estimate_drift(Movie.from_array(np.array(blob)))[["dy", "dx"]].round(1).values.tolist()
    [[0.0, 0.0], [2.0, -1.0], [4.0, -2.0]]
    """
    config = config or DriftConfig()
    n = movie.n_frames
    if n == 1:
        return _table(np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), np.full(1, np.nan))
    scale, factor = _scale(movie, config)
    found = _all_candidates(movie, scale, factor, config.candidate_fraction)
    neighbours = [found[t, t + 1] for t in range(n - 1)]
    length = scale.lattice or 8 * scale.smooth
    spread = config.velocity_spread_px / factor if config.velocity_spread_px else length / 3
    steps = _steps(neighbours, _times(movie), config.landmark_weight, length)
    chosen, margin = choose_path(steps, spread, apart=length / 2)
    path = np.array([step.shift[k] for step, k in zip(steps, chosen, strict=True)])
    pairs, shifts, sds = _on_path(found, np.vstack([np.zeros(2), path.cumsum(axis=0)]), length)
    position, sd = solve_positions(pairs, shifts, sds, n)
    score = [c.score[k] if len(c) else np.nan for c, k in zip(neighbours, chosen, strict=True)]
    ambiguous = (margin < config.ambiguous_margin) | np.isnan(score)
    return _table(position * factor, sd * factor, np.r_[False, ambiguous], np.r_[np.nan, score])


def _table(position: Any, sd: Any, ambiguous: Any, score: Any) -> pd.DataFrame:
    """Make the table of drift."""
    frame = np.arange(len(sd), dtype=np.int64)
    values = (frame, position[:, 0], position[:, 1], sd, ambiguous, score)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def _scale(movie: Movie, config: DriftConfig) -> tuple[Scale, int]:
    """Return the lengths to work with, in binned pixels, and the binning."""
    spacing = config.spacing_px
    if spacing is None:
        peaks = fourier_peaks(movie.frame(t) for t in range(min(4, movie.n_frames)))
        strong = peaks.spacing_px()[peaks.power > 0.1]
        # One peak alone is a stripe or noise; a lattice has two directions.
        spacing = float(strong.max()) if len(strong) > 1 else None
    side = min(movie.shape[1:])
    factor = max(1, side // BINNED_SIDE)
    if spacing is not None:
        factor = max(1, min(factor, int(spacing / BINNED_SPACING)))
    reach = config.max_shift_px if config.max_shift_px is not None else side / 4
    reach = int(np.ceil(min(reach, 0.7 * side) / factor))
    if spacing is None:
        return Scale(None, 2.0, max(reach, 2)), factor
    return Scale(spacing / factor, max(1.0, spacing / factor / 8), max(reach, 2)), factor


def _binned(movie: Movie, t: int, factor: int) -> npt.NDArray[np.floating]:
    """Read a frame and average blocks of pixels."""
    frame = movie.frame(t)
    if factor == 1:
        return frame
    rows, columns = (n // factor for n in frame.shape)
    blocks = frame[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    mean: npt.NDArray[np.floating] = blocks.mean(axis=(1, 3))
    return mean


def _all_candidates(
    movie: Movie, scale: Scale, factor: int, fraction: float
) -> dict[tuple[int, int], Candidates]:
    """Return the possible shifts between neighbours and over `LAGS`, holding few frames."""
    found = {}
    recent: deque[Prepared] = deque(maxlen=max(LAGS) + 1)
    for t in range(movie.n_frames):
        recent.append(prepare(_binned(movie, t, factor), scale))
        for lag in (1, *LAGS):
            if lag < len(recent):
                before, after = recent[-1 - lag], recent[-1]
                found[t - lag, t] = candidates(before, after, scale, fraction, lag == 1)
    return found


def _on_path(
    found: dict[tuple[int, int], Candidates], path: Array, length: float
) -> tuple[npt.NDArray[np.intp], Array, Array]:
    """Return the pairs of frames, and the shift and its error next to where the path expects it."""
    pairs, shifts, sds = [], [], []
    for (a, b), possible in found.items():
        away = np.hypot(*(possible.shift - (path[b] - path[a])).T)
        if len(away) and away.min() < 0.3 * length:
            k = int(np.argmin(away))
            pairs.append((a, b))
            shifts.append(possible.shift[k])
            sds.append(possible.sd[k])
        elif b == a + 1:  # nothing was found: only loosely where it was
            pairs.append((a, b))
            shifts.append(path[b] - path[a])
            sds.append(LOST)
    return np.array(pairs), np.array(shifts), np.array(sds)


def _steps(found: list[Candidates], times: Array, landmarks: float, length: float) -> list[Step]:
    """Add up what speaks against each shift; a pair without a match may have moved or not.

    Of equal matches the smaller shift is more likely: drift beyond a spacing is rare.
    """
    steps = []
    for possible, time in zip(found, times, strict=True):
        if len(possible) == 0:
            steps.append(Step(np.zeros((1, 2)), np.zeros(1), float(time)))
            continue
        cost = np.minimum(possible.doubt, SUREST)
        cost += landmarks * np.minimum(possible.landmark_doubt, SUREST)
        cost += np.minimum((possible.shift**2).sum(axis=1) / (2 * time * length**2), SUREST)
        steps.append(Step(possible.shift, cost, float(time)))
    return steps


def _times(movie: Movie) -> npt.NDArray[np.float64]:
    """Return the times between neighbours, in units of the usual one."""
    index = movie.metadata.get("frame_index")
    if index is None or len(index) != movie.n_frames:
        return np.ones(movie.n_frames - 1)
    return np.maximum(np.diff(np.asarray(index, dtype=float)), 1.0)


def correct_drift(movie: Movie, drift: pd.DataFrame) -> Movie:
    """Movie in which the content of every frame lies where it is in the first.

    Frames are moved when they are read, by linear interpolation, which correlates the noise of
    neighbouring pixels: to measure positions, correct the positions instead.

    Parameters
    ----------
    movie : Movie
        Any movie.
    drift : DataFrame
        ``frame``, ``dy``, ``dx`` (px) for each of its frames, as of `estimate_drift`.

    Returns
    -------
    Movie
        float32; NaN where the frame has no pixels.

    Raises
    ------
    InputError
        When the table does not have one finite shift for every frame.

    Examples
    --------
    >>> frames = np.zeros((2, 8, 8), "float32")
    >>> frames[0, 3, 3] = frames[1, 4, 5] = 1
    >>> drift = pd.DataFrame({"frame": [0, 1], "dy": [0.0, 1.0], "dx": [0.0, 2.0]})
    >>> corrected = correct_drift(Movie.from_array(frames), drift).frame(1)
    >>> float(corrected[3, 3]), bool(np.isnan(corrected[7, 7]))
    (1.0, True)
    """
    shifts = _shifts(movie, drift)
    chunks = (movie.frames.chunks[0], (2,), (1,))
    moved = da.map_blocks(
        _move_block,
        movie.frames,
        da.from_array(shifts[:, :, None], chunks=chunks),
        dtype=np.float32,
        chunks=movie.frames.chunks,
        meta=np.empty((0, 0, 0), np.float32),
    )
    metadata = {**movie.metadata, "drift_corrected": True}
    return replace(movie, frames=moved, metadata=metadata)


def _shifts(movie: Movie, drift: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the shifts (t, 2) in the order of frames, checked."""
    if missing := {"frame", "dy", "dx"} - set(drift.columns):
        raise InputError(f"the drift table lacks {', '.join(sorted(missing))}; see estimate_drift")
    table = drift.sort_values("frame")
    shifts = table[["dy", "dx"]].to_numpy(dtype=float)
    if table["frame"].tolist() != list(range(movie.n_frames)) or not np.isfinite(shifts).all():
        raise InputError(
            f"the drift table has {len(table)} rows; expected one finite shift for each of the "
            f"{movie.n_frames} frames, 0 to {movie.n_frames - 1}"
        )
    return shifts


def _move_block(
    block: npt.NDArray[Any], shifts: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Move the frames of one block (t, y, x) back by their shifts (t, 2, 1)."""
    moved = np.empty(block.shape, np.float32)
    for out, frame, shift in zip(moved, block, shifts[:, :, 0], strict=True):
        pixels = np.asarray(frame, np.float32)
        ndimage.shift(pixels, -shift, output=out, order=1, mode="constant", cval=np.nan)
    return moved
