"""What the lattice says about the calibration, and a calibration from the lattice."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.movie.spectrum import Peaks, fourier_peaks

TOLERATED = 0.08  # calibrations of 3 to 6 % error are normal in real files
SAME_PLANE = 0.10  # scan distortion spreads one spacing by that much to either side
FRAMES = 4  # whose power is averaged
CHECKED_AT_OPENING = 2**22  # px; the spectrum of a larger frame takes longer than a moment


@dataclass(frozen=True)
class Crystal:
    """A crystal whose plane spacings are known.

    Parameters
    ----------
    name : str
        As shown.
    hint : str
        Pattern of what files and folders of it are called, lower case.
    planes : tuple of (str, float)
        Indices and spacing in nm, the longest first.

    Examples
    --------
    >>> CRYSTALS["graphene"].planes[0]
    ('{10}', 0.2130...)
    """

    name: str
    hint: str
    planes: tuple[tuple[str, float], ...]


def _hexagonal(name: str, a: float, hint: str) -> Crystal:
    """Return a two-dimensional hexagonal crystal, lattice constant in nm."""
    first = a * np.sqrt(3) / 2
    planes = (("{10}", first), ("{11}", first / np.sqrt(3)), ("{20}", first / 2))
    return Crystal(name, hint, tuple((label, float(d)) for label, d in planes))


def _cubic(name: str, a: float, hint: str, indices: Sequence[str]) -> Crystal:
    """Return a cubic crystal, lattice constant in nm."""
    planes = [(f"{{{i}}}", float(a / np.sqrt(sum(int(k) ** 2 for k in i)))) for i in indices]
    return Crystal(name, hint, tuple(planes))


# Lattice constants at room temperature, in nm.
CRYSTALS = {
    crystal.name: crystal
    for crystal in (
        _hexagonal("graphene", 0.2460, r"graphene|si3c6|sigr"),
        _hexagonal("hBN", 0.2504, r"\bh-?bn\b"),
        _hexagonal("MoS2", 0.3160, r"mos2"),
        _hexagonal("MoSe2", 0.3288, r"mose2"),
        _hexagonal("WS2", 0.3153, r"\bws2"),
        _hexagonal("WSe2", 0.3282, r"wse2"),
        _cubic("SrTiO3", 0.3905, r"srtio3|\bsto(?![ckl-prw])", ("100", "110", "111", "200", "211")),
        _cubic("Au", 0.4078, r"\bgold\b|\bau\b", ("111", "200", "220")),
    )
}


@dataclass(frozen=True)
class CalibrationCheck:
    """What the Fourier peaks say about the pixel size.

    Parameters
    ----------
    spacings_nm : tuple of float
        Plane spacings with the pixel size of the movie, the strongest peak first; in pixels when
        the pixel size is unknown.
    material : str or None
        The known crystal they were compared with; None when nothing tells it.
    factor : float or None
        Measured spacing over the known one, 1 for a right calibration; None without a comparison
        or where no peak fits.
    plane : str
        The plane of the strongest peak that fits.
    warning : str
        A sentence for the user when the factor is more than 8 per cent off; else empty.

    Examples
    --------
    >>> CalibrationCheck((0.35,), "MoS2", 1.28, "{10}", "...").factor
    1.28
    """

    spacings_nm: tuple[float, ...]
    material: str | None = None
    factor: float | None = None
    plane: str = ""
    warning: str = ""


def check_calibration(movie: Movie, material: str | None = None) -> CalibrationCheck:
    """Compare the lattice in the first frames with the plane spacings of a known crystal.

    Parameters
    ----------
    movie : Movie
        Its first frames are read.
    material : str, optional
        One of `CRYSTALS`. None: from ``metadata["material"]`` or the names of the file and its
        folder; when they tell nothing, spacings are only listed.

    Raises
    ------
    InputError
        When the material is not one of the known ones.

    Examples
    --------
    >>> y, x = np.indices((128, 128))
    >>> waves = np.cos(2 * np.pi * x / 16) + np.cos(2 * np.pi * y / 16)
    >>> check = check_calibration(Movie.from_array(waves, pixel_size=0.025), "SrTiO3")
    >>> round(check.factor, 2), check.plane
    (1.02, '{100}')
    """
    name = _material(movie) if material is None else material
    if name is not None and name not in CRYSTALS:
        raise InputError(
            f"the plane spacings of {name!r} are not known; expected one of {', '.join(CRYSTALS)}, "
            "or calibrate with the spacing itself"
        )
    peaks = _peaks(movie)
    spacings = peaks.spacing(movie.pixel_size or (1.0, 1.0))
    listed = tuple(float(d) for d in spacings)
    if name is None or movie.pixel_size is None or not listed:
        return CalibrationCheck(listed, name)
    planes = CRYSTALS[name].planes
    factor = _factor(spacings, peaks.power, np.array([d for _, d in planes]))
    if factor is None:
        return CalibrationCheck(listed, name)
    ratios = listed[0] / factor / np.array([d for _, d in planes])
    plane, known = planes[int(np.argmin(abs(np.log(ratios))))]
    warning = ""
    if abs(factor - 1) > TOLERATED:
        warning = (
            f"the lattice contradicts the pixel size: {name} {plane} reads "
            f"{known * factor * 1e3:.0f} pm instead of {known * 1e3:.1f} pm, so the pixel size "
            f"should be about {movie.pixel_size[1] / factor * 1e3:.4g} pm instead of "
            f"{movie.pixel_size[1] * 1e3:.4g} pm; give pixel_size, or calibrate from the lattice"
        )
    return CalibrationCheck(listed, name, factor, plane, warning)


def with_calibration_warning(movie: Movie) -> Movie:
    """Add to ``metadata["warnings"]`` what the lattice of a known crystal contradicts.

    Only where the metadata or the file's name tell the crystal, and frames are small enough for
    the check to take no time; otherwise the movie is returned as it is and nothing is read.
    """
    pixels = movie.shape[1] * movie.shape[2]
    if movie.pixel_size is None or pixels > CHECKED_AT_OPENING or _material(movie) is None:
        return movie
    warning = check_calibration(movie).warning
    if not warning:
        return movie
    warnings = [*movie.metadata["warnings"], warning]
    return replace(movie, metadata={**movie.metadata, "warnings": warnings})


def calibrate(movie: Movie, spacing_nm: float, *, spacing_px: float | None = None) -> Movie:
    """Movie whose pixel size follows from a plane spacing that is known.

    The spacing in pixels is the mean over the Fourier peaks of one family of planes: those
    within 15 per cent of the strongest. The ratio of the sides of a pixel stays.

    Parameters
    ----------
    movie : Movie
        Its first frames are read.
    spacing_nm : float
        Known distance of the lattice planes.
    spacing_px : float, optional
        About the distance of these planes in pixels, to choose another family than that of the
        strongest peak.

    Raises
    ------
    InputError
        When no lattice is found (there), or the spacing is not positive.

    Examples
    --------
    >>> y, x = np.indices((128, 128))
    >>> movie = Movie.from_array(np.cos(2 * np.pi * x / 20) + np.cos(2 * np.pi * y / 20))
    >>> tuple(round(side, 4) for side in calibrate(movie, 0.39).pixel_size)
    (0.0195, 0.0195)
    """
    if not (np.isfinite(spacing_nm) and spacing_nm > 0):
        raise InputError(f"the plane spacing is {spacing_nm!r}; expected a positive number of nm")
    peaks = _peaks(movie)
    sides = np.array(movie.pixel_size or (1.0, 1.0))
    sides = sides / sides[1]  # in units of the pixel's width
    spacings = peaks.spacing((float(sides[0]), float(sides[1])))
    wanted = spacing_px if spacing_px is not None else next(iter(spacings), np.nan)
    family = abs(spacings / wanted - 1) < 0.15
    if not family.any():
        raise InputError(
            "no lattice was found in the first frames to calibrate from; give pixel_size in nm"
            + (f" or another spacing_px than {spacing_px}" if spacing_px is not None else "")
        )
    width = spacing_nm / float(np.mean(spacings[family]))
    size = (float(width * sides[0]), float(width))
    warnings = [w for w in movie.metadata["warnings"] if "lattice contradicts" not in w]
    source = f"lattice spacing {spacing_nm:g} nm"
    metadata = {**movie.metadata, "pixel_size_from": source, "warnings": warnings}
    return replace(movie, pixel_size=size, metadata=metadata)


def _peaks(movie: Movie) -> Peaks:
    """Return the Fourier peaks of the first frames."""
    return fourier_peaks(movie.frame(t) for t in range(min(FRAMES, movie.n_frames)))


def _material(movie: Movie) -> str | None:
    """Return the crystal that metadata or names hint at; None when none or several do."""
    path = Path(movie.metadata.get("path", ""))
    hints = (str(movie.metadata.get("material", "")), path.name, path.parent.name)
    for hint in hints:
        words = re.sub(r"[_\s]", " ", hint.lower())
        found = [c.name for c in CRYSTALS.values() if re.search(c.hint, words)]
        if len(found) == 1:
            return found[0]
    return None


def _factor(
    spacings: npt.NDArray[np.float64],
    power: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
) -> float | None:
    """Return the one factor between measured and known spacings that explains most of the power.

    Of factors that explain about as much, the nearest to 1: lattices look like themselves
    magnified, e.g. {110} of a square lattice like a smaller {100}.
    """
    strong = power > 0.05
    spacings, power = spacings[strong], power[strong]
    ratios = spacings[:, None] / known  # (peaks, planes)
    candidates = np.geomspace(0.25, 4, 401)
    off = abs(ratios[..., None] / candidates - 1)  # (peaks, planes, candidates)
    explained = ((off.min(axis=1) < SAME_PLANE) * power[:, None]).sum(axis=0)
    if not explained.any():
        return None
    good = candidates[explained >= 0.8 * explained.max()]
    best = good[np.argmin(abs(np.log(good)))]
    for _ in range(5):  # from the edge of the interval that explains to its mean
        nearest = np.argmin(abs(ratios / best - 1), axis=1)
        ratio = ratios[np.arange(len(ratios)), nearest]
        used = abs(ratio / best - 1) < SAME_PLANE
        # One family, that of the strongest peak used, where every direction counts the same.
        family = used & (nearest == nearest[np.argmax(used)])
        best = np.exp(np.mean(np.log(ratio[family])))
    return float(best)
