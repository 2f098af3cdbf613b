"""HDF5: NSID, USID, NCEM's EMD, HyperSpy and plain files."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, Layout, layout_of
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie

SMALLEST = 8  # px: below that an array is a table, not an image
# Attribute of the file -> (our name, factor)
MICROSCOPE = {
    "high tension": ("beam_energy_keV", 1e-3),
    "dwell time": ("dwell_us", 1e6),
    "convergence angle": ("convergence_mrad", 1e3),
}


def read_hdf5(path: Path, dataset: str | None = None) -> Movie:
    """Movie of one data set of an HDF5 file."""
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file, though it ends in {path.suffix}")
    with h5py.File(path, "r") as file:
        name = choose(_images(file), dataset, path)
        data = file[name]
        if "Position_Indices" in data.attrs:
            return _read_usid(path, file, name)
        layout = layout_of(_axes(data), f"{path} ({name})")
        unit = data.chunks[layout.t] if data.chunks and layout.t is not None else 1
        load = partial(load_frames, str(path), name, layout)
        frames = lazy_frames(load, layout.shape, data.dtype, path, unit=unit)
        metadata = _metadata(file, name)
        if layout.pixel_size is not None:
            metadata["pixel_size_from"] = "axes of the data set"
        original = _attributes(file)
    return Movie(frames, layout.pixel_size, layout.frame_time, "movie", metadata, original)


def load_frames(path: str, name: str, layout: Layout, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames of a data set."""
    with h5py.File(path, "r") as file:
        return layout.frames(file[name][layout.key(start, stop)])


def _images(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that can be frames."""
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "iufc":
            shape = tuple(n for n in node.shape if n != 1)
            if "Position_Indices" in node.attrs or (
                len(shape) in (2, 3, 4) and sorted(shape)[-2] >= SMALLEST
            ):
                found[name] = tuple(int(n) for n in node.shape)

    file.visititems(look)
    flat = {name: shape for name, shape in found.items() if len([n for n in shape if n != 1]) < 4}
    return flat or found


def _axes(data: h5py.Dataset) -> list[Axis]:
    """Axes of a data set from whatever convention describes them."""
    group = data.parent
    axes = []
    for i, size in enumerate(data.shape):
        dimension = data.dims[i]
        if len(dimension):  # HDF5 dimension scales: NSID and netCDF
            axes.append(_from_values(dimension[0], dimension.label))
        elif f"axis-{i}" in group:  # HyperSpy
            axis = group[f"axis-{i}"].attrs
            axes.append(Axis(size, _text(axis, "name"), float(axis["scale"]), _text(axis, "units")))
        elif f"dim{i + 1}" in group and group[f"dim{i + 1}"].size in (size, 2):  # NCEM EMD
            axes.append(_from_values(group[f"dim{i + 1}"], "", size))
        else:
            axes.append(Axis(size, dimension.label))
    return axes


def _from_values(scale: h5py.Dataset, label: str, size: int = 0) -> Axis:
    """Axis of a data set that lists its positions (or the first two of them)."""
    values = np.asarray(scale[()], dtype=float).ravel()
    step = (values[-1] - values[0]) / (values.size - 1) if values.size > 1 else 0.0
    name = _text(scale.attrs, "name") or label
    return Axis(size or values.size, name, step, _text(scale.attrs, "units"))


def _text(attributes: Any, key: str) -> str:
    """Return an attribute as text; empty when absent or an HDF5 'empty'."""
    value = attributes.get(key, "")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _metadata(file: h5py.File, name: str) -> dict[str, Any]:
    """Normalised metadata of a data set."""
    metadata: dict[str, Any] = {"dataset": name}
    microscope = file["microscope"].attrs if "microscope" in file else {}
    for key, (ours, factor) in MICROSCOPE.items():
        if key in microscope:
            metadata[ours] = float(f"{float(microscope[key]) * factor:.12g}")
    sample = file["sample"].attrs if "sample" in file else {}
    if material := _text(sample, "sample name"):
        metadata["material"] = material
    return metadata


def _attributes(file: h5py.File) -> dict[str, Any]:
    """All small attributes of the file, by the path of what they belong to."""
    tree: dict[str, Any] = {}

    def look(name: str, node: Any) -> None:
        values = {key: _plain(value) for key, value in _readable(node.attrs).items()}
        if kept := {key: value for key, value in values.items() if value is not None}:
            tree[name] = kept

    look("/", file)
    file.visititems(look)
    return tree


def _readable(attributes: Any) -> Mapping[str, Any]:
    """Attributes that h5py can decode: foreign files hold types that it cannot."""
    values = {}
    for key in attributes:
        try:
            values[key] = attributes[key]
        except (OSError, TypeError, UnicodeDecodeError):
            continue
    return values


def _plain(value: Any) -> Any:
    """Numbers and text as Python objects; None for references, empties and long arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str | int | float | bool):
        return value
    array = np.asarray(value) if not isinstance(value, h5py.Empty) else np.empty(0)
    if array.dtype.kind not in "biufUS" or not 0 < array.size <= 64:
        return None
    return array.item() if array.ndim == 0 else array.tolist()


def _read_usid(path: Path, file: h5py.File, name: str) -> Movie:
    """Movie of a USID main data set: a table with a row per position, a column per frame."""
    data = file[name]
    indices, values = (file[data.attrs[f"Position_{kind}"]] for kind in ("Indices", "Values"))
    labels = [_decode(label).lower() for label in indices.attrs["labels"]]
    units = [_decode(unit) for unit in indices.attrs.get("units", [""] * len(labels))]
    table, places = np.asarray(indices[()]), np.asarray(values[()], dtype=float)
    sizes = (table.max(axis=0) + 1).tolist()
    axes = []
    for i, size in enumerate(sizes):
        span = places[:, i].max() - places[:, i].min()
        axes.append(Axis(size, labels[i], span / max(size - 1, 1), units[i]))
    # Positions are listed with the fastest axis first to change; sort them into an image.
    changes = [int((np.diff(table[:, i]) != 0).sum()) for i in range(len(sizes))]
    slow_first = list(np.argsort(changes, kind="stable"))
    ordered = [axes[i] for i in slow_first] + [Axis(data.shape[1], "t")]
    if int(np.prod(sizes)) != data.shape[0]:
        raise InputError(
            f"{path} ({name}) has {data.shape[0]} positions of {int(np.prod(sizes))}; a scan that "
            "was stopped is not an image: crop it to whole rows"
        )
    layout = layout_of(ordered, f"{path} ({name})")
    load = partial(_load_usid, str(path), name, layout)
    frames = lazy_frames(load, layout.shape, data.dtype, path)
    metadata = {**_metadata(file, name), "pixel_size_from": "position values"}
    return Movie(frames, layout.pixel_size, None, "movie", metadata, _attributes(file))


def _load_usid(path: str, name: str, layout: Layout, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some columns of a USID table as frames."""
    shape = tuple(axis.size for axis in layout.axes[:-1])
    with h5py.File(path, "r") as file:
        block = file[name][:, start:stop]
    return layout.frames(block.reshape(*shape, -1))


def _decode(value: Any) -> str:
    """Text of bytes or text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
