"""The docks, in a real window; the pipeline runs in a real process."""

import time

import numpy as np
import pytest
import yaml

from atomvae.errors import InputError
from atomvae.viewer.colors import color_scale
from atomvae.viewer.layers import to_layers

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy(show=False)


@pytest.fixture
def pipeline(viewer):
    dock, widget = viewer.window.add_plugin_dock_widget("atomvae", "Pipeline")
    assert dock is not None
    return widget


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


def test_pipeline_opens_empty_and_says_what_is_missing(viewer, pipeline, tmp_path, qtbot):
    assert pipeline.movie.currentText() == "a file ..."
    pipeline.out.text.setText(str(tmp_path))
    pipeline.run.click()
    qtbot.waitUntil(lambda: "no movie is chosen" in pipeline.status.text(), timeout=20_000)
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=20_000)
    pipeline.numbers["train.epochs"].setText("many")
    pipeline.run.click()
    assert "Epochs is 'many', expected a number" in pipeline.status.text()
    assert pipeline.run.isEnabled() and not pipeline.cancel.isEnabled()


def test_pipeline_takes_the_open_movie_and_its_calibration(viewer, pipeline, movie):
    open_layers(viewer, movie)
    assert pipeline.movie.currentText() == "movie"
    assert pipeline.numbers["pixel_size_nm"].text() == "0.02"
    viewer.add_image(np.zeros((8, 8)), name="plain")
    assert pipeline.movie.currentText() == "movie"  # a choice stays
    pipeline.movie.setCurrentText("plain")
    assert pipeline.numbers["pixel_size_nm"].text() == ""
    pipeline.numbers["train.epochs"].setText("3")
    pipeline.numbers["patches.window_nm"].setText("0,5")
    pipeline.polarity.setCurrentText("bright")
    assert pipeline.settings() == {
        "model": {"variant": "rvae"},
        "detect": {"polarity": "bright"},
        "train": {"epochs": 3},
        "patches": {"window_nm": 0.5},
    }
    viewer.layers.clear()
    assert pipeline.movie.currentText() == "a file ..."


def test_form_offers_only_settings_that_exist(pipeline):
    from atomvae.model import zoo
    from atomvae.run.config import Pipeline

    for path in pipeline.numbers:
        pipeline.numbers[path].setText("4")
    pipeline.polarity.setCurrentText("dark")
    for number in range(pipeline.model.count()):
        pipeline.model.setCurrentIndex(number)
        plain = pipeline.settings()
        assert callable(getattr(zoo, plain["model"]["variant"]))
        assert Pipeline(name="a", movie="a.tif", **plain).train.epochs == 4


@pytest.fixture
def small(viewer, pipeline, tmp_path):
    """A simulated movie open in the viewer, and a form that asks for a small model of it."""
    from atomvae.datasets.simulate import simulate

    made = simulate("graphene", frames=3, shape=(96, 96), dose=50.0, difficulty="poisson", seed=0)
    open_layers(viewer, made.movie)
    pipeline.out.text.setText(str(tmp_path / "results"))
    pipeline.numbers["train.epochs"].setText("2")
    return made


def test_pipeline_runs_and_its_layers_open(viewer, pipeline, small, tmp_path, qtbot):
    shares = []
    pipeline.bar.valueChanged.connect(shares.append)
    pipeline.run.click()
    assert not pipeline.run.isEnabled()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=300_000)
    assert pipeline.status.text().startswith("done"), pipeline.status.text()
    assert shares == sorted(shares) and shares[-1] == 1000 and len(shares) > 4
    # the movie that was open is not added again, and all layers are in nm
    assert [layer.name for layer in viewer.layers if type(layer).__name__ == "Image"] == ["movie"]
    atoms = viewer.layers["atoms"]
    assert {"z_0", "angle", "atom_id"} <= set(atoms.features)
    inside = small.truth[(small.truth["frame"] == 1)][["y", "x"]].to_numpy()
    found = atoms.data[atoms.data[:, 0] == 1][:, 1:]
    nearest = np.linalg.norm(found[:, None] - inside[None], axis=-1).min(1)
    assert np.median(nearest) < 1.0  # px: atoms lie on the true ones
    assert [str(unit) for unit in atoms.units] == [str(u) for u in viewer.layers["movie"].units]
    # the settings are on disk for the command line
    settings = yaml.safe_load((tmp_path / "results/movie.yaml").read_text())
    assert settings["train"] == {"epochs": 2}


def alive(pid):
    """Whether a process still works; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cancel_ends_the_process(viewer, pipeline, small, tmp_path, qtbot):
    pipeline.numbers["train.epochs"].setText("100000")
    pipeline.run.click()
    qtbot.waitUntil(lambda: pipeline.status.text().startswith("train"), timeout=300_000)
    pid = pipeline.children[0].pid
    assert alive(pid)
    pipeline.cancel.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=20_000)
    assert not alive(pid)
    assert "cancelled" in pipeline.status.text()
    assert "atoms" not in viewer.layers


def test_cancel_at_once(pipeline, small, qtbot):
    pipeline.run.click()
    pipeline.cancel.click()
    qtbot.waitUntil(pipeline.run.isEnabled, timeout=60_000)
    assert "cancelled" in pipeline.status.text()
    assert not any(alive(child.pid) for child in pipeline.children)
    pipeline.numbers["train.epochs"].setText("none")  # and it can be used again
    pipeline.run.click()
    assert "Epochs is 'none'" in pipeline.status.text()


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
    pipeline.numbers["train.epochs"].setText("100000")
    pipeline.run.click()
    qtbot.waitUntil(lambda: len(pipeline.children) == 1, timeout=60_000)
    pid = pipeline.children[0].pid
    viewer.window.remove_dock_widget(pipeline)
    pipeline.deleteLater()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        qtbot.wait(50)
    assert not alive(pid)
