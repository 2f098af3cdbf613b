"""The form of the pipeline: every setting, from the models of the YAML; the preview follows it."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QLabel

from atomvae.atoms.config import DetectConfig
from atomvae.atoms.detect import columns_detector
from atomvae.atoms.mask import clean_frame
from atomvae.run.config import VARIANTS, Pipeline, load_pipeline
from atomvae.run.fields import flat, nested, setting_fields
from atomvae.viewer.layers import to_layers
from atomvae.viewer.plugin.preview import Previewer
from atomvae.viewer.plugin.preview_layer import NAME, visible_corner
from atomvae.viewer.plugin.saved import HELPERS


def leaves(plain):
    return {path for path, value in flat(plain).items() if path not in ("name", "movie")}


def test_every_setting_is_in_the_list_with_help_and_default():
    fields = {field.path: field for field in setting_fields()}
    plain = Pipeline(movie="a.tif").model_dump(mode="json")
    assert leaves(plain) <= set(fields)
    assert set(fields) - leaves(plain) == {"movie.frames"}
    for path, value in flat(plain).items():
        if path in fields:
            assert fields[path].default == value, path
    for field in fields.values():
        assert len(field.help) > 15 and "None" not in field.help, field.path
    units = {path: field.unit for path, field in fields.items()}
    assert units["detect.width_px"] == "px" and units["patches.window_nm"] == "nm"
    assert units["frame_time_s"] == "s" and units["train.epochs"] == "passes"
    assert not [f.path for f in fields.values() if f.kind == "choice" and not f.choices]


def test_variants_are_those_of_the_zoo():
    from atomvae.run.model_stages import variants

    assert sorted(VARIANTS) == variants()


VALUES = {"number": 0.5, "whole": 4, "text": "cpu", "list": []}


@pytest.mark.gui
def test_what_is_entered_comes_back_from_the_yaml(qtbot, tmp_path):
    from atomvae.viewer.plugin.form import SettingsForm
    from atomvae.viewer.plugin.job import chosen_settings, write_settings

    form = SettingsForm(setting_fields(), {"detect.width_px": "Width"}, ["detect.width_px"])
    qtbot.addWidget(form)
    while form.build():
        pass
    assert set(form.editors) == {field.path for field in setting_fields()}
    assert form.values() == {}
    entered = {}
    for field in setting_fields():
        value = VALUES.get(field.kind, "yes" if field.kind == "yes or no" else None)
        if field.kind == "yes or no":
            value = not field.default
        if field.kind == "choice":
            value = next(choice for choice in field.choices if choice != field.default)
        if field.path == "compute.where":
            value = "here"
        if field.path == "model.variant":
            value = "jrvae"
        if field.path == "train.weights":
            value = [{"term": "z", "weight": 2.0}]
        if field.path == "compute.slurm.directives":
            value = ["--constraint=cpu"]
        entered[field.path] = value
    form.fill(entered)
    assert form.values() == entered
    file = tmp_path / "gold.yaml"
    write_settings(file, "gold", tmp_path / "gold.tif", entered)
    loaded = load_pipeline(file).model_dump(mode="json")
    for path, value in entered.items():
        place = loaded["movie"][0] if path == "movie.frames" else loaded
        for step in path.removeprefix("movie.").split("."):
            place = place[step]
        if path == "train.weights":
            place = [{name: place[0][name] for name in ("term", "weight")}]
        assert place == value, path
    again = chosen_settings(loaded)
    assert nested({**again, "train.weights": entered["train.weights"]}) == nested(entered)
    form.fill(again)
    assert set(form.values()) == set(entered)
    form.fill({})
    assert form.values() == {}


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy(show=True)


@pytest.fixture
def pipeline(viewer, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Pipeline")
    qtbot.waitUntil(lambda: widget.form is not None, timeout=60_000)
    return widget


def open_layers(viewer, movie):
    for data, options, kind in to_layers(movie):
        getattr(viewer, f"add_{kind}")(data, **options)


@pytest.mark.gui
def test_opens_empty_and_says_what_is_missing(pipeline, tmp_path, qtbot):
    assert pipeline.movie.currentText() == "a file ..."
    assert not pipeline.preview.isEnabled()
    pipeline.out.text.setText(str(tmp_path))
    pipeline.run.click()
    qtbot.waitUntil(lambda: "no movie is chosen" in pipeline.status.text(), timeout=20_000)
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=20_000)
    epochs = pipeline.form.editors["train.epochs"].line
    QTest.keyClicks(epochs, "many")
    assert "train.epochs is 'many', expected a whole number" in pipeline.status.text()
    epochs.clear()
    QTest.keyClicks(epochs, "0")
    assert "train.epochs is 0" in pipeline.status.text()
    pipeline.run.click()
    assert pipeline.run.isEnabled() and not pipeline.cancel.isEnabled()


@pytest.mark.gui
def test_takes_the_open_movie_and_its_calibration(viewer, pipeline, movie):
    open_layers(viewer, movie)
    assert pipeline.movie.currentText() == "movie"
    assert pipeline.settings() == {"pixel_size_nm": 0.02, "frame_time_s": 0.5}
    viewer.add_image(np.zeros((8, 8)), name="plain")
    assert pipeline.movie.currentText() == "movie"  # a choice stays
    pipeline.movie.setCurrentText("plain")
    assert pipeline.settings() == {}
    QTest.keyClicks(pipeline.form.editors["patches.window_nm"].line, "0,5")
    assert pipeline.settings() == {"patches.window_nm": 0.5}
    viewer.layers.clear()
    assert pipeline.movie.currentText() == "a file ..."


@pytest.mark.gui
def test_everything_is_reached_by_keyboard(viewer, pipeline, movie, qtbot):
    open_layers(viewer, movie)
    for section in pipeline.form.sections.values():
        section.head.setFocus()
        QTest.keyClick(section.head, Qt.Key.Key_Space)
        assert section.body.isVisible()
    window = pipeline.window()
    window.activateWindow()
    pipeline.movie.setFocus()
    seen, here = set(), window.focusWidget()
    for _ in range(400):
        seen.add(here)
        QTest.keyClick(here, Qt.Key.Key_Tab)
        here = window.focusWidget()
        if here is pipeline.movie:
            break
    for path, editor in pipeline.form.editors.items():
        line = getattr(editor.focus, "lineEdit", lambda: None)()
        assert {editor.focus, line} & seen, path
    assert {pipeline.run, pipeline.load, pipeline.save, pipeline.preview} <= seen
    buddies = {label.buddy() for label in pipeline.findChildren(QLabel)}
    assert {editor.focus for editor in pipeline.form.editors.values()} <= buddies
    letters = [b.text()[b.text().index("&") + 1].lower() for b in pipeline.findChildren(
        QAbstractButton) if "&" in b.text()]  # fmt: skip
    assert len(set(letters)) == len(letters) >= 6


def frame_of_dots(shape=(200, 240), seed=0):
    """Bright dots of different height on noise: a threshold chooses among them."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 10.0)
    heights = np.random.default_rng(seed).uniform(5, 60, 1000)
    places = [(a, b) for a in range(12, shape[0] - 8, 20) for b in range(12, shape[1] - 8, 20)]
    for height, (a, b) in zip(heights, places, strict=False):
        part = np.s_[max(0, a - 12) : a + 13, max(0, b - 12) : b + 13]
        image[part] += height * np.exp(-((y[part] - a) ** 2 + (x[part] - b) ** 2) / 8)
    return np.random.default_rng(seed).poisson(image).astype(np.float32)


@pytest.mark.parametrize("width", [None, 1.4, 3.5])
@pytest.mark.parametrize("hole", [False, True])
def test_preview_finds_what_the_detection_proposes(width, hole):
    frame = frame_of_dots()
    if hole:
        frame[50:90, 60:110] = np.nan
    found = Previewer(frame).find(DetectConfig(width_px=width, threshold=6))
    image, valid = clean_frame(frame)
    expected = columns_detector(image, found.config.usable(image, valid), found.config)
    assert len(expected) > 50
    order = np.lexsort((found.x, found.y)), np.lexsort((expected["x"], expected["y"]))
    np.testing.assert_allclose(found.y[order[0]], expected["y"].iloc[order[1]], atol=1e-3)
    np.testing.assert_allclose(found.x[order[0]], expected["x"].iloc[order[1]], atol=1e-3)


def test_preview_of_nothing():
    assert len(Previewer(np.full((30, 30), 7)).find(DetectConfig()).y) == 0
    assert len(Previewer(np.full((30, 30), np.nan)).find(DetectConfig()).y) == 0


def cyan(viewer):
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    return int(((picture[..., 0] < 90) & (picture[..., 1:].min(-1) > 200)).sum())


@pytest.mark.gui
def test_rings_follow_the_slider(viewer, pipeline, qtbot):
    viewer.add_image(np.stack([frame_of_dots(), np.full((200, 240), 5.0)]), name="dots")
    viewer.dims.set_current_step(0, 0)
    threshold = pipeline.form.editors["detect.threshold"]
    qtbot.waitUntil(threshold.slider.isEnabled, timeout=60_000)  # measured in the background
    assert NAME not in viewer.layers and cyan(viewer) == 0
    before = int(pipeline.found.text().split()[0])
    for _ in range(10):
        QTest.keyClick(threshold.slider, Qt.Key.Key_PageUp)  # to the right: fewer atoms
    assert pipeline.preview.isChecked()
    value = float(threshold.line.text())

    def settled():
        known = int(pipeline.found.text().split()[0])
        return NAME in viewer.layers and known == len(viewer.layers[NAME].data) < before

    qtbot.waitUntil(settled, timeout=60_000)
    qtbot.waitUntil(lambda: not pipeline.rings._newest.busy, timeout=60_000)
    expected = Previewer(frame_of_dots()).find(DetectConfig(threshold=value))
    np.testing.assert_allclose(viewer.layers[NAME].data, np.c_[expected.y, expected.x])
    few = cyan(viewer)
    assert few > 50
    for _ in range(10):
        QTest.keyClick(threshold.slider, Qt.Key.Key_PageDown)
    qtbot.waitUntil(lambda: len(viewer.layers[NAME].data) > len(expected.y), timeout=60_000)
    qtbot.waitUntil(lambda: not pipeline.rings._newest.busy, timeout=60_000)
    assert cyan(viewer) > 1.2 * few
    assert viewer.layers.selection.active is not viewer.layers[NAME]
    viewer.dims.set_current_step(0, 1)  # an empty frame: the preview goes along
    qtbot.waitUntil(lambda: len(viewer.layers[NAME].data) == 0, timeout=60_000)
    pipeline.preview.click()
    assert NAME not in viewer.layers


@pytest.mark.gui
def test_of_a_large_frame_the_middle_of_what_is_seen_is_searched(viewer, pipeline, qtbot):
    large = np.zeros((1500, 2400), np.float32)
    large[700:900, 1800:2040] = frame_of_dots()
    layer = viewer.add_image(large, contrast_limits=(0, 60))
    viewer.scene.camera.center = (800.0, 1900.0)
    viewer.scene.camera.zoom = 3.0
    qtbot.waitUntil(lambda: visible_corner(layer, large.shape)[1] > 1000, timeout=20_000)
    y, x = visible_corner(layer, large.shape)
    assert y <= 700 and y + 1024 >= 900 and x <= 1800 and x + 1024 >= 2040
    assert visible_corner(layer, (1000, 1024)) == (0, 0)
    QTest.keyClicks(pipeline.form.editors["detect.threshold"].line, "8")
    qtbot.waitUntil(lambda: NAME in viewer.layers, timeout=60_000)
    points = viewer.layers[NAME].data
    assert len(points) > 60
    assert points[:, 0].min() >= 695 and points[:, 1].min() >= 1795
    said = pipeline.found.text()
    assert "candidates in the middle of what is shown" in said and "adds faint atoms" in said
    assert NAME in HELPERS  # not kept with the run
    choice = pipeline.form.editors["detect.lattice"].list
    while choice.currentText() != "off":
        QTest.keyClick(choice, Qt.Key.Key_Down)
    qtbot.waitUntil(lambda: "lattice" not in pipeline.found.text(), timeout=60_000)
    assert "fits each of them" in pipeline.found.text()


@pytest.mark.gui
def test_only_the_newest_request_counts(qtbot):
    import threading

    from qtpy.QtCore import QObject

    from atomvae.viewer.plugin.newest import Newest

    gate, seen, got = threading.Event(), [], []

    def work(number):
        seen.append(number)
        gate.wait(20)
        if number == 9:
            raise ValueError("nine is wrong")
        return number

    parent = QObject()
    newest = Newest(work, parent)
    newest.ready.connect(got.append)
    newest.failed.connect(got.append)
    for number in range(8):
        newest.ask(number)
    qtbot.waitUntil(lambda: seen == [0], timeout=20_000)
    gate.set()
    qtbot.waitUntil(lambda: got == [0, 7], timeout=20_000)
    newest.ask(9)
    qtbot.waitUntil(lambda: got == [0, 7, "nine is wrong"], timeout=20_000)
    assert seen == [0, 7, 9] and not newest.busy


@pytest.mark.gui
def test_heartbeat_measures_a_freeze_and_the_preview_is_none(viewer, pipeline, qtbot):
    """The mechanism of the benchmark, and that a long search does not run among the events."""
    import threading
    import time

    from heartbeat import Heartbeat

    beat = Heartbeat()
    beat.watch(lambda: time.sleep(0.3))
    assert beat.longest >= 0.3 and beat.longest_cpu < 0.3
    threads = []
    search = pipeline.rings._newest._function

    def slow(*arguments):
        threads.append(threading.current_thread())
        time.sleep(0.4)
        return search(*arguments)

    pipeline.rings._newest._function = slow
    image = np.asarray(frame_of_dots())
    beat.watch(lambda: viewer.add_image(image), until=lambda: "candidates" in pipeline.found.text())
    assert beat.beats > 20
    assert threads and threading.main_thread() not in threads
