"""Pictures of models lie where the axes say, and show the values they were given."""

import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.maps.figures import (
    draw_manifold,
    draw_reconstructions,
    draw_samples,
    draw_traversals,
)
from atomvae.maps.pictures import rank_rows
from atomvae.maps.style import robust_limits
from atomvae.model import zoo
from atomvae.model.decode import manifold, manifold_axes
from atomvae.model.draw import interpolate, reconstruct, sample, seen_pixels, traverse


def sheet_of(axis):
    return axis.images[0].get_array()


def at(axis, sheet, side):
    """Pixels of a sheet of squares at the ticks of one side, on the first picture of the other."""
    ticks = axis.get_xticks() if side == "x" else axis.get_yticks()
    return [sheet[4, round(t)] if side == "x" else sheet[round(t), 4] for t in ticks]


def texts(axis, side):
    ticks = axis.get_xticklabels() if side == "x" else axis.get_yticklabels()
    return [t.get_text() for t in ticks]


def test_manifold_keeps_the_order():
    images = np.arange(6.0).reshape(2, 3, 1, 1) * np.ones((2, 3, 24, 12))
    sheet = sheet_of(draw_manifold(images, pixel_nm=0.1).axes[0])
    assert sheet.shape == (49, 38)
    assert [[sheet[i * 25, j * 13] for j in range(3)] for i in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="expected \\(rows, columns, h, w\\)"):
        draw_manifold(np.zeros((4, 8, 8)))


def test_the_axes_of_a_manifold_say_what_varies_where():
    """Pictures as bright as their latents: the pixel at a tick is the number beside it."""
    down, along = np.array([-1.5, 0.0, 1.5]), np.radians([-90.0, 0.0, 45.0, 90.0])
    images = (down[:, None] + np.degrees(along))[..., None, None] * np.ones((8, 8))
    figure = draw_manifold(images, axes={"z_2": down, "angle": along}, pixel_nm=0.05)
    axis = figure.axes[0]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("z_2", "angle (deg)")
    assert texts(axis, "y") == ["-1.5", "0", "1.5"]
    assert texts(axis, "x") == ["-90", "0", "45", "90"]
    sheet = sheet_of(axis)
    assert at(axis, sheet, "y") == pytest.approx([-91.5, -90, -88.5])
    assert at(axis, sheet, "x") == pytest.approx([-91.5, -1.5, 43.5, 88.5])
    assert figure.get_supxlabel() == "each patch 0.4 nm wide"


def test_a_manifold_of_a_model_has_the_axes_of_the_model():
    model = zoo.vae((8, 8), 3)
    axes = manifold_axes(model, 4, axes=("z_2", "z_0"))
    axis = draw_manifold(manifold(model, 4, axes=("z_2", "z_0")), axes=axes).axes[0]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("z_2", "z_0")
    assert texts(axis, "x") == ["-1.6", "-0.39", "0.39", "1.6"]


def test_manifolds_of_classes_share_their_grey_scale():
    model = zoo.jvae((8, 8), classes=4)
    grids = {f"class {k}": manifold(model, 10, label=k) for k in range(4)}
    figure = draw_manifold(grids, axes=manifold_axes(model, 10))
    assert [axis.get_title() for axis in figure.axes] == list(grids)
    assert len({axis.images[0].get_clim() for axis in figure.axes}) == 1
    assert texts(figure.axes[3], "x") == ["-1.6", "-0.39", "0.39", "1.6"]  # ends, evenly
    rows = {axis.get_subplotspec().rowspan.start for axis in figure.axes}
    assert rows == {0, 1}  # two by two
    sheet = sheet_of(figure.axes[2])
    np.testing.assert_allclose(sheet[:8, :8], grids["class 2"][0, 0])


def test_one_dimension_is_one_strip():
    model = zoo.vae((8, 8), 1)
    images = manifold(model, 5)
    axis = draw_manifold(images, axes=manifold_axes(model, 5)).axes[0]
    assert sheet_of(axis).shape == (8, 5 * 9 - 1) and axis.get_xlabel() == "z_0"
    np.testing.assert_allclose(sheet_of(axis)[:, 36:44], images[4, 0])
    assert not axis.get_ylabel() and len(texts(axis, "x")) == 5


def test_spectra_are_lines():
    rng = np.random.default_rng(0)
    spectra = rng.normal(size=(2, 3, 1, 20))
    axis = draw_manifold(spectra, axes={"z_0": [0, 1], "z_1": [0, 1, 2]}).axes[0]
    lines = [line for line in axis.lines if len(line.get_xdata()) == 20]
    assert len(lines) == 6 and not axis.images
    drawn = np.array([line.get_ydata() for line in lines]).reshape(2, 3, 20)
    corner = np.arange(2)[:, None, None]
    height = corner - drawn  # y points down; all on one scale
    slope, offset = np.polyfit(spectra.ravel(), height.ravel(), 1)
    np.testing.assert_allclose(height, slope * spectra[:, :, 0] + offset, atol=1e-9)
    assert slope > 0 and drawn.min() > 0 and (drawn - corner).max() < 1
    assert len(draw_samples(sample(zoo.ved((8, 8), (1, 16)), 5)).axes) == 1
    pictures = draw_reconstructions(spectra[0], spectra[1])
    assert len(pictures.axes) == 9 and not any(axis.images for axis in pictures.axes)
    grey, blue = pictures.axes[3].lines
    assert {tuple(grey.get_ydata())} <= {tuple(s[0]) for s in spectra[0]}
    assert {tuple(blue.get_ydata())} <= {tuple(s[0]) for s in spectra[1]}


def test_samples_are_drawn_row_by_row():
    images = np.arange(5.0)[:, None, None] * np.ones((8, 8))
    sheet = sheet_of(draw_samples(images, columns=3).axes[0])
    assert [sheet[0, j * 9] for j in range(3)] == [0, 1, 2]
    assert [sheet[9, j * 9] for j in range(2)] == [3, 4] and sheet[9, 18] is np.ma.masked
    with pytest.raises(InputError, match="of one channel: choose it"):
        draw_samples(np.zeros((5, 2, 8, 8)))


def test_traversals_have_their_values_beneath():
    model = zoo.rvae((8, 8))
    turns, values = np.linspace(-np.pi, np.pi, 5), np.linspace(-2, 2, 9)
    strips = {
        "angle": (turns, traverse(model, [0.0, 0.5], "angle", turns)),
        "z_1": (values, traverse(model, [0.0, 0.5], "z_1", values)),
        "from a to b": (np.arange(3), interpolate(model, [0.0, 0.0], [1.0, 1.0], 3)),
    }
    figure = draw_traversals(strips, pixel_nm=0.1)
    assert [a.get_xlabel() for a in figure.axes] == ["angle (deg)", "z_1", "from a to b"]
    assert texts(figure.axes[0], "x") == ["-180", "-90", "0", "90", "180"]
    assert texts(figure.axes[1], "x")[::4] == ["-2", "0", "2"]
    sheet = sheet_of(figure.axes[0])
    np.testing.assert_allclose(sheet[:, 9:17], strips["angle"][1][1])
    np.testing.assert_allclose(sheet[:, 18:26], np.rot90(sheet[:, 9:17]), atol=1e-4)
    assert len({a.images[0].get_clim() for a in figure.axes}) == 1


@pytest.fixture
def pair():
    """Reconstructions whose rms errors are 0.1, 0.2, ... in an order that is mixed up."""
    rng = np.random.default_rng(2)
    patches = rng.normal(size=(21, 8, 8))
    error = rng.permutation(np.arange(1, 22)) / 10
    sign = rng.choice([-1, 1], size=patches.shape)
    return patches, patches - sign * error[:, None, None], error


def test_reconstructions_are_the_best_the_median_and_the_worst(pair):
    patches, images, error = pair
    figure = draw_reconstructions(patches, images, each=2)
    assert len(figure.axes) == 3 * 6 + 1
    rank = np.argsort(error)
    rows = [*rank[:2], *rank[9:11], *rank[-2:]]
    for column, row in enumerate(rows):
        patch, drawn, left = (figure.axes[k * 6 + column] for k in range(3))
        np.testing.assert_array_equal(sheet_of(patch), patches[row])
        np.testing.assert_array_equal(sheet_of(drawn), images[row])
        np.testing.assert_allclose(sheet_of(left), patches[row] - images[row])
        assert patch.get_title().endswith(f"{error[row]:.3g}")
        low, high = left.images[0].get_clim()
        assert low == -high and patch.images[0].get_clim() == drawn.images[0].get_clim()
        assert patch.images[0].get_clim() == robust_limits(patches[row], 0.5)  # of its own
    titles = [axis.get_title().split("\n")[0] for axis in figure.axes[:6]]
    assert titles == ["best", "best", "median", "median", "worst", "worst"]
    assert figure.get_supxlabel().startswith("ranked by root mean square of the residual")
    by = pd.Series(-error, name="reconstruction_error")
    other = draw_reconstructions(patches, images, error=by, each=2, pixel_nm=0.1)
    np.testing.assert_array_equal(sheet_of(other.axes[0]), patches[rank[-1]])
    assert "by reconstruction error (noise sd); each patch 0.8 nm" in other.get_supxlabel()


def test_pixels_that_do_not_count_are_left_out():
    model = zoo.rvae((8, 8))
    patches = np.random.default_rng(0).normal(size=(4, 8, 8))
    images, seen = reconstruct(model, patches), seen_pixels(model)
    spoiled = np.where(seen, images, 1e3)
    figure = draw_reconstructions(patches, spoiled, seen=seen, each=1)
    left = sheet_of(figure.axes[6])
    np.testing.assert_array_equal(np.ma.getmaskarray(left), ~seen)
    expected = np.sqrt(((patches - images)[:, seen] ** 2).mean(1)).min()
    assert figure.axes[0].get_title() == f"best\n{expected:.3g}"


def test_ranks_name_each_row_once():
    assert [row for row, _ in rank_rows([0.3], 3)] == [0]
    assert [row for row, _ in rank_rows([0.3, np.nan, 0.1, 0.2], 3)] == [2, 3, 0]
    found = rank_rows(np.arange(30.0), 3)
    assert [row for row, _ in found] == [0, 1, 2, 13, 14, 15, 27, 28, 29]
    with pytest.raises(InputError, match="found 0 finite errors"):
        rank_rows([np.nan], 1)


IMAGES = np.zeros((3, 3, 8, 8))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_manifold({}), "nothing to draw"),
        (lambda: draw_manifold(IMAGES, axes={"z_0": [0, 1]}), "'z_0' has 2 values for 3 rows"),
        (lambda: draw_traversals({}), "nothing to draw"),
        (lambda: draw_traversals({"z_0": ([0, 1], IMAGES[0])}), "z_0 has values of shape .2,."),
        (lambda: draw_reconstructions(IMAGES[0], IMAGES[0, :2]), "reconstructions .2, 8, 8."),
        (lambda: draw_reconstructions(IMAGES[0], IMAGES[0], error=[1.0]), "error has shape .1,."),
        (lambda: draw_reconstructions(IMAGES[0], IMAGES[0], each=0), "0 of each"),
        (lambda: draw_samples(IMAGES[:0, 0]), "images have shape .0, 8, 8."),
    ],
)
def test_refused_at_the_door(draw, message):
    with pytest.raises(InputError, match=message) as error:
        draw()
    assert "\n" not in str(error.value)
