import numpy as np
import pytest
from scipy import ndimage

from atomvae.atoms.detect import detect_frame
from atomvae.atoms.mask import clean_frame, contaminated
from atomvae.errors import InputError


def lattice(size=256, pitch=14.0, width=2.5, turn=0.2):
    y, x = np.mgrid[:size, :size]
    u, v = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    u, v = ((w + pitch / 2) % pitch - pitch / 2 for w in (u, v))
    return np.exp(-(u**2 + v**2) / (2 * width**2))


def patch(size=256, centre=(90, 150), radius=45, seed=0):
    """Amorphous texture with a ragged rim, 0 outside."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4.0)
    texture = 1 + 0.4 * texture / texture.std()
    inside = np.hypot(y - centre[0], x - centre[1]) < radius
    return np.clip(texture, 0.2, None) * inside, inside


@pytest.mark.parametrize("strength", [2.0, 6.0])
def test_contamination_is_found_and_not_filled(strength):
    texture, inside = patch()
    expected = 10 * (0.3 + lattice() + strength * texture)
    counts = np.random.default_rng(1).poisson(expected)
    found = contaminated(counts.astype(float), counts >= 0, 2.5)
    core = ndimage.binary_erosion(inside, iterations=8)
    rim = ndimage.binary_dilation(inside, iterations=12)
    assert found[core].mean() > 0.97
    assert not found[~rim].any()
    atoms = detect_frame(counts)
    at = np.rint(atoms[["y", "x"]].to_numpy()).astype(int)
    assert not core[at[:, 0], at[:, 1]].any()
    clean = detect_frame(np.random.default_rng(1).poisson(10 * (0.3 + lattice())))
    away = np.rint(clean[["y", "x"]].to_numpy()).astype(int)
    expected_outside = (~rim[away[:, 0], away[:, 1]]).sum()
    assert (~rim[at[:, 0], at[:, 1]]).sum() == pytest.approx(expected_outside, abs=2)


def test_heavy_atoms_and_thickness_are_no_contamination():
    image = lattice()
    y, x = np.mgrid[:256, :256]
    for a, b in ((100, 100), (112, 102), (104, 115)):  # a trimer, eight times as bright
        image = image + 8 * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 2.5**2))
    wedge = image * (1 + y / 256)
    for frame in (image, wedge):
        counts = np.random.default_rng(2).poisson(10 * (0.3 + frame)).astype(float)
        assert not contaminated(counts, counts >= 0, 2.5).any()


def test_missing_pixels_are_filled_from_near_by():
    image = np.full((20, 20), 7.0)
    image[:, 10:] = 9.0
    image[5, 5], image[5, 15], image[8, 8] = np.nan, np.inf, -np.inf
    clean, valid = clean_frame(image)
    assert (~valid).sum() == 3 and np.isfinite(clean).all()
    assert clean[5, 5] == pytest.approx(7, abs=0.2) and clean[5, 15] == pytest.approx(9, abs=0.2)


@pytest.mark.parametrize("frame", [np.zeros((2, 3, 3)), np.zeros(5), np.zeros((3, 3), complex)])
def test_refused(frame):
    with pytest.raises(InputError, match="expected"):
        clean_frame(frame)
