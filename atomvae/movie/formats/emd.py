"""The two formats that end in ``.emd``: NCEM's and Velox', both of them HDF5."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, layout_of
from atomvae.movie.formats.hdf5 import load_frames, read_hdf5
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie

IMAGES = "Data/Image"


def read_emd(path: Path, dataset: str | None = None) -> Movie:
    """Movie of an ``.emd`` file; in one of Velox, `dataset` may be the name of a detector."""
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file, though it ends in {path.suffix}")
    with h5py.File(path, "r") as file:
        if IMAGES in file:
            return _read_velox(path, file, dataset)
    return read_hdf5(path, dataset)


def _read_velox(path: Path, file: h5py.File, dataset: str | None) -> Movie:
    """Movie of an image of Velox: rows, columns, frames, and JSON metadata for each frame."""
    told = {key: _metadata(group) for key, group in file[IMAGES].items() if "Data" in group}
    shapes, keys = {}, {}
    for key, tree in told.items():
        data = file[f"{IMAGES}/{key}/Data"]
        if data.dtype.kind in "iuf":  # Fourier and phase images have two numbers per pixel
            detector = tree.get("BinaryResult", {}).get("Detector", "image")
            name = detector if detector not in keys else f"{detector}/{key}"
            shapes[name], keys[name] = tuple(data.shape), key
    name = choose(shapes, dataset, path)
    tree, place = told[keys[name]], f"{IMAGES}/{keys[name]}/Data"
    result, scan = tree.get("BinaryResult", {}), tree.get("Scan", {})
    size, unit = result.get("PixelSize", {}), result.get("PixelUnitX", "")
    data = file[place]
    axes = [
        Axis(data.shape[0], "y", float(size.get("height", 0)), result.get("PixelUnitY", unit)),
        Axis(data.shape[1], "x", float(size.get("width", 0)), unit),
    ]
    axes += [Axis(n, "t", float(scan.get("FrameTime", 0)), "s") for n in data.shape[2:]]
    layout = layout_of(axes, f"{path} ({name})")
    load = partial(load_frames, str(path), place, layout)
    chunk = data.chunks[layout.t] if data.chunks and layout.t is not None else 1
    frames = lazy_frames(load, layout.shape, data.dtype, path, unit=chunk)
    metadata: dict[str, Any] = {"dataset": name, "signal": name.split("/")[0]}
    if layout.pixel_size is not None:
        metadata["pixel_size_from"] = "Velox metadata"
    if "AccelerationVoltage" in tree.get("Optics", {}):
        metadata["beam_energy_keV"] = float(tree["Optics"]["AccelerationVoltage"]) / 1e3
    if "DwellTime" in scan:
        metadata["dwell_us"] = float(f"{float(scan['DwellTime']) * 1e6:.12g}")
    return Movie(frames, layout.pixel_size, layout.frame_time, "movie", metadata, tree)


def _metadata(group: h5py.Group) -> dict[str, Any]:
    """Return the metadata of the first frame, bytes of JSON padded with zeros."""
    if "Metadata" not in group:
        return {}
    text = np.asarray(group["Metadata"][:, 0], dtype=np.uint8).tobytes()
    tree: dict[str, Any] = json.loads(text.split(b"\0", 1)[0] or b"{}")
    return tree
