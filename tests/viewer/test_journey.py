"""From a sample to a film of named atoms, as a person does it: with mouse and keys.

With ATOMVAE_PICTURES=docs/pictures the pictures of the tutorial are made anew.
"""

import os
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hand import LEFT, canvas_of, magenta, pixels, slow_motion
from matplotlib.path import Path as Outline
from PIL import Image, ImageSequence
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDialogButtonBox, QFileDialog, QLineEdit, QMainWindow
from scipy.spatial import ConvexHull, cKDTree

from atomvae.run.folder import RunFolder
from atomvae.run.labels import read_labels
from atomvae.viewer.colors import PALETTE
from atomvae.viewer.plugin.preview_layer import NAME as PREVIEW

pytestmark = pytest.mark.gui

PICTURES = os.environ.get("ATOMVAE_PICTURES")
FRAMES, EPOCHS = (5, 12) if PICTURES else (3, 8)
LARGEST = 300_000  # bytes of a picture of the tutorial
SECONDS = 1000  # ms of a second; the limits are for a machine that is busy with other things


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1560, 940)
    return viewer


# ---- hands and eyes -----------------------------------------------------------------------------


def window_of(viewer):
    """The window on the screen."""
    return next(
        found for found in QApplication.topLevelWidgets()
        if isinstance(found, QMainWindow) and found.isVisible()
    )  # fmt: skip


def from_menu(viewer, qtbot, *titles):
    """Click through the menus of the window, from the bar to an entry."""
    place = window_of(viewer).menuBar()
    for number, title in enumerate(titles):
        entries = {a.text().replace("&", ""): a for a in place.actions()}
        assert title in entries, list(entries)
        entry = entries[title]
        QTest.mouseMove(place, place.actionGeometry(entry).center())
        QTest.mouseClick(place, LEFT, pos=place.actionGeometry(entry).center())
        if number < len(titles) - 1:
            place = entry.menu()
            qtbot.waitUntil(place.isVisible, timeout=20 * SECONDS)


def plugin(viewer, qtbot, title):
    """Open one of our widgets from the menu, or hide it."""
    from_menu(viewer, qtbot, "Plugins", "atomvae", f"{title} (atomvae)")
    return viewer.window.dock_widgets[f"{title} (atomvae)"]


def click(widget):
    """Press a button that can be pressed."""
    assert widget.isEnabled(), widget.text()
    QTest.mouseClick(widget, LEFT)


def write(field, text):
    """Replace what is written in a line."""
    field.setFocus()
    QTest.keyClick(field, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QTest.keyClicks(field, text)


def shot(viewer, qtbot, name):
    """Look at the whole window; (h, w, 3)."""
    qtbot.wait(300)
    picture = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    assert picture.std() > 10
    if PICTURES:
        keep(Image.fromarray(picture), name)
    return picture


def keep(image, name):
    """Write a picture of the tutorial, small enough for a page."""
    path = Path(PICTURES) / f"journey_{name}.webp"
    image.resize((1300, round(1300 * image.height / image.width)), Image.Resampling.LANCZOS).save(
        path, quality=80, method=6
    )
    assert path.stat().st_size < LARGEST, (path, path.stat().st_size)


def look(viewer):
    """Look at the canvas; (h, w, 3)."""
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert picture.std() > 10
    return picture


def show_all(viewer, qtbot):
    """The whole frame, clear of caption and colour bar."""
    qtbot.wait(300)
    viewer.reset_view()
    viewer.scene.camera.zoom *= 0.8


def ringed(viewer):
    """Numbers of the atoms of this frame with a magenta ring, from the pixels; and all of them."""
    picture = magenta(look(viewer))
    layer, camera = viewer.layers["atoms"], viewer.scene.camera
    here = layer.data[:, 0] == viewer.dims.current_step[0]
    zoom = camera.zoom * window_of(viewer).devicePixelRatioF()
    place = layer.data[here][:, 1:] * layer.scale[1:] - camera.center[-2:]
    y, x = (place * zoom + np.array(picture.shape) / 2).T
    reach = 1.45 / 2 * layer.size[here] * layer.scale[-1] * zoom
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    hit = np.zeros((here.sum(), len(turn)), bool)
    for share in np.linspace(0.75, 1.1, 8):
        rows = np.round(y[:, None] + share * reach[:, None] * np.sin(turn)).astype(int)
        columns = np.round(x[:, None] + share * reach[:, None] * np.cos(turn)).astype(int)
        inside = (rows >= 0) & (rows < len(picture)) & (columns >= 0)
        inside &= columns < picture.shape[1]
        hit[inside] |= picture[rows[inside], columns[inside]]
    ids = layer.features["atom_id"].to_numpy()[here]
    return set(ids[hit.mean(1) > 0.6]), set(ids)


def near_color(picture, color, tolerance=0.08):
    """How many pixels have a colour (3,) in 0..1."""
    return int((np.abs(picture / 255.0 - np.asarray(color)[:3]).max(-1) < tolerance).sum())


# ---- the journey --------------------------------------------------------------------------------


def test_from_a_sample_to_a_film_of_named_atoms(viewer, tmp_path_factory, qtbot):
    tmp_path = tmp_path_factory.mktemp("mos2")
    truth = open_sample(viewer, qtbot)
    pipeline = plugin(viewer, qtbot, "Pipeline")
    run = run_in_two_parts(viewer, pipeline, tmp_path, qtbot)
    plugin(viewer, qtbot, "Pipeline")  # hides it
    assert not pipeline.isVisible()
    explorer = plugin(viewer, qtbot, "Explorer")
    clusters = name_two_clusters(viewer, explorer, run, truth, qtbot)
    train_on_them(viewer, explorer, run, clusters, qtbot)
    plugin(viewer, qtbot, "Explorer")
    export_film(viewer, tmp_path, qtbot, plugin(viewer, qtbot, "Export"))


def open_sample(viewer, qtbot):
    """A movie of MoS2 appears with its true atoms; these are put aside."""
    from_menu(viewer, qtbot, "File", "Open Sample", "atomvae", "Vacancies in MoS2 (simulated)")
    qtbot.waitUntil(lambda: "true atoms" in viewer.layers, timeout=60 * SECONDS)
    assert [layer.name for layer in viewer.layers] == ["movie", "true angles", "true atoms"]
    viewer.reset_view()
    with_atoms = shot(viewer, qtbot, "1_sample")
    viewer.layers.selection = {viewer.layers["true angles"], viewer.layers["true atoms"]}
    canvas = canvas_of(viewer, window_of(viewer).menuBar())
    QTest.keyClick(canvas, Qt.Key.Key_V)
    assert [layer.visible for layer in viewer.layers] == [True, False, False]
    plain = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    assert (np.abs(plain.astype(int) - with_atoms).max(-1) > 40).mean() > 0.02
    return viewer.layers["true atoms"].features


def run_in_two_parts(viewer, pipeline, tmp_path, qtbot):
    """Settings, preview, run, cancel while it trains, continue."""
    qtbot.waitUntil(lambda: pipeline.form is not None, timeout=60 * SECONDS)
    assert pipeline.movie.currentText() == "movie"
    before = near_color(look(viewer), (1, 1, 0))
    click(pipeline.preview)
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=60 * SECONDS)
    assert "candidates" in pipeline.found.text()
    color = viewer.layers[PREVIEW].border_color[0]
    assert near_color(look(viewer), color, 0.2) > before + 500
    write(pipeline.out.text, str(tmp_path / "results"))
    write(pipeline.form.editors["train.epochs"].line, str(EPOCHS))
    click(pipeline.form.sections["movie"].head)
    write(pipeline.form.editors["movie.frames"].line, str(FRAMES))
    shot(viewer, qtbot, "2_settings")
    click(pipeline.run)
    training = pipeline.training
    qtbot.waitUntil(lambda: len(training.losses) > 0, timeout=300 * SECONDS)
    with slow_motion(pipeline.children[0].pid, lambda: seen(pipeline), qtbot):
        assert training.manifold.std() > 10
        shot(viewer, qtbot, "3_training")
        assert pixels(training.plot).std() > 5 and pixels(training.picture).std() > 10
    click(pipeline.cancel)
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=60 * SECONDS)
    assert "cancelled" in pipeline.status.text() and "atoms" not in viewer.layers
    assert "patches" in pipeline.offer.text() and pipeline.resume.isVisible()
    shot(viewer, qtbot, "4_cancelled")
    folder = tmp_path / "results/movie.atomvae.zarr"
    patches = folder / ".atomvae/stages/patches.json"
    made = patches.stat().st_mtime_ns
    click(pipeline.resume)
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=300 * SECONDS)
    assert pipeline.status.text().startswith("done"), pipeline.status.text()
    assert patches.stat().st_mtime_ns == made  # not cut again
    qtbot.waitUntil(lambda: "atoms" in viewer.layers, timeout=60 * SECONDS)
    run = RunFolder(folder)
    assert len(run.marker("train")["settings"]["model"]) > 0
    return run


def seen(pipeline):
    """Whether a training shows a curve, the time that is left, and what the model draws by now."""
    training = pipeline.training
    later = not training.about.text().endswith("step 1:")
    return len(training.losses) > 8 and later and "left" in pipeline.left.text()


def cluster(table, number):
    """Atoms of a sublattice that a person sees apart from the others, and those around them."""
    dots = table[["z_0", "z_1"]].to_numpy()
    one, other = (dots[table["sublattice"] == n] for n in (number, 1 - number))
    normal = np.linalg.solve(np.cov(one.T) + np.cov(other.T), one.mean(0) - other.mean(0))
    border = (np.median(one @ normal) + np.median(other @ normal)) / 2
    return (table["sublattice"] == number).to_numpy() & (dots @ normal > border)


def draw_around(plot, table, rows, then):
    """Draw a lasso a few px around dots; say which dots it holds, by another's geometry."""
    places = [plot.place(a, b) for a, b in table[["z_0", "z_1"]].to_numpy()]
    dots = np.array([(p.x(), p.y()) for p in places])
    hull = dots[rows][ConvexHull(dots[rows]).vertices]
    outward = hull - hull.mean(0)
    hull = np.round(hull + 4 * outward / np.linalg.norm(outward, axis=1, keepdims=True))
    corners = [hull[0]]
    for corner in hull[1:]:
        if np.linalg.norm(corner - corners[-1]) > 4:
            corners.append(corner)
    points = [QPoint(*corner.astype(int)) for corner in corners]
    QTest.mousePress(plot, LEFT, pos=points[0])
    for point in points[1:]:
        QTest.mouseMove(plot, point)
    assert magenta(pixels(plot)).sum() > 200  # the line
    then()
    QTest.mouseRelease(plot, LEFT, pos=points[-1])
    return set(table["atom_id"][Outline(corners).contains_points(dots)])


def see_lasso(viewer, qtbot, name):
    """Look while the line is drawn; once is enough."""
    if name == "molybdenum":
        shot(viewer, qtbot, "5_lasso")


def chosen_ids(explorer):
    return set(explorer.atoms.table["atom_id"][explorer.atoms.chosen])


def name_two_clusters(viewer, explorer, run, truth, qtbot):
    """Lasso, see just those atoms in the image, save them as a class; twice."""
    qtbot.waitUntil(explorer.x.isEnabled, timeout=60 * SECONDS)
    table = explorer.atoms.table
    assert (explorer.x.currentText(), explorer.y.currentText()) == ("z_0", "z_1")
    show_all(viewer, qtbot)
    assert ringed(viewer)[0] == set()
    panel, clusters = explorer.classes, {}
    bright = table.groupby("sublattice")["amplitude"].median()
    names = {"molybdenum": int(bright[0] < bright[1]), "sulphur": int(bright[0] > bright[1])}
    for name, number in names.items():
        rows = cluster(table, number)
        expected = draw_around(explorer.plot, table, rows, partial(see_lasso, viewer, qtbot, name))
        assert chosen_ids(explorer) == expected and len(expected) > 0.3 * len(table)
        check_rings(viewer, table, expected, qtbot)
        write(panel.name.lineEdit(), name)
        if name == "molybdenum":
            picture = shot(viewer, qtbot, "6_chosen")
            assert magenta(picture).sum() > 2000 and magenta(pixels(explorer.plot)).sum() > 500
        click(panel.save)
        labels = read_labels(run)
        assert set(labels["atom_id"][labels["label"] == name]) == expected
        check_species(table, truth, expected, {"molybdenum": "Mo", "sulphur": "S"}[name])
        clusters[name] = expected
    assert panel.list.count() == 2
    shot(viewer, qtbot, "7_classes")
    return clusters


def check_rings(viewer, table, expected, qtbot):
    """In the first and the last frame just the chosen atoms have a ring."""
    for frame in (FRAMES - 1, 0):
        viewer.dims.set_current_step(0, frame)
        here = set(table["atom_id"][table["frame"] == frame])
        qtbot.waitUntil(lambda want=expected & here: ringed(viewer)[0] == want, timeout=20_000)
        assert ringed(viewer)[1] == here


def check_species(table, truth, ids, name):
    """The latents found what the sample was made of."""
    right = []
    for frame, atoms in table[table["atom_id"].isin(ids)].groupby("frame"):
        made = truth[truth["frame"] == frame]
        far, nearest = cKDTree(made[["y", "x"]]).query(atoms[["y", "x"]])
        species = made["species"].to_numpy()[nearest[far < 3]]
        right += [str(found).startswith(name) for found in species]
    assert np.mean(right) > 0.95


def train_on_them(viewer, explorer, run, clusters, qtbot):
    """One click, and a semi-supervised model gives every atom a class."""
    panel = explorer.classes
    click(explorer.clear)
    assert chosen_ids(explorer) == set()
    click(panel.train)
    qtbot.waitUntil(panel.train.isEnabled, timeout=300 * SECONDS)
    assert panel.note.text().startswith("done"), panel.note.text()
    assert "ssrvae" in run.models
    table = run.table()
    for name, ids in clusters.items():
        assert (table["class_name"][table["atom_id"].isin(ids)] == name).mean() > 0.95
    assert (viewer.layers["atoms"].features["class_name"] == table["class_name"]).all()
    picture = shot(viewer, qtbot, "8_trained")
    for color in PALETTE[:2]:
        assert near_color(picture, color) > 500


def export_film(viewer, tmp_path, qtbot, widget):
    """A film of all frames, by way of the dialog that asks for its name."""
    film = tmp_path / "atoms.gif"
    widget.kind.setFocus()
    while widget.kind.currentText() != "film of all frames, as GIF":
        QTest.keyClick(widget.kind, Qt.Key.Key_Down)
    answer = QTimer()
    answer.timeout.connect(lambda: answer_dialog(str(film)))
    answer.start(200)
    click(widget.save)
    answer.stop()
    qtbot.waitUntil(widget.save.isEnabled, timeout=120 * SECONDS)
    assert f"written: {film}" in widget.status.text()
    shot(viewer, qtbot, "9_export")
    with Image.open(film) as made:
        frames = [f.convert("RGB") for f in ImageSequence.Iterator(made)]
    assert len(frames) == viewer.dims.nsteps[0]
    assert all(np.asarray(frame).std() > 10 for frame in frames)
    assert all(np.abs(np.subtract(a, b, dtype=int)).mean() > 0.5 for a, b in pairwise(frames))
    if PICTURES:
        show_film(frames[:FRAMES])


def answer_dialog(text):
    """Type a name into the dialog that is open, and press its button; again if it stays open."""
    dialog = QApplication.activeModalWidget()
    if isinstance(dialog, QFileDialog):
        write(dialog.findChild(QLineEdit, "fileNameEdit"), text)
        button = dialog.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Save)
        QTest.mouseClick(button, LEFT)
    elif dialog is not None:
        dialog.reject()  # a question nobody expected; the test fails instead of waiting


def show_film(frames):
    """Keep a small moving picture of the film."""
    small = [frame.resize((480, round(480 * frame.height / frame.width))) for frame in frames]
    path = Path(PICTURES) / "journey_film.webp"
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=500, loop=0, quality=60, method=6
    )
    assert path.stat().st_size < LARGEST, path.stat().st_size
