"""Tables as Zarr groups: one array per column, so that any program reads them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.errors import ZarrUserWarning

from atomvae.errors import InputError
from atomvae.run.atomic import replacing

ROWS_PER_CHUNK = 65536


def write_table(
    path: Path,
    table: pd.DataFrame,
    attributes: Mapping[str, Any],
    *,
    descriptions: Mapping[str, Mapping[str, str]] | None = None,
    scratch: Path | None = None,
) -> None:
    """Write a table as a Zarr group, replacing what was there in one step.

    Parameters
    ----------
    path : Path
        Folder of the group.
    table : DataFrame
        Numbers, booleans or text; every column becomes an array with the dimension "atom". Text
        becomes integer codes whose words are the attribute "categories".
    attributes : mapping
        JSON attributes of the group; "columns" (their order) is added.
    descriptions : mapping, optional
        For each column the attributes of its array, e.g. unit and meaning.
    scratch : Path, optional
        Where to build it, on the same file system. Default: beside ``path``.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "atoms"
    >>> write_table(folder, pd.DataFrame({"y": [1.0, 2.0], "class": ["a", "b"]}), {"n": 1})
    >>> read_table(folder)
         y class
    0  1.0     a
    1  2.0     b
    """
    with replacing(path, scratch) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        group.attrs.update({**attributes, "columns": list(table.columns)})
        for name in table.columns:
            words = None
            values = table[name].to_numpy()
            if values.dtype.kind not in "biuf":
                codes, words = pd.factorize(table[name].astype(str), sort=True)
                values = codes.astype(np.int32)
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(max(1, min(len(values), ROWS_PER_CHUNK)),),
                dimension_names=["atom"],
                # Every chunk is written, so that a missing one can be told from a chunk of zeros.
                config={"write_empty_chunks": True},
            )
            array[:] = values
            array.attrs.update((descriptions or {}).get(name, {}))
            if words is not None:
                array.attrs["categories"] = list(words)
        consolidate(temporary)


def consolidate(path: Path) -> None:
    """List all arrays of a group in its zarr.json, for programs that warn without (xarray).

    Parameters
    ----------
    path : Path
        Folder of the group; whoever adds to it later must do this again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def read_table(path: Path, rows: slice = slice(None)) -> pd.DataFrame:
    """Read a table that `write_table` wrote.

    Parameters
    ----------
    path : Path
        Folder of the group.
    rows : slice
        Which rows. Default: all.

    Returns
    -------
    DataFrame
        The columns in their order.

    Raises
    ------
    InputError
        When the group, a column or a chunk of a column is missing or unreadable.
    """
    group = open_group(path)
    columns = {}
    for name in group.attrs.get("columns", []):
        try:
            array = group[name]
            if array.nchunks_initialized != array.nchunks:
                raise OSError(f"{array.nchunks - array.nchunks_initialized} chunks are missing")
            values = array[rows]
        except Exception as error:
            # Whatever a damaged file makes of its codecs, the user needs to know which file.
            raise InputError(
                f"{path / name} is damaged ({_short(error)}); restore the run folder from a copy, "
                "or remove this table and run the pipeline again"
            ) from error
        words = array.attrs.get("categories")
        columns[name] = values if words is None else np.asarray(words, dtype=object)[values]
    return pd.DataFrame(columns)


def open_group(path: Path) -> zarr.Group:
    """Open a Zarr group for reading, or say in one sentence why that is not possible.

    Parameters
    ----------
    path : Path
        Folder of the group.

    Returns
    -------
    zarr.Group
        Opened without consolidated metadata, so that what was added later is seen.

    Raises
    ------
    InputError
        When there is no group, or it cannot be read.
    """
    try:
        return zarr.open_group(path, mode="r", use_consolidated=False)
    except Exception as error:
        raise InputError(
            f"{path} holds no readable Zarr group ({_short(error)}); expected one written by "
            "atomvae; run the pipeline again or restore the folder from a copy"
        ) from error


def _short(error: Exception) -> str:
    """First line of an error, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
