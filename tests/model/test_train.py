"""Training: exact resumption, data of all kinds, errors at the door."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from atomvae.errors import InputError
from atomvae.model import zoo
from atomvae.model.checkpoint import load_tensors
from atomvae.model.config import TermWeight, TrainConfig
from atomvae.model.data import read_images
from atomvae.model.encode import encode
from atomvae.model.train import split_rows, train

ZOO = {
    "vae": zoo.vae, "rvae": zoo.rvae, "skip_rvae": zoo.skip_rvae, "jvae": zoo.jvae,
    "jrvae": zoo.jrvae,
}  # fmt: skip
RNG = np.random.default_rng(0)


def blobs(n=60, size=10, seed=0):
    """Blobs at random places near the centre: something to learn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    c = rng.normal(size=(n, 2, 1, 1))
    image = np.exp(-((y - c[:, 0]) ** 2 + (x - c[:, 1]) ** 2) / 4)
    return image + rng.normal(scale=0.1, size=image.shape)


def weights(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class Stop(Exception):
    pass


def stop_at(step):
    def report(values):
        if values["step"] == step:
            raise Stop

    return report


@pytest.mark.parametrize("name", ZOO)
def test_training_lowers_the_loss(name):
    model = ZOO[name]((10, 10))
    history = train(model, blobs(), TrainConfig(epochs=12, batch_size=12))
    assert np.isfinite(history.drop(columns="epoch").to_numpy()).all()
    assert history["nll"].iloc[-1] < history["nll"].iloc[0] - 5
    assert history["held_out"].max() > history["held_out"].iloc[0] + 5
    table = encode(model, blobs())
    assert (table["z_0_sd"] > 0).all() and (table["reconstruction_error"] > 0).all()


def test_six_epochs_are_three_and_three(tmp_path):
    config = TrainConfig(epochs=6, batch_size=8)
    whole, parts = zoo.skip_rvae((10, 10)), zoo.skip_rvae((10, 10))
    expected = train(whole, blobs(), config)
    steps = int(expected["step"].iloc[2])
    with pytest.raises(Stop):
        train(parts, blobs(), config, checkpoint=tmp_path / "c", progress=stop_at(steps + 1))
    fresh = zoo.skip_rvae((10, 10), seed=9)  # everything must come from the file
    history = train(fresh, blobs(), config, checkpoint=tmp_path / "c")
    assert equal(weights(whole), weights(fresh))
    pd.testing.assert_frame_equal(expected, history, check_exact=True)
    again = train(zoo.skip_rvae((10, 10)), blobs(), config, checkpoint=tmp_path / "c")
    pd.testing.assert_frame_equal(expected, again, check_exact=True)


def test_stopped_anywhere_it_ends_with_the_same_weights(tmp_path):
    config = TrainConfig(epochs=5, batch_size=8, seed=3)
    whole = zoo.jrvae((10, 10))
    expected = train(whole, blobs(), config)
    total, rng = int(expected["step"].iloc[-1]), random.Random(1)
    model = zoo.jrvae((10, 10))
    for step in sorted(rng.sample(range(1, total), 4)):
        with pytest.raises(Stop):
            train(model, blobs(), config, checkpoint=tmp_path / "c", progress=stop_at(step))
    history = train(model, blobs(), config, checkpoint=tmp_path / "c")
    assert equal(weights(whole), weights(model))
    pd.testing.assert_frame_equal(expected, history, check_exact=True)


def epochs_done(path):
    return len(load_tensors(Path(path))[1]["state"]["history"]) if os.path.exists(path) else 0


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("t", {file!r})
t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)
import atomvae.model.train
atomvae.model.train.SAVE_SECONDS = 0.0  # every epoch
config, model = t.TrainConfig(epochs=25, batch_size=4), t.zoo.skip_rvae((10, 10))
steps = []
t.train(model, t.blobs(), config, checkpoint={path!r}, progress=lambda v: steps.append(v["step"]))
whole = t.zoo.skip_rvae((10, 10))
t.train(whole, t.blobs(), config)
assert t.equal(t.weights(model), t.weights(whole))
print("began at step", steps[0])
"""


def test_a_killed_process_is_continued_bit_for_bit(tmp_path):
    path = str(tmp_path / "checkpoint")
    script = SCRIPT.format(tests=os.path.dirname(__file__), file=__file__, path=path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 120
    while not epochs_done(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    done = epochs_done(path)
    assert 0 < done < 25
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert f"began at step {done * 14 + 1}" in result.stdout


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(zoo.vae((10, 10)), blobs(), TrainConfig(epochs=1), checkpoint=tmp_path / "c")
    for patches, config in [
        (blobs(), TrainConfig(epochs=2)),
        (blobs(seed=1), TrainConfig(epochs=1)),
    ]:
        with pytest.raises(InputError, match="other settings"):
            train(zoo.vae((10, 10)), patches, config, checkpoint=tmp_path / "c")
    (tmp_path / "bad").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="truncated"):
        train(zoo.vae((10, 10)), blobs(), TrainConfig(epochs=1), checkpoint=tmp_path / "bad")


def test_training_leaves_the_global_state_and_the_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, np_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(zoo.skip_rvae((10, 10)), blobs(), TrainConfig(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == np_before).all()
    assert not list(tmp_path.iterdir())


def test_the_result_depends_on_the_seed_alone():
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            model = zoo.rvae((10, 10))
            train(model, blobs(), TrainConfig(epochs=1, seed=seed))
            runs.append(weights(model))
    assert equal(runs[0], runs[1]) and not equal(runs[0], runs[2])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64, ">f4"])
def test_every_number_type_gives_the_same_result(kind):
    image = np.round(blobs(30) * 50 + 60)
    tables = []
    for patches in (image, image.astype(kind)):
        model = zoo.vae((10, 10))
        train(model, patches, TrainConfig(epochs=2))
        tables.append(encode(model, patches))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_large_offset_and_gain_do_not_matter():
    """What is normalised away has no influence on the latents (to rounding)."""
    a, b = zoo.vae((10, 10)), zoo.vae((10, 10))
    image = blobs(30)
    train(a, image, TrainConfig(epochs=2))
    train(b, image * 1e-6 + 1.0, TrainConfig(epochs=2))
    x, y = encode(a, image), encode(b, image * 1e-6 + 1.0)
    assert np.allclose(x, y, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 33])
def test_fewer_patches_than_a_batch_and_partial_batches_train(n):
    model = zoo.vae((10, 10))
    before = weights(model)
    seen = []
    history = train(
        model, blobs(n), TrainConfig(epochs=2, batch_size=32), progress=lambda v: seen.append(v)
    )
    after = weights(model)
    assert not torch.equal(before["heads.z.weight"], after["heads.z.weight"])
    assert len(seen) == int(history["step"].iloc[-1])
    assert {"epoch", "step", "steps", "loss", "nll", "z", "patches_per_s"} <= set(seen[0])
    assert np.isfinite(history["held_out"]).all()


def test_held_out_is_the_bound_on_all_pixels():
    """The figure in the history against a direct evaluation of the same weights."""
    model = zoo.rvae((10, 10))
    image = blobs(100)
    history = train(model, image, TrainConfig(epochs=3, first_guess=False))
    _, held = split_rows(read_images(image), 0.1, 0)
    x = torch.tensor((image[held] - model.offset.numpy()) / model.scale.numpy()).float()[:, None]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        values = [float(-sum(model.bound(x, keep=2).values()).mean()) for _ in range(60)]
    best = history["held_out"].max()
    assert abs(np.mean(values) - best) < 4 * np.std(values) + 1e-6


def store(n=40, frames=20):
    image = blobs(n)[:, None].astype(np.float32)
    mask = np.ones((n, 10, 10), bool)
    mask[3, :, :5] = False
    image[3, 0, :, :5] = np.nan
    return SimpleNamespace(
        image=image,
        mask=mask,
        atom_id=np.arange(n) + 1000,
        frame=np.repeat(np.arange(frames), n // frames),
        pixel_nm=0.02,
    )


def test_a_patch_store_with_masked_pixels():
    patches = store()
    model = zoo.skip_rvae((10, 10))
    history = train(model, patches, TrainConfig(epochs=2))
    table = encode(model, patches)
    assert np.isfinite(history.to_numpy()).all() and np.isfinite(table.to_numpy()).all()
    assert (table["atom_id"] == patches.atom_id).all()
    assert np.allclose(table["shift_y_nm"], table["shift_y"] * 0.02)
    patches.image[3, 0, :, :5] = 1e6  # whatever lies outside of the frame
    pd.testing.assert_frame_equal(encode(model, patches), table, check_exact=True)


def test_split_holds_out_blocks_of_frames():
    images = read_images(store(400, 100))
    training, held = split_rows(images, 0.1, seed=0)
    assert not set(images.frame[training]) & set(images.frame[held])
    assert len(held) == 40 and len(training) + len(held) == 400
    runs = np.split(
        np.unique(images.frame[held]),
        np.flatnonzero(np.diff(np.unique(images.frame[held])) > 1) + 1,
    )
    assert all(len(run) >= 5 for run in runs)


@pytest.mark.parametrize(
    "patches, match",
    [
        (np.full((5, 10, 10), np.nan), "NaN"),
        (np.zeros((5, 10, 10)), "equal"),
        (np.zeros((0, 10, 10)), "at least 1"),
        (np.zeros((5, 10)), "expected"),
        (np.zeros((5, 8, 8)), "model expects"),
        (np.zeros((5, 10, 10), complex), "real numbers"),
    ],
)
def test_bad_patches_are_refused_in_a_sentence(patches, match):
    with pytest.raises(InputError, match=match):
        train(zoo.vae((10, 10)), patches)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="epoch"):
        TrainConfig(epoch=3)
    with pytest.raises(InputError, match="zz"):
        train(zoo.vae((10, 10)), blobs(), TrainConfig(weights=(TermWeight(term="zz"),)))
    with pytest.raises(InputError, match="device"):
        train(zoo.vae((10, 10)), blobs(), TrainConfig(device="toaster"))


def test_divergence_is_said_and_survived(caplog, monkeypatch):
    from atomvae.model.model import Model

    bound, calls = Model.bound, []

    def poisoned(self, image, *args, **kwargs):
        terms = bound(self, image, *args, **kwargs)
        calls.append(1)
        return {n: t * torch.nan for n, t in terms.items()} if len(calls) == 20 else terms

    monkeypatch.setattr(Model, "bound", poisoned)
    model = zoo.vae((10, 10))
    with caplog.at_level(logging.WARNING):
        history = train(model, blobs(), TrainConfig(epochs=8, batch_size=8))
    assert "not finite" in caplog.text
    assert len(history) == 8 and np.isfinite(history.to_numpy()).all()
    assert all(t.isfinite().all() for t in model.state_dict().values())
    monkeypatch.setattr(Model, "bound", bound)
    smooth = train(zoo.vae((10, 10)), blobs(), TrainConfig(epochs=8, batch_size=8))
    ratio = history["learning_rate"] / smooth["learning_rate"]
    assert np.allclose(ratio[:2], 1) and np.allclose(ratio[2:], 1 / 3)  # the third epoch again
    monkeypatch.setattr(
        Model,
        "bound",
        lambda self, image, **k: {"nll": image.sum() * self.likelihood.level * torch.nan},
    )
    with pytest.raises(RuntimeError, match="outliers"):
        train(zoo.vae((10, 10)), blobs(), TrainConfig(epochs=8))


def test_capacity_is_reached_and_beta_lowers_the_kl():
    plain, beta, capacity = (zoo.vae((10, 10)) for _ in range(3))
    config = TrainConfig(epochs=60, batch_size=20)
    kl = [
        train(model, blobs(120), config.model_copy(update={"weights": weights}))["z"].iloc[-1]
        for model, weights in (
            (plain, ()),
            (beta, (TermWeight(term="z", weight=20.0),)),
            (capacity, (TermWeight(term="z", weight=100.0, capacity_nats=2.0),)),
        )
    ]
    assert kl[1] < 0.7 * kl[0]
    assert abs(kl[2] - 2.0) < 0.1
    assert abs(kl[0] - 2.0) > 0.5  # the plain model is elsewhere


def test_encoding_does_not_depend_on_the_batch_size_and_counts_its_passes():
    model = zoo.jrvae((10, 10))
    image = blobs(25)
    passes = []
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    a = encode(model, image, batch_size=25)
    assert len(passes) == 1
    b = encode(model, image, batch_size=4)
    assert len(passes) == 1 + 7
    assert np.allclose(a, b, atol=1e-5)
    assert set(a["class"]) <= {0, 1, 2} and a["class_p"].between(1 / 3, 1).all()
    assert a["angle"].between(-np.pi, np.pi).all()


def test_noise_of_each_channel_is_found():
    rng = np.random.default_rng(0)
    signal_ = rng.normal(size=(3000, 1, 1, 1)) * np.hanning(12)[:, None] * np.hanning(12)
    image = np.concatenate([signal_ + 0.2 * rng.normal(size=(3000, 1, 12, 12)),
                            signal_ + 0.5 * rng.normal(size=(3000, 1, 12, 12))], 1)  # fmt: skip
    model = zoo.vae((2, 12, 12), latent_dim=1)
    train(model, image, TrainConfig(epochs=16, batch_size=32))
    found = (model.likelihood.level * model.scale).detach().numpy()
    assert np.allclose(found, [0.2, 0.5], rtol=0.03)


def test_a_run_that_learns_no_more_stops_and_stays_stopped(tmp_path):
    """Pure noise: soon only the training patches are met better, by heart."""
    noise = np.random.default_rng(0).normal(size=(80, 8, 8))
    settings = {"epochs": 60, "batch_size": 24, "learning_rate": 0.01}
    path = tmp_path / "checkpoint.safetensors"
    history = train(zoo.vae((8, 8)), noise, TrainConfig(**settings, patience=3), checkpoint=path)
    best = int(history["held_out"].to_numpy().argmax())
    assert len(history) == best + 1 + 3 < 60
    whole = train(zoo.vae((8, 8)), noise, TrainConfig(**settings, patience=60))
    assert len(whole) == 60 and np.allclose(whole["loss"][: len(history)], history["loss"])
    steps = []
    again = zoo.vae((8, 8))
    train(again, noise, TrainConfig(**settings, patience=3), checkpoint=path, progress=steps.append)
    assert not steps
