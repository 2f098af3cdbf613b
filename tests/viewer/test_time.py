"""Curves against time: right numbers, linked with the slider and the selection."""

import numpy as np
import pandas as pd
import pytest
from hand import pixels
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from atomvae.maps.dynamics import summarise_frames, wilson_interval
from atomvae.viewer.layers import to_layers
from atomvae.viewer.plugin.time_curves import ALL, CHOSEN, curves, what_to_plot


@pytest.fixture
def atoms(table):
    rng = np.random.default_rng(0)
    table["z_0"] = table["frame"] + rng.normal(0, 0.1, len(table))
    table["angle_folded"] = np.mod(0.02 + rng.normal(0, 0.05, len(table)), 2 * np.pi / 3)
    table["angle_n"] = 3
    table["class"] = np.where(table["left"], table["frame"] % 2, 2)
    return table


def test_means_are_those_of_the_summary(atoms):
    summary = summarise_frames(atoms, ["z_0"])
    nothing = np.zeros(len(atoms), bool)
    (curve,) = curves(atoms, nothing, "z_0", frame_time=0.5)
    np.testing.assert_allclose(curve.x, summary["frame"] * 0.5)
    np.testing.assert_allclose(curve.y, summary["z_0_mean"])
    np.testing.assert_allclose(curve.high - curve.y, 2 * summary["z_0_sem"])
    (angle,) = curves(atoms, nothing, "angle_folded")
    np.testing.assert_allclose(angle.y, np.degrees(summary["angle_mean"]))
    assert np.abs(angle.y - 1.15).max() < 3  # near zero, not the mean of 0 and 120 degrees
    chosen = atoms["left"].to_numpy()
    both = curves(atoms, chosen, "number of atoms")
    assert [c.name for c in both] == ["all atoms", "chosen atoms"]
    np.testing.assert_array_equal(both[1].y, atoms[chosen].groupby("frame").size())


def test_shares_have_wilson_intervals(atoms):
    shares = curves(atoms, np.zeros(len(atoms), bool), "share of each class")
    assert [c.name for c in shares] == ["class 0", "class 1", "class 2"]
    total = atoms.groupby("frame").size().to_numpy()
    zero = ((atoms["class"] == 0).groupby(atoms["frame"]).sum()).to_numpy()
    np.testing.assert_allclose(shares[0].y, zero / total)
    low, high = wilson_interval(zero, total)
    np.testing.assert_allclose(shares[0].low, low)
    np.testing.assert_allclose(shares[0].high, high)
    np.testing.assert_allclose(sum(c.y for c in shares), 1.0)
    assert what_to_plot(pd.DataFrame()) == []


@pytest.fixture
def window(make_napari_viewer_proxy, movie, atoms):
    viewer = make_napari_viewer_proxy(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Time")
    assert not widget.what.isEnabled() and "Open a run" in widget.plot.message
    for data, options, kind in to_layers(movie, atoms):
        getattr(viewer, f"add_{kind}")(data, **options)
    return viewer, widget


def near(picture, color):
    return np.abs(picture.astype(int) - np.array(color) * 255).max(-1) < 40


def choose(widget, qtbot, what, count):
    widget.what.setCurrentText(what)
    widget.what.activated.emit(widget.what.currentIndex())
    qtbot.waitUntil(lambda: len(widget.plot.curves) == count, timeout=30_000)


@pytest.mark.gui
def test_click_and_keys_go_to_the_frame_and_the_line_follows(window, qtbot):
    viewer, widget = window
    choose(widget, qtbot, "z_0", 1)
    assert widget.plot.x_label == "time (s)"
    for frame in (3, 1):
        spot = widget.plot.place(frame * 0.5 + 0.1, float(frame)).toPoint()
        QTest.mouseClick(widget.plot, Qt.MouseButton.LeftButton, pos=QPoint(spot.x(), spot.y()))
        assert viewer.dims.current_step[0] == frame
        assert widget.plot.mark == frame * 0.5
    QTest.keyClick(widget.plot, Qt.Key.Key_Right)
    assert viewer.dims.current_step[0] == 2
    QTest.keyClick(widget.plot, Qt.Key.Key_Home)
    assert viewer.dims.current_step[0] == 0
    viewer.dims.set_current_step(0, 2)
    assert widget.plot.mark == 1.0
    picture, ratio = pixels(widget.plot), widget.plot.devicePixelRatioF()
    place = widget.plot.place(1.5, 3.0)  # where the curve ends
    row, column = round(place.y() * ratio), round(place.x() * ratio)
    assert near(picture[row - 4 : row + 5, column - 8 : column + 1], ALL).any()
    line = round(widget.plot.place(1.0, 0).x() * ratio)
    area = widget.plot.area()
    rows = slice(round(area.top() * ratio), round(area.bottom() * ratio))
    strips = picture[rows].astype(int).max(-1).mean(0)
    assert strips[line - 1 : line + 2].max() > strips[line + 8] + 30  # the dashed line


@pytest.mark.gui
def test_chosen_atoms_have_a_curve_of_their_own(window, atoms, qtbot):
    viewer, widget = window
    choose(widget, qtbot, "z_0", 1)
    assert not near(pixels(widget.plot), CHOSEN).any()
    widget.atoms.choose(((atoms["frame"] != 1) & atoms["left"]).to_numpy())
    qtbot.waitUntil(lambda: len(widget.plot.curves) == 2, timeout=30_000)
    assert widget.plot.curves[1].x.tolist() == [0.0, 1.0, 1.5]
    assert near(pixels(widget.plot), CHOSEN).sum() > 50
    choose(widget, qtbot, "share of each class", 5)
    assert [c.dashed for c in widget.plot.curves] == [False] * 3 + [True] * 2
    viewer.layers.clear()
    assert not widget.plot.curves and not widget.what.isEnabled()


@pytest.mark.gui
def test_curves_take_the_colours_of_the_theme(window, qtbot):
    viewer, widget = window
    choose(widget, qtbot, "z_0", 1)
    dark = pixels(widget.plot)
    viewer.theme = "light"
    qtbot.wait(50)
    light = pixels(widget.plot)
    assert np.median(light) > np.median(dark) + 100
    assert light.min() < 60 and dark.max() > 200  # ink that can be read on it
    viewer.theme = "dark"
