"""Pictures on the screen: one, or a sheet of them over two latents."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from atomvae.viewer.plugin.axes import CENTER, WORDS, draw_axes
from atomvae.viewer.plugin.explorer_picture import RING
from atomvae.viewer.plugin.glow import LIT
from atomvae.viewer.plugin.manifold_walk import Grid

LEFT, BOTTOM, EDGE = 64, 40, 8  # px around the sheet


def gray_image(picture: NDArray[Any], limits: tuple[float, float]) -> QImage:
    """Turn a picture (h, w) into grey levels between two limits; NaN is dark red."""
    level = (np.asarray(picture, float) - limits[0]) / (limits[1] - limits[0])
    unknown = ~np.isfinite(level)
    gray = (np.clip(np.nan_to_num(level), 0, 1) * 255).astype(np.uint32)
    pixels = np.uint32(0xFF000000) | gray << 16 | gray << 8 | gray
    pixels[unknown] = 0xFF401818
    height, width = pixels.shape
    pixels = np.ascontiguousarray(pixels)
    return QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGB32).copy()


def tiles(images: NDArray[Any]) -> NDArray[Any]:
    """Lay pictures (rows, columns, h, w) beside each other.

    Examples
    --------
    >>> tiles(np.zeros((2, 3, 4, 5))).shape
    (8, 15)
    """
    rows, columns, height, width = images.shape
    return images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)


class Picture(QWidget):
    """One picture under its title."""

    def __init__(self, title: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.title, self.picture = title, None
        self.text = QColor("#f0f1f2")
        self._limits = (0.0, 1.0)
        self.setMinimumSize(84, 104)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_picture(self, picture: NDArray[Any] | None, limits: tuple[float, float]) -> None:
        """Show a picture (h, w) between two grey limits; None shows nothing."""
        self.picture, self._limits = picture, limits
        self.update()

    def paintEvent(self, _event: Any) -> None:
        """Draw title and picture."""
        painter = QPainter(self)
        painter.setPen(self.text)
        painter.drawText(QRectF(0, 0, self.width(), 16), CENTER, self.title)
        edge = min(self.width() - 4, self.height() - 20)
        place = QRectF((self.width() - edge) / 2, 18, edge, edge)
        if self.picture is None:
            painter.setPen(QPen(QColor(128, 128, 128, 120), 1, Qt.PenStyle.DashLine))
            painter.drawRect(place)
        else:
            painter.drawImage(place, gray_image(self.picture, self._limits))


class Sheet(QWidget):
    """A grid of decoded pictures over two latents.

    Attributes
    ----------
    moved : Signal
        The pointer is at these two values.
    left : Signal
        The pointer is elsewhere.
    clicked : Signal
        These two values were clicked, and how: ``"new"`` or ``"add"`` (Shift).
    """

    moved = Signal(float, float)
    left = Signal()
    clicked = Signal(float, float, str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.grid: Grid | None = None
        self.limits = (0.0, 1.0)  # of the grey levels
        self.labels = ("", "")
        self.message = ""
        self.text = QColor("#f0f1f2")
        self._image: QImage | None = None
        self._points: NDArray[Any] = np.empty((0, 2))
        self._sd: tuple[float, float] | None = None
        self._cell: tuple[int, int] | None = None
        self.setMinimumSize(240, 190)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:
        """Size that is asked for."""
        return QSize(460, 440)

    def show_grid(self, grid: Grid | None) -> None:
        """Show another grid, on one grey scale; the lowest y lies at the bottom."""
        self.grid, self._cell, self._image = grid, None, None
        if grid is not None:
            low, high = np.percentile(grid.images, [0.5, 99.5])
            self.limits = (float(low), float(high if high > low else low + 1))
            self._image = gray_image(tiles(grid.images[::-1]), self.limits)
        self.update()

    def show_atoms(self, points: NDArray[Any], sd: tuple[float, float] | None = None) -> None:
        """Mark values (n, 2) as (x, y); with standard deviations an ellipse around the first."""
        self._points, self._sd = points, sd
        self.update()

    # ---- where things are -----------------------------------------------------------------------

    def area(self) -> QRectF:
        """Where the pictures lie; their pixels are square."""
        width, height = self.width() - LEFT - EDGE, self.height() - BOTTOM - EDGE
        if self._image is None:
            return QRectF(LEFT, EDGE, width, height)
        zoom = min(width / self._image.width(), height / self._image.height())
        wide, high = zoom * self._image.width(), zoom * self._image.height()
        return QRectF(LEFT + (width - wide) / 2, EDGE + (height - high) / 2, wide, high)

    def place(self, x: float, y: float) -> QPointF:
        """Where two values lie in the widget."""
        assert self.grid is not None
        area, (x0, dx), (y0, dy) = self.area(), _ends(self.grid.x), _ends(self.grid.y)
        return QPointF(
            area.left() + (x - x0) / dx * area.width(),
            area.bottom() - (y - y0) / dy * area.height(),
        )

    def value(self, at: QPointF) -> tuple[float, float] | None:
        """Which values lie at a place of the widget; None beside the pictures."""
        area = self.area()
        if self.grid is None or not area.contains(at):
            return None
        (x0, dx), (y0, dy) = _ends(self.grid.x), _ends(self.grid.y)
        return (
            float(x0 + dx * (at.x() - area.left()) / area.width()),
            float(y0 + dy * (area.bottom() - at.y()) / area.height()),
        )

    # ---- drawing --------------------------------------------------------------------------------

    def paintEvent(self, _event: Any) -> None:
        """Draw the pictures, the axes, the cell under the pointer and the marked values."""
        painter = QPainter(self)
        area = self.area()
        painter.setPen(self.text)
        if self.grid is None or self._image is None:
            painter.drawText(area.adjusted(10, 20, -20, -20), CENTER | WORDS, self.message)
            return
        painter.drawImage(area, self._image)
        self._draw_gaps(painter, area)
        self._draw_axes(painter, area)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setClipRect(area.adjusted(-3, -3, 3, 3))
        if self._cell is not None:
            painter.setPen(QPen(QColor.fromRgb(LIT), 2))
            painter.drawRect(self._box(*self._cell))
        painter.setPen(QPen(QColor.fromRgb(RING), 2))
        if len(self._points) == 1:
            at = self.place(*self._points[0])
            painter.drawLine(at - QPointF(7, 0), at + QPointF(7, 0))
            painter.drawLine(at - QPointF(0, 7), at + QPointF(0, 7))
            if self._sd is not None and np.isfinite(self._sd).all():
                reach = self.place(*(self._points[0] + self._sd)) - at
                painter.drawEllipse(at, max(4.0, reach.x()), max(4.0, -reach.y()))
        else:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor.fromRgb(RING))
            for x, y in self._points:
                painter.drawEllipse(self.place(x, y), 1.6, 1.6)

    def _draw_gaps(self, painter: QPainter, area: QRectF) -> None:
        """Draw thin lines between the pictures."""
        assert self.grid is not None
        painter.setPen(QPen(QColor(0, 0, 0), 1))
        wide, high = area.width() / len(self.grid.x), area.height() / len(self.grid.y)
        for number in range(1, len(self.grid.x)):
            x = area.left() + number * wide
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        for number in range(1, len(self.grid.y)):
            y = area.top() + number * high
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        painter.setPen(self.text)

    def _draw_axes(self, painter: QPainter, area: QRectF) -> None:
        """Write values below columns and beside rows, and the names of the latents."""
        assert self.grid is not None
        columns, rows = self.grid.x, self.grid.y
        columns = columns[:: max(1, math.ceil(48 * len(columns) / area.width()))]
        rows = rows[:: max(1, math.ceil(22 * len(rows) / area.height()))]
        x = [(self.place(v, self.grid.y[0]).x(), f"{v:.2g}") for v in columns]
        y = [(self.place(self.grid.x[0], v).y(), f"{v:.2g}") for v in rows]
        names = self.labels
        if len(self.grid.y) < 2:  # one latent alone
            y, names = [], (self.labels[0], "")
        draw_axes(painter, area, x, y, names, left=area.left() - LEFT)

    def _box(self, column: int, row: int) -> QRectF:
        """Where one picture lies."""
        assert self.grid is not None
        area = self.area()
        wide, high = area.width() / len(self.grid.x), area.height() / len(self.grid.y)
        return QRectF(area.left() + column * wide, area.bottom() - (row + 1) * high, wide, high)

    # ---- what the user does ---------------------------------------------------------------------

    def mouseMoveEvent(self, event: Any) -> None:
        """Say where the pointer is."""
        found = self.value(event.position())
        cell = None if found is None or self.grid is None else self.grid.cell(*found)
        if cell != self._cell:
            self._cell = cell
            self.update()
        if found is None:
            self.left.emit()
        else:
            self.moved.emit(*found)

    def leaveEvent(self, _event: Any) -> None:
        """Say that the pointer is gone."""
        self._cell = None
        self.update()
        self.left.emit()

    def mousePressEvent(self, event: Any) -> None:
        """Say what was clicked."""
        found = self.value(event.position())
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            more = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
            self.clicked.emit(*found, "add" if more else "new")


def _ends(axis: NDArray[Any]) -> tuple[float, float]:
    """Lower end and length of an axis of cells whose middles are given."""
    step = float(axis[1] - axis[0]) if len(axis) > 1 else 1.0
    return float(axis[0]) - step / 2, step * len(axis)
