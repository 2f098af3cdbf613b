"""Save the atoms, as they were edited in napari, as a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def write_points(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one points layer as .csv or .parquet.

    Parameters
    ----------
    path : str
        Where to; the ending chooses the format.
    data : ndarray (n, 3) or (n, 2)
        Positions as (t, y, x) or (y, x) in pixels.
    attributes : dict
        State of the layer; ``features`` travels along.

    Returns
    -------
    list of str
        The path that was written.
    """
    table = points_table(data, attributes.get("features"))
    if Path(path).suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return [path]


def write_movie(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image layer as OME-Zarr 0.5, which napari, Fiji and others read.

    Parameters
    ----------
    path : str
        Folder to write, NAME.ome.zarr.
    data : array (t, y, x) or (y, x), or a list of such for several resolutions
        Written frame by frame.
    attributes : dict
        State of the layer: ``name``, ``scale`` and ``units``.

    Returns
    -------
    list of str
        The path that was written.
    """
    from atomvae.movie.movie import Movie
    from atomvae.run.images import write_image
    from atomvae.viewer.plugin.job import axis_size

    data = data[0] if isinstance(data, list | tuple) or hasattr(data, "_data") else data
    size = [axis_size(attributes, axis, "nm") for axis in (-2, -1)]
    movie = Movie.from_array(
        data,
        pixel_size=None if None in size else (size[0], size[1]),
        frame_time=axis_size(attributes, 0, "s") if data.ndim == 3 else None,
        name=str(attributes.get("name") or "movie"),
    )
    write_image(Path(path), movie)
    return [path]


def points_table(data: Any, features: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """Table of atoms of a points layer; what was moved, added or removed by hand is kept.

    Parameters
    ----------
    data : ndarray (n, 3) or (n, 2)
        Positions as (t, y, x) or (y, x) in pixels; they overrule the columns of the features.
    features : DataFrame, optional
        One row per point.

    Returns
    -------
    DataFrame
        With atom_id (new numbers for new points), frame, y, x, then the features; sorted by
        frame. Columns of the atom table have their documented types.

    Examples
    --------
    >>> points_table([[1, 4.5, 2.0], [0, 3.0, 1.0]])
       atom_id  frame    y    x
    0        1      0  3.0  1.0
    1        0      1  4.5  2.0
    """
    import numpy as np
    import pandas as pd

    from atomvae.atoms.table import COLUMNS

    position = np.asarray(data, np.float64)
    if position.shape[1] == 2:
        position = np.c_[np.zeros(len(position)), position]
    table = pd.DataFrame(features).reset_index(drop=True).reindex(range(len(position)))
    table["frame"] = np.round(position[:, 0]).astype(np.int64)
    table["y"], table["x"] = position[:, 1], position[:, 2]
    table["atom_id"] = _numbers(table.get("atom_id"), len(table))
    for name, column in COLUMNS.items():
        if name in table and column.dtype.startswith("int"):
            unknown = -1 if name in ("track", "sublattice") else 0
            table[name] = pd.to_numeric(table[name]).fillna(unknown).astype(column.dtype)
    first = ["atom_id", "frame", "y", "x"]
    table = table[first + [name for name in table if name not in first]]
    return table.sort_values("frame", kind="stable", ignore_index=True)


def _numbers(known: Any, count: int) -> Any:
    """Numbers of the atoms: the known ones, and fresh ones for new or copied points."""
    import numpy as np
    import pandas as pd

    if known is None:
        return np.arange(count)
    numbers = pd.to_numeric(pd.Series(known))
    fresh = numbers.isna() | numbers.duplicated()
    start = 0 if numbers.isna().all() else int(numbers.max()) + 1
    numbers[fresh] = np.arange(start, start + int(fresh.sum()))
    return numbers.astype(np.int64)
