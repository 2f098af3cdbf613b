"""Saved movies are read back with their calibration; the sample data are what they say."""

import numpy as np
import pandas as pd
import pytest

from atomvae.datasets.samples import graphene_movie, mos2_movie, perovskite_movie
from atomvae.datasets.simulate import simulate
from atomvae.errors import InputError
from atomvae.movie.read import read_movie


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.zarr", "folder"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_round_trip(tmp_path, name, dtype):
    preset = simulate("si_graphene").preset.replace({"dtype": dtype})
    simulation = simulate(preset, frames=3, shape=(64, 80), seed=2)
    path = simulation.save(tmp_path / name)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.frames.compute(), simulation.movie.frames.compute())
    assert movie.frames.dtype == np.dtype(dtype)
    assert movie.pixel_size == pytest.approx((0.0117, 0.0117), rel=1e-5)
    assert movie.frame_time == pytest.approx(simulation.movie.frame_time, rel=1e-5)
    assert not movie.metadata.get("warnings")
    truth = pd.read_csv(path.with_name(f"{path.stem}_truth.csv.gz"))
    assert list(truth.columns) == list(simulation.truth.columns)
    np.testing.assert_allclose(truth["y"], simulation.truth["y"], atol=1e-4)
    drift = pd.read_csv(path.with_name(f"{path.stem}_drift.csv.gz"))
    np.testing.assert_allclose(drift, simulation.drift, atol=1e-6)


def test_one_frame_and_saving_twice(tmp_path):
    simulation = simulate("graphene", frames=1, shape=(48, 48))
    first = simulation.save(tmp_path / "one.tif").read_bytes()
    truth = (tmp_path / "one_truth.csv.gz").read_bytes()
    assert simulation.save(tmp_path / "one.tif").read_bytes() == first
    assert (tmp_path / "one_truth.csv.gz").read_bytes() == truth
    assert read_movie(tmp_path / "one.tif").shape == (1, 48, 48)


def test_unknown_ending(tmp_path):
    with pytest.raises(InputError, match=r"a\.png.*\.tif"):
        simulate("graphene", frames=1, shape=(48, 48)).save(tmp_path / "a.png")


@pytest.mark.parametrize("make", [graphene_movie, mos2_movie, perovskite_movie])
def test_samples(make):
    simulation = make()
    assert simulation.truth.groupby("frame").size().min() > 300
    assert len(simulation.events) > 5


def test_sample_data_can_be_made_again(repository):
    simulation = graphene_movie()
    movie = read_movie(repository / "sample_data" / "si_graphene.tif")
    np.testing.assert_array_equal(movie.frames.compute(), simulation.movie.frames.compute())
    assert movie.pixel_size == pytest.approx((0.012, 0.012))
    assert not movie.metadata.get("warnings")
    truth = pd.read_csv(repository / "sample_data" / "si_graphene_truth.csv.gz")
    np.testing.assert_allclose(truth[["y", "x"]], simulation.truth[["y", "x"]], atol=1e-4)
    assert truth["species"].tolist() == simulation.truth["species"].tolist()


def test_every_sample_file_has_its_origin_and_licence(repository):
    folder = repository / "sample_data"
    text = (folder / "README.md").read_text()
    for sub in (path for path in folder.iterdir() if path.is_dir()):
        assert f"{sub.name}/LICENSE.txt" in text and (sub / "LICENSE.txt").is_file()
        assert all(file.stem in text for file in sub.iterdir())
    for file in (path for path in folder.iterdir() if path.is_file() and path.name != "README.md"):
        ending = file.name.removeprefix("si_graphene").removesuffix(".csv.gz")
        assert f"`{file.name}`" in text or f"`{ending}`" in text, file.name
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 5e6


def test_real_samples_open(repository):
    image = read_movie(repository / "sample_data" / "srtio3_nsid" / "STO_test_image.hf5")
    assert image.shape == (1, 470, 453)
    assert image.pixel_size == pytest.approx((0.014559, 0.014559), rel=1e-4)
    folder = repository / "sample_data" / "re_on_carbon"
    frame = read_movie(folder / "bpy_crop19.tif").frame(0)
    table = pd.read_csv(folder / "bpy_crop19.csv").dropna()
    bright = frame[table["Y"].astype(int), table["X"].astype(int)]
    assert len(table) == 118 and bright.mean() > frame.mean() + 2 * frame.std()
