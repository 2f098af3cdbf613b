"""The noun that everything starts from: frames in time with a calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError

BLOCK_BYTES = 16 * 2**20  # of a block of frames: small beside a worker, large beside a task
BLOCKS = 16  # a short movie still keeps that many workers busy


def frames_per_block(n_frames: int, frame_bytes: int, unit: int = 1) -> int:
    """Whole frames in one block, a multiple of `unit` (frames stored as one chunk).

    Examples
    --------
    >>> frames_per_block(1000, frame_bytes=2**19), frames_per_block(44, frame_bytes=2**19)
    (32, 3)
    """
    wanted = min(BLOCK_BYTES // max(frame_bytes, 1), -(-n_frames // BLOCKS))
    return min(max(wanted // unit, 1) * unit, n_frames)


def check_pixel_size(value: float | Sequence[float] | None) -> tuple[float, float] | None:
    """Return a pixel size as ``(y, x)`` in nm, or None when it is unknown.

    Raises
    ------
    InputError
        When it is not one or two positive, finite numbers.

    Examples
    --------
    >>> check_pixel_size(0.01)
    (0.01, 0.01)
    """
    if value is None:
        return None
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.shape == (1,):
        numbers = np.repeat(numbers, 2)
    if numbers.shape != (2,) or not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise InputError(
            f"the pixel size is {value!r}; expected one positive number, or two (y, x), in nm: "
            "correct it, or leave it out when it is unknown"
        )
    return float(numbers[0]), float(numbers[1])


def check_frame_time(value: float | None) -> float | None:
    """Return a frame time in s, or None when unknown; it must be positive and finite.

    Examples
    --------
    >>> check_frame_time(2)
    2.0
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = np.nan
    if not (np.isfinite(seconds) and seconds > 0):
        raise InputError(
            f"the frame time is {value!r}; expected one positive number of seconds: correct it, "
            "or leave it out when it is unknown"
        )
    return seconds


def check_frames(shape: Sequence[int], dtype: npt.DTypeLike, what: str = "the movie") -> None:
    """Raise InputError unless an array of this shape and dtype can be frames ``(t, y, x)``.

    Examples
    --------
    >>> check_frames((5, 64, 64), "uint16")
    """
    kind = np.dtype(dtype)
    if kind.kind not in "biuf":
        reason = {
            "c": "save the modulus",
            "O": "Python objects are never unpickled",
        }
        raise InputError(
            f"{what} has dtype {kind}; expected real numbers"
            + (f" ({reason[kind.kind]})" if kind.kind in reason else "")
        )
    if len(shape) != 3:
        raise InputError(
            f"{what} is {len(shape)}-D with shape {tuple(shape)}; expected (y, x) or (t, y, x): "
            "select the frames before"
        )
    if 0 in shape:
        raise InputError(f"{what} is empty: its shape is {tuple(shape)}")


@dataclass(frozen=True, eq=False)
class Movie:
    """Frames in time with a calibration; the frames are read when they are needed.

    Parameters
    ----------
    frames : dask.array.Array, shape (t, y, x)
        Real numbers; every block holds whole frames. A ``(y, x)`` array becomes one frame, a
        numpy array is wrapped.
    pixel_size : float or (float, float), optional
        nm per pixel, isotropic or ``(y, x)``; kept as ``(y, x)``. None: unknown.
    frame_time : float, optional
        Seconds from one frame to the next. None: unknown.
    name : str
        Names folders and layers.
    metadata : dict
        Normalised; among others ``path``, ``dataset``, ``pixel_size_from``, ``beam_energy_keV``,
        ``dwell_us``, ``frame_index`` (numbers of the frames where some are missing) and
        ``warnings``, a list of sentences for the user.
    original_metadata : dict
        As in the file.

    Raises
    ------
    InputError
        When the frames are empty, complex or not 2-D or 3-D, or a calibration is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> movie = Movie.from_array(np.zeros((5, 32, 48), "uint16"), pixel_size=0.01)
    >>> movie.shape, movie.pixel_size, movie[1:3].n_frames, movie.frame(0).dtype.name
    ((5, 32, 48), (0.01, 0.01), 2, 'float32')
    """

    frames: da.Array
    pixel_size: tuple[float, float] | None = None
    frame_time: float | None = None
    name: str = "movie"
    metadata: dict[str, Any] = field(default_factory=dict)
    original_metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.ndim == 2:
            frames = frames[None]
        check_frames(frames.shape, frames.dtype)
        if not isinstance(frames, da.Array):
            block = frames_per_block(len(frames), int(frames[0].nbytes))
            frames = da.from_array(np.asarray(frames), chunks=(block, -1, -1))
        elif frames.numblocks[1:] != (1, 1):
            frames = frames.rechunk({1: -1, 2: -1})
        settle = object.__setattr__  # the one place where the frozen fields are brought to form
        settle(self, "frames", frames)
        settle(self, "pixel_size", check_pixel_size(self.pixel_size))
        settle(self, "frame_time", check_frame_time(self.frame_time))
        settle(self, "metadata", {"warnings": [], **self.metadata})

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike | da.Array,
        pixel_size: float | tuple[float, float] | None = None,
        frame_time: float | None = None,
        name: str = "movie",
        metadata: Mapping[str, Any] | None = None,
    ) -> "Movie":
        """Movie of an array ``(y, x)`` or ``(t, y, x)`` in memory, or of a dask array."""
        frames = array if isinstance(array, da.Array) else np.asarray(array)
        return cls(frames, check_pixel_size(pixel_size), frame_time, name, dict(metadata or {}))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        n, height, width = self.frames.shape
        return int(n), int(height), int(width)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.shape[0]

    def __len__(self) -> int:
        return self.n_frames

    @property
    def field_of_view(self) -> tuple[float, float] | None:
        """Height and width of a frame in nm, or None without a calibration."""
        if self.pixel_size is None:
            return None
        return self.shape[1] * self.pixel_size[0], self.shape[2] * self.pixel_size[1]

    def __getitem__(self, frames: slice | Sequence[int]) -> "Movie":
        """Movie of some of the frames, by a slice or a list of frame numbers."""
        if isinstance(frames, int | np.integer):
            raise InputError(
                f"movie[{frames}] is one frame: write movie.frame({frames}) for its pixels or "
                f"movie[{frames}:{frames + 1}] for a movie of one frame"
            )
        chosen = np.arange(self.n_frames)[frames]
        if chosen.size == 0:
            raise InputError(f"no frame is left of the {self.n_frames} frames by {frames}")
        metadata = dict(self.metadata)
        if (index := metadata.get("frame_index")) is not None:
            metadata["frame_index"] = [index[i] for i in chosen]
        return replace(self, frames=self.frames[frames], metadata=metadata)

    def frame(self, t: int) -> npt.NDArray[np.float32]:
        """Pixels of one frame ``(y, x)``, NaN as they are; only this frame is read."""
        if not -self.n_frames <= t < self.n_frames:
            raise InputError(f"frame {t} was asked for; the movie has {self.n_frames} frames")
        pixels = self.frames[t].compute(scheduler="synchronous")
        return np.asarray(pixels, dtype=np.float32)

    def require_pixel_size(self) -> tuple[float, float]:
        """Pixel size ``(y, x)`` in nm; raises InputError when it is unknown."""
        if self.pixel_size is None:
            raise InputError(
                f"the pixel size of {self.name} is unknown and this step works in nm: give "
                "pixel_size in nm, or calibrate it from a known lattice spacing"
            )
        return self.pixel_size
