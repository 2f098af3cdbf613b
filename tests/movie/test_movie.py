"""The noun: what it accepts, what it refuses, and that it stays lazy."""

import cloudpickle
import dask.array as da
import numpy as np
import pytest

from atomvae.errors import InputError
from atomvae.movie.movie import Movie, frames_per_block
from atomvae.movie.units import length_in_nm, time_in_s


def test_image_is_a_movie_of_one_frame():
    movie = Movie.from_array(np.arange(12.0).reshape(3, 4), pixel_size=(0.01, 0.02))
    assert movie.shape == (1, 3, 4)
    assert movie.field_of_view == (0.03, 0.08)
    np.testing.assert_array_equal(movie.frame(0), np.arange(12).reshape(3, 4))
    assert movie.frame(-1).dtype == np.float32


@pytest.mark.parametrize("size", [0, 0.0, -1, np.nan, np.inf, (0.01, 0), (1, 2, 3), "small"])
def test_pixel_size_must_be_positive(size):
    with pytest.raises(InputError, match="expected one positive number, or two") as error:
        Movie.from_array(np.ones((8, 8)), pixel_size=size)
    assert repr(size) in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, np.nan, "fast"])
def test_frame_time_must_be_positive(seconds):
    with pytest.raises(InputError, match="expected one positive number of seconds"):
        Movie.from_array(np.ones((8, 8)), frame_time=seconds)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones(5), "1-D with shape"),
        (np.ones((2, 3, 4, 5)), "4-D with shape"),
        (np.ones((0, 4, 4)), "empty"),
        (np.ones((2, 4, 0)), "empty"),
        (np.ones((4, 4), complex), "save the modulus"),
        (np.array([[None, 1]]), "never unpickled"),
    ],
)
def test_what_is_no_movie_is_refused(array, sentence):
    with pytest.raises(InputError, match=sentence):
        Movie.from_array(array)


def test_unknown_pixel_size_is_said_where_it_is_needed():
    movie = Movie.from_array(np.ones((8, 8)), name="run7")
    with pytest.raises(InputError, match="pixel size of run7 is unknown"):
        movie.require_pixel_size()


def test_frames_keep_their_numbers_when_cut():
    movie = Movie.from_array(np.arange(6)[:, None, None] * np.ones((6, 4, 4)))
    movie.metadata["frame_index"] = [3, 4, 7, 8, 9, 12]
    cut = movie[1:5:2]
    assert cut.metadata["frame_index"] == [4, 8]
    assert [cut.frame(i)[0, 0] for i in range(2)] == [1, 3]
    assert movie[[0, 5]].metadata["frame_index"] == [3, 12]
    assert movie.metadata["frame_index"] == [3, 4, 7, 8, 9, 12]
    with pytest.raises(InputError, match="no frame is left"):
        movie[6:]
    with pytest.raises(InputError, match=r"write movie.frame\(2\)"):
        movie[2]


def test_nan_survives_and_blocks_hold_whole_frames():
    frames = np.ones((10, 16, 16))
    frames[3, 2, 2] = np.nan
    movie = Movie(da.from_array(frames, chunks=(4, 5, 7)))
    assert movie.frames.numblocks[1:] == (1, 1)
    assert np.isnan(movie.frame(3)[2, 2])
    again = cloudpickle.loads(cloudpickle.dumps(movie))
    np.testing.assert_array_equal(again.frames.compute(), frames)


def test_blocks_are_small_but_not_tiny():
    assert frames_per_block(1, 10**6) == 1
    assert frames_per_block(100_000, 128 * 2**10) == 128  # 16 MB
    assert frames_per_block(100, 2**30) == 1
    assert frames_per_block(1000, 2**10, unit=50) == 50


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("n_m", 1), ("nm", 1), ("Å", 0.1), ("Å", 0.1), ("A", 0.1), ("pm", 1e-3), ("m", 1e9),
        ("um", 1e3), ("µm", 1e3), ("μm", 1e3), ("mm", 1e6), ("[n_m]", 1), (b"nm", 1),
        ("nanometer", 1), ("Nanometres", 1), ("micron", 1e3), ("microns", 1e3),
        ("angstrom", 0.1), ("Ångström", 0.1), ("micrometer", 1e3), ("\\u00B5m", 1e3),
        ("meter", 1e9), ("picometer", 1e-3), ("cm", 1e7),
        ("", None), (None, None), ("pixel", None), ("px", None), ("pixels", None),
        ("inch", None), ("<undefined>", None), ("s", None),
    ],
)  # fmt: skip
def test_lengths(unit, nm):
    assert length_in_nm(2.0, unit) == (None if nm is None else pytest.approx(2 * nm))


@pytest.mark.parametrize("unit", ["1/nm", "nm^-1", "1 / nm", "1/Å"])
def test_reciprocal_lengths_are_refused(unit):
    with pytest.raises(InputError, match="inverse length"):
        length_in_nm(1.0, unit)


@pytest.mark.parametrize(
    ("unit", "s"),
    [("s", 1), ("sec", 1), ("seconds", 1), ("ms", 1e-3), ("milliseconds", 1e-3), ("µs", 1e-6),
     ("min", 60), ("minutes", 60), ("h", 3600), ("", None), ("nm", None)],
)  # fmt: skip
def test_times(unit, s):
    assert time_in_s(3.0, unit) == (None if s is None else pytest.approx(3 * s))
