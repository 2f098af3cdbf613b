"""A plane with many dots, in which dots are chosen with a lasso or a rectangle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from atomvae.viewer.colors import ColorScale
from atomvae.viewer.plugin.axes import CENTER, WORDS, draw_axes, ticks
from atomvae.viewer.plugin.explorer_picture import (
    FEW,
    RING,
    SOME,
    View,
    dim,
    full_limits,
    inside,
    paint_density,
    paint_dots,
    paint_rings,
    rare_last,
)

LEFT, TOP, RIGHT, BOTTOM = 52, 10, 76, 40  # px around the plane, for numbers and legend
WIDEST = 150  # px of a legend with long names
TOOLS = ("lasso", "rectangle")
REACH = 7.0  # px: a click chooses the dot that is nearer
STEP = 3.0  # px between corners of a lasso
MOST_NAMES = 14  # kinds in a legend


class ScatterPlot(QWidget):
    """Dots in a plane: drag to choose, wheel to zoom, right button to move, double click for all.

    Attributes
    ----------
    chose : Signal
        The user chose dots: a truth value for each, and how they are taken: ``"new"``, ``"add"``
        (Shift) or ``"remove"`` (Alt).
    tool : str
        ``"lasso"`` or ``"rectangle"``.
    density : bool
        Whether numbers of atoms are shown, instead of dots.
    """

    chose = Signal(object, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tool, self.density = TOOLS[0], False
        self.labels = ("", "")
        self.legend: tuple[str, ColorScale] | None = None
        self._right = RIGHT  # px for the legend
        self.message = ""
        self._x = self._y = np.empty(0)
        self._colors: Any = np.empty(0, np.uint32)
        self._order: NDArray[np.intp] | None = None
        self._chosen = np.zeros(0, bool)
        self._limits: tuple[Any, Any] | None = None  # what is shown; None: everything
        self._path: list[tuple[float, float]] = []  # of the lasso, in px of the widget
        self._grip: tuple[float, float] | None = None  # where the plane is held
        self._base: Any = None  # picture without the selection
        self._top: Any = None  # picture with it
        self.background, self.text = QColor("#262930"), QColor("#f0f1f2")
        self.setMinimumSize(260, 150)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)

    def sizeHint(self) -> QSize:
        """Size that is asked for."""
        return QSize(460, 380)

    # ---- what is shown --------------------------------------------------------------------------

    def set_legend(self, column: str, scale: ColorScale | None) -> None:
        """Say what the colours mean; None: nothing."""
        self.legend = None if scale is None else (column, scale)
        names = () if scale is None else (column, *(f"     {name}" for name in scale.names))
        wide = max((self.fontMetrics().horizontalAdvance(name) for name in names), default=0)
        self._right = min(max(RIGHT, wide + 14), WIDEST)
        self.redraw()

    def set_points(self, x: NDArray[Any], y: NDArray[Any], colors: NDArray[Any]) -> None:
        """Show other dots: places (n,) and colours 0xffRRGGBB (n,); NaN is not shown."""
        self._x, self._y, self._colors = x, y, colors
        self._order = rare_last(colors) if len(colors) else None
        if len(self._chosen) != len(x):
            self._chosen = np.zeros(len(x), bool)
        self.redraw()

    def set_chosen(self, chosen: NDArray[np.bool_]) -> None:
        """Show which dots are chosen, (n,)."""
        self._chosen = chosen
        self._top = None
        self.update()

    def size_of_data(self) -> int:
        """Number of dots, shown or not."""
        return len(self._x)

    def show_all(self) -> None:
        """Show the whole plane."""
        self._limits = None
        self.redraw()

    def redraw(self) -> None:
        """Draw everything again, when there is time."""
        self._base = self._top = None
        self.update()

    def plane(self) -> QRectF:
        """Where the plane lies in the widget."""
        size = self.size()
        return QRectF(LEFT, TOP, size.width() - LEFT - self._right, size.height() - TOP - BOTTOM)

    def view(self) -> View:
        """What is shown, in pixels of the screen."""
        if self._limits is None:
            self._limits = (full_limits(self._x), full_limits(self._y))
        ratio, plane = self.devicePixelRatioF(), self.plane()
        width, height = (max(2, round(v * ratio)) for v in (plane.width(), plane.height()))
        return View(*self._limits, width, height)

    def place(self, x: float, y: float) -> QPointF:
        """Where a value lies in the widget, e.g. to click it."""
        column, row = self.view().pixel(np.array([x]), np.array([y]))
        ratio = self.devicePixelRatioF()
        return QPointF(LEFT + (column[0] + 0.5) / ratio, TOP + (row[0] + 0.5) / ratio)

    def _picture(self) -> NDArray[np.uint32]:
        """Dots and selection, (h, w) uint32; only what changed is painted again."""
        view = self.view()
        shape = (view.height, view.width)
        background = self.background.rgb() & 0xFFFFFFFF
        if self._base is None or self._base.shape != shape:
            self._top = None
            self._base = np.full(shape, background, np.uint32)
            if not self.density:
                self._dots(self._base, view, self._order, self._size())
        if self._top is None:
            self._top = self._base.copy()
            if self.density:
                paint_density(self._top, *view.pixel(self._x, self._y), self._chosen)
            elif self._chosen.any():
                self._top = dim(self._base, background)
                self._mark(self._top, view)
        return self._top

    def _size(self) -> int:
        """Diameter of a dot, px of the screen."""
        many = np.searchsorted([2_000, 20_000, 200_000], len(self._x))
        return max(1, round((5, 4, 3, 2)[many] * self.devicePixelRatioF()))

    def _dots(self, picture: Any, view: View, rows: Any, size: int) -> None:
        """Paint dots; all of them if no rows are given."""
        x, y, colors = self._x, self._y, self._colors
        if rows is not None:
            x, y, colors = x[rows], y[rows], colors[rows]
        paint_dots(picture, *view.pixel(x, y), colors, size)

    def _mark(self, picture: Any, view: View) -> None:
        """Paint the chosen dots in full colour: few with a ring each, many with a common rim."""
        rows = np.flatnonzero(self._chosen)
        if self._order is not None:
            rows = self._order[self._chosen[self._order]]
        if FEW < len(rows) <= SOME:
            place = view.pixel(self._x[rows], self._y[rows])
            paint_dots(picture, *place, np.uint32(RING), self._size() + 5)
        self._dots(picture, view, rows, self._size() + 1)
        if len(rows) <= FEW:
            radius = (self._size() + 7) / 2
            paint_rings(picture, *view.pixel(self._x[rows], self._y[rows]), radius)

    def paintEvent(self, _event: Any) -> None:
        """Draw the picture, its axes and legend, and the lasso."""
        painter = QPainter(self)
        plane = self.plane()
        if plane.width() < 20 or plane.height() < 20:
            return
        if len(self._x):
            pixels = self._picture()
            height, width = pixels.shape
            image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGB32)
            painter.drawImage(plane, image)
            self._draw_axes(painter, plane)
            self._draw_legend(painter, plane)
        painter.setPen(QPen(_faded(self.text, 0.35), 1))
        painter.drawRect(plane)
        if self.message:
            painter.setPen(self.text)
            inner = plane.adjusted(20, 20, -20, -20)
            painter.drawText(inner, CENTER | WORDS, self.message)
        if len(self._path) > 1:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QPen(QColor.fromRgb(RING), 1.5))
            painter.setBrush(QColor(255, 51, 255, 40))
            painter.drawPolygon(QPolygonF([QPointF(*p) for p in self._outline()]))

    def _draw_axes(self, painter: QPainter, plane: QRectF) -> None:
        """Write round numbers and the names of the columns."""
        view = self.view()
        painter.setPen(self.text)
        along, up = (
            ticks(*ends, max(2, round(size / room)))
            for ends, size, room in ((view.x, plane.width(), 70), (view.y, plane.height(), 65))
        )
        x = [(self.place(v, view.y[0]).x(), f"{v:.4g}") for v in along]
        y = [(self.place(view.x[0], v).y(), f"{v:.4g}") for v in up]
        draw_axes(painter, plane, x, y, self.labels)

    def _draw_legend(self, painter: QPainter, plane: QRectF) -> None:
        """Say what the colours mean: a bar, or a list of kinds."""
        if self.legend is None or self.density:
            return
        column, scale = self.legend
        left = plane.right() + 8
        painter.setPen(self.text)
        painter.drawText(QRectF(left, TOP - 2, self._right - 8, 16), 0, column)
        if scale.kind in ("steps", "names"):
            names: Sequence[str] = scale.names or [str(i) for i in range(len(scale.colors))]
            for number, name in enumerate(names[:MOST_NAMES]):
                top = TOP + 20 + 16 * number
                painter.fillRect(QRectF(left, top, 10, 10), _color(scale.colors[number]))
                painter.drawText(QRectF(left + 14, top - 3, self._right - 24, 16), 0, name)
            return
        height = min(120.0, plane.height() - 40)
        for number, color in enumerate(scale.colors):
            share = height / len(scale.colors)
            top = TOP + 24 + height - (number + 1) * share
            painter.fillRect(QRectF(left, top, 12, share + 0.6), _color(color))
        factor = 180 / np.pi if scale.kind == "cyclic" else 1.0
        unit = "°" if scale.kind == "cyclic" else ""
        low, high = (f"{factor * limit:.3g}{unit}" for limit in scale.limits)
        painter.drawText(QRectF(left + 16, TOP + 18, self._right - 24, 16), 0, high)
        painter.drawText(QRectF(left + 16, TOP + 16 + height, self._right - 24, 16), 0, low)

    # ---- what the user does ---------------------------------------------------------------------

    def mousePressEvent(self, event: Any) -> None:
        """Begin a lasso, or hold the plane."""
        place = (event.position().x(), event.position().y())
        if event.button() == Qt.MouseButton.LeftButton:
            self._path = [place]
        else:
            self._grip = place

    def mouseMoveEvent(self, event: Any) -> None:
        """Draw the lasso on, or move the plane."""
        place = (event.position().x(), event.position().y())
        if self._grip is not None:
            ratio = self.devicePixelRatioF()
            step = [ratio * (b - a) for a, b in zip(self._grip, place, strict=True)]
            self._grip = place
            self._show(self.view().moved(*step))
        elif self._path and np.hypot(*np.subtract(place, self._path[-1])) >= STEP:
            self._path.append(place)
            self.update()

    def mouseReleaseEvent(self, event: Any) -> None:
        """Choose what lies inside the lasso, or the dot that was clicked."""
        if self._grip is not None:
            self._grip = None
            return
        if not self._path:
            return
        outline, dragged = self._outline(), len(self._path) > 2
        self._path = []
        self.update()
        if len(self._x):
            rows = self.rows_inside(outline) if dragged else self._clicked(outline[0])
            if rows is not None:
                self.chose.emit(rows, _how(event.modifiers()))

    def mouseDoubleClickEvent(self, _event: Any) -> None:
        """Show the whole plane again."""
        self._path = []
        self.show_all()

    def wheelEvent(self, event: Any) -> None:
        """Zoom at the pointer."""
        ratio = self.devicePixelRatioF()
        column = (event.position().x() - LEFT) * ratio
        row = (event.position().y() - TOP) * ratio
        self._show(self.view().zoomed(1.2 ** (event.angleDelta().y() / 120), column, row))

    def keyPressEvent(self, event: Any) -> None:
        """Escape gives up a lasso, else the selection; + and - zoom, 0 shows all."""
        plane = self.view()
        middle = (plane.width / 2, plane.height / 2)
        if event.key() == Qt.Key.Key_Escape:
            if not self._path:
                self.chose.emit(np.zeros(len(self._x), bool), "new")
            self._path = []
            self.update()
        elif event.text() in ("+", "="):
            self._show(plane.zoomed(1.2, *middle))
        elif event.text() == "-":
            self._show(plane.zoomed(1 / 1.2, *middle))
        elif event.text() == "0":
            self.show_all()
        else:
            super().keyPressEvent(event)

    def _show(self, view: View) -> None:
        """Show another part of the plane."""
        self._limits = (view.x, view.y)
        self.redraw()

    def _outline(self) -> list[tuple[float, float]]:
        """Corners of the lasso or of the rectangle."""
        if self.tool == "lasso" or len(self._path) < 2:
            return self._path
        (x, y), (x2, y2) = self._path[0], self._path[-1]
        return [(x, y), (x2, y), (x2, y2), (x, y2)]

    def rows_inside(self, outline: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        """Which dots lie inside an outline, given in px of the widget."""
        corners = (np.array(outline) - (LEFT, TOP)) * self.devicePixelRatioF() - 0.5
        return inside(corners, *self.view().pixel(self._x, self._y))

    def _clicked(self, place: tuple[float, float]) -> NDArray[np.bool_] | None:
        """The dot nearest to a click, if it is near."""
        ratio = self.devicePixelRatioF()
        column, row = self.view().pixel(self._x, self._y)
        x, y = (place[0] - LEFT) * ratio - 0.5, (place[1] - TOP) * ratio - 0.5
        far = np.hypot(column - x, row - y)
        if not np.isfinite(far).any() or np.nanmin(far) > REACH * ratio:
            return None
        rows = np.zeros(len(far), bool)
        rows[np.nanargmin(far)] = True
        return rows


def _how(modifiers: Any) -> str:
    """How chosen dots are taken."""
    if modifiers & Qt.KeyboardModifier.ShiftModifier:
        return "add"
    return "remove" if modifiers & Qt.KeyboardModifier.AltModifier else "new"


def _color(rgba: Any) -> QColor:
    """Colour of a row (4,) in 0..1."""
    return QColor.fromRgbF(*(float(v) for v in rgba))


def _faded(color: QColor, alpha: float) -> QColor:
    """Return the same colour, partly transparent."""
    faded = QColor(color)
    faded.setAlphaF(alpha)
    return faded
