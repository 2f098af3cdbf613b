"""TIFF: multi-page, ImageJ and OME, with the calibrations that microscopes leave in them."""

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from atomvae.errors import InputError
from atomvae.movie.formats.axes import Axis, Layout, layout_of
from atomvae.movie.formats.lazy import choose, lazy_frames
from atomvae.movie.movie import Movie
from atomvae.movie.units import length_in_nm, time_in_s

PixelSize = tuple[float, float]
# Private tags of DigitalMicrograph exports (HyperSpy writes them too): unit and scale of x, y.
DM_UNIT_X, DM_UNIT_Y, DM_SCALE_X, DM_SCALE_Y = 65003, 65004, 65009, 65010


def read_tiff(path: Path, dataset: str | None = None) -> Movie:
    """Movie of one series of a TIFF file; `dataset` is the number of the series."""
    with tifffile.TiffFile(path) as tif:
        series = {str(i): tuple(s.shape) for i, s in enumerate(tif.series)}
        number = int(choose(series, dataset, path))
        chosen = tif.series[number]
        if chosen.keyframe.samplesperpixel > 1 or chosen.keyframe.photometric == 3:
            raise InputError(
                f"{path} is a colour image, shape {chosen.shape}; expected grey values: export "
                "the data of the detector instead of the displayed picture"
            )
        axes = [Axis(n, _role(c)) for n, c in zip(chosen.shape, chosen.axes, strict=True)]
        layout = layout_of(axes, path)
        _check_length(tif, path)
        pixel, source, warnings = _pixel_size(tif)
        metadata = {"pixel_size_from": source, "warnings": warnings}
        frames = lazy_frames(
            _loader(path, number, chosen, layout), layout.shape, chosen.dtype, path
        )
        original = _tags(tif.pages[0])
        return Movie(frames, pixel, _frame_time(tif), "movie", metadata, original)


def _role(letter: str) -> str:
    """Axis name of a tifffile axis letter; pages in any kind of sequence are time."""
    return {"Y": "y", "X": "x", "C": "c", "T": "t"}.get(letter, letter)


def _check_length(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file that ends before its last page, or before the page that should follow it."""
    size = tif.filehandle.size
    needed = [_next_page(tif)]
    for page in (tif.pages[0], tif.pages[-1]):
        needed += [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if max(needed) > size:
        raise InputError(
            f"{path} is cut off: it has {size} bytes and its pages need {max(needed)}; copy it "
            "again"
        )


def _next_page(tif: tifffile.TiffFile) -> int:
    """Where the page after the last one lies; 0 in a complete file."""
    file, form = tif.filehandle, tif.tiff
    file.seek(tif.pages[-1].offset)
    (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(tags * form.tagsize, 1)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return int(offset)


def _loader(path: Path, number: int, series: tifffile.TiffPageSeries, layout: Layout) -> Any:
    """How to read some frames: one map where the pixels lie in one piece, else page by page."""
    if series.dataoffset is not None:
        order = series.keyframe.parent.byteorder
        dtype = np.dtype(series.dtype).newbyteorder(order).str
        needed = series.dataoffset + int(np.prod(series.shape)) * np.dtype(dtype).itemsize
        if needed > path.stat().st_size:
            raise InputError(
                f"{path} is cut off: it has {path.stat().st_size} bytes and its frames need "
                f"{needed}; copy it again"
            )
        return partial(_load_map, str(path), series.dataoffset, dtype, layout)
    if (layout.y, layout.x) != (len(layout.axes) - 2, len(layout.axes) - 1):
        raise InputError(f"{path} has axes {series.axes}; expected pages of rows and columns")
    return partial(_load_pages, str(path), number)


def _load_map(
    path: str, offset: int, dtype: str, layout: Layout, start: int, stop: int
) -> npt.NDArray[Any]:
    """Read some frames of pixels in one piece, also of ImageJ's files beyond 4 GB."""
    shape = tuple(axis.size for axis in layout.axes)
    mapped = np.memmap(path, dtype, "r", offset, shape)
    return np.array(layout.frames(mapped[layout.key(start, stop)]))


def _load_pages(path: str, number: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Read some pages of a series."""
    with tifffile.TiffFile(path) as tif:
        pages = tif.asarray(key=slice(start, stop), series=number)
    return np.asarray(pages).reshape(stop - start, *pages.shape[-2:])


def _tags(page: tifffile.TiffPage) -> dict[str, Any]:
    """Tags of a page that are short enough to be metadata."""
    tags = {t.name if not t.name.isdigit() else str(t.code): t.value for t in page.tags.values()}
    return {name: v for name, v in tags.items() if not hasattr(v, "__len__") or len(v) < 10_000}


def _pixel_size(tif: tifffile.TiffFile) -> tuple[PixelSize | None, str, list[str]]:
    """Pixel size in nm, where it is from, and what contradicts it."""
    found = [(size, source) for size, source in _pixel_sizes(tif) if size is not None]
    if not found:
        return None, "", []
    (first, source), *others = found
    warnings = [
        f"the file gives two pixel sizes: {first[1]:.6g} nm ({source}) is used, "
        f"{size[1]:.6g} nm ({other}) is not"
        for size, other in others
        if not np.allclose(size, first, rtol=0.01)
    ]
    return first, source, warnings


def _pixel_sizes(tif: tifffile.TiffFile) -> Iterator[tuple[PixelSize | None, str]]:
    """Every calibration in the file, the most trustworthy first.

    The resolution tags alone are not one of them: programs fill in printer's dots per inch.
    """
    tags = tif.pages[0].tags
    values = {code: tags[code].value for code in (DM_SCALE_X, DM_SCALE_Y) if code in tags}
    if len(values) == 2:
        units = {c: tags[c].value if c in tags else "" for c in (DM_UNIT_X, DM_UNIT_Y)}
        yield (
            _both(values[DM_SCALE_Y], units[DM_UNIT_Y], values[DM_SCALE_X], units[DM_UNIT_X]),
            "DigitalMicrograph tags",
        )
    if (ome := _ome_pixels(tif)) is not None and "PhysicalSizeX" in ome:
        width, height = ome["PhysicalSizeX"], ome.get("PhysicalSizeY", ome["PhysicalSizeX"])
        unit_x = ome.get("PhysicalSizeXUnit", "µm")  # the default of the OME schema
        unit_y = ome.get("PhysicalSizeYUnit", "µm")
        yield _both(height, unit_y, width, unit_x), "OME metadata"
    unit = (tif.imagej_metadata or {}).get("unit")
    if unit is not None and "XResolution" in tags and "YResolution" in tags:
        # ImageJ stores pixels per unit; the unit of the tag, often inch, has no meaning then.
        x, y = (_per_unit(tags[name].value) for name in ("XResolution", "YResolution"))
        yield _both(y, unit, x, (tif.imagej_metadata or {}).get("xunit", unit)), "ImageJ"
    scan = (tif.fei_metadata or {}).get("Scan", {})
    if "PixelWidth" in scan and "PixelHeight" in scan:
        yield _both(scan["PixelHeight"], "m", scan["PixelWidth"], "m"), "FEI metadata"


def _per_unit(ratio: tuple[int, int]) -> float:
    """Length of a pixel from pixels per unit, 0 where it is not given."""
    return ratio[1] / ratio[0] if ratio[0] else 0.0


def _both(y: Any, unit_y: str, x: Any, unit_x: str) -> PixelSize | None:
    """Both sides of a pixel in nm, or None."""
    sides = length_in_nm(float(y), unit_y), length_in_nm(float(x), unit_x)
    return None if sides[0] is None or sides[1] is None else (sides[0], sides[1])


def _ome_pixels(tif: tifffile.TiffFile) -> dict[str, str] | None:
    """Attributes of the first image in the OME metadata."""
    if not tif.is_ome or not tif.ome_metadata:
        return None
    root = ElementTree.fromstring(tif.ome_metadata)
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    return None if pixels is None else dict(pixels.attrib)


def _frame_time(tif: tifffile.TiffFile) -> float | None:
    """Time from frame to frame in s."""
    if (ome := _ome_pixels(tif)) is not None and "TimeIncrement" in ome:
        return time_in_s(float(ome["TimeIncrement"]), ome.get("TimeIncrementUnit", "s"))
    imagej = tif.imagej_metadata or {}
    if "finterval" in imagej:
        return time_in_s(float(imagej["finterval"]), imagej.get("tunit", "s"))
    return None
