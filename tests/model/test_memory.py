"""Patches that don't fit into memory: the same rows, the same weights, a memory that is bounded."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from atomvae.errors import InputError
from atomvae.model import zoo
from atomvae.model.agreement import class_probabilities
from atomvae.model.batches import Batches
from atomvae.model.bootstrap import resample
from atomvae.model.data import Picked, gather, read_images
from atomvae.model.encode import encode
from atomvae.model.stream import BLOCK, Stream, shuffle
from atomvae.model.train import TrainConfig, train
from atomvae.patches.store import PatchStore

CPU = torch.device("cpu")
TIGHT = 1e-4  # GB: less than the patches of `blobs`, so they stay on disk


def blobs(n=1400, size=12, seed=0):
    """Blobs at random places, some of them beyond the edge of the frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    c = rng.normal(size=(n, 2, 1, 1))
    image = np.exp(-((y - c[:, 0]) ** 2 + (x - c[:, 1]) ** 2) / 4)
    image = (image + rng.normal(scale=0.1, size=image.shape)).astype(np.float32)
    mask = np.ones(image.shape, bool)
    mask[::90, :, :2] = False
    return image, mask


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    image, mask = blobs()
    path = tmp_path_factory.mktemp("memory") / "patches.zarr"
    frame = np.arange(len(image)) // 20
    return PatchStore.from_arrays(image, mask, frame=frame, pixel_nm=0.02, path=path)


def in_arrays(store):
    image, mask = store.load()
    rest = {"atom_id": store.atom_id[:], "frame": store.frame[:], "pixel_nm": store.pixel_nm}
    return SimpleNamespace(image=image, mask=mask, **rest)


def weights(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_the_same_weights_from_disk_and_from_memory(stored):
    """Where the patches lie changes no bit of the result."""
    config = TrainConfig(epochs=2, memory_gb=TIGHT)  # too little for the store, not for arrays
    a, b = zoo.vae((12, 12)), zoo.vae((12, 12))
    pd.testing.assert_frame_equal(
        train(a, stored, config), train(b, in_arrays(stored), config), check_exact=True
    )
    assert equal(weights(a), weights(b))
    pd.testing.assert_frame_equal(encode(a, stored), encode(b, in_arrays(stored)))


def test_small_sets_are_as_good_as_one(stored):
    """The bound from sets of 256 rows against that of rows shuffled as a whole, over seeds."""
    bounds = {}
    for room in (TIGHT, None):
        bounds[room] = [
            train(zoo.vae((12, 12), seed=s), stored, TrainConfig(epochs=8, seed=s, memory_gb=room))[
                "held_out"
            ].max()
            for s in range(3)
        ]
    spread = np.std(bounds[None], ddof=1) + np.std(bounds[TIGHT], ddof=1)
    assert abs(np.mean(bounds[TIGHT]) - np.mean(bounds[None])) < 3 * spread


@pytest.mark.parametrize("size", [256, 700, 10_000])
def test_every_row_is_met_once_an_epoch(size):
    rows = np.setdiff1d(np.arange(3000), np.arange(700, 1000))  # some are held out
    sets = shuffle(rows, size, seed=1, epoch=2)
    order = np.concatenate(sets)
    assert np.array_equal(np.sort(order), rows) and max(map(len, sets)) <= size
    assert all(np.array_equal(a, b) for a, b in zip(sets, shuffle(rows, size, 1, 2), strict=True))
    assert not np.array_equal(order, np.concatenate(shuffle(rows, size, 1, 3)))
    assert not np.array_equal(order, np.concatenate(shuffle(rows, size, 2, 2)))
    mixed = [len(np.unique(part // BLOCK)) for part in np.split(order, [64, 128])[:2]]
    assert min(mixed) > 1 or size <= BLOCK  # a batch is of several places


def test_a_stream_gives_the_rows_that_are_asked_for(stored):
    """In the order of an epoch, kept, announced, or out of the blue."""
    images = read_images(stored, TIGHT)
    image, mask = stored.load()
    source = Stream([images], CPU)
    sets = shuffle(np.arange(1400), 300, 0, 0)
    order = np.concatenate(sets)
    source.follow(sets)
    source.keep(np.array([5, 1300]))
    for start in range(0, 1400, 48):  # batches across the ends of sets
        for rows in (order[start : start + 48], np.array([5, order[start], 1300, 5, 77])):
            ((pixels, counts),) = source.rows(rows)
            assert np.array_equal(pixels, image[rows]) and np.array_equal(counts, mask[rows])
        assert len(source.loaded) <= 3
    back = sets[0][:9]  # a run that went back to an earlier state
    assert np.array_equal(source.rows(back)[0][0], image[back])


def test_a_stopped_run_that_streams_ends_with_the_same_weights(stored, tmp_path):
    class Stop(Exception):
        pass

    def report(values):
        if values["step"] == 30:
            raise Stop

    config = TrainConfig(epochs=2, memory_gb=TIGHT, first_guess=False)
    whole, parts = zoo.skip_rvae((12, 12)), zoo.skip_rvae((12, 12))
    history = train(whole, stored, config)
    with pytest.raises(Stop):
        train(parts, stored, config, checkpoint=tmp_path / "c", progress=report)
    again = train(parts, stored, config, checkpoint=tmp_path / "c")
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    assert equal(weights(whole), weights(parts))


def test_targets_and_labels_stream_too(stored):
    known = {"class": np.where(np.arange(1400) % 40 == 0, np.arange(1400) // 40 % 3, -1)}
    a, b = zoo.ssvae((12, 12)), zoo.ssvae((12, 12))
    config = TrainConfig(epochs=1, memory_gb=TIGHT)
    train(a, stored, config, known=known)
    train(b, in_arrays(stored), config, known=known)
    assert equal(weights(a), weights(b))
    p, q = class_probabilities(a, stored), class_probabilities(b, in_arrays(stored))
    assert np.array_equal(p, q)
    c, d = zoo.ved((12, 12), (12, 12)), zoo.ved((12, 12), (12, 12))
    train(c, stored, config, targets=stored)
    train(d, in_arrays(stored), config, targets=in_arrays(stored))
    assert equal(weights(c), weights(d))


@pytest.mark.parametrize("kind", ["u1", "u2", ">u2", "u4", "i2", "i8", "f2", "f4", "f8", "?"])
def test_any_number_type_is_normalised_in_float64(kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2 if kind == "?" else 200, (40, 12, 12)).astype(kind)
    image.flags.writeable = False
    model = zoo.vae((12, 12))
    batches = Batches(model, read_images(image), None, None, CPU, measure=True)
    exact = image.astype(float)
    exact = ((exact - exact.mean()) / exact.std()).astype(np.float32)
    rows = np.array([7, 3, 3, 39])
    assert np.allclose(batches.take(rows)["image"][:, 0], exact[rows], rtol=1e-6, atol=1e-6)
    assert batches.source.rows(rows)[0][0].element_size() == image.itemsize


def test_rows_of_an_array_on_disk(stored):
    rows = np.random.default_rng(0).integers(1400, size=500)
    image = stored.image[:]
    assert np.array_equal(gather(stored.image, rows), image[rows])
    assert gather(stored.image, rows[:0]).shape == (0, 1, 12, 12)
    assert np.array_equal(Picked(stored.image, rows)[100:300], image[rows[100:300]])


def test_a_bootstrap_sample_of_a_store_stays_on_disk(stored):
    model = zoo.vae((12, 12))
    lazy, _, _ = resample(model, stored, 3, memory_gb=TIGHT)
    whole, _, _ = resample(model, stored, 3)
    assert isinstance(lazy.image, Picked) and isinstance(whole.image, np.ndarray)
    assert np.array_equal(lazy.image[:], whole.image) and np.array_equal(lazy.mask[:], whole.mask)
    config = TrainConfig(epochs=1, memory_gb=TIGHT)
    a, b = zoo.vae((12, 12)), zoo.vae((12, 12))
    train(a, lazy, config)
    train(b, whole, config)
    assert equal(weights(a), weights(b))


def test_nan_on_disk_is_found_before_work_starts(tmp_path):
    store = PatchStore.from_arrays(blobs()[0], path=tmp_path / "p.zarr")
    store.image[1111, 0, 3, 3] = np.nan
    for use in (lambda: train(zoo.vae((12, 12)), store, TrainConfig(memory_gb=TIGHT)),
                lambda: encode(zoo.vae((12, 12)), store)):  # fmt: skip
        with pytest.raises(InputError, match="patch 1111 has NaN"):
            use()


PEAK = """
import sys
import numpy as np, torch
from atomvae.model import zoo
from atomvae.model.encode import encode
from atomvae.model.train import TrainConfig, train
from atomvae.patches.store import PatchStore
torch.set_num_threads(1)
store, work = PatchStore.open(sys.argv[1]), sys.argv[2]
model = zoo.vae((48, 48))
class Stop(Exception): pass
def told(values):
    if values["step"] == 120: raise Stop
if work == "train":
    config = TrainConfig(epochs=9, batch_size=64, memory_gb=0.01)
    try: train(model, store, config, progress=told)
    except Stop: pass
else:
    encode(model, store)
# The peak of this program alone: ru_maxrss begins with that of the process that started it.
print(int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""


@pytest.mark.slow
def test_ten_times_the_patches_need_no_more_memory(tmp_path):
    """25 MB against 250 MB of patches and masks, by the peak of the resident set of a process."""
    peaks = {}
    for n in (2170, 21700):
        image, mask = blobs(2170, 48)
        repeated = np.tile(image, (n // 2170, 1, 1)), np.tile(mask, (n // 2170, 1, 1))
        PatchStore.from_arrays(*repeated, path=tmp_path / f"{n}.zarr")
        for work in ("train", "encode"):
            command = [sys.executable, "-c", PEAK, str(tmp_path / f"{n}.zarr"), work]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[work, n] = int(out.stdout)
    for work in ("train", "encode"):
        assert peaks[work, 21700] < 1.1 * peaks[work, 2170], peaks
