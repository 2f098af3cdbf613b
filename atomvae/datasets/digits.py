"""Handwritten digits: the small ones that scikit-learn brings, and MNIST from a local file."""

import gzip
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atomvae.errors import InputError

Bytes = NDArray[np.uint8]

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801  # idx: unsigned bytes in 3 and in 1 dimensions
PARTS = ("train", "t10k")
WHERE = (
    "get train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz from https://storage.googleapis.com/cvdf-datasets/mnist/ into one "
    "folder and give that folder"
)


@dataclass(frozen=True)
class Digits:
    """Images of handwritten digits and what they show.

    Attributes
    ----------
    images : ndarray (n, rows, columns) float32 or uint8
        Bright strokes on a dark ground. float32 lies in [0, 1], uint8 in 0 to 255.
    label : ndarray (n,) int64
        The digit.
    n_train : int or None
        The first rows are for training, the others for testing; None when the source doesn't say.
    """

    images: NDArray[np.float32] | Bytes
    label: NDArray[np.int64]
    n_train: int | None = None


def digits() -> Digits:
    """Return the 1797 digits of 8 x 8 pixels that scikit-learn brings.

    Returns
    -------
    Digits
        Images (1797, 8, 8) float32 in steps of 1/16.

    References
    ----------
    Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits" (1998), UCI Machine Learning
    Repository, doi:10.24432/C50P49; here its test set, see `sklearn.datasets.load_digits`.

    Examples
    --------
    >>> digits().images.shape
    (1797, 8, 8)
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    source = load_digits()
    return Digits((source.images / 16).astype(np.float32), source.target.astype(np.int64))


def mnist(path: str | Path) -> Digits:
    """Read MNIST from local files; nothing is downloaded.

    Parameters
    ----------
    path : str or Path
        One of

        - a folder with the original idx files, each plain or gzipped, of the training set, the
          test set or both;
        - one idx file of images, whose labels lie beside it under the original name;
        - an .npz file with the arrays `images`, `labels` and, if known, `n_train`.

    Returns
    -------
    Digits
        Images (n, 28, 28) uint8, training rows first. Of MNIST as a whole, n is 70000 and n_train
        60000.

    Raises
    ------
    InputError
        No such file, a file of another kind, a damaged one, or images and labels that don't fit.

    References
    ----------
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (1998); the format idx is
    described there.

    Examples
    --------
    >>> mnist("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: nowhere does not exist; get train-images-idx3-ubyte.gz, ...
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; {WHERE}")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    images, label = _read_pair(path)
    n_train = {"train": len(images), "t10k": 0}.get(path.name.split("-")[0])
    return _checked(path, images, label, n_train)


def _checked(path: Path, images: Bytes, label: NDArray[np.generic], n_train: int | None) -> Digits:
    """Make `Digits` of arrays that fit each other."""
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise InputError(
            f"{path} has images {images.shape} {images.dtype}, expected (n, 28, 28) uint8; {WHERE}"
        )
    if label.shape != images.shape[:1] or label.dtype.kind not in "iu":
        raise InputError(
            f"{path} has labels {label.shape} {label.dtype} for {len(images)} images, expected one "
            f"whole number for each; {WHERE}"
        )
    if n_train is not None and not 0 <= n_train <= len(images):
        raise InputError(f"{path} has n_train {n_train}, expected 0 to {len(images)}; correct it")
    return Digits(images, label.astype(np.int64), n_train)


def _read_npz(path: Path) -> Digits:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no .npz file, or its end is missing; {WHERE}")
    try:
        # Opened here: numpy leaves a file open that it can't read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = {"images", "labels"} - set(file)
            if missing:
                raise InputError(
                    f"{path} has the arrays {sorted(file)}, expected images and labels; {WHERE}"
                )
            n_train = int(file["n_train"]) if "n_train" in file else None
            return _checked(path, file["images"], file["labels"], n_train)
    except InputError:
        raise
    # What numpy and the unpackers say of damaged, pickled, encrypted and strangely packed arrays.
    except (ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile,
            zlib.error, lzma.LZMAError) as error:  # fmt: skip
        raise InputError(f"{path} can't be read as .npz ({error}); {WHERE}") from error


def _read_folder(folder: Path) -> Digits:
    """Read the parts that are there, training set first."""
    found = {part: file for part in PARTS if (file := _beside(folder, f"{part}-images-idx3-ubyte"))}
    if not found:
        raise InputError(f"{folder} has no train-images or t10k-images idx file; {WHERE}")
    images, label = zip(*(_read_pair(file) for file in found.values()), strict=True)
    n_train = len(images[0]) if "train" in found else 0
    return _checked(folder, np.concatenate(images), np.concatenate(label), n_train)


def _beside(folder: Path, name: str) -> Path | None:
    """Find an idx file, plain or gzipped, also under the name that some archives unpack to."""
    for stem in (name, name.replace("-idx", ".idx")):
        for ending in ("", ".gz"):
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    return None


def _read_pair(path: Path) -> tuple[Bytes, Bytes]:
    """Images and labels of one idx file of images and its companion."""
    images = _read_idx(path, IMAGES_MAGIC, "images")
    name = path.name.removesuffix(".gz").replace(".idx", "-idx")
    name = name.replace("images", "labels").replace("idx3", "idx1")
    labels = _beside(path.parent, name)
    if labels is None:
        raise InputError(f"{path} has no labels beside it, expected {name} or {name}.gz; {WHERE}")
    label = _read_idx(labels, LABELS_MAGIC, "labels")
    if len(label) != len(images):
        raise InputError(
            f"{labels} has {len(label)} labels for the {len(images)} images of {path.name}, "
            f"expected one for each; {WHERE}"
        )
    return images, label


def _read_idx(path: Path, magic: int, what: str) -> Bytes:
    """Read an idx file of bytes: magic number, the lengths (big-endian, 4 bytes each), the data."""
    data = path.read_bytes()
    try:
        # By content, not by name: browsers unpack and keep the ending.
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); {WHERE}") from error
    axes = magic & 0xFF
    start = 4 * (1 + axes)
    if len(data) < start or int.from_bytes(data[:4], "big") != magic:
        raise InputError(
            f"{path} starts with {data[:4].hex() or 'nothing'}, expected {magic:08x} of an idx "
            f"file of {what}; {WHERE}"
        )
    shape = struct.unpack(f">{axes}I", data[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise InputError(f"{path} has {len(data)} bytes, expected {expected}; {WHERE}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()
