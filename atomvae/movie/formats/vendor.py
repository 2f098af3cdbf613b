"""Files of microscope vendors, read by RosettaSciIO (an extra: its licence is GPL-3)."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, Layout, layout_of
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie

MODULES = {
    ".dm3": "rsciio.digitalmicrograph",
    ".dm4": "rsciio.digitalmicrograph",
    ".ser": "rsciio.tia",
    ".emi": "rsciio.tia",
}


def read_vendor(path: Path, dataset: str | None = None) -> Movie:
    """Movie of one signal of a vendor's file.

    The order of axes goes by their names; their offsets are not used, because some readers give
    them in another unit than the scale. Rows are as the microscope's software shows them.
    """
    signals = _signals(path)
    names = [_title(signal, i) for i, signal in enumerate(signals)]
    shapes = {
        name: tuple(int(axis["size"]) for axis in signal["axes"])
        for name, signal in zip(names, signals, strict=True)
        if len(signal["axes"]) >= 2
    }
    name = choose(shapes, dataset, path)
    number = names.index(name)
    signal = signals[number]
    layout = layout_of(_axes(signal), f"{path} ({name})")
    load = partial(_load, str(path), number, layout)
    frames = lazy_frames(load, layout.shape, signal["data"].dtype, path)
    metadata = {"dataset": name, **_metadata(signal["metadata"])}
    if layout.pixel_size is not None:
        metadata["pixel_size_from"] = "axes of the signal"
    original = _plain(signal["original_metadata"])
    return Movie(frames, layout.pixel_size, layout.frame_time, "movie", metadata, original)


def _signals(path: Path) -> Sequence[dict[str, Any]]:
    """Return what RosettaSciIO finds in a file."""
    try:
        reader = import_module(MODULES[path.suffix.lower()])
    except ImportError:
        raise InputError(
            f"{path.name} is a vendor's file and RosettaSciIO is not installed; "
            'install it with: pip install "atomvae[formats]"'
        ) from None
    signals: Sequence[dict[str, Any]] = reader.file_reader(str(path), lazy=True)
    return signals


def _load(path: str, number: int, layout: Layout, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some frames of a signal."""
    block = _signals(Path(path))[number]["data"][layout.key(start, stop)]
    if not isinstance(block, np.ndarray):
        block = block.compute(scheduler="synchronous")
    return layout.frames(block)


def _title(signal: dict[str, Any], number: int) -> str:
    """Name a signal: its number and title."""
    title = signal["metadata"].get("General", {}).get("title", "")
    return f"{number}/{title}" if title else str(number)


def _axes(signal: dict[str, Any]) -> list[Axis]:
    """Return the axes in the order of the array."""
    axes = sorted(signal["axes"], key=lambda axis: axis.get("index_in_array", 0))
    return [
        Axis(int(a["size"]), str(a["name"] or ""), float(a["scale"]), _unit(a["units"]))
        for a in axes
    ]


def _unit(unit: Any) -> str:
    """Return a unit as text; RosettaSciIO has several ways to say none."""
    return "" if unit is None else str(unit)


def _metadata(tree: dict[str, Any]) -> dict[str, Any]:
    """Normalise what RosettaSciIO found out about the microscope."""
    tem = tree.get("Acquisition_instrument", {}).get("TEM", {})
    found = {
        "beam_energy_keV": tem.get("beam_energy"),
        "probe_current_nA": tem.get("beam_current"),
        "convergence_mrad": tem.get("convergence_angle"),
        "dwell_us": tem.get("dwell_time", 0) * 1e6 or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _plain(tree: Any) -> Any:
    """Return nested dictionaries of numbers and text, without long arrays."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, bytes):
        return tree.decode("utf-8", "replace")
    if isinstance(tree, np.ndarray | np.generic):
        return tree.tolist() if tree.size <= 64 else None
    return tree
