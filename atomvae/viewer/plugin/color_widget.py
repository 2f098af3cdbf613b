"""Choose the column that colours the atoms, their tracks or a field; one scale for all frames."""

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QPushButton

from atomvae.viewer.plugin.panel import Panel
from atomvae.viewer.plugin.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari

WITHOUT = ("atom_id", "track")  # numbers that only name


class ColorWidget(Panel):
    """A list of the columns of the atoms; the choice colours atoms and tracks at once.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self._turns = Turns(self)
        self.column = QComboBox()
        self.field = QPushButton("Show it as a &field")
        self.field.setToolTip("A map between the atoms: each place has the value of the nearest")
        self.note = QLabel("")
        self.note.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow("&Colour by", self.column)
        form.addRow(self.field)
        form.addRow(self.note)
        self.column.textActivated.connect(self._choose)
        self.field.clicked.connect(self._add_field)
        self.hear(self.atoms.replaced, self.refresh)
        self.hear(viewer.layers.events.removed, self.refresh)
        self.refresh()

    def layer(self) -> "napari.layers.Points | None":
        """Find the points that are coloured: the selected ones, else the uppermost."""
        return self.atoms.layer

    def refresh(self) -> None:
        """Offer the columns of the layer that is coloured now."""
        layer = self.layer()
        names = [] if layer is None else [str(name) for name in layer.features]
        if names != [self.column.itemText(i) for i in range(self.column.count())]:
            self.column.clear()
            self.column.addItems(names)
        self.column.setEnabled(bool(names))
        self.field.setEnabled(bool(names))
        self.note.setText("" if names else "Open a run or a table of atoms first.")
        if layer is not None:
            shown = layer.metadata["atomvae"].get("shows", "").partition("\n")[0]
            self.column.setCurrentText(shown)

    def _choose(self, column: str) -> None:
        """Colour atoms, and then tracks."""
        layer = self.layer()
        if layer is not None:
            recolor(layer, column)
            self._turns.begin(self._color_tracks(layer, column))

    def _color_tracks(self, layer: "napari.layers.Points", column: str) -> "Iterator[None]":
        """Colour the tracks of some atoms like them, a layer at a time."""
        for other in list(self._viewer.layers):
            own = other.metadata.get("atomvae", {}).get("source") == _source(layer)
            if own and type(other).__name__ == "Tracks" and column in other.features:
                recolor_tracks(other, layer, column)
                yield

    def _add_field(self) -> None:
        """Add a map of the column, drawn frame by frame when it is looked at."""
        from atomvae.errors import InputError
        from atomvae.viewer.layers import field_layer

        layer = self.layer()
        if layer is None:
            return
        shape = next(
            (im.data.shape[-2:] for im in self._viewer.layers if _is_movie_of(im, layer)), None
        )
        table = layer.features.assign(
            frame=layer.data[:, 0].round().astype(int), y=layer.data[:, 1], x=layer.data[:, 2]
        )
        try:
            data, options, _ = field_layer(
                table,
                self.column.currentText(),
                frames=int(self._viewer.dims.nsteps[-3]),
                shape=shape,
                like={n: getattr(layer, n) for n in ("scale", "units", "axis_labels")},
            )
        except InputError as error:
            self.note.setText(str(error))
            return
        place = self._viewer.layers.index(layer)
        self._viewer.add_image(data, **options)
        self._viewer.layers.move(len(self._viewer.layers) - 1, place)


def recolor(layer: "napari.layers.Points", column: str) -> None:
    """Colour points by one of their columns, with one scale for all frames.

    Parameters
    ----------
    layer : napari.layers.Points
        Points with features.
    column : str
        Name of a feature.
    """
    from atomvae.viewer.colors import table_scale

    scale = table_scale(layer.features, column)
    about = layer.metadata.get("atomvae", {})
    layer.metadata = layer.metadata | {"atomvae": about | scale.about(column)}
    layer.face_color_mode = "direct"  # else the new values meet the map of the old column
    if not _same(layer.features[column].to_numpy(), scale.values):
        layer.features = layer.features.assign(**{column: scale.values})
    settings = scale.settings("face", column)
    settings["face_color"] = settings.pop("face_color")  # last: else all is computed three times
    for name, value in settings.items():
        setattr(layer, name, value)


def recolor_tracks(
    tracks: "napari.layers.Tracks", atoms: "napari.layers.Points", column: str
) -> None:
    """Colour tracks like their atoms, with the same scale.

    Parameters
    ----------
    tracks : napari.layers.Tracks
        With the column among its features.
    atoms : napari.layers.Points
        Whose scale is used.
    column : str
        Name of a feature.
    """
    from atomvae.viewer.colors import table_scale

    scale = table_scale(atoms.features, column)
    tracks.color_by = column
    tracks.track_colors = scale.rgba(tracks.features[column].to_numpy())


def _same(one: Any, other: Any) -> bool:
    """Whether two columns hold the same, of the same type."""
    import numpy as np

    if one.dtype != other.dtype:
        return False
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _source(layer: Any) -> Any:
    """Where the data of a layer lie."""
    return layer.metadata.get("atomvae", {}).get("source")


def _is_movie_of(image: Any, atoms: Any) -> bool:
    """Whether an image holds the frames that the atoms lie in."""
    kind = type(image).__name__ == "Image" and not image.multiscale and image.ndim == 3
    return kind and bool((image.scale == atoms.scale).all())
