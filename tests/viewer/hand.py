"""A hand on the mouse: real events on real widgets; and one on the brake of a process."""

import os
import signal
import time
from contextlib import contextmanager

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtTest import QTest

from atomvae.viewer.plugin.selection import MARKS

NONE = Qt.KeyboardModifier.NoModifier
LEFT = Qt.MouseButton.LeftButton


def drag(widget, places, modifier=NONE):
    """Press, move along places (QPointF) and release."""
    points = [QPoint(round(p.x()), round(p.y())) for p in places]
    QTest.mousePress(widget, LEFT, modifier, points[0])
    for point in points[1:]:
        QTest.mouseMove(widget, point)
    QTest.mouseRelease(widget, LEFT, modifier, points[-1])


def lasso(plot, x, y, radius, modifier=NONE):
    """Draw a circle, or with radius (rx, ry) an ellipse, around a value of the plot."""
    rx, ry = np.broadcast_to(radius, 2)
    turn = np.linspace(0, 2 * np.pi, 40)
    drag(plot, [plot.place(x + rx * np.cos(t), y + ry * np.sin(t)) for t in turn], modifier)


def canvas_of(viewer, widget):
    """The canvas of the window that a dock widget is in."""
    return widget.window().centralWidget().findChild(QOpenGLWidget)


def on_canvas(viewer, canvas, row):
    """Where an atom lies on the canvas, px of the widget."""
    layer = viewer.layers["atoms"]
    place = layer.data[row][-2:] * layer.scale[-2:] - viewer.scene.camera.center[-2:]
    y, x = place * viewer.scene.camera.zoom + [canvas.height() / 2, canvas.width() / 2]
    return QPoint(round(x), round(y))


def magenta(rgb):
    """Which pixels (..., 3 or 4) are magenta."""
    red, green, blue = (rgb[..., i].astype(int) for i in range(3))
    return (red > 140) & (blue > 140) & (green < 0.6 * np.minimum(red, blue))


def pixels(widget):
    """What a widget looks like, (h, w, 3)."""
    from qtpy.QtGui import QImage

    return rgb_of(widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB32))


def rgb_of(image):
    """A QImage of the format RGB32 as an array (h, w, 3)."""
    bits = image.constBits()
    if hasattr(bits, "setsize"):  # PyQt6
        bits.setsize(image.sizeInBytes())
    data = np.frombuffer(bits, np.uint8).reshape(image.height(), -1, 4)
    return data[:, : image.width(), 2::-1].copy()


def rendered(widget):
    """What a transparent widget paints, on black, (h, w, 3)."""
    from qtpy.QtGui import QImage

    image = QImage(widget.size(), QImage.Format.Format_RGB32)
    image.fill(0)
    widget.render(image)
    return rgb_of(image)


def marked_atoms(viewer, canvas):
    """Rows of the atoms of this frame that have a magenta ring in a screenshot."""
    picture = viewer.screenshot(canvas_only=True, flash=False)
    found = magenta(picture)
    layer = viewer.layers["atoms"]
    frame = viewer.dims.current_step[0]
    rows = np.flatnonzero(layer.data[:, 0] == frame)
    zoom = viewer.scene.camera.zoom * canvas.devicePixelRatioF()
    reach = round(0.45 * 16 * layer.scale[-1] * zoom)
    out = []
    for row in rows:
        place = layer.data[row][-2:] * layer.scale[-2:] - viewer.scene.camera.center[-2:]
        y, x = np.round(place * zoom + np.array(found.shape) / 2).astype(int)
        assert 0 <= y < found.shape[0] and 0 <= x < found.shape[1]  # all are in view
        if found[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach].sum() > 8:
            out.append(int(row))
    assert MARKS in viewer.layers or not out
    return out


@contextmanager
def slow_motion(pid, until, qtbot, seconds=300):
    """Let a group of processes run for moments only, until something is seen; halted while looked
    at, it goes on at the end.

    Its reports go by the clock, which does not stand still meanwhile. So a work of a second is seen
    in as many of them as are wanted, and isn't over before that, however fast the machine is.
    """
    end = time.monotonic() + seconds
    try:
        os.killpg(pid, signal.SIGSTOP)
        while not until():
            assert time.monotonic() < end, "waited in vain"
            os.killpg(pid, signal.SIGCONT)
            qtbot.wait(20)
            os.killpg(pid, signal.SIGSTOP)
            qtbot.wait(230)
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)
