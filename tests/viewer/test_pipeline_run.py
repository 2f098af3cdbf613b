"""Runs that are started from the widget: in a process of their own, watched, stopped, continued."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from atomvae.errors import InputError
from atomvae.viewer.layers import to_layers

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy(show=False)


@pytest.fixture
def pipeline(viewer, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Pipeline")
    qtbot.waitUntil(lambda: widget.form is not None, timeout=60_000)
    return widget


@pytest.fixture
def small(viewer, pipeline, tmp_path):
    """A simulated movie open in the viewer, and a form that asks for a small model of it."""
    from atomvae.datasets.simulate import simulate

    made = simulate("graphene", frames=3, shape=(96, 96), dose=50.0, difficulty="poisson", seed=0)
    for data, options, kind in to_layers(made.movie):
        getattr(viewer, f"add_{kind}")(data, **options)
    pipeline.out.text.setText(str(tmp_path / "results"))
    epochs(pipeline, 2)
    return made


def epochs(pipeline, number):
    pipeline.form.editors["train.epochs"].enter(number)


def alive(pid):
    """Whether a process still works; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_runs_is_stopped_is_continued_and_opens(viewer, pipeline, small, tmp_path, qtbot):
    shares = []
    pipeline.bar.valueChanged.connect(shares.append)
    epochs(pipeline, 100_000)
    pipeline.run.click()
    assert not pipeline.run.isEnabled() and pipeline.cancel.isEnabled()
    # live: losses as points of a curve, and pictures that the model draws
    qtbot.waitUntil(
        lambda: len(pipeline.training.losses) > 8 and pipeline.training.manifold is not None,
        timeout=300_000,
    )
    assert "train: about" in pipeline.left.text() and "left" in pipeline.left.text()
    assert pipeline.training.steps == sorted(pipeline.training.steps)
    assert np.isfinite(pipeline.training.losses).all()
    side = pipeline.training.manifold.shape[0]
    assert pipeline.training.manifold.shape == (side, side) and side % 8 == 0
    assert pipeline.training.manifold.std() > 10
    assert pipeline.training.picture.pixmap().width() > 100
    pid = pipeline.children[0].pid
    assert alive(pid)
    pipeline.cancel.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=20_000)
    assert not alive(pid)
    assert "cancelled" in pipeline.status.text()
    assert "atoms" not in viewer.layers
    assert shares == sorted(shares) and 0 < shares[-1] < 1000 and len(set(shares)) > 3
    # what was begun is offered, with its settings
    assert "patches" in pipeline.offer.text() and "train" not in pipeline.offer.text()
    assert not pipeline.resume.isHidden()
    run = tmp_path / "results/movie.atomvae.zarr"
    config = run / ".atomvae/config.yaml"
    config.write_text(config.read_text().replace("epochs: 100000", "epochs: 2"))
    before = (run / ".atomvae/stages/patches.json").read_text()
    epochs(pipeline, 7)
    pipeline.resume.click()
    assert pipeline.form.values()["train.epochs"] == 100_000  # as it was begun
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=300_000)
    assert pipeline.status.text().startswith("done"), pipeline.status.text()
    assert shares[-1] == 1000
    assert (run / ".atomvae/stages/patches.json").read_text() == before  # not cut again
    assert pipeline.resume.isHidden()
    check_layers(viewer, small, qtbot)


def check_layers(viewer, small, qtbot):
    """The results lie over the movie that was open, in nm, on the true atoms."""
    qtbot.waitUntil(lambda: "atoms" in viewer.layers, timeout=60_000)
    images = [layer for layer in viewer.layers if type(layer).__name__ == "Image"]
    assert [layer.name for layer in images if layer.visible] == ["movie"]
    atoms = viewer.layers["atoms"]
    assert {"z_0", "angle", "atom_id"} <= set(atoms.features)
    inside = small.truth[(small.truth["frame"] == 1)][["y", "x"]].to_numpy()
    found = atoms.data[atoms.data[:, 0] == 1][:, 1:]
    nearest = np.linalg.norm(found[:, None] - inside[None], axis=-1).min(1)
    assert np.median(nearest) < 1.0  # px
    assert [str(unit) for unit in atoms.units] == [str(u) for u in viewer.layers["movie"].units]


def test_yaml_reproduces_what_was_clicked(viewer, pipeline, small, tmp_path, qtbot):
    """The settings that are saved give the same pipeline as those that were run."""
    from atomvae.run.config import load_pipeline

    pipeline.form.fill(
        pipeline.form.values() | {"model.variant": "jrvae", "model.classes": 3, "train.seed": 5}
    )
    pipeline.run.click()
    results = tmp_path / "results"
    qtbot.waitUntil(lambda: (results / "movie.yaml").exists(), timeout=60_000)
    pipeline.cancel.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=60_000)
    written = load_pipeline(results / "movie.yaml")
    assert written.model.variant == "jrvae" and written.train.seed == 5
    assert written.pixel_size_nm == pytest.approx(small.movie.pixel_size[0], rel=1e-4)
    assert written.frame_time_s == pytest.approx(small.movie.frame_time, rel=1e-4)
    pipeline.save_settings(str(tmp_path / "mine.yaml"))
    assert f"atomvae run {tmp_path / 'mine.yaml'}" in pipeline.status.text()
    assert load_pipeline(tmp_path / "mine.yaml") == written
    pixels = np.load(results / "movie.npy")
    np.testing.assert_array_equal(pixels[1], small.movie.frame(1))
    # and they come back into the form
    chosen = pipeline.form.values()
    pipeline.form.fill({})
    pipeline.load_settings(str(tmp_path / "mine.yaml"))
    assert pipeline.form.values() == chosen
    pipeline.load_settings(str(tmp_path / "absent.yaml"))
    assert "absent.yaml does not exist" in pipeline.status.text()


def test_movie_from_a_file_is_used_where_it_lies(viewer, pipeline, tmp_path):
    from atomvae.viewer.plugin.job import movie_file

    frames = np.random.default_rng(0).random((3, 20, 24)).astype(np.float32)
    file = tmp_path / "own.npy"
    np.save(file, frames)
    (layer,) = viewer.open(str(file))
    out = tmp_path / "out"
    out.mkdir()
    assert movie_file(layer, "", out) == file
    layer.data = frames + 1  # no longer what the file holds
    assert movie_file(layer, "", out) == out / "own.npy"
    np.testing.assert_array_equal(np.load(out / "own.npy"), frames + 1)


def test_cancel_at_once(pipeline, small, qtbot):
    pipeline.run.click()
    pipeline.cancel.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=60_000)
    assert "cancelled" in pipeline.status.text()
    assert not any(alive(child.pid) for child in pipeline.children)


def test_mistake_in_the_movie_is_said_in_the_form(pipeline, tmp_path, qtbot):
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"not numpy")
    pipeline.file.text.setText(str(broken))
    pipeline.out.text.setText(str(tmp_path))
    pipeline.run.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=60_000)
    assert "broken.npy" in pipeline.status.text()
    assert "Traceback" not in pipeline.status.text()


def test_child_reports_errors_of_its_own(tmp_path):
    from atomvae.viewer.plugin.child import Child

    settings = tmp_path / "a.yaml"
    settings.write_text("movie: x.tif\ntrian: {}\n")
    with pytest.raises(InputError, match="trian"):
        list(Child(settings, tmp_path).reports())


def test_closing_the_dock_ends_the_process(viewer, pipeline, small, qtbot):
    epochs(pipeline, 100_000)
    pipeline.run.click()
    qtbot.waitUntil(lambda: len(pipeline.children) == 1, timeout=60_000)
    pid = pipeline.children[0].pid
    viewer.window.remove_dock_widget(pipeline)
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        qtbot.wait(50)
    assert not alive(pid)


@pytest.mark.parametrize("variant", ["rvae", "jvae", "vae", "ae"])
def test_watching_a_training_does_not_change_it(variant, capsys):
    from atomvae.model import zoo
    from atomvae.model.config import TrainConfig
    from atomvae.model.train import train
    from atomvae.viewer.plugin import child

    images = np.random.default_rng(0).normal(size=(40, 10, 10))

    def losses(progress):
        model = getattr(zoo, variant)((10, 10), seed=1)
        return train(model, images, TrainConfig(epochs=3), progress=progress)["loss"]

    watcher = child.Watcher()
    pictures = []

    def watch(model, state):
        watcher._next = watcher._said = 0.0  # at every step
        model.requires_grad_(True)
        pictures.append(child.draw_manifold(model))
        watcher(model, state)

    model = getattr(zoo, variant)((10, 10), seed=1)
    config = TrainConfig(epochs=3)
    watched = train(model, images, config, progress=lambda state: watch(model, state))["loss"]
    np.testing.assert_array_equal(watched, losses(None))
    lines = [child._parse(line) for line in capsys.readouterr().out.splitlines()]
    steps = [line["training"]["step"] for line in lines if "training" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert "held_out" in lines[-2]["training"] or "held_out" in lines[-1].get("training", {})
    if variant == "ae":  # a code without a prior: nothing to draw at random
        assert pictures == [None] * len(steps)
    else:
        assert pictures[-1].dtype == np.uint8 and pictures[-1].ndim == 2


def test_a_finished_run_is_not_offered_and_a_damaged_one_does_no_harm(run_path):
    from atomvae.viewer.plugin.job import STAGES, unfinished

    out, name = run_path.parent, run_path.name.removesuffix(".atomvae.zarr")
    assert unfinished(out, name) is None  # it has no settings
    config = run_path / ".atomvae/config.yaml"
    config.write_text(yaml.safe_dump({"name": name, "movie": [{"path": "a.tif", "frames": 2}]}))
    found = unfinished(out, name)
    assert found.done == ["map"] and found.settings == {"movie.frames": 2}
    for stage in STAGES:
        (run_path / f".atomvae/stages/{stage}.json").write_text("{}")
    assert unfinished(out, name) is None
    config.write_bytes(b"\xff\xfe: [")
    assert unfinished(out, name) is None
    assert unfinished(Path("/nowhere"), "x") is None


def test_a_child_that_does_not_listen_is_killed(monkeypatch, tmp_path):
    """Cancel does not wait; what ignores it is gone a little later."""
    from atomvae.viewer.plugin import child

    monkeypatch.setattr(child, "PATIENCE", 2.0)
    settings = tmp_path / "a.yaml"
    settings.write_text("movie: {simulate: graphene, frames: 50, shape: [512, 512]}\n")
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a child inherits that
    try:
        deaf = child.Child(settings, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    deaf.cancel()
    assert alive(deaf.pid)  # nobody has waited
    assert list(deaf.reports()) == []
    assert not alive(deaf.pid)
