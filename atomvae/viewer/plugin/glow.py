"""Marks over the image that need no redraw of it, so that they follow the pointer at once.

Without a GPU, 100,000 atoms take most of a second to be drawn; a ring around the chosen ones must
not wait for that. So there is a transparent sheet over the canvas, painted by numpy. For chosen
atoms it is there only until the layer of marks has been drawn beneath it; atoms that light up under
the pointer of another widget are shown on it alone.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QImage, QPainter
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QMainWindow, QWidget

from atomvae.viewer.plugin.explorer_picture import RING, paint_rings
from atomvae.viewer.plugin.selection import Atoms

LIT = 0xFFFFE14D  # yellow: atoms that light up for a moment
REST = 400  # ms without a change, after which the layer of marks is drawn


class Glow(QWidget):
    """A transparent sheet over the canvas of a viewer.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Not a proxy.
    atoms : Atoms
        Its atoms.
    canvas : QWidget
        What the sheet lies on.
    """

    def __init__(self, viewer: Any, atoms: Atoms, canvas: QWidget) -> None:
        super().__init__(canvas)
        self._viewer, self._atoms = viewer, atoms
        self.painted = 0  # how often, for measurements
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._rest)
        self._fresh = False  # the layer of marks does not show the selection yet
        canvas.installEventFilter(self)
        atoms.patient = True
        atoms.changed.connect(self._changed)
        atoms.lit_changed.connect(self._refresh)
        viewer.scene.camera.events.connect(self._refresh)
        viewer.dims.events.current_step.connect(self._refresh)
        self.destroyed.connect(lambda: self._closed())
        self.resize(canvas.size())
        self.hide()

    def _closed(self) -> None:
        """Hear no more of the atoms and of the viewer."""
        self._atoms.patient = False
        self._atoms.changed.disconnect(self._changed)
        self._atoms.lit_changed.disconnect(self._refresh)
        self._viewer.scene.camera.events.disconnect(self._refresh)
        self._viewer.dims.events.current_step.disconnect(self._refresh)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Stay as large as the canvas."""
        if event.type() == QEvent.Type.Resize:
            self.resize(watched.size())
        return False

    def _changed(self) -> None:
        """Show the selection at once where the layer can't."""
        self._fresh = self._atoms.slow
        if self._fresh:
            self._timer.start(REST)
        self._refresh()

    def _rest(self) -> None:
        """Draw the layer of marks, now that nobody waits."""
        self._atoms.mark()
        self._fresh = False
        # A moment later, when the canvas has been drawn; else the marks would be gone meanwhile.
        QTimer.singleShot(REST, self._refresh)

    def _refresh(self, _event: Any = None) -> None:
        """Paint again, or go away."""
        wanted = self._fresh or bool(self._atoms.lit.any())
        self.setVisible(wanted and self._viewer.dims.ndisplay == 2)
        if wanted:
            self.raise_()
            self.update()

    def paintEvent(self, _event: Any) -> None:
        """Paint rings around the chosen atoms, and discs where atoms light up."""
        ratio = self.devicePixelRatioF()
        width, height = round(self.width() * ratio), round(self.height() * ratio)
        pixels = np.zeros((height, width), np.uint32)
        if self._fresh:
            self._rings(pixels, self._atoms.chosen, RING, ratio)
        if self._atoms.lit.any():
            self._rings(pixels, self._atoms.lit, LIT, ratio)
        image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_ARGB32)
        QPainter(self).drawImage(self.rect(), image)
        self.painted += 1

    def _rings(self, pixels: Any, rows: NDArray[np.bool_], color: int, ratio: float) -> None:
        """Paint a ring around each of some atoms of this frame."""
        layer = self._atoms.layer
        rows = rows & self._atoms.here()
        if layer is None or not rows.any():
            return
        zoom = self._viewer.scene.camera.zoom * ratio
        scale = np.asarray(layer.scale[-2:])
        step = layer.data[rows][:, -2:] * scale - self._viewer.scene.camera.center[-2:]
        row, column = (step * zoom).T + np.array([[pixels.shape[0]], [pixels.shape[1]]]) / 2
        size = float(np.median(np.asarray(layer.size)[rows])) * scale[-1] * zoom
        paint_rings(pixels, column, row, max(1.0, 0.72 * size), color)


def glow_over(widget: QWidget, viewer: Any, atoms: Atoms) -> Glow | None:
    """Lay a sheet over the canvas of the window that a dock widget is in; one for all of them.

    Parameters
    ----------
    widget : QWidget
        In a window of napari, by now.
    viewer : napari.Viewer
        Of this window.
    atoms : Atoms
        Of this viewer.

    Returns
    -------
    Glow or None
        None if there is no canvas, as for a widget in a window of its own.
    """
    window = widget.window()
    if not isinstance(window, QMainWindow) or window.centralWidget() is None:
        return None
    canvas = window.centralWidget().findChild(QOpenGLWidget)
    if canvas is None:
        return None
    found = canvas.findChild(Glow)
    real = getattr(viewer, "__wrapped__", viewer)
    return found if found is not None else Glow(real, atoms, canvas)
