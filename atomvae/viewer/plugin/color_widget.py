"""Choose the column that colours the atoms; one scale for all frames."""

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QWidget

if TYPE_CHECKING:
    import napari


class ColorWidget(QWidget):
    """A list of the columns of the atoms; the choice colours them at once.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self.column = QComboBox()
        self.note = QLabel("")
        self.note.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow("Colour by", self.column)
        form.addRow(self.note)
        self.column.textActivated.connect(self._choose)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        viewer.layers.selection.events.active.connect(self.refresh)
        self.destroyed.connect(lambda: self._closed())
        self.refresh()

    def layer(self) -> "napari.layers.Points | None":
        """Find the points that are coloured: the selected ones, else the uppermost."""
        points = [layer for layer in self._viewer.layers if _is_atoms(layer)]
        active = self._viewer.layers.selection.active
        return active if active in points else (points[-1] if points else None)

    def refresh(self) -> None:
        """Offer the columns of the layer that is coloured now."""
        layer = self.layer()
        names = [] if layer is None else [str(name) for name in layer.features]
        self.column.clear()
        self.column.addItems(names)
        self.column.setEnabled(bool(names))
        self.note.setText("" if names else "Open a run or a table of atoms first.")
        if layer is not None:
            shown = layer.metadata["atomvae"].get("shows", "").partition("\n")[0]
            self.column.setCurrentText(shown)

    def _choose(self, column: str) -> None:
        """Colour the layer, and tell the caption."""
        from atomvae.viewer.plugin.open import caption

        layer = self.layer()
        if layer is None:
            return
        recolor(layer, column)
        if self._viewer.canvas.overlays.text.visible:
            caption(self._viewer)

    def _closed(self) -> None:
        """Hear no more of the viewer."""
        self._viewer.layers.events.inserted.disconnect(self.refresh)
        self._viewer.layers.events.removed.disconnect(self.refresh)
        self._viewer.layers.selection.events.active.disconnect(self.refresh)


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
    layer.face_color_mode = "direct"  # else the new values meet the map of the old column
    layer.features = layer.features.assign(**{column: scale.values})
    for name, value in scale.settings("face", column).items():
        setattr(layer, name, value)
    about = layer.metadata.get("atomvae", {})
    layer.metadata = layer.metadata | {"atomvae": about | scale.about(column)}


def _is_atoms(layer: object) -> bool:
    """Whether a layer holds points of ours."""
    return "atomvae" in getattr(layer, "metadata", {}) and hasattr(layer, "face_color")
