"""What is really drawn: pixels of screenshots, in a window, with OpenGL."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.viewer.colors import color_scale, hue_circle
from atomvae.viewer.layers import to_layers

pytestmark = pytest.mark.gui

SIZE = (768, 1024)  # of a screenshot, rows and columns
ZOOM = 8  # canvas pixels for a pixel of the movie: the frame of 96 x 128 fills the picture


class Stage:
    """A viewer with layers, looked at so that a pixel of the movie is 8 x 8 of the picture."""

    def __init__(self, viewer, layers):
        self.viewer = viewer
        for data, options, kind in layers:
            getattr(viewer, f"add_{kind}")(data, **options)
        pixel = np.array(layers[0][1]["scale"][1:])
        viewer.scene.camera.center = tuple((np.array([96, 128]) / 2 - 0.5) * pixel)
        viewer.scene.camera.zoom = ZOOM / pixel[0]
        viewer.canvas.overlays.scale_bar.visible = False

    def picture(self, frame):
        self.viewer.dims.set_current_step(0, frame)
        picture = self.viewer.screenshot(size=SIZE, canvas_only=True, flash=False)
        assert picture.shape[:2] == SIZE
        return picture[..., :3] / 255.0


def color_at(picture, y, x):
    """Mean colour around a place of the movie."""
    row, column = round((y + 0.5) * ZOOM), round((x + 0.5) * ZOOM)
    return picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3).mean(0)


@pytest.fixture
def stage(make_napari_viewer_proxy):
    return lambda layers: Stage(make_napari_viewer_proxy(show=True), layers)


def opaque(layers, *names):
    """Only the named layers, without transparency, so that colours are exact."""
    return [
        (data, options | {"opacity": 1.0}, kind)
        for data, options, kind in layers
        if options["name"] in names
    ]


def test_atoms_have_the_colours_of_their_column_in_every_frame(stage, movie, table):
    # In frame 0 all values are 0 to 0.2, in the last up to 1: one scale, not one per frame.
    table["z_0"] = table["left"] * 0.2 * (1 + table["frame"])
    scale = color_scale(table["z_0"])
    view = stage(opaque(to_layers(movie, table, color_by="z_0"), "movie", "atoms"))
    for frame in (0, 3):
        picture = view.picture(frame)
        atoms = table[table["frame"] == frame]
        for atom in atoms.itertuples():
            expected = scale.rgba([atom.z_0])[0, :3]
            np.testing.assert_allclose(color_at(picture, atom.y, atom.x), expected, atol=0.02)
    assert np.abs(scale.rgba([0.2])[0] - scale.rgba([0.8])[0]).max() > 0.3


def test_slider_moves_movie_and_atoms(stage, movie, table):
    view = stage(to_layers(movie, table))
    first, last = view.picture(0), view.picture(3)
    between = (24, 24)  # no atom near: the background, which grows by 20 a frame
    assert color_at(last, *between).mean() > color_at(first, *between).mean() + 0.1
    y, x = 48.0, 48.0  # an atom in frame 0, which has moved on by 9 px in frame 3
    colored = np.ptp(color_at(first, y, x))
    assert colored > 0.2
    assert np.ptp(color_at(last, y, x)) < 0.05  # grey movie
    assert np.ptp(color_at(last, y, x + 9)) > 0.2


def test_atoms_do_not_hide_the_movie(stage, movie, table):
    with_atoms, without = to_layers(movie, table), to_layers(movie)
    change = np.abs(stage(with_atoms).picture(1) - stage(without).picture(1)).max(-1) > 0.05
    assert 0.03 < change.mean() < 0.3


@pytest.mark.parametrize("degrees", [0, 90, 200])
def test_arrows_point_where_the_angle_says(stage, movie, degrees):
    angle = np.radians(degrees)
    one = pd.DataFrame({"frame": [0], "y": [48.0], "x": [64.0], "angle": [angle]})
    layers = opaque(to_layers(movie, one, spacing_px=32), "angles")
    picture = stage(layers).picture(0)
    rows, columns = np.nonzero(picture.max(-1) > 0.3)
    y, x = rows.mean() / ZOOM - 0.5 - 48, columns.mean() / ZOOM - 0.5 - 64
    assert abs((np.degrees(np.arctan2(-y, x)) - degrees + 180) % 360 - 180) < 4
    # behind the tip it is wider than at the shaft: it has a head
    along = (columns / ZOOM - 64.5) * np.cos(angle) - (rows / ZOOM - 48.5) * np.sin(angle)
    along /= along.max()
    head, shaft = (along > 0.76) & (along < 0.86), (along > 0.4) & (along < 0.5)
    assert head.sum() > 1.4 * shaft.sum()
    circle = hue_circle()[:, :3]
    expected = circle[round(degrees / 360 * 63)]
    found = picture[rows, columns]
    np.testing.assert_allclose(np.median(found, axis=0), expected, atol=0.05)


def test_spokes_of_a_threefold_motif(stage, movie):
    one = pd.DataFrame({"frame": [0], "y": [48.0], "x": [64.0], "angle": [np.pi / 2]})
    layers = opaque(to_layers(movie, one, symmetry=3, spacing_px=40), "angles")
    picture = stage(layers).picture(0)
    rows, columns = np.nonzero(picture.max(-1) > 0.3)
    angle = np.arctan2(48.5 - rows / ZOOM, columns / ZOOM - 64.5)
    far = np.hypot(48.5 - rows / ZOOM, columns / ZOOM - 64.5) > 8
    found = np.degrees(angle[far])
    for spoke in (90, -30, -150):  # 90 degrees is up on screen
        near = np.abs((found - spoke + 180) % 360 - 180) < 15
        assert 0.25 < near.mean() < 0.42
    assert abs(np.exp(3j * np.radians(found)).mean()) > 0.9


def test_classes_and_unknown_values(stage, movie, table):
    table["class"] = np.where(table["left"], 1, -1)
    scale = color_scale(table["class"])
    view = stage(opaque(to_layers(movie, table, color_by="class"), "atoms"))
    picture = view.picture(2)
    for atom in table[table["frame"] == 2].itertuples():
        expected = scale.rgba([1 if atom.left else -1])[0, :3]
        np.testing.assert_allclose(color_at(picture, atom.y, atom.x), expected, atol=0.02)


VIEW = """
import sys
from atomvae.viewer.plugin.open import view
view(sys.argv[1], screenshot=sys.argv[2], frame=1, size=(900, 600))
"""


def test_view_writes_a_picture_that_shows_the_run(run_path, table, tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "deep" / "picture.png"
    done = subprocess.run(
        [sys.executable, "-c", VIEW, str(run_path), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    picture = imread(path)[..., :3]
    assert picture.shape == (600, 900, 3)
    assert picture.std() > 0.05
    colors = color_scale(table["z_0"]).rgba()[:, :3]
    for color in (colors[0], colors[-1]):  # both halves of the atoms are there
        assert (np.abs(picture - color).max(-1) < 0.1).mean() > 0.002
    left, right = picture[:, :120], picture[:, -120:]
    assert (left.min(-1) > 0.9).any() and (right.min(-1) > 0.9).any()  # caption and colour bar


def test_view_refuses_a_frame_that_is_not_there(run_path, make_napari_viewer_proxy, monkeypatch):
    from atomvae.viewer.plugin import open as opened

    monkeypatch.setattr(opened, "open_viewer", lambda title: make_napari_viewer_proxy(show=False))
    with pytest.raises(InputError, match="no frame 9; the run has frames 0 to 3"):
        opened.view(run_path, screenshot="never.png", frame=9)


def test_black_canvas_is_an_error(run_path, tmp_path):
    """Qt's offscreen platform draws nothing and says nothing: measured, then refused."""
    code = VIEW.replace("import sys", "import sys, atomvae.viewer.plugin.open as o\no.HIDDEN = ()")
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    path = tmp_path / "black.png"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_path), str(path)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert "the canvas stayed empty" in done.stderr
    assert not path.exists()
