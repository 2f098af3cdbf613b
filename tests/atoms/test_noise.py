import numpy as np
import pytest
from scipy import ndimage

from atomvae.atoms.noise import estimate_noise


def lattice(height, background, width=2.2, pitch=12.0, size=256):
    y, x = (np.mgrid[:size, :size] + pitch / 2) % pitch - pitch / 2
    return background + height * np.exp(-(y**2 + x**2) / (2 * width**2))


def everywhere(image):
    return np.full(image.shape, True)


@pytest.mark.parametrize(("height", "background"), [(200, 20), (40, 6), (8, 2), (2, 0.5)])
def test_counts_are_recognised(height, background):
    counts = np.random.default_rng(1).poisson(lattice(height, background)).astype(float)
    noise = estimate_noise(counts, everywhere(counts), 2.2)
    assert (noise.kind, noise.gain, noise.offset) == ("poisson", 1.0, 0.0)


@pytest.mark.parametrize(("gain", "offset"), [(6.0, 10.0), (0.04, 0.1), (1200.0, -4000.0)])
def test_gain_and_offset(gain, offset):
    counts = np.random.default_rng(2).poisson(lattice(30, 5, 4.0, 20.0))
    image = offset + gain * counts
    noise = estimate_noise(image, everywhere(image), 4.0)
    assert noise.kind == "poisson"
    assert noise.gain == pytest.approx(gain, rel=0.06)
    assert (noise.offset - offset) / gain == pytest.approx(0, abs=1.0)  # electrons


def test_even_noise_is_gaussian():
    image = lattice(30, 5) + np.random.default_rng(3).normal(0, 2.5, (256, 256))
    noise = estimate_noise(image, everywhere(image), 2.2)
    assert noise.kind == "gaussian" and noise.sd == pytest.approx(2.5, rel=0.05)


def test_smoothed_counts_are_not_poisson():
    counts = np.random.default_rng(4).poisson(lattice(30, 5)).astype(float)
    image = ndimage.gaussian_filter(counts, 1.0)
    assert estimate_noise(image, everywhere(image), 2.2).kind == "gaussian"


def test_missing_pixels_do_not_count():
    counts = np.random.default_rng(5).poisson(lattice(40, 6)).astype(float)
    valid = everywhere(counts)
    valid[50:90] = False
    broken = np.where(valid, counts, 1e6)
    noise = estimate_noise(broken, valid, 2.2)
    assert (noise.kind, noise.gain) == ("poisson", 1.0)


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.ones((3, 3)), np.zeros((1, 200))])
def test_nothing_to_see(image):
    noise = estimate_noise(image, everywhere(image), 2.0)
    assert noise.kind == "gaussian" and noise.sd == 0
    assert estimate_noise(image, ~everywhere(image), 2.0).kind == "gaussian"
