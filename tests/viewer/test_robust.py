"""The widgets with nothing open, with what is not ours, and the page of preferences."""

import numpy as np
import pytest
import zarr

from atomvae.viewer.plugin.preferences import preference
from atomvae.viewer.plugin.reader import get_reader
from atomvae.viewer.plugin.selection import atoms_of

pytestmark = pytest.mark.gui
DOCKS = ("Pipeline", "Colour by", "Time", "Export", "Explorer", "Manifold")


@pytest.fixture
def docks(make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy(show=False)
    found = {name: viewer.window.add_plugin_dock_widget("atomvae", name)[1] for name in DOCKS}
    qtbot.waitUntil(lambda: found["Pipeline"].form is not None, timeout=60_000)
    return viewer, found


def test_widgets_live_with_layers_of_others(docks, qtbot):
    viewer, found = docks
    rng = np.random.default_rng(0)
    viewer.add_labels(rng.integers(0, 3, (5, 20, 20)))
    viewer.add_image(rng.random((20, 20, 3)), rgb=True)
    viewer.add_points(rng.random((5, 2)), features={"z_0": np.arange(5)}, name="not ours")
    viewer.add_shapes([[[0, 0], [3, 3]]], shape_type="line")
    assert [
        found["Pipeline"].movie.itemText(i) for i in range(found["Pipeline"].movie.count())
    ] == ["a file ..."]
    assert not found["Colour by"].column.isEnabled()
    assert not found["Time"].what.isEnabled()
    for kind in ("table of the atoms", "layers as they are, with their run", "movie as OME-Zarr"):
        found["Export"].kind.setCurrentText(kind)
        found["Export"].write("/nowhere/a")
        said = found["Export"].status.text()
        assert "no atoms" in said or "no movie" in said
    viewer.add_image(rng.random((4, 20, 20, 20)), name="volumes")  # (t, z, y, x): no movie
    viewer.add_image(rng.random((3, 30, 30)), name="movie")
    assert found["Pipeline"].movie.currentText() == "movie"
    qtbot.waitUntil(lambda: "candidates" in found["Pipeline"].found.text(), timeout=60_000)
    viewer.layers.clear()
    assert found["Pipeline"].movie.currentText() == "a file ..."


def test_a_closed_dock_hears_no_more(docks, qtbot):
    viewer, found = docks
    heard, ended = atoms_of(viewer).replaced, []
    assert len(heard) > 1
    for name, widget in found.items():
        widget.destroyed.connect(lambda *_, name=name: ended.append(name))
        viewer.window.remove_dock_widget(widget)  # as the cross of a dock does
    qtbot.waitUntil(lambda: sorted(ended) == sorted(DOCKS), timeout=20_000)
    assert len(heard) == 0


def test_frames_that_hold_nothing_or_no_numbers(docks, qtbot):
    viewer, found = docks
    pipeline = found["Pipeline"]
    viewer.add_image(np.full((2, 30, 30), np.nan, np.float32), contrast_limits=(0, 1), name="gone")
    qtbot.waitUntil(lambda: pipeline.found.text().startswith("0 candidates"), timeout=60_000)
    viewer.layers.clear()
    viewer.add_image(np.zeros((2, 3, 3)), contrast_limits=(0, 1), name="tiny")
    qtbot.waitUntil(lambda: pipeline.found.text().startswith("0 candidates"), timeout=60_000)


def test_foreign_zarr_is_left_to_others(docks, tmp_path):
    viewer, _ = docks
    path = tmp_path / "foreign.zarr"
    zarr.create_array(path, shape=(3, 8, 8), dtype="f4", chunks=(1, 8, 8))
    assert get_reader(str(path)) is None
    viewer.open(str(path), plugin="napari")
    assert len(viewer.layers) == 1


def test_preferences_have_a_page_that_is_heeded(make_napari_viewer_proxy, tmp_path, monkeypatch):
    from napari import settings

    page = settings.get_plugin_settings("atomvae")
    assert {"results", "display"} <= set(type(page).model_fields)
    assert preference("display", "legend", True) is True
    monkeypatch.setattr(page.results, "folder", str(tmp_path))
    monkeypatch.setattr(page.display, "legend", False)
    assert preference("display", "legend", True) is False
    viewer = make_napari_viewer_proxy(show=False)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Pipeline")
    assert widget.out.text.text() == str(tmp_path)


def test_menus_offer_what_there_is():
    import npe2

    manager = npe2.PluginManager.instance()
    manager.discover()
    offered = {
        menu: {item.command for item in manager.iter_menu(menu) if "atomvae" in str(item)}
        for menu in ("segment", "visualize", "track")
        for menu in [f"napari/layers/{menu}"]
    }
    assert "atomvae.pipeline" in offered["napari/layers/segment"]
    assert {"atomvae.time", "atomvae.color"} <= offered["napari/layers/visualize"]
    exported = {getattr(i, "command", "") for i in manager.iter_menu("napari/file/io_utilities")}
    assert "atomvae.export" in exported
