"""A movie inside the run folder: an OME-NGFF 0.5 image, or a reference to the file it came from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from atomvae.errors import InputError
from atomvae.movie.movie import Movie, frames_per_block
from atomvae.run.atomic import replacing
from atomvae.run.tables import open_group

CHUNK_EDGE = 1024  # largest edge of a chunk, px: a viewer loads no more than it shows
BYTES_PER_BLOCK = 64 * 2**20  # frames are copied in blocks of about this size


class SourceGone(InputError):
    """The frames were not copied, and the file they came from is gone.

    Examples
    --------
    >>> issubclass(SourceGone, InputError)
    True
    """


def write_image(
    path: Path,
    movie: Movie,
    *,
    source: dict[str, Any] | None = None,
    copy: bool = True,
    scratch: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a movie as an image group, replacing what was there in one step.

    Parameters
    ----------
    path : Path
        Folder of the group.
    movie : Movie
        Its frames keep their dtype. Unknown calibration becomes a scale of 1 without a unit.
    source : dict, optional
        Keyword arguments that made the movie (``path``, ``dataset``, ...): how to read it again.
    copy : bool
        Whether the frames are copied; otherwise only the reference is kept.
    scratch : Path, optional
        Where to build it, on the same file system. Default: beside ``path``.
    progress : callable, optional
        Called with the number of frames written so far.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "movie"
    >>> write_image(folder, Movie.from_array(np.ones((2, 8, 8)), pixel_size=0.01))
    >>> read_image(folder).pixel_size
    (0.01, 0.01)
    """
    with replacing(path, scratch) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        group.attrs["ome"] = _ome(movie)
        group.attrs["atomvae"] = _plain(
            {
                "name": movie.name,
                "shape": movie.shape,
                "pixel_size_nm": movie.pixel_size,
                "frame_time_s": movie.frame_time,
                "metadata": movie.metadata,
                "original_metadata": movie.original_metadata,
                "source": source,
                "copied": copy,
            }
        )
        if copy:
            _copy_frames(group, movie, progress)


def _copy_frames(group: zarr.Group, movie: Movie, progress: Callable[[int], None] | None) -> None:
    """Copy all frames in blocks: never the whole movie in memory."""
    n, height, width = movie.shape
    array = group.require_group("0").create_array(
        "data",
        shape=movie.shape,
        dtype=movie.frames.dtype,
        chunks=(1, min(height, CHUNK_EDGE), min(width, CHUNK_EDGE)),
        dimension_names=["t", "y", "x"],
        config={"write_empty_chunks": True},  # a missing frame can be told from a black one
    )
    step = max(1, BYTES_PER_BLOCK // max(1, movie.frames.dtype.itemsize * height * width))
    for start in range(0, n, step):
        stop = min(n, start + step)
        array[start:stop] = movie.frames[start:stop].compute(scheduler="synchronous")
        if progress is not None:
            progress(stop)


def read_image(path: Path) -> Movie:
    """Open a movie that `write_image` wrote.

    Parameters
    ----------
    path : Path
        Folder of the group.

    Returns
    -------
    Movie
        Lazy; read from the copy when there is one, else from the file it came from.

    Raises
    ------
    InputError
        When the group is damaged, or the frames were not copied and the source is gone
        (`SourceGone`).
    """
    import dask.array as da

    group = open_group(path)
    about = group.attrs.get("atomvae")
    if not isinstance(about, dict) or "name" not in about:
        raise InputError(
            f"{path} lacks the description of its movie (attributes 'atomvae'); "
            "run the import again or restore the folder from a copy"
        )
    if not about["copied"]:
        return _from_source(path, about)
    try:
        array = group["0/data"]
        missing = array.nchunks - array.nchunks_initialized
    except Exception as error:
        raise InputError(
            f"{path}/0/data, the frames of movie '{about['name']}', is missing or unreadable; "
            "run the import again or restore the folder from a copy"
        ) from error
    if missing:
        raise InputError(
            f"{path}/0/data lacks {missing} of its {array.nchunks} chunks; "
            "run the import again or restore the folder from a copy"
        )
    block = frames_per_block(array.shape[0], array.nbytes // array.shape[0])
    size, frame_time = about["pixel_size_nm"], about["frame_time_s"]
    return Movie(
        frames=da.from_zarr(array, chunks=(block, *array.shape[1:])),
        pixel_size=None if size is None else (float(size[0]), float(size[1])),
        frame_time=None if frame_time is None else float(frame_time),
        name=about["name"],
        metadata=about["metadata"],
        original_metadata=about["original_metadata"],
    )


def blank_movie(path: Path) -> Movie:
    """Stand-in for a movie whose frames are gone: of its size, calibration and name, all zero.

    Parameters
    ----------
    path : Path
        Folder of the group; its description is enough.

    Returns
    -------
    Movie

    Raises
    ------
    InputError
        When the description is missing, too.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "movie"
    >>> write_image(folder, Movie.from_array(np.ones((2, 8, 9)), pixel_size=0.01), copy=False)
    >>> blank_movie(folder).shape, blank_movie(folder).pixel_size
    ((2, 8, 9), (0.01, 0.01))
    """
    import dask.array as da

    about = open_group(path).attrs.get("atomvae")
    if not isinstance(about, dict) or "shape" not in about or "name" not in about:
        raise InputError(
            f"{path} lacks the description of its movie (attributes 'atomvae'); "
            "run the import again or restore the folder from a copy"
        )
    n, height, width = about["shape"]
    size, frame_time = about.get("pixel_size_nm"), about.get("frame_time_s")
    return Movie(
        frames=da.zeros((n, height, width), dtype=np.uint8, chunks=(1, height, width)),
        pixel_size=None if size is None else (float(size[0]), float(size[1])),
        frame_time=None if frame_time is None else float(frame_time),
        name=str(about["name"]),
    )


def _from_source(path: Path, about: dict[str, Any]) -> Movie:
    """Read the movie from where it came, also when both were moved together."""
    from dataclasses import replace

    from atomvae.movie.read import read_movie

    source = about["source"] or {}
    places = [Path(source.get("path", ""))]
    if "relative" in source:
        places.append(Path(os.path.normpath(path / source["relative"])))
    found = next((place for place in places if place.exists()), None)
    if found is None or not source.get("path"):
        raise SourceGone(
            f"the frames of movie '{about['name']}' were not copied and their file is gone "
            f"(expected {places[0]}); put it back, or run with copy_movie: always"
        )
    movie = read_movie(
        found,
        pixel_size=source.get("pixel_size"),
        frame_time=source.get("frame_time"),
        dataset=source.get("dataset"),
    )
    return replace(movie[: source.get("frames")], name=about["name"])


def _ome(movie: Movie) -> dict[str, Any]:
    """OME-NGFF 0.5 attributes: axes (t, y, x) with their scales and units."""
    time = {"name": "t", "type": "time"}
    space: list[dict[str, str]] = [{"name": n, "type": "space"} for n in ("y", "x")]
    if movie.frame_time is not None:
        time["unit"] = "second"
    if movie.pixel_size is not None:
        space = [axis | {"unit": "nanometer"} for axis in space]
    scale = [movie.frame_time or 1.0, *(movie.pixel_size or (1.0, 1.0))]
    level = {
        "path": "0/data",
        "coordinateTransformations": [{"type": "scale", "scale": [float(s) for s in scale]}],
    }
    return {
        "version": "0.5",
        "multiscales": [{"name": movie.name, "axes": [time, *space], "datasets": [level]}],
    }


def _plain(value: Any) -> Any:
    """The same as JSON can hold it: numpy values become numbers, what it cannot hold text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, str | int | None) or (isinstance(value, float) and np.isfinite(value)):
        return value
    return str(value)
