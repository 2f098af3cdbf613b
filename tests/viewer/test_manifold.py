"""The manifold in a real window, with a real mouse."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from hand import LEFT, canvas_of, magenta, on_canvas, pixels, rendered
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest

from atomvae.run.folder import RunFolder
from atomvae.viewer.layers import to_layers
from atomvae.viewer.plugin.glow import Glow

pytestmark = pytest.mark.gui


def make_run(path, movie, table, variant, names=()):
    """A run folder with patches of the movie and a model that was not trained; fast to make."""
    import zarr

    from atomvae.maps.latents import map_latents
    from atomvae.model import zoo
    from atomvae.model.encode import encode
    from atomvae.model.files import save_model
    from atomvae.patches.cut import cut_patches
    from atomvae.run.tables import write_table

    run = RunFolder(path)
    atoms = run.atoms()
    patches = cut_patches(movie, atoms, size=16, path=run.patches_path)
    model = getattr(zoo, variant)(patches.layout.shape, seed=3)
    latents = encode(model, patches)
    save_model(model, run.private / "models" / variant)
    write_table(run.path / "latents" / variant, latents, {})
    group = zarr.open_group(run.path / "models" / variant, mode="w", zarr_format=3)
    group.attrs["class_names"] = list(names)
    run.write_parquet("atoms", map_latents(atoms, latents))
    run.write_marker("train", {"model": variant})
    return run


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1400, 900)
    return viewer


def open_run(viewer, path):
    from atomvae.viewer.plugin.reader import read_run

    for data, options, kind in read_run(str(path)):
        getattr(viewer, f"add_{kind}")(data, **options)
    viewer.layers.selection.active = viewer.layers["atoms"]


def add_manifold(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Manifold")
    return widget


def ready(qtbot, widget):
    """Wait for the model, the grid and the layout of the window."""
    qtbot.waitUntil(lambda: widget.sheet.grid is not None, timeout=60_000)
    qtbot.waitUntil(lambda: widget._glow is not None and not widget.busy, timeout=20_000)
    qtbot.wait(300)
    widget._viewer.reset_view()
    qtbot.wait(50)


def at(widget, x, y):
    """Where two values lie on the sheet, for the mouse."""
    place = widget.sheet.place(x, y)
    return QPoint(round(place.x()), round(place.y()))


def click_atom(viewer, widget, row, qtbot):
    canvas = canvas_of(viewer, widget)
    QTest.mouseClick(canvas, LEFT, pos=on_canvas(viewer, canvas, row))
    assert widget.atoms.chosen.nonzero()[0].tolist() == [row]
    qtbot.waitUntil(lambda: widget.card is not None and not widget.busy, timeout=20_000)


def test_opens_with_nothing_and_says_what_is_missing(viewer, movie, table, run_path, qtbot):
    widget = add_manifold(viewer)
    assert "Open a run" in widget.sheet.message
    for data, options, kind in to_layers(movie, table):
        getattr(viewer, f"add_{kind}")(data, **options)
    qtbot.waitUntil(lambda: "no run folder" in widget.sheet.message, timeout=20_000)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: "Open a run" in widget.sheet.message, timeout=5000)
    open_run(viewer, run_path)  # atoms, but no model
    qtbot.waitUntil(lambda: "atomvae train" in widget.sheet.message, timeout=20_000)
    widget.atoms.choose(table["left"].to_numpy())
    QTest.mouseMove(widget.sheet, QPoint(100, 100))  # nothing is there, and nothing happens
    assert widget.sheet.grid is None


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (".atomvae/models/rvae/weights.safetensors", "weights"),
        ("latents/rvae", "latent table 'rvae'"),
    ],
)
def test_damaged_run_says_what_is_missing(viewer, movie, table, run_path, qtbot, lost, words):
    make_run(run_path, movie, table, "rvae")
    path = run_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    widget = add_manifold(viewer)
    open_run(viewer, run_path)
    qtbot.waitUntil(lambda: words in widget.sheet.message, timeout=60_000)


def test_pointer_decodes_and_lights_up_atoms(viewer, movie, table, run_path, qtbot):
    run = make_run(run_path, movie, table, "rvae")
    open_run(viewer, run_path)
    widget = add_manifold(viewer)
    ready(qtbot, widget)
    latents, model = run.latents("rvae"), run.model("rvae")
    atom = latents.iloc[17]
    QTest.mouseMove(widget.sheet, at(widget, atom["z_0"], atom["z_1"]))
    qtbot.waitUntil(lambda: widget.pictures[0].picture is not None, timeout=20_000)
    from atomvae.model.decode import decode

    x, y = widget.sheet.value(widget.sheet.place(atom["z_0"], atom["z_1"]))
    np.testing.assert_allclose([x, y], atom[["z_0", "z_1"]].to_numpy(float), atol=1e-9)
    drawn = widget.pictures[0].picture
    np.testing.assert_allclose(drawn, decode(model, [x, y])[0], atol=0.02 * np.ptp(drawn))
    # the atoms of the cell, counted independently: not farther than half a step from its middle
    grid = widget.sheet.grid
    inside = np.ones(len(latents), bool)
    for values, axis, here in ((latents["z_0"], grid.x, x), (latents["z_1"], grid.y, y)):
        edges = np.r_[-np.inf, (axis[1:] + axis[:-1]) / 2, np.inf]
        cell = np.searchsorted(edges, here) - 1
        inside &= ((values > edges[cell]) & (values <= edges[cell + 1])).to_numpy()
    assert inside[17] and widget.atoms.lit.tolist() == inside.tolist()
    viewer.dims.set_current_step(0, int(run.atoms()["frame"][17]))
    glow = canvas_of(viewer, widget).findChild(Glow)
    assert glow.isVisible()
    red, green, blue = np.moveaxis(rendered(glow), -1, 0)
    yellow = (red > 180) & (green > 150) & (blue < 120)
    for row in np.flatnonzero(widget.atoms.here()):
        place = on_canvas(viewer, glow.parent(), row)
        part = yellow[place.y() - 30 : place.y() + 30, place.x() - 30 : place.x() + 30]
        assert bool(part.sum() > 8) == bool(inside[row])
    QTest.mouseMove(widget.sheet, QPoint(2, 2))
    assert not widget.atoms.lit.any() and not glow.isVisible()
    QTest.mouseClick(widget.sheet, LEFT, pos=at(widget, atom["z_0"], atom["z_1"]))
    assert widget.atoms.chosen.tolist() == inside.tolist()


def test_atom_of_the_image_is_shown_with_its_error_bars(viewer, movie, table, run_path, qtbot):
    run = make_run(run_path, movie, table, "skip_rvae")
    open_run(viewer, run_path)
    widget = add_manifold(viewer)
    ready(qtbot, widget)
    row = int(np.flatnonzero(run.atoms()["frame"] == viewer.dims.current_step[0])[9])
    before = magenta(pixels(widget.sheet)).sum()
    click_atom(viewer, widget, row, qtbot)
    from atomvae.model.decode import decode

    latents, card = run.latents(), widget.card
    mine = latents.iloc[row]
    image, mask = run.patches().load(np.array([row]))
    np.testing.assert_array_equal(card.patch, np.where(mask[0], image[0, 0], np.nan))
    z, shift = mine[["z_0", "z_1"]].to_numpy(float), mine[["shift_y", "shift_x"]].to_numpy(float)
    model = run.model()
    posed = decode(model, z, angle=mine["angle"], shift=shift)[0]
    np.testing.assert_allclose(widget.pictures[2].picture, posed, atol=1e-5)
    np.testing.assert_allclose(widget.pictures[3].picture, decode(model, z)[0], atol=1e-5)
    assert np.abs(posed - card.plain).max() > 1e-3  # the pose does something
    text = widget.numbers.text()
    assert f"z_0   {mine['z_0']:.2f} ± {mine['z_0_sd']:.2g}" in text and "angle" in text
    found = np.argwhere(magenta(pixels(widget.sheet)))
    assert before == 0 and len(found) > 10
    place = widget.sheet.place(*z)
    np.testing.assert_allclose(found.mean(0), [place.y(), place.x()], atol=2.5)
    assert pixels(widget.pictures[1]).std() > 10
    widget.atoms.choose(np.ones(len(latents), bool))  # of many only the places are shown
    assert widget.card is None and widget.pictures[1].picture is None
    assert magenta(pixels(widget.sheet)).sum() > len(found)


def test_every_class_has_its_manifold(viewer, movie, table, run_path, qtbot):
    run = make_run(run_path, movie, table, "ssrvae", names=("wall", "vacancy"))
    open_run(viewer, run_path)
    widget = add_manifold(viewer)
    ready(qtbot, widget)
    labels = [widget.label.itemText(i) for i in range(widget.label.count())]
    assert labels == ["wall", "vacancy", "2"]  # one more than the user named
    first = widget.sheet.grid
    widget.label.setCurrentIndex(2)
    widget.label.textActivated.emit("2")
    qtbot.waitUntil(lambda: widget.sheet.grid is not first, timeout=20_000)
    third = widget.sheet.grid
    assert third.label == 2 and np.abs(third.images - first.images).max() > 1e-3
    latents = run.latents()
    kinds = latents["class"].to_numpy()
    every = np.zeros(len(latents), bool)
    for x in third.x:
        for y in third.y:
            every |= widget.rows_at(x, y)
    np.testing.assert_array_equal(every, kinds == 2)  # atoms of other classes live elsewhere
    here = np.flatnonzero((run.atoms()["frame"] == viewer.dims.current_step[0]) & (kinds != 2))
    if len(here):
        click_atom(viewer, widget, int(here[0]), qtbot)
        qtbot.waitUntil(lambda: not widget.busy, timeout=20_000)
        assert widget.sheet.grid.label == kinds[here[0]]
        assert f"class   {labels[kinds[here[0]]]}" in widget.numbers.text()


def test_nothing_loads_torch_before_a_model_is_needed():
    code = (
        "import sys; import atomvae.viewer.plugin.manifold, atomvae.viewer.plugin.explorer\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
