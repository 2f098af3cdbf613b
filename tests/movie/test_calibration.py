"""Lattice spacings are measured right, and tell a wrong calibration from a distorted scan."""

import numpy as np
import pytest

from atomvae.errors import InputError
from atomvae.movie.calibration import (
    CRYSTALS,
    calibrate,
    check_calibration,
    with_calibration_warning,
)
from atomvae.movie.describe import describe
from atomvae.movie.movie import Movie
from atomvae.movie.spectrum import bright_spots, flatten, fourier_peaks


def hexagonal(spacing_px, shape=(200, 240), turn=0.2, stretch=1.0, dose=None, seed=0):
    """Three plane waves; the planes of one direction are stretched."""
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for k in range(3):
        angle = turn + k * np.pi / 3
        d = spacing_px * (stretch if k == 0 else 1)
        image += np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / d)
    if dose is None:
        return image
    return np.random.default_rng(seed).poisson(dose * (image + 1.6)).astype(float)


@pytest.mark.parametrize("spacing", [8.0, 13.7, 21.3])
@pytest.mark.parametrize("dose", [None, 1.0])
def test_spacings_are_measured_to_half_a_per_cent(spacing, dose):
    peaks = fourier_peaks([hexagonal(spacing, dose=dose)])
    np.testing.assert_allclose(peaks.spacing_px()[:3], spacing, rtol=0.005)


def test_spacings_with_pixels_that_are_not_square():
    y, x = np.indices((200, 240))
    image = np.cos(2 * np.pi * y / 10) + 0.5 * np.cos(2 * np.pi * x / 10)
    peaks = fourier_peaks([image])
    np.testing.assert_allclose(peaks.spacing((0.02, 0.01))[:2], [0.2, 0.1], rtol=0.005)


def test_no_peaks_without_a_lattice():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(256, 256))
    rows = noise + rng.normal(size=(256, 1))  # offsets of rows, as a scan has them
    assert len(fourier_peaks([noise])) == 0
    assert len(fourier_peaks([rows])) == 0
    assert len(fourier_peaks([np.zeros((64, 64))])) == 0
    assert len(fourier_peaks([np.full((64, 64), np.nan)])) == 0
    assert len(fourier_peaks([])) == 0


def test_bright_spots_gradients_and_gaps_do_not_hide_the_lattice():
    image = hexagonal(20.0)
    y, x = np.indices(image.shape)
    for centre in ((60, 70), (66, 82), (130, 150)):
        image += 30 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 50)
    image += 0.2 * y
    image[:20, :30] = np.nan
    mask = bright_spots(flatten(image))
    assert mask[60, 70] and mask[130, 150] and mask.mean() < 0.1
    np.testing.assert_allclose(fourier_peaks([image]).spacing_px()[:3], 20, rtol=0.01)


@pytest.mark.parametrize(
    ("factor", "warned"), [(1.0, False), (1.06, False), (0.8, True), (9 / 7, True)]
)
def test_wrong_calibration_is_told(factor, warned):
    known = CRYSTALS["graphene"].planes[0][1]
    movie = Movie.from_array(hexagonal(20.0), pixel_size=known / 20 * factor)
    check = check_calibration(movie, "graphene")
    assert check.factor == pytest.approx(factor, rel=0.01)
    assert check.plane == "{10}"
    assert bool(check.warning) == warned
    # the same when only the name of the file tells the material
    hinted = Movie(movie.frames, movie.pixel_size, metadata={"path": "x/SiGr_1.npy"})
    assert hinted.metadata["warnings"] == []
    told = with_calibration_warning(hinted).metadata["warnings"]
    assert bool(told) == warned
    assert (describe(hinted).count("\nwarning") == 1) == warned


def test_distorted_scan_is_no_wrong_calibration():
    known = CRYSTALS["MoS2"].planes[0][1]
    movie = Movie.from_array(hexagonal(20.0, stretch=1.1), pixel_size=known / 20)
    check = check_calibration(movie, "MoS2")
    assert check.factor == pytest.approx(1.03, abs=0.01)
    assert not check.warning


def test_nothing_is_said_without_material_or_pixel_size():
    movie = Movie.from_array(hexagonal(20.0), pixel_size=1.0)
    assert check_calibration(movie).factor is None
    unknown = check_calibration(Movie.from_array(hexagonal(20.0)), "graphene")
    assert unknown.factor is None
    assert unknown.spacings_nm[0] == pytest.approx(20, rel=0.005)  # in pixels
    with pytest.raises(InputError, match="'unobtainium' are not known; expected one of graphene"):
        check_calibration(movie, "unobtainium")


def test_calibrate_from_a_known_spacing():
    movie = Movie.from_array(hexagonal(20.0), pixel_size=(0.02, 0.01))
    y, x = np.indices((200, 240))
    stretched = np.cos(2 * np.pi * y / 10) + 0.5 * np.cos(2 * np.pi * x / 20)
    movie = Movie.from_array(stretched, pixel_size=(0.2, 0.1))  # ratio right, size not
    mended = calibrate(movie, 0.2)
    assert mended.pixel_size == pytest.approx((0.02, 0.01), rel=0.005)
    assert mended.metadata["pixel_size_from"] == "lattice spacing 0.2 nm"
    with pytest.raises(InputError, match="expected a positive number of nm"):
        calibrate(movie, 0.0)
    with pytest.raises(InputError, match="no lattice was found"):
        calibrate(Movie.from_array(np.ones((64, 64))), 0.2)
    with pytest.raises(InputError, match="another spacing_px than 3"):
        calibrate(movie, 0.2, spacing_px=3)


@pytest.mark.parametrize(
    ("path", "material"),
    [
        ("a/MoS2_stem.npy", "MoS2"), ("mos2_haadf/x.npy", "MoS2"),
        ("a/16_STOimage_1.ser", "SrTiO3"),
        ("a/STO.tif", "SrTiO3"), ("SrTiO3 film/1.dm4", "SrTiO3"), ("a/graphene-7.tif", "graphene"),
        ("a/storage.tif", None), ("stock/auto.tif", None), ("x/WS2_MoS2.npy", None),
        ("x/WSe2.npy", "WSe2"), ("x/au_tip.npy", "Au"), ("movie.npy", None),
    ],
)  # fmt: skip
def test_material_by_the_name_of_the_file(path, material):
    movie = Movie.from_array(hexagonal(20.0), pixel_size=0.01, metadata={"path": path})
    assert check_calibration(movie).material == material


def test_description_of_an_awkward_movie():
    frames = np.full((3, 32, 32), np.nan)
    assert "none: no pixel of the first frame is a number" in describe(Movie.from_array(frames))
    frames[0, 1:] = 5
    text = describe(Movie.from_array(frames, pixel_size=(0.01, 0.02), frame_time=1.5))
    assert "5 to 5, mean 5 (first frame), 32 pixels are not numbers" in text
    assert "10 x 20 pm (y, x)" in text and "1.5 s" in text
