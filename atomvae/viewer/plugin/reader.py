"""Open run folders and tables of atoms in napari."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomvae.movie.movie import Movie
    from atomvae.run.folder import RunFolder

LayerData = tuple[Any, dict[str, Any], str]
SUFFIX = ".atomvae.zarr"
COLUMNS = {"frame", "y", "x"}  # what makes a table one of atoms
LEAST_DRIFT = 0.5  # px; less cannot be seen
MOST_MOVIES = 8  # of a batch; their layers are lazy, but a list of a thousand helps nobody


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Choose how to read a path; cheap, since napari asks for everything that is opened.

    Parameters
    ----------
    path : str or list of str
        What the user opens; stacks of paths are refused.

    Returns
    -------
    callable or None
        ``read_run`` for a run folder, also a damaged one, which then says what is missing;
        ``read_table`` for .csv and .parquet tables with the columns frame, y, x.

    Examples
    --------
    >>> get_reader("holiday.png") is None
    True
    """
    if not isinstance(path, str):
        return None
    place = Path(path)
    if place.name.endswith(SUFFIX) and place.is_dir():
        return read_run if _is_run(place) else None
    if place.suffix in (".csv", ".parquet") and place.is_file():
        return read_table if _columns(place) >= COLUMNS else None
    return None


def read_run(path: str) -> list[LayerData]:
    """Read a run folder as far as the run has come: movie, then atoms, then latents.

    Parameters
    ----------
    path : str
        ``NAME.atomvae.zarr``.

    Returns
    -------
    list of LayerData
        Layers of the first movie, and hidden ones of further movies of a batch.

    Raises
    ------
    InputError
        If the folder is damaged: one sentence says what is missing.
    """
    from atomvae.viewer.plugin.preferences import preference
    from atomvae.viewer.plugin.saved import restore

    return restore(path, run_layers(path, color_by=preference("display", "color_by", "") or None))


def run_layers(path: str | Path, *, color_by: str | None = None) -> list[LayerData]:
    """Layers of a run folder.

    Parameters
    ----------
    path : path-like
        ``NAME.atomvae.zarr``.
    color_by : str, optional
        Column that colours the atoms.

    Returns
    -------
    list of LayerData
    """
    from atomvae.run.folder import RunFolder
    from atomvae.viewer.layers import to_layers

    run = RunFolder(path)
    table = run.table() if (run.path / "atoms").exists() or run.marker("map") else None
    layers: list[LayerData] = []
    for number, name in enumerate(run.movies[:MOST_MOVIES] or [None]):
        own = table
        if table is not None and "movie" in table:
            own = table[table["movie"] == number]
        movie = _movie(run, name, own is None)
        new = to_layers(movie, own, color_by=color_by, source=str(run.path))
        new[1:1] = _without_drift(run, number, name)
        if number:
            new = [_aside(layer, str(name)) for layer in new]
        layers += new
    return layers


def _movie(run: "RunFolder", name: str | None, alone: bool) -> "Movie":
    """Open a movie; where its file is gone, atoms are shown on blank frames, with a warning."""
    from atomvae.run.images import SourceGone, blank_movie

    try:
        return run.movie(name)
    except SourceGone as error:
        if alone or name is None:
            raise
        warnings.warn(f"{error}; its frames are blank here", stacklevel=2)
        return blank_movie(run.path / "images" / name)


def read_table(path: str) -> list[LayerData]:
    """Read a table of atoms that was exported or saved, as points in pixels.

    Parameters
    ----------
    path : str
        A .csv or .parquet file with the columns frame, y, x and any others.

    Returns
    -------
    list of LayerData
        Points, and arrows and tracks if the table has an angle or tracks.
    """
    import pandas as pd

    from atomvae.viewer.layers import to_layers

    place = Path(path)
    table = pd.read_parquet(place) if place.suffix == ".parquet" else pd.read_csv(place)
    return to_layers(None, table, source=path)


def _without_drift(run: "RunFolder", number: int, name: str | None) -> list[LayerData]:
    """The movie moved back by its drift, hidden; nothing when it hardly drifts."""
    import pandas as pd

    from atomvae.errors import InputError
    from atomvae.movie.drift import correct_drift
    from atomvae.viewer.layers import to_layers
    from atomvae.viewer.plugin.still import STILL

    file = run.tables / "drift.parquet"
    if not file.exists():
        return []
    try:
        drift = pd.read_parquet(file)
        drift = drift[drift["movie"] == number] if "movie" in drift else drift
        if drift[["dy", "dx"]].abs().to_numpy().max(initial=0) < LEAST_DRIFT:
            return []
        movie = correct_drift(run.movie(name), drift)
    except (InputError, OSError, ValueError, KeyError):
        return []  # the drift of another movie, or none: the run itself can be shown
    data, options, kind = to_layers(movie, source=str(run.path))[0]
    shifts = drift.sort_values("frame")[["dy", "dx"]].to_numpy(float).tolist()
    known = options["metadata"]["atomvae"] | {"drift": shifts}
    about = {"visible": False, "name": STILL, "metadata": {"atomvae": known}}
    return [(data, options | about, kind)]


def _is_run(place: Path) -> bool:
    """Whether a folder is ours; a damaged one is, as long as anything of ours is left."""
    if (place / ".atomvae").is_dir():
        return True
    try:
        return "atomvae" in json.loads((place / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _columns(place: Path) -> set[str]:
    """Names of the columns of a table, without reading its rows."""
    try:
        if place.suffix == ".csv":
            with place.open(encoding="utf-8-sig") as file:
                return {name.strip().strip('"') for name in file.readline().split(",")}
        from pyarrow.parquet import read_schema

        return set(read_schema(place).names)
    except (OSError, ValueError):  # not text, not parquet: then it is not ours
        return set()


def _aside(layer: LayerData, name: str) -> LayerData:
    """Name a layer of a further movie of a batch after it; hidden at first."""
    data, options, kind = layer
    return data, options | {"name": f"{name}: {options['name']}", "visible": False}, kind
