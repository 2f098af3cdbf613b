"""Numbers and names at the axes of planes, curves and sheets."""

import math
from collections.abc import Iterable

from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QPainter

# Plain numbers: painters of PyQt6 take no others, those of PySide6 both.
CENTER = Qt.AlignmentFlag.AlignCenter.value
RIGHT_MIDDLE = Qt.AlignmentFlag.AlignRight.value | Qt.AlignmentFlag.AlignVCenter.value
WORDS = Qt.TextFlag.TextWordWrap.value
GAP = 6.0  # px between an axis and its numbers


def draw_axes(
    painter: QPainter,
    area: QRectF,
    x: Iterable[tuple[float, str]],
    y: Iterable[tuple[float, str]],
    names: tuple[str, str],
    left: float = 0.0,
) -> None:
    """Write numbers below and beside an area, and the names of its axes, in the pen that is set.

    Parameters
    ----------
    painter : QPainter
        Of the widget.
    area : QRectF
        What the axes enclose, px of the widget.
    x, y : iterable of (float, str)
        Where each number lies, px, and what is written.
    names : (str, str)
        Of the axes.
    left : float
        Left edge of the name of y, px.
    """
    high = painter.fontMetrics().height()
    for at, text in x:
        painter.drawText(QRectF(at - 40, area.bottom() + GAP / 2, 80, high), CENTER, text)
    for at, text in y:
        place = QRectF(left, at - high / 2, area.left() - GAP - left, high)
        painter.drawText(place, RIGHT_MIDDLE, text)
    below = QRectF(area.left(), area.bottom() + GAP / 2 + high, area.width(), high)
    painter.drawText(below, CENTER, names[0])
    painter.save()
    painter.translate(left + high / 2, area.center().y())
    painter.rotate(-90)
    room = max(area.height(), 2 * area.center().y())  # a long name may pass the ends of the axis
    painter.drawText(QRectF(-room / 2, -high / 2, room, high), CENTER, names[1])
    painter.restore()


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two ends.

    Parameters
    ----------
    low, high : float
        The ends, low below high.
    count : int
        About how many.

    Returns
    -------
    list of float

    Examples
    --------
    >>> ticks(0.0, 1.0, 5), ticks(-3.0, 17.0, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0, 15.0])
    """
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]
