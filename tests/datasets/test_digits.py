"""Digits: the small set, and MNIST from idx and npz files, whole and damaged."""

import gzip
import hashlib
import socket

import numpy as np
import pytest

import atomvae
from atomvae.datasets.digits import digits, mnist
from atomvae.errors import InputError

IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"


def fake(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)


def idx(array):
    """The bytes of an idx file, written from its description."""
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


def write(folder, part, n, seed, ending="", dotted=False):
    images, labels = fake(n, seed)
    for name, array in ((IMAGES, images), (LABELS, labels)):
        name = name.format(part) + ending
        name = name.replace("-idx", ".idx") if dotted else name
        data = idx(array)
        (folder / name).write_bytes(gzip.compress(data) if ending else data)
    return images, labels


def same(found, images, labels, n_train):
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.label, labels)
    assert found.images.dtype == np.uint8 and found.label.dtype == np.int64
    assert found.n_train == n_train


def test_small_digits():
    small = digits()
    assert small.images.shape == (1797, 8, 8) and small.images.dtype == np.float32
    assert small.images.min() == 0 and small.images.max() == 1
    assert np.array_equal(small.images * 16, np.round(small.images * 16))
    assert small.label.shape == (1797,) and small.label.dtype == np.int64
    assert np.bincount(small.label).min() > 170 and small.n_train is None
    # a zero has a hole, a one has none
    middle = small.images[:, 3:5, 3:5].mean((1, 2))
    assert middle[small.label == 0].mean() < 0.1 < 0.7 < middle[small.label == 1].mean()


def test_public_names():
    assert atomvae.digits is digits and atomvae.mnist is mnist


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_folder_of_idx_files(tmp_path, ending, dotted):
    test = write(tmp_path, "t10k", 3, 2, ending, dotted)
    same(mnist(tmp_path), *test, 0)
    train = write(tmp_path, "train", 5, 1, ending, dotted)
    whole = [np.concatenate(pair) for pair in zip(train, test, strict=True)]
    same(mnist(str(tmp_path)), *whole, 5)


def test_one_idx_file(tmp_path):
    train = write(tmp_path, "train", 5, 1, ".gz")
    test = write(tmp_path, "t10k", 3, 2)
    mine = write(tmp_path, "mine", 2, 3)
    same(mnist(tmp_path / "train-images-idx3-ubyte.gz"), *train, 5)
    same(mnist(tmp_path / "t10k-images-idx3-ubyte"), *test, 0)
    same(mnist(tmp_path / "mine-images-idx3-ubyte"), *mine, None)


def test_unpacked_under_the_packed_name(tmp_path):
    train = write(tmp_path, "train", 5, 1, ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.decompress(file.read_bytes()))
    same(mnist(tmp_path), *train, 5)


def test_npz(tmp_path):
    images, labels = fake(6)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=labels, n_train=4)
    same(mnist(tmp_path / "a.npz"), images, labels, 4)
    np.savez(tmp_path / "b.npz", images=images, labels=labels.astype(np.int32))
    same(mnist(tmp_path / "b.npz"), images, labels, None)


def test_never_downloads(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(InputError, match=r"does not exist; get train-images.*https://"):
        mnist(tmp_path / "mnist.npz")
    assert len(digits().images) == 1797


def raises(match, path):
    with pytest.raises(InputError, match=match) as caught:
        mnist(path)
    assert "\n" not in str(caught.value) and str(path.name) in str(caught.value)


def test_damaged_idx(tmp_path):
    raises("no train-images or t10k-images", tmp_path)
    write(tmp_path, "train", 5, 1)
    images, labels = (tmp_path / name.format("train") for name in (IMAGES, LABELS))
    whole = images.read_bytes()
    for data, match in [
        (whole[:-1], "3935 bytes, expected 3936"),
        (whole + b"0", "3937 bytes, expected 3936"),
        (b"", "starts with nothing"),
        (whole[:10], "starts with 00000803"),
        (labels.read_bytes(), "starts with 00000801, expected 00000803"),
        (gzip.compress(whole)[:-20], "damaged"),
        (gzip.compress(whole)[:60] + b"x" * 60, "damaged"),
        (idx(np.zeros((5, 20, 20), np.uint8)), r"\(5, 20, 20\) uint8, expected \(n, 28, 28\)"),
        (whole[:4] + b"\xff" * 12, "bytes, expected 792281"),  # lengths that overflow 64 bits
    ]:
        images.write_bytes(data)
        raises(match, images)
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(InputError, match="4 labels for the 5 images"):
        mnist(images)
    labels.unlink()
    raises("no labels beside it, expected train-labels-idx1-ubyte or", images)


def test_damaged_npz(tmp_path):
    images, labels = fake(6)
    file = tmp_path / "a.npz"
    for arrays, match in [
        ({"images": images}, r"arrays \['images'\], expected images and labels"),
        ({"images": images, "labels": labels[:5]}, "labels .* for 6 images"),
        ({"images": images, "labels": labels / 2}, "labels .* float64"),
        ({"images": images / 255, "labels": labels}, "images .* float64"),
        ({"images": images, "labels": labels, "n_train": 7}, "n_train 7"),
        ({"images": images, "labels": labels, "n_train": [1, 2]}, "can't be read"),
        ({"images": images, "labels": labels.astype(object)}, "can't be read"),
    ]:
        np.savez(file, **arrays)
        raises(match, file)
    np.savez_compressed(file, images=images, labels=labels)
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + b"x" * 50 + whole[1050:])
    raises("can't be read", file)
    for data in (b"", b"no archive", whole[:-50]):
        file.write_bytes(data)
        raises("is no .npz file, or its end is missing", file)
    with file.open("wb") as stream:
        np.save(stream, images)  # one array under the name of an archive
    raises("is no .npz file", file)


@pytest.mark.real_data
def test_real_mnist(real_data, tmp_path):
    found = mnist(real_data / "mnist" / "mnist.npz")
    assert found.images.shape == (70000, 28, 28) and found.n_train == 60000
    assert list(found.label[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert list(found.label[60000:60005]) == [7, 2, 1, 0, 4]
    # The published checksum of the unpacked training images.
    data = idx(found.images[: found.n_train])
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert digest == "6bbc9ace898e44ae57da46a324031adb"
    (tmp_path / IMAGES.format("train")).write_bytes(data)
    labels = found.label[:60000].astype(np.uint8)
    (tmp_path / LABELS.format("train")).write_bytes(idx(labels))
    same(mnist(tmp_path), found.images[:60000], labels, 60000)
