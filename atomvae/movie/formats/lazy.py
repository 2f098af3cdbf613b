"""Frames that stay in their file until they are asked for."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.movie import check_frames, frames_per_block

# What libraries raise when a file is cut off, damaged or not what its ending says.
UNREADABLE = (
    OSError, ValueError, KeyError, IndexError, EOFError, RuntimeError, TypeError, AttributeError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class FileFrames:
    """An array ``(t, y, x)`` that opens its file at every reading and closes it again.

    It holds paths and numbers only, so it can be sent to another process.

    Parameters
    ----------
    load : callable
        ``load(start, stop) -> (stop - start, y, x)``; a `functools.partial` of a function.
    shape : tuple of int
        Frames, rows, columns.
    dtype : numpy.dtype
        As loaded.
    path : str
        Named in messages.

    Examples
    --------
    >>> import numpy as np
    >>> frames = FileFrames(lambda a, b: np.ones((b - a, 4, 5)), (9, 4, 5), np.dtype("f8"), "x")
    >>> frames[2:4, :, 1:].shape
    (2, 4, 4)
    """

    load: Callable[[int, int], npt.NDArray[Any]]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    path: str
    ndim: int = 3

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        time, *space = key if isinstance(key, tuple) else (key,)
        if isinstance(time, slice):
            wanted = np.arange(self.shape[0])[time]
        else:
            wanted = np.atleast_1d(np.arange(self.shape[0])[time])
        if wanted.size == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *space)]
        start, stop = int(wanted.min()), int(wanted.max()) + 1
        try:
            block = self.load(start, stop)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{self.path}: frames {start} to {stop - 1} cannot be read ({error}); the file "
                "is damaged or was cut off, copy it again"
            ) from error
        block = np.asarray(block, dtype=self.dtype.newbyteorder("="))[wanted - start]  # (n, y, x)
        return block[(slice(None) if isinstance(time, slice) else 0, *space)]


def lazy_frames(
    load: Callable[[int, int], npt.NDArray[Any]],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    path: Path,
    *,
    unit: int = 1,
    shared: bool = False,
) -> da.Array:
    """Dask array ``(t, y, x)`` of blocks of whole frames, read by ``load(start, stop)``.

    Parameters
    ----------
    load : callable
        ``load(start, stop) -> (stop - start, y, x)``, picklable, closing what it opens.
    shape : tuple of int
        Frames, rows, columns.
    dtype : dtype
        As loaded; byte order is made native.
    path : Path
        Named in messages.
    unit : int
        Frames that the file stores as one chunk.
    shared : bool
        Keep one copy of `load` in the graph instead of one per task: for long lists of paths.

    Raises
    ------
    InputError
        When shape or dtype cannot be frames.
    """
    check_frames(shape, dtype, f"{path}")
    n, height, width = shape
    native = np.dtype(dtype).newbyteorder("=")
    block = frames_per_block(n, height * width * native.itemsize, unit)
    frames = FileFrames(load, (n, height, width), native, str(path))
    return da.from_array(
        frames,
        chunks=(block, -1, -1),
        lock=False,
        inline_array=not shared,
        meta=np.empty(0, native),
    )


def choose(candidates: Mapping[str, tuple[int, ...]], dataset: str | None, path: Path) -> str:
    """Name of the data set to read: the one asked for, or the only one.

    Parameters
    ----------
    candidates : mapping
        Names of the data sets that can be frames, with their shapes.
    dataset : str, optional
        Full name, or its end where that is unique.
    path : Path
        Named in messages.

    Raises
    ------
    InputError
        When there is none, or the choice is open; the candidates are listed.

    Examples
    --------
    >>> choose({"a/data": (5, 64, 64), "b/data": (64, 64)}, "b/data", Path("x.h5"))
    'b/data'
    """
    listed = ", ".join(f"{name} {shape}" for name, shape in list(candidates.items())[:12])
    if not candidates:
        raise InputError(
            f"{path} holds no image or movie; expected an array (y, x) or (t, y, x) of numbers"
        )
    if dataset is None:
        names = list(candidates)
    else:
        wanted = dataset.strip("/")
        names = [name for name in candidates if name.strip("/") == wanted] or [
            name for name in candidates if f"/{name.strip('/')}".endswith(f"/{wanted}")
        ]
        if not names:
            raise InputError(f"{path} has no image named {dataset!r}; it has {listed}")
    if len(names) > 1:
        raise InputError(f"{path} holds {len(names)} images; choose one with dataset=: {listed}")
    return names[0]
