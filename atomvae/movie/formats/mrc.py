"""MRC files, mapped by mrcfile."""

from functools import partial
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, layout_of
from atomvae.movie.formats.lazy import lazy_frames
from atomvae.movie.movie import Movie


def read_mrc(path: Path, dataset: str | None = None) -> Movie:
    """Movie of an MRC image or stack, rows in the order of the file."""
    if dataset is not None:
        raise InputError(f"{path} holds one array; leave dataset out (it was {dataset!r})")
    with mrcfile.mmap(path, mode="r") as file:
        shape, dtype, voxel = file.data.shape, file.data.dtype, file.voxel_size
        sides = float(voxel.y), float(voxel.x)  # angstrom, 0 where it was never set
        labels = [str(label) for label in file.get_labels()]
    layout = layout_of([Axis(n) for n in shape], path)
    frames = lazy_frames(partial(_load, str(path)), layout.shape, dtype, path)
    known = min(sides) > 0
    pixel = (sides[0] / 10, sides[1] / 10) if known else None
    metadata = {"pixel_size_from": "MRC header"} if known else {}
    return Movie(frames, pixel, None, "movie", metadata, {"labels": labels})


def _load(path: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames, copied out of the map."""
    with mrcfile.mmap(path, mode="r") as file:
        data = file.data.reshape(-1, *file.data.shape[-2:])
        return np.array(data[start:stop])
