"""Curves against time of the atoms in the viewer; a click goes to that frame."""

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QVBoxLayout

from atomvae.viewer.plugin.newest import Newest
from atomvae.viewer.plugin.panel import Panel
from atomvae.viewer.plugin.plot import Plot

if TYPE_CHECKING:
    import napari

EMPTY = "Open a run or a table of atoms: its columns are drawn here against time."


class TimeWidget(Panel):
    """One column of all atoms and of the chosen ones against time.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self.what = QComboBox()
        self.plot = Plot("", "")
        self.note = QLabel(
            "The band is twice the standard error of the mean, or the 95 % interval "
            "of a share. Click a curve, or use the arrow keys, to go to a frame."
        )
        self.note.setWordWrap(True)
        form = QFormLayout()
        form.addRow("&Show", self.what)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.plot, 1)
        column.addWidget(self.note)
        self._newest = Newest(_curves, self)
        self._newest.ready.connect(self._draw)
        self._newest.failed.connect(lambda text: self.plot.show_curves([], text))
        self.what.activated.connect(lambda _: self._ask())
        self.plot.chosen.connect(self._go)
        self.hear(self.atoms.changed, self._ask)
        self.hear(self.atoms.replaced, self.refresh)
        self.hear(viewer.dims.events.current_step, self._mark)
        self.refresh()

    def refresh(self) -> None:
        """Offer the columns of the atoms that are shown now."""
        from atomvae.viewer.plugin.time_curves import what_to_plot

        chosen = self.what.currentText()
        self.what.clear()
        self.what.addItems(what_to_plot(self._table()))
        if self.what.findText(chosen) >= 0:
            self.what.setCurrentText(chosen)
        self.what.setEnabled(self.what.count() > 0)
        self._ask()

    def _table(self) -> Any:
        """The atoms with the frames they lie in now, also those that were moved by hand."""
        layer = self.atoms.layer
        if layer is None or layer.ndim < 3:
            return self.atoms.table.iloc[:0]
        return self.atoms.table.assign(frame=layer.data[:, -3].round().astype(int))

    def frame_time(self) -> float:
        """Seconds from frame to frame; 1 when they are not known."""
        layer = self.atoms.layer
        calibrated = layer is not None and layer.ndim > 2 and str(layer.units[-3]) == "second"
        return float(layer.scale[-3]) if calibrated else 1.0

    def _ask(self) -> None:
        """Compute the curves in a thread."""
        if not self.what.count():
            self.plot.show_curves([], EMPTY)
            return
        step = self.frame_time()
        self.plot.x_label = "time (s)" if self._is_timed() else "frame"
        self._newest.ask(self._table(), self.atoms.chosen.copy(), self.what.currentText(), step)

    def _is_timed(self) -> bool:
        """Whether frames have a time."""
        layer = self.atoms.layer
        return layer is not None and str(layer.units[-3]) == "second"

    def _draw(self, result: Any) -> None:
        """Show curves that are ready, if they are still wanted."""
        what, found, y_label = result
        if what != self.what.currentText():
            return
        self.plot.y_label = y_label
        self.plot.show_curves(found, EMPTY)
        self._mark()

    def _mark(self) -> None:
        """Move the line to the frame that is shown."""
        self.plot.set_mark(self.atoms.frame * self.frame_time())

    def _go(self, time: float) -> None:
        """Show the frame that lies nearest to a time."""
        frame = round(time / self.frame_time())
        axis = self._viewer.dims.ndim - 3
        if axis >= 0:
            self._viewer.dims.set_current_step(axis, frame)


def _curves(table: Any, chosen: Any, what: str, step: float) -> Any:
    """Compute; in a thread."""
    from atomvae.maps.style import label
    from atomvae.viewer.plugin.time_curves import curves

    y_label = "share of the atoms" if what.startswith("share") else label(what)
    return what, curves(table, chosen, what, frame_time=step), y_label
