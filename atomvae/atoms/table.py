"""The atom table: what each column means, and the check at the door."""

from enum import IntFlag
from typing import NamedTuple

import numpy as np
import pandas as pd

from atomvae.errors import InputError


class Flag(IntFlag):
    """Reasons to look twice at an atom; the bits of the column ``flag``.

    Atoms are flagged, not deleted: each later step chooses what it can use.

    Examples
    --------
    >>> flag = Flag.BORDER | Flag.FAINT
    >>> int(flag), bool(flag & Flag.BORDER), bool(flag & Flag.MISFIT)
    (12, True, False)
    """

    NOT_CONVERGED = 1
    """The fit ran out of iterations."""
    AT_BOUND = 2
    """A parameter of the fit stopped at its bound."""
    BORDER = 4
    """The fit window reaches beyond the frame or into missing pixels."""
    FAINT = 8
    """The amplitude is below 3 of its standard deviations."""
    MISFIT = 16
    """chi2 lies outside 0.5 to 2: contamination, half an atom, overlap, correlated noise."""
    MOVED = 32
    """The fit moved more than 1.5 px from its start."""
    CROWDED = 64
    """A brighter atom is closer than 0.4 of the median spacing."""


class Column(NamedTuple):
    """What one column of a table holds."""

    dtype: str
    unit: str
    meaning: str


COLUMNS: dict[str, Column] = {
    "atom_id": Column("int64", "", "unique number of this atom in this frame, 0 to N-1"),
    "frame": Column("int64", "", "number of the frame; the table is sorted by it"),
    "y": Column("float64", "px", "row of the centre, pixel centres at integers, down"),
    "x": Column("float64", "px", "column of the centre, pixel centres at integers, right"),
    "y_sd": Column("float64", "px", "standard deviation of y; NaN when unknown"),
    "x_sd": Column("float64", "px", "standard deviation of x; NaN when unknown"),
    "amplitude": Column("float64", "file units", "height above background; negative if dark"),
    "amplitude_sd": Column("float64", "file units", "standard deviation of amplitude"),
    "sigma": Column("float64", "px", "width (Gaussian standard deviation) of the column"),
    "background": Column("float64", "file units", "level around the column"),
    "score": Column("float64", "", "abs(amplitude) / amplitude_sd"),
    "chi2": Column("float64", "", "squared residual per degree of freedom; 1 is a perfect fit"),
    "origin": Column("int8", "", "0: found in the pixels, 1: suggested by the lattice"),
    "flag": Column("int64", "bits", "reasons to look twice, see Flag; 0 is a clean fit"),
    "track": Column("int64", "", "number of the trajectory, -1 when unlinked"),
    "sublattice": Column("int64", "", "number of the sublattice, -1 when unknown"),
}
"""Columns of every atom table, in order. Further columns may follow."""

REQUIRED = ("atom_id", "frame", "y", "x")
_FILL: dict[str, int] = {"origin": 0, "flag": 0, "track": -1, "sublattice": -1}


def empty_atoms() -> pd.DataFrame:
    """Return an atom table without rows, every column with its dtype.

    Examples
    --------
    >>> atoms = empty_atoms()
    >>> len(atoms), str(atoms["origin"].dtype)
    (0, 'int8')
    """
    return pd.DataFrame({k: np.empty(0, dtype=c.dtype) for k, c in COLUMNS.items()})


def make_atoms(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Complete a table: dtypes set, missing columns filled, in the order of `COLUMNS`.

    Parameters
    ----------
    columns
        Name to 1-D array, all of one length, at least ``y`` and ``x`` (px). ``frame`` defaults to
        0, ``atom_id`` to 0 to N-1, ``track`` and ``sublattice`` to -1, measured columns to NaN.

    Returns
    -------
    pandas.DataFrame
        A table with all columns of `COLUMNS`, then any others given.

    Examples
    --------
    >>> atoms = make_atoms({"y": np.array([1.0, 2.0]), "x": np.array([5.0, 6.0])})
    >>> atoms["atom_id"].tolist(), atoms["track"].tolist(), bool(atoms["y_sd"].isna().all())
    ([0, 1], [-1, -1], True)
    """
    n = len(columns["y"])
    whole: dict[str, np.ndarray] = {}
    for name, column in COLUMNS.items():
        if name in columns:
            whole[name] = np.asarray(columns[name]).astype(column.dtype)
        elif name == "atom_id":
            whole[name] = np.arange(n, dtype="int64")
        elif column.dtype.startswith("int"):
            whole[name] = np.full(n, _FILL.get(name, 0), dtype=column.dtype)
        else:
            whole[name] = np.full(n, np.nan)
    return pd.DataFrame(whole | {k: v for k, v in columns.items() if k not in COLUMNS})


def check_atoms(atoms: pd.DataFrame, *, shape: tuple[int, ...] | None = None) -> pd.DataFrame:
    """Check an atom table at the door and return it with the right dtypes.

    Parameters
    ----------
    atoms
        Table with at least the columns ``atom_id, frame, y, x``; other known columns are checked
        when present, unknown ones are left alone.
    shape
        ``(t, y, x)`` of the movie; if given, every frame number must lie in it.

    Returns
    -------
    pandas.DataFrame
        The same rows and columns; a known column of another dtype has been converted.

    Raises
    ------
    InputError
        If a required column is missing, a value is not a number where one is needed, ``atom_id``
        repeats, or the rows are not sorted by frame.

    Examples
    --------
    >>> check_atoms(empty_atoms()).empty
    True
    >>> check_atoms(empty_atoms().drop(columns="y"))
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: the atom table has no column 'y'; it needs atom_id, frame, y, x
    """
    for name in REQUIRED:
        if name not in atoms:
            raise InputError(
                f"the atom table has no column {name!r}; it needs {', '.join(REQUIRED)}"
            )
    checked = {name: _typed(atoms[name]) for name in COLUMNS if name in atoms}
    table = atoms.assign(**checked)
    for name in ("y", "x"):
        if not np.isfinite(table[name]).all():
            raise InputError(f"column {name!r} holds NaN or infinity; drop those rows first")
    if table["atom_id"].duplicated().any():
        raise InputError("atom_id repeats in the atom table; number the rows, e.g. 0 to N-1")
    if not table["frame"].is_monotonic_increasing:
        raise InputError("the atom table is not sorted by frame; use atoms.sort_values('frame')")
    if len(table) and table["frame"].iloc[0] < 0:
        raise InputError(f"frame {table['frame'].iloc[0]} is negative; frames count from 0")
    if shape is not None and len(table) and table["frame"].iloc[-1] >= shape[0]:
        raise InputError(
            f"the atom table speaks of frame {table['frame'].iloc[-1]}, the movie has "
            f"{shape[0]} frames (0 to {shape[0] - 1}); use the table of this movie"
        )
    return table


def _typed(column: pd.Series) -> np.ndarray:
    """Values of a column in its documented dtype; refused when numbers would change."""
    name, dtype = str(column.name), COLUMNS[str(column.name)].dtype
    try:
        with np.errstate(invalid="ignore"):  # NaN to int is caught below, by its changed value
            converted: np.ndarray = np.asarray(column.to_numpy()).astype(dtype)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"column {name!r} holds {column.dtype} values, expected {dtype}"
        ) from error
    if dtype.startswith("int") and not (converted == column.to_numpy()).all():
        raise InputError(f"column {name!r} holds broken numbers, expected whole ones ({dtype})")
    return converted
