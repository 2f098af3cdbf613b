"""The list of columns that colour the atoms, in a real window."""

import numpy as np
import pytest

from atomvae.viewer.colors import color_scale
from atomvae.viewer.layers import to_layers

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy(show=False)


def open_layers(viewer, movie, table=None):
    for data, options, kind in to_layers(movie, table):
        getattr(viewer, f"add_{kind}")(data, **options)


def test_color_widget_follows_the_layers(viewer, movie, table):
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Colour by")
    assert not widget.column.isEnabled()
    assert "Open a run" in widget.note.text()
    open_layers(viewer, movie, table.assign(**{"class": 1}))
    assert widget.column.isEnabled()
    assert widget.column.currentText() == "class"
    viewer.layers.clear()
    assert not widget.column.isEnabled()


def test_color_widget_colours_with_one_scale_over_time(viewer, movie, table):
    table["z_0"] = table["left"] * 0.2 * (1 + table["frame"])
    table["class"] = table["left"].astype(int)
    table["species"] = np.where(table["left"], "Si", "C")
    open_layers(viewer, movie, table)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Colour by")
    atoms = viewer.layers["atoms"]
    for column in ("z_0", "class", "species", "left", "frame", "z_0"):
        widget.column.setCurrentText(column)
        widget.column.textActivated.emit(column)
        expected = color_scale(table[column]).rgba()
        np.testing.assert_allclose(atoms.face_color, expected, atol=0.02)
        assert atoms.metadata["atomvae"]["shows"].splitlines()[0] == column


def test_tracks_have_the_colours_of_their_atoms(viewer, movie, table, qtbot):
    table["track"] = table.groupby("frame").cumcount()
    table["z_0"] = table["x"] + 100.0 * table["frame"]
    open_layers(viewer, movie, table)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Colour by")
    tracks = viewer.layers["tracks"]
    for column in ("left", "z_0"):
        widget.column.setCurrentText(column)
        widget.column.textActivated.emit(column)
        assert widget.column.currentText() == column
    qtbot.waitUntil(lambda: tracks.color_by == "z_0", timeout=20_000)
    scale = color_scale(table["z_0"])
    np.testing.assert_allclose(tracks.track_colors, scale.rgba(tracks.features["z_0"].to_numpy()))


def test_field_shows_the_value_of_the_nearest_atom(viewer, movie, table):
    table["z_0"] = np.where(table["left"], 1.0, 3.0) + table["frame"]
    open_layers(viewer, movie, table)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Colour by")
    widget.column.setCurrentText("z_0")
    widget.field.click()
    field = viewer.layers["field of z_0"]
    assert [layer.name for layer in viewer.layers] == ["movie", "field of z_0", "atoms"]
    assert field.data.shape == movie.shape
    assert [str(unit) for unit in field.units] == [str(u) for u in viewer.layers["atoms"].units]
    np.testing.assert_allclose(field.scale, viewer.layers["atoms"].scale)
    for frame in (0, 3):
        pixels = np.asarray(field.data[frame])
        row = table[(table["frame"] == frame)].iloc[9]
        assert pixels[round(row.y), round(row.x)] == row.z_0
    assert field.contrast_limits == list(color_scale(table["z_0"]).limits)
