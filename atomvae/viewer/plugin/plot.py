"""Curves that are drawn in milliseconds, in the colours of the window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontMetricsF, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from atomvae.viewer.plugin.axes import CENTER, GAP, WORDS, draw_axes, ticks

MOST = 2000  # points of a curve that are drawn


@dataclass(frozen=True)
class Curve:
    """A line, with a band around it if both ends are given.

    Attributes
    ----------
    name : str
        For the legend.
    x, y : ndarray (n,)
        Points, in the order of x; the line is broken where y is NaN.
    low, high : ndarray (n,), optional
        Ends of the band.
    color : tuple of float
        RGB in 0..1.
    dashed : bool
        For what is compared with.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    color: tuple[float, ...] = (0.34, 0.71, 0.91)
    dashed: bool = False


class Plot(QWidget):
    """Axes with curves and a mark; a click or the arrow keys choose an x.

    Parameters
    ----------
    x_label, y_label : str
        Names of the axes.
    """

    chosen = Signal(float)  # x under the pointer, or beside the mark

    def __init__(self, x_label: str = "", y_label: str = "") -> None:
        super().__init__()
        self.x_label, self.y_label = x_label, y_label
        self.curves: list[Curve] = []
        self.mark: float | None = None
        self.message = ""
        self._ends: tuple[float, float, float, float] | None = None
        self._area: QRectF | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(140)
        self.setAccessibleName(f"{y_label} against {x_label}")

    def sizeHint(self) -> QSize:
        """Wide enough for labels, and no more."""
        return QSize(320, 200)

    def show_curves(self, curves: Sequence[Curve], message: str = "") -> None:
        """Draw other curves; a message where there are none."""
        self.curves, self.message = list(curves), message
        self._ends = self._area = None
        self.update()

    def resizeEvent(self, event: Any) -> None:
        """Measure anew."""
        self._area = None
        super().resizeEvent(event)

    def changeEvent(self, event: Any) -> None:
        """Measure anew when the font or the theme changes."""
        self._area = None
        super().changeEvent(event)

    def set_mark(self, x: float | None) -> None:
        """Move the vertical line."""
        if x != self.mark:
            self.mark = x
            self.update()

    def limits(self) -> tuple[float, float, float, float]:
        """Ends of x and of y, with a margin above and below."""
        if self._ends is None:
            x = _ends([c.x for c in self.curves])
            parts = [p for c in self.curves for p in (c.y, c.low, c.high) if p is not None]
            y = _ends(parts)
            margin = 0.06 * (y[1] - y[0])
            self._ends = x[0], x[1], y[0] - margin, y[1] + margin
        return self._ends

    def area(self) -> QRectF:
        """Where the curves are drawn, in pixels of the widget."""
        if self._area is None:
            text = QFontMetricsF(self.font())
            _, _, low, high = self.limits()
            marks = ticks(low, high, self._count(False))
            left = max(text.horizontalAdvance(f"{v:.4g}") for v in marks) + text.height() + 2 * GAP
            top = text.height() * self._legend_rows() + 6
            high = max(20.0, self.height() - top - 2 * text.height() - 10)
            self._area = QRectF(left, top, max(20.0, self.width() - left - 10), high)
        return self._area

    def place(self, x: float, y: float) -> QPointF:
        """Pixel of a point."""
        area, (x0, x1, y0, y1) = self.area(), self.limits()
        return QPointF(
            area.left() + (x - x0) / (x1 - x0) * area.width(),
            area.bottom() - (y - y0) / (y1 - y0) * area.height(),
        )

    def paintEvent(self, event: Any) -> None:
        """Draw everything anew."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        if not self.curves:
            painter.setPen(ink)
            painter.drawText(self.rect().adjusted(12, 12, -12, -12), CENTER | WORDS, self.message)
            return
        area = self.area()
        self._draw_axes(painter, area, ink)
        painter.save()
        painter.setClipRect(area.adjusted(-1, -1, 1, 1))
        for curve in self.curves:
            self._draw_curve(painter, curve)
        if self.mark is not None:
            painter.setPen(QPen(ink, 1.5, Qt.PenStyle.DashLine))
            x = self.place(self.mark, 0).x()
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        painter.restore()
        self._draw_legend(painter, area, ink)
        if self.hasFocus():
            painter.setPen(QPen(self.palette().highlight().color(), 1, Qt.PenStyle.DotLine))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def mousePressEvent(self, event: Any) -> None:
        """Choose the x that is clicked."""
        self._choose(event.position().x())

    def mouseMoveEvent(self, event: Any) -> None:
        """Follow the pointer while the button is down."""
        self._choose(event.position().x())

    def keyPressEvent(self, event: Any) -> None:
        """Left and right go to the neighbouring x, Home and End to the ends."""
        known = (
            np.unique(np.concatenate([c.x for c in self.curves])) if self.curves else np.empty(0)
        )
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key())
        if not known.size:
            return super().keyPressEvent(event)
        if step is not None:
            here = known[0] if self.mark is None else self.mark
            index = int(np.abs(known - here).argmin()) + step
            return self.chosen.emit(float(known[np.clip(index, 0, len(known) - 1)]))
        if event.key() in (Qt.Key.Key_Home, Qt.Key.Key_End):
            return self.chosen.emit(float(known[0 if event.key() == Qt.Key.Key_Home else -1]))
        return super().keyPressEvent(event)

    def _choose(self, pixel: float) -> None:
        """Tell the x of a pixel."""
        if self.curves:
            area, (x0, x1, _, _) = self.area(), self.limits()
            share = min(max((pixel - area.left()) / area.width(), 0.0), 1.0)
            self.chosen.emit(x0 + share * (x1 - x0))

    def _count(self, along: bool) -> int:
        """How many ticks an axis has room for."""
        return max(2, (self.width() // 80) if along else (self.height() // 45))

    def _draw_axes(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        """Draw lines, ticks and names."""
        x0, x1, y0, y1 = self.limits()
        faint = QColor(ink)
        faint.setAlphaF(0.15)
        along = [(self.place(v, y0).x(), f"{v:.4g}") for v in ticks(x0, x1, self._count(True))]
        up = [(self.place(x0, v).y(), f"{v:.4g}") for v in ticks(y0, y1, self._count(False))]
        painter.setPen(QPen(faint, 1))
        for y, _ in up:
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        painter.setPen(ink)
        for x, _ in along:
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + 4))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.bottomLeft(), area.topLeft())
        draw_axes(painter, area, along, up, (self.x_label, self.y_label))

    def _draw_curve(self, painter: QPainter, curve: Curve) -> None:
        """Draw band and line; single points as dots."""
        step = max(1, len(curve.x) // MOST)
        color = QColor.fromRgbF(*curve.color[:3])
        x, y = curve.x[::step], curve.y[::step]
        if curve.low is not None and curve.high is not None:
            low, high = curve.low[::step], curve.high[::step]
            for part in _pieces(low, high):
                band = [self.place(*p) for p in zip(x[part], high[part], strict=True)]
                band += [self.place(*p) for p in zip(x[part][::-1], low[part][::-1], strict=True)]
                color.setAlphaF(0.25)
                painter.setBrush(color)
                painter.setPen(Qt.PenStyle.NoPen)
                painter.drawPolygon(QPolygonF(band))
        color.setAlphaF(1.0)
        style = Qt.PenStyle.DashLine if curve.dashed else Qt.PenStyle.SolidLine
        painter.setPen(QPen(color, 1.8, style))
        painter.setBrush(color)
        for part in _pieces(y):
            line = [self.place(*p) for p in zip(x[part], y[part], strict=True)]
            if len(line) == 1:
                painter.drawEllipse(line[0], 2.5, 2.5)
            else:
                painter.drawPolyline(QPolygonF(line))

    def _legend_layout(self) -> list[tuple[float, int]]:
        """Left edge and row of each name."""
        text, places, x, row = QFontMetricsF(self.font()), [], 0.0, 0
        for curve in self.curves:
            wide = text.horizontalAdvance(curve.name) + 34
            if x and x + wide > self.width() - 20:
                x, row = 0.0, row + 1
            places.append((x, row))
            x += wide
        return places

    def _legend_rows(self) -> int:
        """Rows that the names take."""
        return max((row for _, row in self._legend_layout()), default=0) + 1

    def _draw_legend(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        """Draw the names over the axes."""
        text = QFontMetricsF(self.font())
        for curve, (x, row) in zip(self.curves, self._legend_layout(), strict=True):
            y = (row + 0.55) * text.height()
            style = Qt.PenStyle.DashLine if curve.dashed else Qt.PenStyle.SolidLine
            painter.setPen(QPen(QColor.fromRgbF(*curve.color[:3]), 2.5, style))
            painter.drawLine(QPointF(x + 10, y), QPointF(x + 28, y))
            painter.setPen(ink)
            painter.drawText(QPointF(x + 33, (row + 0.85) * text.height()), curve.name)


def _ends(parts: Sequence[ArrayLike]) -> tuple[float, float]:
    """Smallest and largest finite number; apart from each other."""
    values = np.concatenate([np.asarray(part, float) for part in parts] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return low, high
    room = 0.5 * abs(low) or 0.5
    return low - room, high + room


def _pieces(*columns: NDArray[np.float64]) -> list[slice]:
    """Runs in which all columns are finite."""
    good = np.isfinite(np.stack(columns)).all(0)
    edges = np.flatnonzero(np.diff(np.r_[False, good, False].astype(int)))
    return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
