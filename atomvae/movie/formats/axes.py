"""Which axis is which: by name where axes have names, else by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.units import is_reciprocal, length_in_nm, time_in_s

ROWS, COLUMNS = {"y", "height", "row", "rows"}, {"x", "width", "column", "columns", "col"}
CHANNELS = {"c", "channel", "channels"}


@dataclass(frozen=True)
class Axis:
    """One axis of an array in a file.

    Parameters
    ----------
    size : int
        Length in pixels.
    name : str
        As in the file; may be empty.
    step : float
        Distance of neighbouring pixels, in `unit`.
    unit : str
        As in the file; may be empty.

    Examples
    --------
    >>> Axis(512, "X", 0.01, "n_m").size
    512
    """

    size: int
    name: str = ""
    step: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Layout:
    """How an array of a file becomes frames ``(t, y, x)``.

    Parameters
    ----------
    t : int or None
        Position of the time axis in the file; None for a single image.
    y, x : int
        Positions of rows and columns.
    axes : tuple of Axis
        In the order of the file.

    Examples
    --------
    >>> layout = layout_of([Axis(48, "X"), Axis(32, "Y")])
    >>> layout.shape, layout.frames(np.zeros((48, 32))).shape
    ((1, 32, 48), (1, 32, 48))
    """

    t: int | None
    y: int
    x: int
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        n = 1 if self.t is None else self.axes[self.t].size
        return n, self.axes[self.y].size, self.axes[self.x].size

    def key(self, start: int, stop: int) -> tuple[slice, ...]:
        """Tell what to cut from the array in the file for some frames."""
        return tuple(
            slice(start, stop) if i == self.t else slice(None) for i in range(len(self.axes))
        )

    def frames(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring a cut of the array in the file to ``(t, y, x)``."""
        first = () if self.t is None else (self.t,)
        others = tuple(i for i in range(block.ndim) if i not in (*first, self.y, self.x))
        ordered = np.transpose(block, (*others, *first, self.y, self.x))
        return ordered.reshape(-1, *ordered.shape[-2:])  # the other axes have length 1

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Size of a pixel ``(y, x)`` in nm, None when an axis has no unit of length."""
        y, x = (length_in_nm(self.axes[i].step, self.axes[i].unit) for i in (self.y, self.x))
        return None if y is None or x is None else (y, x)

    @property
    def frame_time(self) -> float | None:
        """Time from frame to frame in s, None when the axis has no unit of time."""
        return None if self.t is None else time_in_s(self.axes[self.t].step, self.axes[self.t].unit)


def layout_of(axes: Sequence[Axis], path: Path | str = "the array") -> Layout:
    """Find rows, columns and time among the axes.

    Axes of length 1 that are neither rows nor columns are dropped. Rows and columns go by name
    (``y``, ``height``, ...) when both names are there, else they are the last two axes.

    Raises
    ------
    InputError
        When more than one axis is left for time, or it is one of channels.

    Examples
    --------
    >>> layout_of([Axis(9, "t"), Axis(1, "c"), Axis(64, "y"), Axis(64, "x")]).t
    0
    """
    names = [axis.name.strip().lower() for axis in axes]
    rows = [i for i, name in enumerate(names) if name in ROWS]
    columns = [i for i, name in enumerate(names) if name in COLUMNS]
    if len(rows) == len(columns) == 1:
        y, x = rows[0], columns[0]
    elif len(axes) >= 2:
        y, x = len(axes) - 2, len(axes) - 1
    else:
        raise InputError(f"{path} has {len(axes)} axis; expected (y, x) or (t, y, x)")
    left = [i for i in range(len(axes)) if i not in (y, x) and axes[i].size != 1]
    sizes = tuple(axis.size for axis in axes)
    if len(left) > 1 or any(is_reciprocal(axes[i].unit) for i in left):
        raise InputError(
            f"{path} is {len(axes)}-D with axes {dict(zip(_labels(axes), sizes, strict=True))}; "
            "expected (y, x) or (t, y, x): select one image series and save it on its own"
        )
    if left and names[left[0]] in CHANNELS:
        raise InputError(
            f"{path} has {sizes[left[0]]} channels; expected one: save the channel of the detector "
            "on its own, or name the axis t when it is time"
        )
    return Layout(left[0] if left else None, y, x, tuple(axes))


def _labels(axes: Sequence[Axis]) -> list[str]:
    """Names of the axes, their position where they have none."""
    return [axis.name or str(i) for i, axis in enumerate(axes)]
