"""Lengths in nm and times in s, out of the units that files spell in many ways."""

import numpy as np

from atomvae.errors import InputError

NANOMETRES = {"fm": 1e-6, "pm": 1e-3, "a": 0.1, "å": 0.1, "nm": 1.0, "um": 1e3, "mm": 1e6}
NANOMETRES |= {"cm": 1e7, "m": 1e9}
SECONDS = {"ps": 1e-12, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
PREFIXES = {"pico": "p", "nano": "n", "micro": "u", "milli": "m", "centi": "c", "femto": "f"}
WORDS = {
    "angstrom": "å",
    "ångström": "å",
    "ångstrom": "å",
    "micron": "um",
    "microns": "um",
    "meter": "m",
}
WORDS |= {
    "metre": "m",
    "microns": "um",
    "sec": "s",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
}


def symbol(unit: object) -> str:
    """Return the symbol of a unit: ``n_m``, ``nanometers`` and ``nm`` are all ``nm``.

    Examples
    --------
    >>> symbol("[n_m]"), symbol("µm"), symbol("Angstroms"), symbol(b"milliseconds"), symbol(None)
    ('nm', 'um', 'å', 'ms', '')
    """
    if unit is None:
        return ""
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = text.replace("\\u00B5", "u").replace("\\u00C5", "å")  # as ImageJ escapes them
    text = text.strip().strip("[]()").replace("_", "").replace(" ", "")
    text = text.replace("µ", "u").replace("μ", "u").replace("Å", "Å").lower()
    prefix = next((p for p in PREFIXES if text.startswith(p) and text not in WORDS), "")
    stem = text.removeprefix(prefix)
    word = stem.removesuffix("s") if len(stem) > 3 else stem
    if prefix and word not in WORDS:
        return text
    return PREFIXES.get(prefix, "") + WORDS.get(word, stem)


def is_reciprocal(unit: object) -> bool:
    """Whether a unit is an inverse length, as in a diffraction pattern.

    Examples
    --------
    >>> is_reciprocal("1/nm"), is_reciprocal("nm^-1"), is_reciprocal("nm")
    (True, True, False)
    """
    text = symbol(unit)
    return text.startswith("1/") or text.endswith(("^-1", "**-1", "⁻¹", "mrad"))


def length_in_nm(value: float, unit: object) -> float | None:
    """Return a length in nm, or None when the unit says nothing (empty, pixel) or is not a length.

    Raises
    ------
    InputError
        When the unit is an inverse length: the data are a diffraction pattern, not an image.

    Examples
    --------
    >>> length_in_nm(12.0, "pm"), length_in_nm(1e-11, "m"), length_in_nm(1.0, "pixel")
    (0.012, 0.01, None)
    """
    if is_reciprocal(unit):
        raise InputError(
            f"the axis unit is {unit!s}, an inverse length; expected an image in real space, so "
            "choose another data set or transform this one back"
        )
    return _positive(value, NANOMETRES.get(symbol(unit)))


def time_in_s(value: float, unit: object) -> float | None:
    """Return a time in s, or None when the unit says nothing or is not a time.

    Examples
    --------
    >>> time_in_s(500, "ms"), time_in_s(1, "")
    (0.5, None)
    """
    return _positive(value, SECONDS.get(symbol(unit)))


def _positive(value: float, factor: float | None) -> float | None:
    """Value times factor, without the dust of binary fractions; None when it means nothing."""
    if factor is None or not np.isfinite(value) or value == 0:
        return None
    return float(f"{abs(float(value)) * factor:.12g}")
