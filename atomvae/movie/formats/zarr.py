"""Zarr arrays, OME-Zarr 0.4 and 0.5, and the images in our own run folders."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import zarr

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, Layout, layout_of
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie


def read_zarr(path: Path, dataset: str | None = None) -> Movie:
    """Movie of an array or of an image in a Zarr folder.

    In a group the images are its OME-Zarr multiscales (full resolution) wherever they lie, and
    where it has none, its arrays.
    """
    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        if dataset is not None:
            raise InputError(f"{path} is one array; leave dataset out (it was {dataset!r})")
        return _movie(path, "", _array_axes(node))
    images = _images(node)
    name = choose({key: node[array].shape for key, (array, _) in images.items()}, dataset, path)
    array, axes = images[name]
    return _movie(path, array, axes or _array_axes(node[array]), name)


def _movie(path: Path, array: str, axes: list[Axis], name: str = "") -> Movie:
    """Make the lazy movie of one array."""
    data = _array(str(path), array)
    layout = layout_of(axes, f"{path} ({name})" if name else path)
    chunks = data.shards or data.chunks
    unit = 1 if layout.t is None else chunks[layout.t]
    load = partial(_load, str(path), array, layout)
    frames = lazy_frames(load, layout.shape, data.dtype, path, unit=unit)
    metadata: dict[str, Any] = {"dataset": name} if name else {}
    if layout.pixel_size is not None:
        metadata["pixel_size_from"] = "OME-Zarr scale"
    original = dict(data.attrs)
    return Movie(frames, layout.pixel_size, layout.frame_time, "movie", metadata, original)


def _array(path: str, array: str) -> Any:
    """Open one array of a folder."""
    return zarr.open_array(f"{path}/{array}" if array else path, mode="r")


def _load(path: str, array: str, layout: Layout, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames of an array."""
    return layout.frames(_array(path, array)[layout.key(start, stop)])


def _array_axes(data: Any) -> list[Axis]:
    """Return the axes of an array, named where Zarr or xarray named them."""
    names = getattr(data.metadata, "dimension_names", None) or data.attrs.get("_ARRAY_DIMENSIONS")
    names = names or [""] * data.ndim
    return [Axis(n, name or "") for n, name in zip(data.shape, names, strict=True)]


def _images(group: Any, prefix: str = "") -> dict[str, tuple[str, list[Axis]]]:
    """Find the images below a group: name -> (path of the array, axes)."""
    scales = dict(group.attrs.get("ome", group.attrs)).get("multiscales")
    if scales:
        array, axes = _multiscale(group, scales[0])
        return {prefix.strip("/") or "0": (f"{prefix}{array}", axes)}
    found: dict[str, tuple[str, list[Axis]]] = {}
    for name, child in group.groups():
        found |= _images(child, f"{prefix}{name}/")
    if any(axes for _, axes in found.values()):  # calibrated images stand before bare arrays
        return {name: image for name, image in found.items() if image[1]}
    for name, array in group.arrays():
        flat = [n for n in array.shape if n != 1]
        if len(flat) in (2, 3, 4) and array.dtype.kind in "biufc" and sorted(flat)[-2] >= 8:
            found[f"{prefix}{name}"] = (f"{prefix}{name}", [])
    return found


def _multiscale(group: Any, scales: dict[str, Any]) -> tuple[str, list[Axis]]:
    """Return the full-resolution array of an OME-Zarr image and its axes."""
    first = scales["datasets"][0]
    steps = [1.0] * len(scales["axes"])
    for where in (first, scales):  # the scale of the level times that of all levels
        for transformation in where.get("coordinateTransformations", []):
            if transformation["type"] == "scale":
                steps = [a * b for a, b in zip(steps, transformation["scale"], strict=True)]
    shape = group[first["path"]].shape
    axes = [
        Axis(n, axis["name"], step, axis.get("unit", ""))
        for n, axis, step in zip(shape, scales["axes"], steps, strict=True)
    ]
    return first["path"], axes
