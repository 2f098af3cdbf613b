import numpy as np
import pytest

from atomvae.atoms.scale import Scale, bright_columns, column_scale


def spots(y, x, width, size=256):
    pixel = np.arange(size)
    rows = np.exp(-((pixel - np.asarray(y)[:, None]) ** 2) / (2 * width**2))
    columns = np.exp(-((pixel - np.asarray(x)[:, None]) ** 2) / (2 * width**2))
    return rows.T @ columns


def grid(pitch, size=256):
    line = np.arange(pitch / 2, size, pitch)
    return (p.ravel() for p in np.meshgrid(line, line, indexing="ij"))


@pytest.mark.parametrize(("pitch", "width"), [(12, 2.0), (20, 3.0), (30, 5.0), (40, 4.0)])
@pytest.mark.parametrize("dose", [4, 100])
def test_lattice(pitch, width, dose):
    image = np.random.default_rng(0).poisson(dose * (0.3 + spots(*grid(pitch), width)))
    scale = column_scale([image.astype(float)], [image >= 0])
    assert scale.width_px == pytest.approx(width, rel=0.15)
    assert scale.periodicity > 0.5


def test_isolated_columns():
    rng = np.random.default_rng(1)
    image = rng.poisson(5 + 30 * spots(rng.uniform(5, 250, 40), rng.uniform(5, 250, 40), 3.0))
    scale = column_scale([image.astype(float)], [image >= 0])
    assert scale.width_px == pytest.approx(3.0, rel=0.15)
    assert scale.periodicity < 0.3


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.zeros((3, 3)), np.zeros((1, 1))])
def test_nothing_to_see(image):
    assert column_scale([image], [image == 0]) == (2.0, 0.0, False)
    assert bright_columns([image], [image == 0], Scale(2.0, 0.0, False))


def test_polarity_under_a_gradient():
    y, x = grid(20)
    slope = np.linspace(0, 300, 256)[:, None]
    image = np.random.default_rng(2).normal(50 * spots(y, x, 3.0) + slope, 10.0)
    valid = [image > -np.inf]
    assert bright_columns([image], valid, Scale(3.0, 1.0, False))
    assert not bright_columns([-image], valid, Scale(3.0, 1.0, False))


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2])
@pytest.mark.parametrize("dose", [3, 100])
def test_honeycomb_is_bright_though_its_holes_are_sharper(turn, dose):
    bond, width = 14.0, 4.5
    i, j = (k.ravel() for k in np.mgrid[-25:26, -25:26])
    a, b = np.sqrt(3) * bond * (i + j / 2), 1.5 * bond * j
    x, y = np.r_[a, a], np.r_[b, b + bond]
    y, x = (np.cos(turn) * y - np.sin(turn) * x + 128, np.sin(turn) * y + np.cos(turn) * x + 128)
    inside = (np.abs(y - 128) < 150) & (np.abs(x - 128) < 150)
    image = np.random.default_rng(0).poisson(dose * (0.3 + spots(y[inside], x[inside], width)))
    scale = column_scale([image.astype(float)], [image >= 0])
    assert scale.periodicity > 0.4 and scale.hexagonal
    assert bright_columns([image.astype(float)], [image >= 0], scale)


def test_square_and_centred_rectangles_are_not_hexagonal():
    for pitch in ((20, 20), (28, 20)):
        y, x = (p.ravel() for p in np.meshgrid(*(np.arange(5, 256, p) for p in pitch)))
        image = spots(y, x, 3.0)
        assert not column_scale([image], [image >= 0]).hexagonal
