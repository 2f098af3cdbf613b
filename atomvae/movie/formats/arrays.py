"""numpy files, with a side-car ``.json`` of the same stem for the calibration."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, layout_of
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie
from atomvae.movie.units import length_in_nm

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, in Fortran order, dtype


def read_npy(path: Path, dataset: str | None = None) -> Movie:
    """Movie of a ``.npy`` file ``(y, x)`` or ``(t, y, x)``, mapped and never read as a whole."""
    if dataset is not None:
        raise InputError(f"{path} holds one array; leave dataset out (it was {dataset!r})")
    with path.open("rb") as file:
        shape, _, dtype = _header(file, path)
        found, needed = path.stat().st_size - file.tell(), int(np.prod(shape)) * dtype.itemsize
    if found < needed:
        raise InputError(
            f"{path} is cut off: {found} bytes of data where {needed} are announced; copy it again"
        )
    layout = layout_of([Axis(size) for size in shape], path)
    load = partial(_load_npy, str(path), len(shape))
    return _with_sidecar(lazy_frames(load, layout.shape, dtype, path), path, {})


def _load_npy(path: str, ndim: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames of a .npy file, copied out of the map."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    frames = array.reshape(-1, *array.shape[-2:]) if ndim != 3 else array
    return np.array(frames[start:stop])


def read_npz(path: Path, dataset: str | None = None) -> Movie:
    """Movie of one member of a ``.npz`` file; members are streamed and never unpickled."""
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _header(file, path, member)
    images = {name: h[0] for name, h in headers.items() if len(h[0]) >= 2 and h[2].kind in "biufc"}
    if not images and (objects := [name for name, h in headers.items() if h[2].hasobject]):
        raise InputError(
            f"{path} holds only Python objects ({', '.join(objects)}), which are never unpickled; "
            "save the frames as numbers"
        )
    name = choose(images, dataset, path)
    shape, _, dtype = headers[name]
    layout = layout_of([Axis(size) for size in shape], path)
    load = partial(_load_npz, str(path), name)
    return _with_sidecar(lazy_frames(load, layout.shape, dtype, path), path, {"dataset": name})


def _load_npz(path: str, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames of a member, by reading on to the first of them."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _header(file, Path(path), name)
        height, width = shape[-2:]
        n = int(np.prod(shape[:-2]))
        if fortran:  # its frames are not contiguous: the one case that needs the whole member
            flat = np.frombuffer(file.read(), dtype)
            return np.array(flat.reshape(shape, order="F").reshape(n, height, width)[start:stop])
        frame_bytes = height * width * dtype.itemsize
        file.seek(start * frame_bytes, 1)
        data = file.read((stop - start) * frame_bytes)
    return np.frombuffer(data, dtype).reshape(stop - start, height, width)


def _header(file: IO[bytes], path: Path, member: str = "") -> Header:
    """Shape, order and dtype from the head of a .npy stream."""
    where = f"{path} ({member})" if member else f"{path}"
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{where} is not a numpy file ({error}); save it with numpy.save"
        ) from None


def _with_sidecar(frames: Any, path: Path, metadata: dict[str, Any]) -> Movie:
    """Make the movie, with what a .json file of the same stem tells."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return Movie(frames, metadata=metadata)
    try:
        content = json.loads(sidecar.read_text("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{sidecar} is not valid json ({error}); correct or remove it") from None
    n, height, width = frames.shape
    known = dict(_leaves(content))
    pixel = sidecar_pixel_size(known, height, width)
    if pixel is not None:
        metadata["pixel_size_from"] = sidecar.name
    metadata["warnings"] = []
    if isinstance(index := known.get("frame_index"), list):
        if len(index) == n:
            metadata["frame_index"] = index
        else:
            metadata["warnings"].append(
                f"{sidecar.name} numbers {len(index)} frames and the movie has {n}: not used"
            )
    if isinstance(material := known.get("material_type", known.get("material")), str):
        metadata["material"] = material
    return Movie(frames, pixel, known.get("frame_time_s"), "movie", metadata, {"json": content})


def sidecar_pixel_size(
    known: Mapping[str, Any], height: int, width: int
) -> tuple[float, float] | None:
    """Pixel size ``(y, x)`` in nm from the keys of a side-car file.

    Known are ``pixel_nm``, ``pixel_size_nm``, ``pixel_pm`` (a number, or y and x), ``fov_nm`` (the
    width of a frame, or its height and width), and ``field_of_view_x``, ``field_of_view_y`` with
    ``field_of_view_units``.

    Examples
    --------
    >>> sidecar_pixel_size({"fov_nm": 2.0}, 256, 256)
    (0.0078125, 0.0078125)
    """
    for key, unit in (("pixel_nm", "nm"), ("pixel_size_nm", "nm"), ("pixel_pm", "pm")):
        if known.get(key) is not None:
            y, x = _pair(known[key])
            return _nm(y, x, unit)
    if known.get("fov_nm") is not None:
        if isinstance(known["fov_nm"], list):
            y, x = _pair(known["fov_nm"])
            return _nm(y / height, x / width, "nm")
        return _nm(known["fov_nm"] / width, known["fov_nm"] / width, "nm")
    if known.get("field_of_view_x") is not None:
        x = known["field_of_view_x"] / width
        y = known["field_of_view_y"] / height if known.get("field_of_view_y") else x
        return _nm(y, x, known.get("field_of_view_units", ""))
    return None


def _pair(value: Any) -> tuple[float, float]:
    """Return a number twice, or the two numbers given."""
    numbers = value if isinstance(value, list) else [value, value]
    return float(numbers[0]), float(numbers[-1])


def _nm(y: float, x: float, unit: str) -> tuple[float, float] | None:
    """Both in nm, or None when the unit says nothing."""
    sizes = length_in_nm(y, unit), length_in_nm(x, unit)
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """All entries of nested dictionaries, whatever lies above them."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _leaves(value)
