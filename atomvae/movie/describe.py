"""What was understood of a movie, in lines of plain text."""

import os
from pathlib import Path

import numpy as np

from atomvae.movie.calibration import check_calibration
from atomvae.movie.movie import Movie


def describe(movie: Movie) -> str:
    """Describe a movie in a few lines: shape, calibration, values, lattice, warnings.

    The first frames are read, for the range of values and the lattice.

    Examples
    --------
    >>> print(describe(Movie.from_array(np.eye(32), pixel_size=0.01, name="eye")))
    name         eye
    shape        1 frame of 32 x 32 pixels (y, x), float64
    pixel size   10 pm
    field        0.32 x 0.32 nm (y, x)
    frame time   unknown
    values       0 to 1, mean 0.03125 (first frame)
    lattice      no Fourier peaks found
    """
    n, height, width = movie.shape
    frames = "frame" if n == 1 else "frames"
    lines = [
        ("name", movie.name),
        ("shape", f"{n} {frames} of {height} x {width} pixels (y, x), {movie.frames.dtype}"),
        ("pixel size", _pixel_size(movie)),
    ]
    if (field := movie.field_of_view) is not None:
        lines.append(("field", f"{field[0]:.4g} x {field[1]:.4g} nm (y, x)"))
    seconds = movie.frame_time
    lines.append(("frame time", "unknown" if seconds is None else f"{seconds:.6g} s"))
    if (index := movie.metadata.get("frame_index")) is not None:
        missing = int(index[-1]) - int(index[0]) + 1 - len(index)
        lines.append(("frames", f"numbered {index[0]} to {index[-1]}, {missing} missing"))
    lines.append(("values", _values(movie)))
    check = check_calibration(movie)
    lines.append(("lattice", _lattice(check.spacings_nm, movie.pixel_size is not None)))
    if check.factor is not None:
        error = f"{(check.factor - 1) * 100:+.1f} % from the known spacings"
        lines.append(("calibration", f"{check.material} {check.plane} reads {error}"))
    if "path" in movie.metadata:
        lines.append(("file", f"{movie.metadata['path']} ({_on_disk(movie.metadata['path'])})"))
    warnings = list(movie.metadata["warnings"])
    if check.warning and check.warning not in warnings:
        warnings.append(check.warning)
    lines += [("warning", warning) for warning in warnings]
    return "\n".join(f"{label:<12} {text}" for label, text in lines)


def _pixel_size(movie: Movie) -> str:
    """Pixel size in pm and where it is from."""
    if movie.pixel_size is None:
        return "unknown"
    y, x = (side * 1e3 for side in movie.pixel_size)
    size = f"{x:.5g} pm" if np.isclose(y, x, rtol=1e-4) else f"{y:.5g} x {x:.5g} pm (y, x)"
    source = movie.metadata.get("pixel_size_from")
    return f"{size}, from {source}" if source and source != "given" else size


def _values(movie: Movie) -> str:
    """Range of the first frame, and what is not a number."""
    first = movie.frame(0)
    finite = first[np.isfinite(first)]
    if finite.size == 0:
        return "none: no pixel of the first frame is a number"
    missing = first.size - finite.size
    text = f"{finite.min():.6g} to {finite.max():.6g}, mean {finite.mean(dtype=float):.6g}"
    return f"{text} (first frame)" + (f", {missing} pixels are not numbers" if missing else "")


def _lattice(spacings: tuple[float, ...], calibrated: bool) -> str:
    """List the strongest plane spacings."""
    if not spacings:
        return "no Fourier peaks found"
    factor, unit = (1e3, "pm") if calibrated else (1.0, "px")
    return ", ".join(f"{d * factor:.4g}" for d in spacings[:6]) + f" {unit} (Fourier peaks)"


def _on_disk(path: str) -> str:
    """Size of a file or folder."""
    location = Path(path)
    if location.is_file():
        total = location.stat().st_size
    else:
        walk = os.walk(location)
        total = sum((Path(d) / f).stat().st_size for d, _, files in walk for f in files)
    size, unit = float(total), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
