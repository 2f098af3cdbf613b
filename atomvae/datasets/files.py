"""Write a movie with what is known about it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import zarr
from numpy.typing import NDArray

from atomvae.errors import InputError
from atomvae.movie.movie import Movie


def save(movie: Movie, tables: Mapping[str, pd.DataFrame], path: str | Path) -> Path:
    """Write a movie frame by frame, and tables beside it.

    Parameters
    ----------
    movie : Movie
        With a pixel size.
    tables : mapping of str to DataFrame
        Written as `NAME_<key>.csv.gz` for a movie `NAME.tif` or `NAME.zarr`.
    path : str or Path
        `NAME.tif` (ImageJ TIFF, zlib), `NAME.zarr` (OME-Zarr 0.5), or a folder, which gets
        `movie.tif`.

    Returns
    -------
    Path
        The movie file.

    Raises
    ------
    InputError
        Another ending, or a TIFF of a type that ImageJ does not know.

    Examples
    --------
    >>> import tempfile
    >>> from atomvae.datasets.simulate import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = simulate("graphene", frames=2, shape=(32, 32)).save(folder + "/sheet.tif")
    ...     sorted(file.name for file in path.parent.iterdir())
    ['sheet.tif', 'sheet_defects.csv.gz', 'sheet_drift.csv.gz', 'sheet_events.csv.gz',
     'sheet_truth.csv.gz']
    """
    path = Path(path)
    if not path.suffix:
        path = path / "movie.tif"
    writers = {".tif": _write_tiff, ".tiff": _write_tiff, ".zarr": _write_zarr}
    if path.suffix not in writers:
        raise InputError(
            f"cannot write a movie as {path.name}, expected the ending {', '.join(writers)}, "
            "or a folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    writers[path.suffix](movie, path)
    for name, table in tables.items():
        target = path.with_name(f"{path.stem}_{name}.csv.gz")
        # mtime 0: the same table gives the same bytes
        table.to_csv(
            target, index=False, float_format="%.8g", compression={"method": "gzip", "mtime": 0}
        )
    return path


def _frames(movie: Movie) -> Iterator[NDArray[Any]]:
    """Frames one after the other, so that memory does not grow."""
    for t in range(movie.n_frames):
        yield np.asarray(movie.frames[t].compute())


def _write_tiff(movie: Movie, path: Path) -> None:
    """ImageJ TIFF with pixel size in nm and frame interval in s."""
    if movie.frames.dtype.name not in ("uint8", "uint16", "float32"):
        raise InputError(f"ImageJ knows no {movie.frames.dtype} pixels; save as NAME.zarr instead")
    pixel_y, pixel_x = movie.require_pixel_size()
    info: dict[str, Any] = {"axes": "TYX", "unit": "nm", "Info": json.dumps(movie.metadata)}
    if movie.frame_time is not None:
        info |= {"finterval": movie.frame_time, "tunit": "s"}
    tifffile.imwrite(
        path, _frames(movie), shape=movie.shape, dtype=movie.frames.dtype, imagej=True,
        resolution=(1 / pixel_x, 1 / pixel_y), metadata=info, compression="zlib",
        photometric="minisblack",
    )  # fmt: skip


def _write_zarr(movie: Movie, path: Path) -> None:
    """OME-Zarr 0.5, one chunk per frame."""
    pixel_y, pixel_x = movie.require_pixel_size()
    group = zarr.open_group(path, mode="w")
    shape = movie.shape
    array = group.create_array(
        "0", shape=shape, chunks=(1, *shape[1:]), dtype=movie.frames.dtype,
        dimension_names=("t", "y", "x"),
    )  # fmt: skip
    for t, frame in enumerate(_frames(movie)):
        array[t] = frame
    time = {"name": "t", "type": "time"}
    if movie.frame_time is not None:
        time["unit"] = "second"
    axes = [
        time,
        {"name": "y", "type": "space", "unit": "nanometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    scale = [movie.frame_time or 1.0, pixel_y, pixel_x]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": movie.name, "axes": axes, "datasets": [dataset]}],
    }
    group.attrs["atomvae"] = movie.metadata
