"""The explorer in a real window, with a real mouse."""

import numpy as np
import pandas as pd
import pytest
from hand import LEFT, canvas_of, drag, lasso, magenta, marked_atoms, on_canvas, pixels, rendered
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from atomvae.errors import InputError
from atomvae.run.folder import RunFolder
from atomvae.run.labels import read_labels
from atomvae.viewer.layers import to_layers
from atomvae.viewer.plugin import explorer_classes, glow
from atomvae.viewer.plugin.explorer_picture import axis_values, color_rows, inside, pack
from atomvae.viewer.plugin.selection import MARKS, atoms_of

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1400, 900)
    return viewer


@pytest.fixture
def table(table):
    """Two clusters in (z_0, z_1): the atoms at the left and those at the right."""
    spread = np.random.default_rng(0).normal(size=(len(table), 2)) * 0.05
    table["z_0"] = np.where(table["left"], 0.0, 1.0) + spread[:, 0]
    table["z_1"] = np.where(table["left"], 0.0, 1.0) + spread[:, 1]
    table["track"] = table.groupby("frame").cumcount()
    table["species"] = np.where(table["left"], "Si", "C")
    return table


def show(viewer, movie, table, source=None):
    for data, options, kind in to_layers(movie, table, source=source):
        getattr(viewer, f"add_{kind}")(data, **options)
    viewer.layers.selection.active = viewer.layers["atoms"]


def add_explorer(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Explorer")
    return widget


def until_marked(qtbot, viewer, count):
    qtbot.waitUntil(
        lambda: MARKS in viewer.layers and len(viewer.layers[MARKS].data) == count, timeout=20_000
    )


def fit(viewer, explorer, qtbot):
    """Wait until the window is laid out, and show the whole frame."""
    qtbot.waitUntil(lambda: explorer._glow is not None, timeout=10_000)
    qtbot.wait(300)
    viewer.reset_view()
    qtbot.wait(50)
    return canvas_of(viewer, explorer)


def ids(explorer):
    return set(explorer.atoms.table["atom_id"][explorer.atoms.chosen])


def test_opens_with_nothing_and_follows_the_layers(viewer, movie, table, qtbot):
    explorer = add_explorer(viewer)
    assert "Open a run" in explorer.plot.message and not explorer.x.isEnabled()
    lasso(explorer.plot, 0.5, 0.5, 0.3)  # on nothing
    show(viewer, movie, table)
    qtbot.waitUntil(explorer.x.isEnabled, timeout=5000)
    assert (explorer.x.currentText(), explorer.y.currentText()) == ("z_0", "z_1")
    assert explorer.plot.message == ""
    assert pixels(explorer.plot).std() > 10
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not explorer.x.isEnabled(), timeout=5000)
    assert "Open a run" in explorer.plot.message and len(explorer.atoms.chosen) == 0


def test_lasso_chooses_a_cluster_and_marks_it_in_the_image(viewer, movie, table, qtbot):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    lasso(explorer.plot, 1.0, 1.0, 0.4)
    assert ids(explorer) == set(table["atom_id"][~table["left"]])
    canvas = fit(viewer, explorer, qtbot)
    for frame in (0, 3):
        viewer.dims.set_current_step(0, frame)
        wanted = table.index[~table["left"] & (table["frame"] == frame)]
        until_marked(qtbot, viewer, len(wanted))
        assert marked_atoms(viewer, canvas) == list(wanted)
    assert viewer.layers.selection.active is not None
    assert viewer.layers.selection.active.name == "atoms"  # the layer in work stays it
    assert f"{len(ids(explorer))} of {len(table)} atoms" in explorer.count.text()
    explorer.clear.click()
    assert not explorer.atoms.chosen.any() and marked_atoms(viewer, canvas) == []


def test_shift_adds_alt_removes_and_a_rectangle_is_one(viewer, movie, table):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    explorer.tool.setCurrentText("Rectangle")
    plot, left = explorer.plot, set(table["atom_id"][table["left"]])
    drag(plot, [plot.place(-0.4, -0.4), plot.place(0.2, 0.0), plot.place(0.4, 0.4)])
    assert ids(explorer) == left
    explorer.tool.setCurrentText("Lasso")
    lasso(plot, 1, 1, 0.4, Qt.KeyboardModifier.ShiftModifier)
    assert ids(explorer) == set(table["atom_id"])
    lasso(plot, 0, 0, 0.4, Qt.KeyboardModifier.AltModifier)
    assert ids(explorer) == set(table["atom_id"]) - left
    explorer.invert.click()
    assert ids(explorer) == left
    QTest.keyClick(plot, Qt.Key.Key_Escape)
    assert ids(explorer) == set()


def test_only_this_frame_and_the_same_atoms_in_all_frames(viewer, movie, table):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    viewer.dims.set_current_step(0, 1)
    explorer.this_frame.setChecked(True)
    lasso(explorer.plot, 1, 1, 0.4)
    here = table[(table["frame"] == 1) & ~table["left"]]
    assert ids(explorer) == set(here["atom_id"])
    viewer.dims.set_current_step(0, 2)
    QTest.mouseClick(explorer.plot, LEFT, pos=explorer.plot.place(-9, -9).toPoint())
    lasso(explorer.plot, 0, 0, 0.4)
    assert set(table["frame"][explorer.atoms.chosen]) == {2}
    explorer.tracks.click()
    assert explorer.atoms.chosen.tolist() == table["track"].isin(
        table["track"][(table["frame"] == 2) & table["left"]]
    ).tolist()  # fmt: skip


def test_atom_clicked_in_the_image_is_marked_in_the_plot(viewer, movie, table, qtbot):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    canvas = fit(viewer, explorer, qtbot)
    row = int(table.index[(table["frame"] == viewer.dims.current_step[0]) & table["left"]][7])
    assert not magenta(pixels(explorer.plot)).any()
    QTest.mouseClick(canvas, LEFT, pos=on_canvas(viewer, canvas, row))
    assert ids(explorer) == {table["atom_id"][row]}
    at = explorer.plot.place(table["z_0"][row], table["z_1"][row])
    y, x = round(at.y()), round(at.x())
    found = np.argwhere(magenta(pixels(explorer.plot)))
    assert len(found) > 10
    np.testing.assert_allclose(found.mean(0), [y, x], atol=1.5)  # a ring around its dot
    until_marked(qtbot, viewer, 1)
    assert marked_atoms(viewer, canvas) == [row]
    other = on_canvas(viewer, canvas, row + 1)
    QTest.mouseClick(canvas, LEFT, Qt.KeyboardModifier.ShiftModifier, other)
    assert explorer.atoms.chosen.nonzero()[0].tolist() == [row, row + 1]


def test_selection_of_napari_itself_is_taken_over(viewer, movie, table):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    viewer.layers["atoms"].selected_data = {3, 5}
    assert explorer.atoms.chosen.nonzero()[0].tolist() == [3, 5]
    lasso(explorer.plot, 0, 0, 0.4)
    assert not viewer.layers["atoms"].selected_data
    assert ids(explorer) == set(table["atom_id"][table["left"]])


def test_two_explorers_stay_in_step(viewer, movie, table):
    show(viewer, movie, table)
    one = add_explorer(viewer)
    from atomvae.viewer.plugin.explorer import ExplorerWidget

    two = ExplorerWidget(viewer)
    viewer.window.add_dock_widget(two, name="second")
    two.x.setCurrentText("frame")
    two.x.textActivated.emit("frame")
    lasso(one.plot, 1, 1, 0.4)
    assert one.atoms is two.atoms
    assert two.count.text() == one.count.text() and "atoms chosen" in two.count.text()
    rings = np.argwhere(magenta(pixels(two.plot)))[:, 1]
    assert rings.max() > two.plot.place(2.5, 0).x()  # in all frames
    lasso(two.plot, 0.0, 1.0, (0.3, 0.4))  # frame 0 of those at the right
    assert ids(one) == set(table["atom_id"][(table["frame"] == 0) & ~table["left"]])
    rings = np.argwhere(magenta(pixels(two.plot)))[:, 1]
    assert len(rings) and rings.max() < two.plot.place(0.5, 0).x()  # in the first alone


@pytest.mark.parametrize("column", ["z_0", "frame", "species", "left"])
def test_dots_have_the_colours_of_the_column(viewer, movie, table, column):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    explorer.color.setCurrentText(column)
    explorer.color.textActivated.emit(column)
    colors, _ = color_rows(table, column)
    picture = pixels(explorer.plot)
    seen = 0
    for row in range(0, len(table), 5):
        at = explorer.plot.place(table["z_0"][row], table["z_1"][row])
        rgb = picture[round(at.y() - 0.5), round(at.x() - 0.5)].astype(int)
        wanted = [(int(colors[row]) >> shift) & 255 for shift in (16, 8, 0)]
        seen += bool(np.abs(rgb - wanted).max() <= 2)
    assert seen > 0.6 * len(range(0, len(table), 5))  # some lie under others


def test_wheel_zooms_and_the_lasso_still_fits(viewer, movie, table):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    plot = explorer.plot
    plot._show(plot.view().zoomed(3.0, *(v[0] for v in plot.view().pixel(np.ones(1), np.ones(1)))))
    assert np.ptp(plot.view().x) < 0.6
    lasso(plot, 1, 1, 0.25)
    assert ids(explorer) == set(table["atom_id"][~table["left"]])
    QTest.mouseDClick(plot, LEFT, pos=plot.place(1, 1).toPoint())
    assert np.ptp(plot.view().x) > 1


def test_density_shows_where_the_atoms_are(viewer, movie, table):
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    explorer.shape.setCurrentText("Density")
    blank = explorer.plot.background.getRgb()[:3]
    picture = pixels(explorer.plot)

    def lit(x, y):
        at = explorer.plot.place(x, y)
        part = picture[round(at.y()) - 6 : round(at.y()) + 6, round(at.x()) - 6 : round(at.x()) + 6]
        return bool((np.abs(part.astype(int) - blank).max(-1) > 40).any())

    assert lit(0, 0) and lit(1, 1) and not lit(0.5, 0.5)


def test_marks_do_not_wait_where_the_canvas_is_slow(viewer, movie, table, qtbot, monkeypatch):
    """With many atoms a sheet over the canvas shows the marks first, at the same places."""
    from atomvae.viewer.plugin import selection

    monkeypatch.setattr(selection, "MANY", 10)
    monkeypatch.setattr(glow, "REST", 1500)
    show(viewer, movie, table)
    explorer = add_explorer(viewer)
    sheet = fit(viewer, explorer, qtbot).findChild(glow.Glow)
    lasso(explorer.plot, 1, 1, 0.4)
    assert MARKS not in viewer.layers and sheet.isVisible()
    first = magenta(rendered(sheet))
    until_marked(qtbot, viewer, int((explorer.atoms.chosen & explorer.atoms.here()).sum()))
    then = magenta(viewer.screenshot(canvas_only=True, flash=False))
    assert then.shape == first.shape and then.sum() > 200
    from scipy.ndimage import binary_dilation

    near = binary_dilation(then, iterations=2)
    assert (first & near).sum() > 0.8 * first.sum()
    qtbot.waitUntil(lambda: not sheet.isVisible(), timeout=10_000)


@pytest.fixture
def labelled_run(run_path, table):
    """The run folder, with latents in its table."""
    RunFolder(run_path).write_parquet("atoms", table)
    explorer_classes._CLASSES.clear()
    return run_path


def open_run(viewer, path):
    from atomvae.viewer.plugin.reader import read_run

    for data, options, kind in read_run(str(path)):
        getattr(viewer, f"add_{kind}")(data, **options)


def test_classes_are_written_undone_and_reopened(viewer, labelled_run, table, qtbot):
    open_run(viewer, labelled_run)
    explorer = add_explorer(viewer)
    panel = explorer.classes
    assert not panel.save.isEnabled() and not panel.undo.isEnabled()
    lasso(explorer.plot, 1, 1, 0.4)
    panel.save.click()
    assert "no name" in panel.note.text()
    right = set(table["atom_id"][~table["left"]])
    for name, x in (("right", 1), ("left", 0)):
        lasso(explorer.plot, x, x, 0.4)
        panel.name.setCurrentText("")
        QTest.keyClicks(panel.name.lineEdit(), name)
        QTest.mouseClick(panel.save, LEFT)
    labels = read_labels(RunFolder(labelled_run))
    assert set(labels["atom_id"][labels["label"] == "right"]) == right
    assert len(labels) == len(table)
    QTest.mouseClick(panel.undo, LEFT)
    assert set(read_labels(RunFolder(labelled_run))["label"]) == {"right"}
    assert panel.list.count() == 1
    viewer.layers.clear()
    explorer_classes._CLASSES.clear()  # as in another session
    open_run(viewer, labelled_run)
    qtbot.waitUntil(lambda: panel.list.count() == 1, timeout=5000)
    item = panel.list.visualItemRect(panel.list.item(0)).center()
    QTest.mouseClick(panel.list.viewport(), LEFT, pos=item)
    assert ids(explorer) == right
    panel.undo.setEnabled(True)
    QTest.mouseClick(panel.undo, LEFT)  # nothing is left to be undone
    assert set(read_labels(RunFolder(labelled_run))["label"]) == {"right"}


def test_table_without_a_run_and_damaged_classes_are_told(
    viewer, movie, labelled_run, table, qtbot
):
    explorer = add_explorer(viewer)
    show(viewer, movie, table)
    qtbot.waitUntil(lambda: "run folder" in explorer.classes.note.text(), timeout=5000)
    lasso(explorer.plot, 1, 1, 0.4)
    assert not explorer.classes.save.isEnabled()
    viewer.layers.clear()
    (RunFolder(labelled_run).tables / "labels.parquet").write_bytes(b"broken")
    open_run(viewer, labelled_run)
    qtbot.waitUntil(lambda: "damaged" in explorer.classes.note.text(), timeout=5000)
    qtbot.waitUntil(explorer.x.isEnabled, timeout=5000)
    lasso(explorer.plot, 1, 1, 0.4)
    assert explorer.atoms.chosen.any() and not explorer.classes.save.isEnabled()


def test_one_click_trains_on_the_classes(viewer, tmp_path, qtbot):
    from atomvae.run.config import Pipeline
    from atomvae.run.pipeline import run_pipeline

    movie = {"simulate": "graphene", "frames": 2, "shape": (72, 72), "difficulty": "poisson"}
    small = {"patches": {"size": 16}, "train": {"epochs": 1}, "model": {"variant": "vae"}}
    run = run_pipeline(Pipeline(name="small", movie=movie, **small), out=tmp_path)
    open_run(viewer, run.path)
    explorer = add_explorer(viewer)
    panel, atoms = explorer.classes, explorer.atoms
    panel.train.setEnabled(True)
    for name, rows in (("up", atoms.table["y"] < 30), ("down", atoms.table["y"] > 45)):
        atoms.choose(rows.to_numpy())
        panel.name.setCurrentText(name)
        panel.save.click()
    QTest.mouseClick(panel.train, LEFT)
    assert not panel.cancel.isHidden() and not panel.train.isEnabled(), panel.note.text()
    qtbot.waitUntil(panel.train.isEnabled, timeout=300_000)
    said = panel.note.text
    qtbot.waitUntil(lambda: "done" in said() or "error" in said(), timeout=20_000)
    assert said().startswith("done"), said()
    assert set(atoms.table["class_name"]) <= {"down", "up"}
    assert viewer.layers["atoms"].metadata["atomvae"]["shows"].startswith("class_name")
    assert run.models == ["ssvae", "vae"]
    train = run.marker("train")
    assert train["settings"]["model"]["labels"] is True and len(train["settings"]["labels"]) == 16
    file = tmp_path / "small-classes.yaml"
    states = []
    run_pipeline(file, out=run.path, progress=lambda *told: states.append(told[3]))
    assert all(line.startswith("up to date") for line in states if line)  # what was clicked
    panel._classes.give(atoms.table.iloc[:3], "down")
    from atomvae.run.pipeline import pipeline_states

    stale = [state.stage.name for state in pipeline_states(run) if not state.done]
    assert stale == ["train", "encode", "map"]  # other labels, another model
    panel._classes.folder.remove_marker("map")
    with pytest.raises(InputError, match="other atoms"):
        shifted = run.atoms().assign(y=lambda t: t["y"] + 1)
        from atomvae.run.labels import label_numbers

        label_numbers(panel._classes.labels, shifted, shifted["atom_id"])


def test_arrays_of_the_picture():
    rng = np.random.default_rng(1)
    x, y = rng.random((2, 5000)) * 60
    from matplotlib.path import Path

    for corners in (3, 5, 40):  # self-crossing, too
        polygon = rng.random((corners, 2)) * 50 + 0.3
        expected = Path(polygon, closed=False).contains_points(np.column_stack([x, y]))
        np.testing.assert_array_equal(inside(polygon, x, y), expected)
    table = pd.DataFrame({"class": [0, 1, -1], "angle": [0, np.pi, np.nan], "s": ["b", None, "a"]})
    assert np.abs(axis_values(table, "class") - [0, 1, -1]).max() <= 0.25
    np.testing.assert_allclose(axis_values(table, "angle"), [0, 180, np.nan])
    colors, scale = color_rows(table, "s")
    assert colors.tolist() == pack(scale.rgba(np.array(["b", "unknown", "a"]))).tolist()


def test_atoms_are_the_same_for_a_viewer_and_its_proxy(viewer, movie, table):
    show(viewer, movie, table)
    atoms = atoms_of(viewer)
    assert atoms is atoms_of(getattr(viewer, "__wrapped__"))  # noqa: B009
    with pytest.raises(InputError, match="the table has"):
        atoms.choose(np.zeros(3, bool))
    heard = []
    atoms.replaced.connect(lambda: heard.append(1))
    viewer.layers["atoms"].add([0, 5, 5])  # an atom added by hand
    assert len(atoms.chosen) == len(table) + 1 and heard
