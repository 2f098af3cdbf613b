"""Open results without waiting: read and made in a thread, added one layer at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject

from atomvae.viewer.plugin.newest import Newest
from atomvae.viewer.plugin.reader import LayerData, read_run
from atomvae.viewer.plugin.selection import atoms_of
from atomvae.viewer.plugin.turns import Turns


def add_run(
    viewer: Any,
    path: str | Path,
    *,
    parent: QObject,
    instead_of: Any = None,
    read: Callable[[str], list[LayerData]] = read_run,
) -> Newest:
    """Add the layers of a run to a viewer, in the background.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    path : path-like
        ``NAME.atomvae.zarr``, or what ``read`` expects.
    parent : QObject
        A widget; what is not added when it is closed stays out.
    instead_of : napari.layers.Image, optional
        The movie, open already: it is calibrated and not added again.
    read : callable
        Makes the layers, as napari knows them.

    Returns
    -------
    Newest
        Its ``failed`` says in a sentence what is wrong with the folder.
    """
    maker, turns = Newest(_make, parent), Turns(parent)
    maker.ready.connect(lambda layers: turns.begin(_add(viewer, layers, instead_of)))
    maker.ask(read, path)
    return maker


def _make(read: Callable[[str], list[LayerData]], path: str | Path) -> list[Any]:
    """Read, and make the layers; in a thread, and touching no window."""
    from matplotlib import colormaps  # noqa: F401  (here, since the window must not wait for it)
    from napari.layers import Layer

    import atomvae.run.labels  # noqa: F401  (which the explorer is about to need)

    return [Layer.create(data, options, kind) for data, options, kind in read(str(path))]


def _add(viewer: Any, layers: list[Any], instead_of: Any) -> Iterator[None]:
    """Add layers, then captions; to be made known and to be drawn are two turns of a layer."""
    from atomvae.viewer.plugin.open import annotate_pieces

    for layer in layers:
        visible, layer.visible = layer.visible, False
        add_one(viewer, layer, instead_of)
        yield
        if visible:
            layer.visible = True
            yield
    atoms_of(viewer).prepare()
    yield
    yield from annotate_pieces(viewer)


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
