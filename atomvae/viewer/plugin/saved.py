"""Layers as the user left them: kept in the run folder, and there again when it is opened."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from atomvae.errors import InputError

LayerData = tuple[Any, dict[str, Any], str]
FILE = ".atomvae/view/layers.json"
ATOMS = ".atomvae/view/{}.parquet"
FIELDS = "view"  # group of images that were added by hand
PLAIN = {  # what is kept of a layer of each kind, beside its colours
    "image": ("contrast_limits", "gamma", "interpolation2d"),
    "points": ("symbol", "border_width_is_relative"),
    "vectors": ("length", "edge_width", "vector_style"),
    "tracks": ("tail_length", "tail_width", "head_length", "hide_completed_tracks", "color_by"),
}
SHARED = ("visible", "opacity", "blending")


def save_view(layers: Iterable[Any], run_path: str | Path) -> list[str]:
    """Keep layers in a run folder: their looks, atoms that were edited, images that were added.

    Parameters
    ----------
    layers : iterable of napari.layers.Layer
        From below to above.
    run_path : path-like
        ``NAME.atomvae.zarr``.

    Returns
    -------
    list of str
        Sentences about what could not be kept.

    Raises
    ------
    InputError
        If there is no such run.
    """
    from atomvae.run.atomic import replacing, write_text
    from atomvae.run.folder import RunFolder
    from atomvae.viewer.plugin.writer import points_table

    run = RunFolder(run_path)
    states, problems = [], []
    for layer in layers:
        kind = type(layer).__name__.lower()
        own = belongs(layer, run.path)
        if not own and kind != "image":
            if layer.name not in HELPERS:
                problems.append(f"{layer.name} is not from this run, so it is not kept")
            continue
        state = layer_state(layer)
        if kind == "image" and not own:
            state["data"] = _keep_image(layer, run)
        if own and kind == "points":
            file = ATOMS.format(len(states))
            table = points_table(layer.data, layer.features)
            with replacing(run.path / file) as temporary:
                table.to_parquet(temporary, index=False)
            state["table"] = file
        states.append(state)
    about = {"layers": states, "map": (run.marker("map") or {}).get("key")}
    write_text(run.path / FILE, json.dumps(about, indent=2))
    return problems


HELPERS = ("candidates", "chosen atoms")  # made anew when they are wanted


def layer_state(layer: Any) -> dict[str, Any]:
    """Describe how a layer looks, in plain values.

    Parameters
    ----------
    layer : napari.layers.Layer
        Image, points, vectors or tracks.

    Returns
    -------
    dict
        Name, kind and what is set in the layer controls.
    """
    kind = type(layer).__name__.lower()
    names = (*SHARED, *PLAIN.get(kind, ()))
    state: dict[str, Any] = {"name": layer.name, "kind": kind}
    state |= {name: _plain(getattr(layer, name)) for name in names}
    about = layer.metadata.get("atomvae", {})
    if kind == "image":
        state["colormap"] = layer.colormap.name
    if kind == "points":
        state["color_by"] = str(about.get("shows", "")).partition("\n")[0]
        sizes = np.unique(np.asarray(layer.size))
        state["size"] = float(sizes[0]) if len(sizes) == 1 else None
        state["limits"] = _plain(layer.face_contrast_limits)
    return state


def restore(run_path: str | Path, layers: list[LayerData]) -> list[LayerData]:
    """Give layers of a run the looks, the edits and the order that were saved with it.

    Parameters
    ----------
    run_path : path-like
        ``NAME.atomvae.zarr``.
    layers : list of LayerData
        As the run itself makes them.

    Returns
    -------
    list of LayerData
        Unchanged when nothing was saved, or when the run was computed anew since.
    """
    path = Path(run_path)
    try:
        saved = json.loads((path / FILE).read_text())
        states = list(saved["layers"])
        marker = path / ".atomvae/stages/map.json"
        key = json.loads(marker.read_text()).get("key") if marker.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return layers
    if key != saved.get("map"):
        return layers
    made = {options["name"]: (data, options, kind) for data, options, kind in layers}
    found: list[LayerData] = []
    for state in states:
        layer = made.pop(state["name"], None)
        if layer is None and "data" in state:
            layer = _kept_image(path, state)
        if layer is not None:
            found.append(_dressed(layer, state, path))
    return [*found, *made.values()]


def belongs(layer: Any, run_path: Path) -> bool:
    """Whether a layer was made from a run.

    Parameters
    ----------
    layer : napari.layers.Layer
        Any.
    run_path : Path
        The run folder.

    Returns
    -------
    bool
    """
    source = layer.metadata.get("atomvae", {}).get("source")
    return source is not None and Path(source) == run_path


def _dressed(layer: LayerData, state: dict[str, Any], path: Path) -> LayerData:
    """A layer with the looks of its state."""
    data, options, kind = layer
    names = (*SHARED, *PLAIN.get(kind, ()))
    options = options | {name: state[name] for name in names if state.get(name) is not None}
    if kind == "image":
        options["colormap"] = state["colormap"] if "data" in state else options["colormap"]
    if kind == "tracks" and options.get("color_by") not in [*options["features"], "track_id"]:
        options.pop("color_by")
    if kind == "points":
        data, options = _edited(data, options, state, path)
    return data, options, kind


def _edited(
    data: Any, options: dict[str, Any], state: dict[str, Any], path: Path
) -> tuple[Any, dict[str, Any]]:
    """Points with their saved table, coloured as they were."""
    import pandas as pd

    from atomvae.viewer.colors import table_scale
    from atomvae.viewer.layers import atom_features

    table = options["features"]
    if state.get("table") and (path / state["table"]).exists():
        table = atom_features(pd.read_parquet(path / state["table"]))
        data = table[["frame", "y", "x"]].to_numpy(np.float64)
    if state.get("size"):
        options["size"] = state["size"]
    column = state.get("color_by")
    options = options | {"features": table}
    if column in table:
        scale = table_scale(table, column)
        about = options["metadata"]["atomvae"] | scale.about(column)
        options["features"] = table.assign(**{column: scale.values})
        options |= {"metadata": {"atomvae": about}} | scale.settings("face", column)
        if state.get("limits") and scale.kind == "continuous":
            options["face_contrast_limits"] = tuple(state["limits"])
    return data, options


def _keep_image(layer: Any, run: Any) -> str:
    """Write an image that was added by hand into the run; gives its place there."""
    import zarr

    from atomvae.run.atomic import replacing
    from atomvae.viewer.plugin.job import run_name

    data = layer.data[0] if layer.multiscale else layer.data
    place = f"{FIELDS}/{run_name(layer.name)}"
    with replacing(run.path / place, run.scratch) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        chunks = (1,) * (data.ndim - 2) + tuple(data.shape[-2:])
        array = group.create_array("data", shape=data.shape, dtype=data.dtype, chunks=chunks)
        for number in range(len(data)) if data.ndim > 2 else [...]:
            array[number] = np.asarray(data[number])
        group.attrs["layer"] = {
            "scale": [float(v) for v in layer.scale],
            "translate": [float(v) for v in layer.translate],
            "units": [str(unit) for unit in layer.units],
            "axis_labels": list(layer.axis_labels),
            "colors": np.asarray(layer.colormap.colors, float).round(5).tolist(),
        }
    return place


def _kept_image(path: Path, state: dict[str, Any]) -> LayerData | None:
    """An image that was kept in the run; None if it is gone."""
    import dask.array as da
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    from atomvae.run.tables import open_group

    try:
        group = open_group(path / state["data"])
        about: Any = dict(group.attrs["layer"])
        data = da.from_zarr(group["data"])
    except (InputError, KeyError, TypeError, ValueError):
        return None
    colors: Any = {"colors": about.pop("colors"), "name": state["colormap"]}
    if state["colormap"] in AVAILABLE_COLORMAPS:
        colors = state["colormap"]
    options = {"name": state["name"], "colormap": colors, "metadata": {}, **about}
    state["colormap"] = colors
    return data, options, "image"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.ndarray):
        kinds = np.unique(value)
        return _plain(kinds[0]) if len(kinds) == 1 else None
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else str(value)
