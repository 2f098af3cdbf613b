import numpy as np
import pytest

from atomvae.atoms.scale import bright_columns, column_scale


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
    assert column_scale([image], [image == 0]) == (2.0, 0.0)
    assert bright_columns([image], [image == 0], 2.0)


def test_polarity_under_a_gradient():
    y, x = grid(20)
    slope = np.linspace(0, 300, 256)[:, None]
    image = np.random.default_rng(2).normal(50 * spots(y, x, 3.0) + slope, 10.0)
    valid = [image > -np.inf]
    assert bright_columns([image], valid, 3.0)
    assert not bright_columns([-image], valid, 3.0)
