"""Export, the view that is kept in the run, legends, and runs that something is wrong with."""

import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hand import canvas_of
from napari.components import ViewerModel

from atomvae.errors import InputError
from atomvae.viewer.colors import PALETTE
from atomvae.viewer.layers import MANY_MARKS, to_layers
from atomvae.viewer.plugin.color_widget import recolor
from atomvae.viewer.plugin.open import annotate
from atomvae.viewer.plugin.saved import layer_state, restore, save_view
from atomvae.viewer.plugin.still import STILL


@pytest.fixture(autouse=True)
def plugin():
    import npe2

    npe2.PluginManager.instance().discover()


def opened(path):
    viewer = ViewerModel()
    viewer.open(str(path), plugin="atomvae")
    return viewer


def state(viewer):
    return [layer_state(layer) for layer in viewer.layers]


def test_layers_come_back_exactly(run_path, table):
    viewer = opened(run_path)
    atoms, image, angles = (viewer.layers[name] for name in ("atoms", "movie", "angles"))
    recolor(atoms, "frame")
    atoms.opacity, atoms.size, atoms.symbol = 0.5, 5.5, "square"
    image.contrast_limits, image.gamma, image.visible = (3, 77), 0.8, False
    angles.edge_width = 2.5
    atoms.data = atoms.data + np.array([0, 0.25, 0])  # moved by hand
    features = atoms.features.assign(mine=np.where(table["left"], "a", "b"))
    atoms.features = features
    field = np.random.default_rng(0).random((4, 96, 128)).astype(np.float32)
    viewer.add_image(field, name="strain (xx)", colormap="magma", scale=image.scale, opacity=0.3)
    viewer.add_shapes([[[0, 0], [5, 5]]], shape_type="line", name="a line")
    problems = save_view(viewer.layers, run_path)
    assert problems == ["a line is not from this run, so it is not kept"]
    viewer.layers.remove("a line")
    again = opened(run_path)
    assert state(again) == state(viewer)
    np.testing.assert_array_equal(again.layers["atoms"].data, atoms.data)
    np.testing.assert_allclose(again.layers["atoms"].face_color, atoms.face_color, atol=1e-6)
    assert again.layers["atoms"].features["mine"].tolist() == features["mine"].tolist()
    kept = again.layers["strain (xx)"]
    np.testing.assert_array_equal(np.asarray(kept.data), field)
    np.testing.assert_allclose(kept.scale, image.scale)
    save_view(again.layers, run_path)  # and once more
    assert state(opened(run_path)) == state(viewer)


def test_a_view_of_an_older_result_is_not_used(run_path):
    viewer = opened(run_path)
    viewer.layers["atoms"].opacity = 0.5
    save_view(viewer.layers, run_path)
    assert opened(run_path).layers["atoms"].opacity == 0.5
    (run_path / ".atomvae/stages/map.json").write_text('{"key": "another"}')
    assert opened(run_path).layers["atoms"].opacity == 0.9
    (run_path / ".atomvae/view/layers.json").write_text("{damaged")
    assert opened(run_path).layers["atoms"].opacity == 0.9
    assert restore(run_path / "absent", []) == []


def test_run_that_was_moved_still_opens(run_path, tmp_path):
    save_view(opened(run_path).layers, run_path)
    other = tmp_path / "elsewhere" / "renamed.atomvae.zarr"
    shutil.move(run_path, other)
    viewer = opened(other)
    assert [layer.name for layer in viewer.layers] == ["movie", "angles", "atoms"]
    assert viewer.layers["atoms"].metadata["atomvae"]["source"] == str(other)


def test_movie_without_drift_is_offered_where_there_is_drift(run_path, movie):
    drift = pd.DataFrame({"frame": range(4), "dy": 0.0, "dx": [0.0, 3, 6, 9], "movie": 0})
    drift.to_parquet(run_path / ".atomvae/tables/drift.parquet")
    viewer = opened(run_path)
    assert [layer.name for layer in viewer.layers][:2] == ["movie", "movie without drift"]
    still = viewer.layers["movie without drift"]
    assert not still.visible
    inside = np.s_[10:86, 10:110]
    first, last = (np.asarray(still.data[t])[inside] for t in (0, 3))
    np.testing.assert_allclose(last - 60, first, atol=1.0)  # brighter, but in place
    np.testing.assert_array_equal(still.scale, viewer.layers["movie"].scale)
    (drift * 0).to_parquet(run_path / ".atomvae/tables/drift.parquet")
    assert "movie without drift" not in opened(run_path).layers


@pytest.mark.gui
def test_atoms_move_with_the_movie_without_drift(make_napari_viewer, run_path):
    """Where an atom is drawn, the movie that is shown has the same content."""
    drift = pd.DataFrame({"frame": range(4), "dy": 0.0, "dx": [0.0, 3, 6, 9], "movie": 0})
    drift.to_parquet(run_path / ".atomvae/tables/drift.parquet")
    viewer = make_napari_viewer()
    for layer in opened(run_path).layers:
        viewer.add_layer(layer)
    annotate(viewer)
    movie, still, atoms = (viewer.layers[n] for n in ("movie", STILL, "atoms"))
    row = atoms.data[(atoms.data[:, 0] == 3) & (atoms.data[:, 2] > 20)][0]
    viewer.dims.set_current_step(0, 3)
    there = movie.get_value(atoms.data_to_world(row), world=True)
    still.visible = True
    for frame, shift in ((3, -9.0), (1, -3.0), (3, -9.0)):
        viewer.dims.set_current_step(0, frame)
        for layer in (atoms, viewer.layers["angles"]):
            np.testing.assert_allclose(layer.translate, [0, 0, shift * movie.scale[2]])
    assert still.get_value(atoms.data_to_world(row), world=True) == pytest.approx(there, rel=0.02)
    assert movie.get_value(atoms.data_to_world(row), world=True) != pytest.approx(there, rel=0.02)
    np.testing.assert_array_equal(movie.translate, 0)
    still.visible = False
    np.testing.assert_array_equal(atoms.translate, 0)
    still.visible, still.metadata = True, {}  # somebody's own layer of that name
    viewer.dims.set_current_step(0, 2)
    np.testing.assert_array_equal(atoms.translate, 0)


def test_run_that_is_being_written(run_path):
    """Whatever is not there yet is not asked for: the movie, then the atoms, then latents."""
    (run_path / ".atomvae/stages/map.json").unlink()
    viewer = opened(run_path)
    assert [layer.name for layer in viewer.layers] == ["movie", "atoms"]
    (run_path / "atoms.partial").mkdir()
    shutil.rmtree(run_path / "atoms")
    assert [layer.name for layer in opened(run_path).layers] == ["movie"]


def test_many_angles_are_one_line_each_and_wait_until_they_are_wanted(movie):
    n = MANY_MARKS // 3 + 1
    many = pd.DataFrame({"frame": 0, "y": np.arange(n) / 10, "x": 5.0, "angle": 2.0, "angle_n": 3})
    layers = {o["name"]: (d, o) for d, o, _ in to_layers(movie, many, spacing_px=5)}
    vectors, options = layers["angles"]
    assert len(vectors) == n and options["visible"]
    found = np.arctan2(-vectors[0, 1, 1], vectors[0, 1, 2])
    assert abs(found - (2.0 - 2 * np.pi / 3)) < 1e-9  # the spoke nearest to the right
    few = {o["name"]: d for d, o, _ in to_layers(movie, many[:10], spacing_px=5)}
    assert len(few["angles"]) == 30


@pytest.fixture
def window(make_napari_viewer_proxy, run_path, table):
    viewer = make_napari_viewer_proxy(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Export")
    return viewer, widget


def export(widget, qtbot, kind, place):
    widget.kind.setCurrentText(kind)
    widget.write(str(place))
    qtbot.waitUntil(widget.save.isEnabled, timeout=120_000)
    return widget.status.text()


@pytest.mark.gui
def test_export_writes_all_that_it_offers(window, run_path, table, tmp_path, qtbot):
    from matplotlib.image import imread

    from atomvae.viewer.plugin.reader import read_table

    viewer, widget = window
    assert "nothing is open" in export(widget, qtbot, "picture of this view", tmp_path / "no")
    viewer.open(str(run_path), plugin="atomvae")
    viewer.dims.set_current_step(0, 1)
    assert "written" in export(widget, qtbot, "picture of this view", tmp_path / "view")
    with_bar = imread(tmp_path / "view.png")[..., :3]
    assert with_bar.std() > 0.04
    widget.scale_bar.click()
    export(widget, qtbot, "picture of this view", tmp_path / "plain.png")
    change = np.abs(imread(tmp_path / "plain.png")[..., :3] - with_bar).max(-1) > 0.3
    rows, columns = np.nonzero(change)
    assert len(rows) > 30 and rows.min() > 0.8 * len(change)  # the scale bar, at the bottom
    assert columns.min() > 0.4 * change.shape[1]
    for kind, name in (("", "a.csv"), (", as Parquet", "a.parquet")):
        export(widget, qtbot, f"table of the atoms{kind}", tmp_path / name)
        ((data, options, _),) = (x for x in read_table(str(tmp_path / name)) if x[2] == "points")
        np.testing.assert_allclose(data, table[["frame", "y", "x"]])
        np.testing.assert_array_equal(options["features"]["atom_id"], table["atom_id"])
    assert "written" in export(widget, qtbot, "movie as OME-Zarr", tmp_path / "m")
    from atomvae.movie.read import read_movie

    again = read_movie(tmp_path / "m.ome.zarr")
    np.testing.assert_array_equal(again.frame(2), np.asarray(viewer.layers["movie"].data[2]))
    assert again.pixel_size == pytest.approx((0.02, 0.02)) and again.frame_time == 0.5
    assert "written" in export(widget, qtbot, "layers as they are, with their run", "")
    assert (run_path / ".atomvae/view/layers.json").exists()


@pytest.mark.gui
def test_film_shows_every_frame_and_can_be_given_up(window, run_path, tmp_path, qtbot):
    from PIL import Image, ImageSequence

    viewer, widget = window
    viewer.open(str(run_path), plugin="atomvae")
    viewer.dims.set_current_step(0, 1)
    assert "written" in export(widget, qtbot, "film of all frames, as GIF", tmp_path / "f.gif")
    assert viewer.dims.current_step[0] == 1  # as before
    with Image.open(tmp_path / "f.gif") as film:
        frames = [np.asarray(f.convert("L"), float) for f in ImageSequence.Iterator(film)]
    assert len(frames) == 4
    middle = [f[f.shape[0] // 4 : -f.shape[0] // 4] for f in frames]
    assert all(np.abs(a - b).mean() > 1 for a, b in pairwise(middle))

    # A window that changes its size meanwhile changes nothing of the film.
    canvas = canvas_of(viewer, widget)
    widget.kind.setCurrentText("film of all frames, as GIF")
    widget.write(str(tmp_path / "g.gif"))
    width = canvas.width()
    widget._film.taken.connect(lambda: canvas.window().resize(canvas.window().width() - 150, 600))
    qtbot.waitUntil(widget.save.isEnabled, timeout=120_000)
    assert canvas.width() < width
    with Image.open(tmp_path / "g.gif") as film:
        sizes = {f.size for f in ImageSequence.Iterator(film)}
        assert film.n_frames == 4 and sizes == {(width, film.height)}

    widget.write(str(tmp_path / "none.gif"))
    assert widget.cancel.isEnabled()
    widget.cancel.click()
    qtbot.waitUntil(widget.save.isEnabled, timeout=60_000)
    assert "given up" in widget.status.text()
    assert not (tmp_path / "none.gif").exists()
    assert viewer.dims.current_step[0] == 1

    (tmp_path / "file").write_text("not a folder")
    assert "file" in export(widget, qtbot, "film of all frames, as GIF", tmp_path / "file/n.gif")
    assert widget._film is None and viewer.dims.current_step[0] == 1  # nothing goes on behind


@pytest.mark.gui
def test_atoms_without_a_run_can_not_go_to_one(window, movie, table, qtbot):
    viewer, widget = window
    for data, options, kind in to_layers(movie, table):
        getattr(viewer, f"add_{kind}")(data, **options)
    said = export(widget, qtbot, "layers as they are, with their run", "")
    assert "not from a run" in said
    with pytest.raises(InputError, match="no folder"):
        save_view(viewer.layers, "/nowhere/a.atomvae.zarr")


@pytest.mark.gui
def test_legend_names_each_class_in_its_colour(make_napari_viewer_proxy, movie, table, qtbot):
    from atomvae.viewer.plugin.legend import PREFIX
    from atomvae.viewer.plugin.open import annotate

    viewer = make_napari_viewer_proxy(show=True)
    table["class"] = np.where(table["left"], 0, 1)
    for data, options, kind in to_layers(movie, table.assign(angle=0.3, angle_n=3)):
        getattr(viewer, f"add_{kind}")(data, **options)
    viewer.layers["movie"].visible = False
    annotate(viewer)

    def texts():
        overlays = viewer.canvas.overlays
        return [overlays[n].text for n in sorted(overlays) if n.startswith(PREFIX) and
                overlays[n].visible]  # fmt: skip

    assert texts() == ["■ 0°", "■ 30°", "■ 60°", "■ 90°", "■ 0", "■ 1"]
    assert "atoms: class" in viewer.canvas.overlays.text.text
    viewer.layers["angles"].visible = False
    qtbot.waitUntil(lambda: texts() == ["■ 0", "■ 1"], timeout=20_000)

    def corner(color):
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3] / 255.0
        h, w = picture.shape[:2]
        near = np.abs(picture[: h // 2, : w // 8] - color).max(-1) < 0.06
        return int(near.sum())

    viewer.layers["atoms"].opacity = 0.0
    assert corner(PALETTE[0]) > 60 and corner(PALETTE[1]) > 60
    viewer.layers["atoms"].opacity = 1.0
    recolor(viewer.layers["atoms"], "z_0")
    qtbot.waitUntil(lambda: texts() == [], timeout=20_000)
    bar = viewer.layers["atoms"].face_colorbar
    qtbot.waitUntil(lambda: bar.visible, timeout=20_000)
