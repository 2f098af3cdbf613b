"""Atom positions from other programs: csv, parquet, npy; in either order of the coordinates."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.atoms.mask import clean_frame, local_mean
from atomvae.atoms.table import COLUMNS, check_atoms, make_atoms
from atomvae.errors import InputError
from atomvae.movie.movie import Movie

Order = Literal["yx", "xy"]

_NAMES = {
    "y": ("y", "row", "y_px", "ypos", "y (px)"),
    "x": ("x", "col", "column", "x_px", "xpos", "x (px)"),
    "frame": ("frame", "t", "slice"),
}
_FINE_PX, _BROAD_PX = 1.5, 10.0  # a position sits on a column if this much blur leaves it bright
_CLEAR = 5.0  # standard errors from random positions
_SAMPLE = 20_000  # random positions, and at most so many of the table
_FRAMES = 8  # of the movie are looked at


class OrderTest(NamedTuple):
    """How far the intensity at the positions is from that at random ones, in standard errors."""

    yx: float
    xy: float

    @property
    def winner(self) -> Order | None:
        """The order that sits on columns; None when neither does clearly."""
        yx, xy = abs(self.yx), abs(self.xy)
        if max(yx, xy) < _CLEAR or max(yx, xy) < 2 * min(yx, xy):
            return None
        return "yx" if yx > xy else "xy"


def read_atoms(
    path: str | Path, movie: Movie | None = None, order: Order | None = None
) -> pd.DataFrame:
    r"""Read atom positions from a file and check the order of their coordinates on the image.

    Parameters
    ----------
    path
        ``.csv``, ``.txt`` or ``.tsv`` (with or without a header), ``.parquet``, or ``.npy`` with
        the shape (n, 2), or (n, 3) whose first column is the frame. Positions in pixels, pixel
        centres at integers.
    movie
        The movie they belong to: both orders are tried on it. The positions are checked against
        its shape.
    order
        What the first and the second coordinate column are; overrides the names of the columns.

    Returns
    -------
    pandas.DataFrame
        Atom table, see `atomvae.atoms.table.COLUMNS`; what the file doesn't tell is NaN, 0 or -1.

    Warns
    -----
    UserWarning
        When the image says that the coordinates are swapped.

    Raises
    ------
    InputError
        If the file can't be read, a position is no number or outside the movie, or the order is
        neither given nor named nor clear from the image.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.csv"
    ...     _ = path.write_text("X,Y\n14,1\n43,7\n")
    ...     read_atoms(path)[["y", "x"]].to_numpy().tolist()
    [[1.0, 14.0], [7.0, 43.0]]
    """
    table, named = _named(_load(Path(path)), Path(path).name)
    if order is not None and order not in ("yx", "xy"):
        raise InputError(f"order is {order!r}, expected 'yx', 'xy' or None")
    if order is not None:
        first, second = _coordinates(table)
        table = _renamed(table, first, second, order)
    elif not named:
        table = _renamed(table, "first", "second", _guess(table, movie, Path(path).name))
    if movie is not None:
        _check_inside(table, movie)
        if named or order is not None:
            _warn_if_swapped(table, movie, Path(path).name)
    table = table.sort_values("frame", kind="stable") if "frame" in table else table
    known = {name: table[name].to_numpy() for name in table if name in COLUMNS}
    atoms = make_atoms(known)
    return check_atoms(atoms, shape=None if movie is None else movie.shape)


def order_test(atoms: pd.DataFrame, movie: Movie) -> OrderTest:
    """Compare the background-subtracted intensity at positions, in both orders, with random ones.

    Parameters
    ----------
    atoms
        Table with ``y, x`` (px) and, for more than one frame, ``frame``.
    movie
        Where they belong; up to eight of the frames that hold atoms are looked at.

    Returns
    -------
    OrderTest
        ``yx``: the table as it is; ``xy``: swapped. Positions outside the frame count as 0.

    Examples
    --------
    >>> image = np.zeros((64, 64)); image[10:60:9, 40:62:7] = 1.0
    >>> atoms = pd.DataFrame({"y": np.repeat(np.arange(10, 60, 9), 4), "x": [40, 47, 54, 61] * 6})
    >>> order_test(atoms, Movie.from_array(image)).winner
    'yx'
    """
    frame = atoms["frame"].to_numpy() if "frame" in atoms else np.zeros(len(atoms), int)
    inside = frame[(frame >= 0) & (frame < movie.n_frames)]
    present = np.unique(inside)
    chosen = present[np.unique(np.linspace(0, len(present) - 1, _FRAMES).round().astype(int))]
    there: list[NDArray[np.float64]] = []
    swapped: list[NDArray[np.float64]] = []
    anywhere: list[NDArray[np.float64]] = []
    rng = np.random.default_rng(0)
    for t in chosen if len(present) else []:
        image, valid = clean_frame(movie.frame(int(t)))
        contrast = local_mean(image, valid, _FINE_PX) - local_mean(image, valid, _BROAD_PX)
        rows = atoms[frame == t].iloc[: _SAMPLE // _FRAMES]
        y, x = rows["y"].to_numpy(float), rows["x"].to_numpy(float)
        there.append(_at(contrast, y, x))
        swapped.append(_at(contrast, x, y))
        anywhere.append(rng.choice(contrast.ravel(), _SAMPLE // _FRAMES))
    if not there:
        return OrderTest(0.0, 0.0)
    return OrderTest(
        *(_errors_above(np.concatenate(v), np.concatenate(anywhere)) for v in (there, swapped))
    )


def _at(
    contrast: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Contrast at the nearest pixels; 0 outside."""
    rows, columns = np.rint(np.nan_to_num(y)).astype(int), np.rint(np.nan_to_num(x)).astype(int)
    height, width = contrast.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    value = np.zeros(len(y))
    value[inside] = contrast[rows[inside], columns[inside]]
    return value


def _errors_above(values: NDArray[np.float64], anywhere: NDArray[np.float64]) -> float:
    """Mean of values above that of random positions, in standard errors."""
    spread = float(anywhere.std()) / np.sqrt(len(values))
    return float((values.mean() - anywhere.mean()) / spread) if spread > 0 else 0.0


def _load(path: Path) -> pd.DataFrame:
    """Table of a file, whatever it is."""
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _text, ".txt": _text, ".tsv": _text, ".parquet": pd.read_parquet, ".npy": _npy,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path.name} is no table of atoms, expected {', '.join(readers)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the path")
    try:
        return reader(path)
    except (ValueError, OSError) as error:  # parser errors are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path.name} can't be read as a table ({reason})") from error


def _text(path: Path) -> pd.DataFrame:
    """Separated numbers; a header is a first line with something that is no number."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()  # splits at CR CR LF as well
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return pd.DataFrame({"y": [], "x": []}, dtype=float)
    mark = next((m for m in (",", ";", "\t") if m in lines[0]), r"\s+")
    table = pd.read_csv(io.StringIO("\n".join(lines)), sep=mark, header=None, dtype=str)
    first = pd.to_numeric(table.iloc[0], errors="coerce")
    if first.isna().any():
        names = table.iloc[0].fillna("").str.strip().tolist()
        table = table.iloc[1:].set_axis(names, axis=1)
    numbers = {column: pd.to_numeric(table[column]).to_numpy() for column in table}
    return pd.DataFrame(numbers)


def _npy(path: Path) -> pd.DataFrame:
    """Positions (n, 2), or (n, 3) with the frame first."""
    array = np.load(path, allow_pickle=False)
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"shape {array.shape}, expected (n, 2) or (n, 3) with the frame first")
    return pd.DataFrame(array)


def _named(table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, bool]:
    """Coordinates renamed to y and x where the names tell, else to first and second."""
    lower = {column: str(column).strip().lower() for column in table.columns}
    new = {
        column: ours
        for column, low in lower.items()
        for ours, theirs in _NAMES.items()
        if low in theirs
    }
    if set(new.values()) >= {"y", "x"}:
        return table.rename(columns=new), True
    if all(isinstance(column, int) for column in table.columns) and table.shape[1] in (2, 3):
        return table.set_axis(["frame", "first", "second"][-table.shape[1] :], axis=1), False
    found = ", ".join(str(column) for column in table.columns)
    raise InputError(
        f"{name} has the columns {found}; expected columns named y and x, or two (three, with the "
        "frame first) without a header"
    )


def _coordinates(table: pd.DataFrame) -> tuple[str, str]:
    """Names of the two coordinate columns in the order of the file."""
    first, second = (c for c in table.columns if c in ("y", "x", "first", "second"))
    return str(first), str(second)


def _renamed(table: pd.DataFrame, first: str, second: str, order: Order) -> pd.DataFrame:
    """Table with the coordinates named by their order."""
    return table.rename(columns={first: order[0], second: order[1]})


def _guess(table: pd.DataFrame, movie: Movie | None, name: str) -> Order:
    """Order of unnamed coordinates, by the image."""
    if movie is None:
        raise InputError(f"{name} doesn't name its coordinates; pass order='yx' or 'xy', or movie")
    test = order_test(_renamed(table, "first", "second", "yx"), movie)
    if test.winner is None:
        raise InputError(
            f"neither order of the coordinates of {name} sits on columns of the image "
            f"({test.yx:.1f} and {test.xy:.1f} standard errors from random positions); "
            "pass order='yx' or 'xy'"
        )
    if test.winner == "xy":
        warnings.warn(f"{name}: by the image its coordinates are (x, y), read so", stacklevel=3)
    return test.winner


def _warn_if_swapped(table: pd.DataFrame, movie: Movie, name: str) -> None:
    test = order_test(table, movie)
    if test.winner == "xy":
        warnings.warn(
            f"{name}: by the image its coordinates are swapped (swapped {test.xy:.0f}, as read "
            f"{test.yx:.0f} standard errors from random positions); pass the other order",
            stacklevel=3,
        )


def _check_inside(table: pd.DataFrame, movie: Movie) -> None:
    """Refuse positions outside the frame."""
    _, height, width = movie.shape
    y, x = table["y"].to_numpy(float), table["x"].to_numpy(float)
    outside = (y < -0.5) | (x < -0.5) | (y > height - 0.5) | (x > width - 0.5)
    if outside.any():
        raise InputError(
            f"{int(outside.sum())} of {len(table)} positions lie outside the frame of {height} x "
            f"{width} px; check the order of the coordinates, their unit (px) and the movie"
        )
