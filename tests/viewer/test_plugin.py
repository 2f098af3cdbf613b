"""The plugin without a window: reader, writer, samples, manifest."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel

from atomvae.errors import InputError
from atomvae.viewer.plugin.reader import get_reader, run_layers
from atomvae.viewer.plugin.samples import mos2, perovskite, si_graphene
from atomvae.viewer.plugin.selection import MARKS
from atomvae.viewer.plugin.writer import points_table, write_points


@pytest.fixture(autouse=True)
def plugin():
    """The installed plugins; a bare ViewerModel does not look for them, a window does."""
    import npe2

    npe2.PluginManager.instance().discover()


def test_run_opens_in_napari_without_a_window(run_path, table, movie):
    viewer = ViewerModel()
    viewer.open(str(run_path), plugin="atomvae")
    assert [layer.name for layer in viewer.layers] == ["movie", "angles", "atoms"]
    image, angles, atoms = viewer.layers
    np.testing.assert_array_equal(np.asarray(image.data[2]), movie.frame(2))
    np.testing.assert_array_equal(atoms.data, table[["frame", "y", "x"]])
    np.testing.assert_array_equal(atoms.features["amplitude"], table["amplitude"])
    assert len(angles.data) == 3 * len(table)  # the map stage said that the motif is threefold
    assert {str(unit) for unit in image.units} == {"second", "nanometer"}
    assert viewer.layers.extent.units == atoms.units
    assert atoms.metadata["atomvae"]["source"] == str(run_path)


@pytest.mark.gui
def test_a_window_does_not_wait_for_a_run(make_napari_viewer, run_path, qtbot):
    from napari.utils.notifications import notification_manager
    from qtpy.QtCore import QTimer

    viewer, got = make_napari_viewer(show=False), []

    def user_opens(path):
        QTimer.singleShot(0, lambda: got.append(viewer.open(str(path), plugin="atomvae")))

    user_opens(run_path)
    qtbot.waitUntil(lambda: "atoms: " in viewer.canvas.overlays.text.text, timeout=60_000)
    assert got == [[]]  # nothing yet when napari got its answer
    assert [layer.name for layer in viewer.layers] == ["movie", "angles", "atoms", MARKS]
    shutil.rmtree(run_path / "images")
    (run_path / "zarr.json").write_text("{")
    user_opens(run_path)
    said = notification_manager.records
    qtbot.waitUntil(lambda: any("zarr.json" in one.message for one in said), timeout=60_000)


def test_slider_moves_movie_and_atoms_together(run_path):
    viewer = ViewerModel()
    viewer.open(str(run_path), plugin="atomvae")
    for frame in (0, 3):
        viewer.dims.set_current_step(0, frame)
        shown = viewer.layers["atoms"]._view_data
        image = np.asarray(viewer.layers["movie"]._slice.image.raw)
        assert shown[:, 1].min() == 16 + 3 * frame
        rows, columns = shown.astype(int).T
        assert image[rows, columns].min() > 100 + 20 * frame - 1  # atoms lie on their dots


def test_run_that_has_only_a_movie(run_path):
    shutil.rmtree(run_path / "atoms")
    shutil.rmtree(run_path / ".atomvae")
    assert [kind for _, _, kind in get_reader(str(run_path))(str(run_path))] == ["image"]


def test_further_movies_of_a_batch_are_hidden(run_path, movie, table):
    from dataclasses import replace

    from atomvae.run.folder import RunFolder

    run = RunFolder(run_path)
    run.write_movie(replace(movie, name="second"))
    run.set_movies([movie.name, "second"])
    both = pd.concat([table.assign(movie=0), table.iloc[:7].assign(movie=1)])
    run.write_parquet("atoms", both)
    layers = {options["name"]: (data, options) for data, options, _ in run_layers(run_path)}
    assert list(layers) == ["movie", "atoms", "second: movie", "second: atoms"]
    assert len(layers["atoms"][0]) == len(table)
    assert len(layers["second: atoms"][0]) == 7
    assert [options.get("visible", True) for _, options in layers.values()] == [
        True, True, False, False,
    ]  # fmt: skip


def test_foreign_folders_and_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.atomvae.zarr"
    foreign.mkdir()
    assert get_reader(str(foreign)) is None
    (foreign / "zarr.json").write_text(json.dumps({"attributes": {"ome": {}}}))
    assert get_reader(str(foreign)) is None
    (tmp_path / "plain").mkdir()
    (tmp_path / "other.csv").write_text("index,area\n1,2\n")
    (tmp_path / "fake.parquet").write_bytes(b"no parquet")
    for name in ("plain", "other.csv", "fake.parquet", "absent.csv"):
        assert get_reader(str(tmp_path / name)) is None
    assert get_reader([str(foreign)]) is None


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("zarr.json", "zarr.json is missing"),
        ("images/movie", "images/movie"),
        ("images/movie/0/data/c/1", "lacks"),
        ("atoms/y/c", "damaged"),
        (".atomvae/tables/atoms.parquet", "atoms.parquet is missing"),
    ],
)
def test_damaged_run_says_what_is_missing(run_path, lost, words):
    path = run_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if lost.startswith("atoms"):
        (run_path / ".atomvae/stages/map.json").unlink()  # else the joined table is read
    read = get_reader(str(run_path))
    with pytest.raises(InputError, match=words):
        read(str(run_path))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_points_saved_and_opened_again(ending, table, tmp_path):
    path = str(tmp_path / f"atoms{ending}")
    viewer = ViewerModel()
    (atoms,) = [viewer.add_points(table[["frame", "y", "x"]], features=table, ndim=3)]
    atoms.data[3] += [0, 0.25, 0]  # moved by hand
    assert atoms.save(path, plugin="atomvae") == [path]
    again = ViewerModel()
    again.open(path, plugin="atomvae")
    layer = again.layers["atoms"]
    np.testing.assert_allclose(layer.data, atoms.data)
    assert layer.features["y"].iloc[3] == table["y"].iloc[3] + 0.25
    np.testing.assert_array_equal(layer.features["atom_id"], table["atom_id"])
    np.testing.assert_array_equal(layer.features["left"].astype(str), table["left"].astype(str))


def test_points_added_by_hand_get_new_numbers(tmp_path):
    features = pd.DataFrame({"atom_id": [7, 3, np.nan, 3], "track": [1, 2, np.nan, 2], "z_0": 0.5})
    saved = points_table([[1, 0, 0], [0, 1, 1], [0, 2, 2], [0, 3, 3]], features)
    assert saved["atom_id"].tolist() == [3, 8, 9, 7]
    assert saved["track"].tolist() == [2, -1, 2, 1]
    assert saved["frame"].tolist() == [0, 0, 0, 1]
    assert [str(saved[name].dtype) for name in ("atom_id", "track")] == ["int64", "int64"]
    empty = write_points(str(tmp_path / "none.csv"), np.empty((0, 3)), {})
    assert pd.read_csv(empty[0]).columns.tolist() == ["atom_id", "frame", "y", "x"]


@pytest.mark.parametrize("sample", [si_graphene, mos2, perovskite])
def test_samples_open_with_their_true_atoms_on_bright_spots(sample):
    layers = sample()
    viewer = ViewerModel()
    for data, options, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **options)
    movie, atoms = viewer.layers["movie"], viewer.layers["true atoms"]
    frames = np.asarray(movie.data, float)
    frame, y, x = np.round(atoms.data).astype(int).T
    inside = (y >= 0) & (x >= 0) & (y < frames.shape[1]) & (x < frames.shape[2])
    at_atoms = frames[frame[inside], y[inside], x[inside]]
    assert inside.sum() > 100
    assert at_atoms.mean() > 1.2 * frames.mean()


def test_manifest_is_valid_and_everything_it_names_exists():
    import npe2

    manifest = npe2.PluginManifest.from_distribution("atomvae")
    manifest.validate_imports()
    contributions = manifest.contributions
    assert {sample.key for sample in contributions.sample_data} == {
        "si_graphene", "mos2", "perovskite",
    }  # fmt: skip
    used = {c.command for part in (contributions.widgets, contributions.sample_data) for c in part}
    assert used <= {command.id for command in contributions.commands}


def test_finding_the_plugin_loads_nothing_heavy():
    code = (
        "import sys; import npe2; m = npe2.PluginManifest.from_distribution('atomvae')\n"
        "from atomvae.viewer.plugin.opening import get_reader; get_reader('a.tif')\n"
        "print(sorted({'torch', 'dask', 'zarr', 'pandas', 'napari', 'qtpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "words"),
    [({}, "no screen here"), ({"QT_QPA_PLATFORM": "offscreen"}, "Qt draws no OpenGL")],
)
def test_view_without_a_screen_says_so(run_path, monkeypatch, environment, words):
    from atomvae.viewer.plugin.open import view

    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match=words):
        view(run_path, screenshot="never.png")
    with pytest.raises(InputError, match="is no run folder"):
        view(run_path.parent)
