"""Open a run without waiting: read and made in a thread, added one layer at a time."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer

from atomvae.viewer.plugin.newest import Newest


def add_run(viewer: Any, path: str | Path, *, parent: QObject, instead_of: Any = None) -> Newest:
    """Add the layers of a run to a viewer, in the background.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    path : path-like
        ``NAME.atomvae.zarr``.
    parent : QObject
        A widget; what is not added when it is closed stays out.
    instead_of : napari.layers.Image, optional
        The movie, open already: it is calibrated and not added again.

    Returns
    -------
    Newest
        Its ``failed`` says in a sentence what is wrong with the folder.
    """
    maker = Newest(make_layers, parent)

    def add(made: list[Any]) -> None:
        if not maker.wanted:
            return
        if not made:
            dress(viewer)
            return
        add_one(viewer, made.pop(0), instead_of)
        QTimer.singleShot(0, lambda: add(made))  # the window lives between two layers

    maker.ready.connect(add)
    maker.ask(path)
    return maker


def make_layers(path: str | Path) -> list[Any]:
    """Read a run and make its layers; touches no window.

    Parameters
    ----------
    path : path-like
        ``NAME.atomvae.zarr``.

    Returns
    -------
    list of napari.layers.Layer
    """
    from matplotlib import colormaps  # noqa: F401  (here, since the window must not wait for it)
    from napari.layers import Layer

    from atomvae.viewer.plugin.reader import run_layers

    return [Layer.create(data, options, kind) for data, options, kind in run_layers(path)]


def add_one(viewer: Any, layer: Any, instead_of: Any = None) -> None:
    """Add a layer, or calibrate the movie that is open already.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    layer : napari.layers.Layer
        Of a run.
    instead_of : napari.layers.Image, optional
        The movie that is open.
    """
    if layer.name == "movie" and instead_of is not None and instead_of in viewer.layers:
        n = instead_of.ndim
        instead_of.axis_labels = layer.axis_labels[-n:]
        instead_of.units = layer.units[-n:]
        instead_of.scale = layer.scale[-n:]
    else:
        viewer.add_layer(layer)


def dress(viewer: Any) -> None:
    """Show scale bar, caption and legends for what is open."""
    from atomvae.viewer.plugin.open import annotate

    annotate(viewer)
