"""One door for all files: the ending chooses the reader."""

import difflib
import glob
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.calibration import with_calibration_warning
from atomvae.movie.formats.lazy import UNREADABLE, lazy_frames
from atomvae.movie.movie import Movie, check_frame_time, check_pixel_size

Reader = Callable[[Path, str | None], Movie]

# ending -> "module:function"; the module is imported when such a file is read. A new format is
# one function ``read(path, dataset) -> Movie`` and one entry here.
READERS = {
    ".npy": "atomvae.movie.formats.arrays:read_npy",
    ".npz": "atomvae.movie.formats.arrays:read_npz",
    ".tif": "atomvae.movie.formats.tiff:read_tiff",
    ".tiff": "atomvae.movie.formats.tiff:read_tiff",
    ".h5": "atomvae.movie.formats.hdf5:read_hdf5",
    ".hdf5": "atomvae.movie.formats.hdf5:read_hdf5",
    ".hf5": "atomvae.movie.formats.hdf5:read_hdf5",
    ".hspy": "atomvae.movie.formats.hdf5:read_hdf5",
    ".emd": "atomvae.movie.formats.emd:read_emd",
    ".zarr": "atomvae.movie.formats.zarr:read_zarr",
    ".mrc": "atomvae.movie.formats.mrc:read_mrc",
    ".mrcs": "atomvae.movie.formats.mrc:read_mrc",
    ".dm3": "atomvae.movie.formats.vendor:read_vendor",
    ".dm4": "atomvae.movie.formats.vendor:read_vendor",
    ".ser": "atomvae.movie.formats.vendor:read_vendor",
    ".emi": "atomvae.movie.formats.vendor:read_vendor",
}


def read_movie(
    path: str | Path,
    *,
    pixel_size: float | tuple[float, float] | None = None,
    frame_time: float | None = None,
    dataset: str | None = None,
) -> Movie:
    """Read a movie, or a single image, without loading its frames.

    Parameters
    ----------
    path : str or Path
        A file (its ending chooses the reader), a Zarr folder, a folder of single frames, or a
        glob such as ``"run7/*.tif"``. Single frames are sorted with numbers by value.
    pixel_size : float or (float, float), optional
        nm, isotropic or ``(y, x)``; replaces what the file says. None: as in the file, which may
        be unknown.
    frame_time : float, optional
        Seconds; replaces what the file says.
    dataset : str, optional
        Which array, for files with several; its full name or the unique end of it.

    Returns
    -------
    Movie
        With lazy frames. Where the file or its name tells the material and the lattice
        contradicts the calibration, ``metadata["warnings"]`` says so.

    Raises
    ------
    InputError
        When the file is missing, empty, cut off, of unknown kind, or holds no frames.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/image.npy", np.zeros((32, 48), "uint16"))
    ...     movie = read_movie(f"{folder}/image.npy", pixel_size=0.01)
    >>> movie.name, movie.shape, movie.pixel_size
    ('image', (1, 32, 48), (0.01, 0.01))
    """
    pixel, seconds = check_pixel_size(pixel_size), check_frame_time(frame_time)
    location = Path(path).expanduser()
    frame_files = _frame_files(location)
    if frame_files is None:
        movie = _open(location, dataset)
    else:
        movie = _join_frames(frame_files, location, dataset)
    metadata = {"path": str(location), **movie.metadata}
    if pixel is not None:
        metadata["pixel_size_from"] = "given"
    if seconds is not None:
        metadata["frame_time_from"] = "given"
    movie = replace(
        movie,
        pixel_size=pixel or movie.pixel_size,
        frame_time=seconds or movie.frame_time,
        name=_name(location),
        metadata=metadata,
    )
    return with_calibration_warning(movie)


def _open(path: Path, dataset: str | None) -> Movie:
    """Read one file by its ending; whatever a library raises becomes one sentence."""
    reader = _reader(path)
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again")
    try:
        return reader(path, dataset)
    except InputError:
        raise
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as {path.suffix.lower()} ({reason}); it is damaged, was cut "
            "off or is another kind of file"
        ) from error


def _reader(path: Path) -> Reader:
    """Return the reader of a path, or an error that lists the known endings."""
    ending = ".zarr" if _is_zarr(path) else path.suffix.lower()
    if ending not in READERS:
        near = difflib.get_close_matches(ending, READERS, n=1)
        raise InputError(
            f"{path.name} ends in {ending!r}, which no reader knows; expected one of "
            f"{', '.join(READERS)}" + (f" (did you mean {near[0]}?)" if near else "")
        )
    module, function = READERS[ending].split(":")
    reader: Reader = getattr(import_module(module), function)
    return reader


def _is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group of either version."""
    return path.is_dir() and any((path / n).is_file() for n in ("zarr.json", ".zarray", ".zgroup"))


def _name(path: Path) -> str:
    """Name of a movie: of its file without endings, or of the folder of a glob."""
    plain = path.parent if glob.has_magic(path.name) and not path.exists() else path
    return re.sub(r"\.(ome|atomvae)$", "", plain.name if plain.is_dir() and not _is_zarr(plain)
                  else plain.stem) or "movie"  # fmt: skip


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that takes numbers by value: frame 9 comes before frame 10.

    Examples
    --------
    >>> sorted(["f10.tif", "f9.tif"], key=natural)
    ['f9.tif', 'f10.tif']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _frame_files(path: Path) -> list[Path] | None:
    """Sorted files of a folder or a glob of single frames; None for one file."""
    if path.is_file() or _is_zarr(path):
        return None
    if path.is_dir():
        entries = [p for p in path.iterdir() if not p.name.startswith(".")]
    elif glob.has_magic(str(path)):
        entries = [Path(p) for p in glob.glob(str(path))]
    else:
        raise InputError(f"{path} does not exist; expected a file, a folder or a glob of frames")
    files = [p for p in entries if p.suffix.lower() in READERS and (p.is_file() or _is_zarr(p))]
    endings = Counter(p.suffix.lower().replace(".tiff", ".tif") for p in files)
    if not files:
        raise InputError(f"{path} holds no readable frame; expected files {', '.join(READERS)}")
    if len(endings) > 1:
        found = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        raise InputError(
            f"{path} holds files of several kinds ({found}); choose with a glob, e.g. "
            f"{Path(path.parent if not path.is_dir() else path) / f'*{max(endings)}'}"
        )
    return sorted(files, key=lambda p: natural(p.name))


def _join_frames(files: Sequence[Path], where: Path, dataset: str | None) -> Movie:
    """One movie of many files with one frame each; shapes are compared at once."""
    first = _open(files[0], dataset)
    warnings = list(first.metadata["warnings"])
    for file in files:
        movie = first if file is files[0] else _open(file, dataset)
        if movie.n_frames != 1 and len(files) > 1:
            raise InputError(
                f"{file.name} in {where} holds {movie.n_frames} frames; expected one frame per "
                "file: read the movies one by one"
            )
        if movie.shape != first.shape:
            raise InputError(
                f"{file.name} in {where} has shape {movie.shape[1:]} and {files[0].name} has "
                f"{first.shape[1:]}; all frames of a movie have one shape, so take it out"
            )
        if not _agree(movie.pixel_size, first.pixel_size):
            warnings.append(
                f"{file.name} has pixel size {movie.pixel_size} nm and {files[0].name} has "
                f"{first.pixel_size} nm; the first is used for all"
            )
    if len(files) == 1:
        return first
    load = partial(_load_files, tuple(str(f) for f in files), dataset)
    shape = (len(files), *first.shape[1:])
    frames = lazy_frames(load, shape, first.frames.dtype, where, shared=True)
    metadata = {**first.metadata, "warnings": warnings[:5], "files": len(files)}
    return replace(first, frames=frames, metadata=metadata)


def _load_files(
    paths: Sequence[str], dataset: str | None, start: int, stop: int
) -> npt.NDArray[Any]:
    """Read the frames of some single-frame files."""
    one = [_open(Path(path), dataset).frames[0] for path in paths[start:stop]]
    return np.stack([frame.compute(scheduler="synchronous") for frame in one])


def _agree(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    """Whether two calibrations are the same within one per cent."""
    return (a is None and b is None) or (
        a is not None and b is not None and bool(np.allclose(a, b, rtol=0.01))
    )
