"""Rows of patches, on the device, in memory, or read from disk while the model is at work."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomvae.model.data import Images, Part
from atomvae.patches.store import CHUNK_ROWS

BLOCK = 4 * CHUNK_ROWS  # successive patches that stay together until they are in memory
SHUFFLED = 2**25  # numbers in a set of rows that is shuffled as a whole
HELD = 0.5  # share of the free memory of a GPU that patches may fill
KEPT = -2  # in the place of the number of a set
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}

Rows = list[tuple[Tensor, Tensor | None]]  # pixels and mask of each of several Images


def set_rows(values: int, memory_gb: float | None) -> int:
    """Number of patches, of so many numbers each, that are shuffled as a whole.

    Two such sets are in memory at a time, and what is being read of the second.

    Examples
    --------
    >>> set_rows(48 * 48, None), set_rows(48 * 48, 0.1)
    (14563, 2893)
    """
    room = SHUFFLED if memory_gb is None else min(SHUFFLED, 1e9 * memory_gb / 3 / 5)
    return max(BLOCK, int(room) // values)


def shuffle(rows: NDArray[np.int64], size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Order the rows of an epoch: a function of seed and epoch alone.

    The blocks of the store are permuted and dealt out into sets, and the rows of each set are
    permuted. What is a single set is permuted as a whole.

    Parameters
    ----------
    rows
        Sorted.
    size
        Most rows in a set.
    seed, epoch
        Of the permutation.

    Returns
    -------
    list
        Rows of each set; each row is in one of them.

    Examples
    --------
    >>> sets = shuffle(np.arange(1000), 600, seed=0, epoch=3)
    >>> [len(rows) for rows in sets], len(np.unique(np.concatenate(sets)))
    ([500, 500], 1000)
    """
    rng = np.random.default_rng([seed, 2, epoch])
    number = -(-len(rows) // size)
    if number > 1:
        blocks = np.split(rows, np.flatnonzero(np.diff(rows // BLOCK)) + 1)
        rows = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
    return [rng.permutation(part) for part in np.array_split(rows, max(1, number))]


class Source(Protocol):
    """Where the rows of a run come from."""

    def follow(self, sets: Sequence[NDArray[np.int64]]) -> None:
        """Say in which order rows will be asked for, a set after the other."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Say which rows will be asked for at any time."""

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Give rows on the device, in the number type of the data."""


def open_source(sources: Sequence[Images], device: torch.device) -> Source:
    """Choose where the patches stay: on the device, in memory or on disk."""
    if not all(images.in_memory for images in sources):
        return Stream(sources, device)
    if device.type == "cuda":
        size = sum(images.pixels.nbytes * 1.25 for images in sources)
        if size < HELD * torch.cuda.mem_get_info(device)[0]:
            return OnDevice(sources, device)
    return InMemory(sources, device)


class InMemory:
    """Patches that fit into the memory of the machine.

    Examples
    --------
    >>> from atomvae.model.data import read_images
    >>> source = InMemory([read_images(np.arange(12).reshape(3, 2, 2))], torch.device("cpu"))
    >>> source.rows(np.array([1]))[0][0].tolist()
    [[[[4, 5], [6, 7]]]]
    """

    def __init__(self, sources: Sequence[Images], device: torch.device) -> None:
        self.sources, self.device = sources, device

    def follow(self, sets: Sequence[NDArray[np.int64]]) -> None:
        """Say in which order rows will be asked for: nothing is to be done."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Say which rows will be asked for at any time: nothing is to be done."""

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Give rows on the device, in the number type of the data."""
        return [
            (_tensor(pixels, self.device), None if mask is None else _tensor(mask, self.device))
            for pixels, mask in (images.rows(index) for images in self.sources)
        ]


class OnDevice(InMemory):
    """Patches that fit into the memory of a GPU."""

    def __init__(self, sources: Sequence[Images], device: torch.device) -> None:
        super().__init__(sources, device)
        whole = [(images.pixels, images.mask) for images in sources]
        self.whole = [
            (_tensor(pixels, device), None if mask is None else _tensor(mask, device))
            for pixels, mask in whole
        ]

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Give rows on the device, in the number type of the data."""
        at = torch.from_numpy(index).to(self.device)
        return [(_take(p, at), None if m is None else m[at]) for p, m in self.whole]


@dataclass(frozen=True)
class Set:
    """Some rows that are in memory: sorted, and pixels and mask of each of several Images."""

    rows: NDArray[np.int64]
    data: list[Part]


class Stream:
    """Patches on disk: the sets of rows at work are in memory, and the next one is read ahead.

    Examples
    --------
    >>> from atomvae.model.data import read_images
    >>> source = Stream([read_images(np.arange(12).reshape(3, 2, 2))], torch.device("cpu"))
    >>> source.follow([np.array([2, 0]), np.array([1])])
    >>> source.rows(np.array([2]))[0][0].tolist(), sorted(source.loaded)
    ([[[[8, 9], [10, 11]]]], [0, 1])
    """

    def __init__(self, sources: Sequence[Images], device: torch.device) -> None:
        self.sources, self.device = sources, device
        self.number = np.full(len(sources[0]), -1, np.int32)  # of the set of each row
        self.is_kept = np.zeros(len(sources[0]), bool)
        self.kept = self._read(np.arange(0))
        self.sets: Sequence[NDArray[np.int64]] = []
        self.loaded: dict[int, Future[Set]] = {}
        self.room: dict[int, list[Part]] = {}  # that the sets in memory take up
        self.free: list[list[Part]] = []  # used again and again: else the memory is riddled
        self.reader = ThreadPoolExecutor(1, "patches")

    def follow(self, sets: Sequence[NDArray[np.int64]]) -> None:
        """Say in which order rows will be asked for, a set after the other."""
        for i in [*self.loaded]:
            self._drop(i)
        if max(map(len, sets)) > max(map(len, self.sets), default=0):
            self.free = []
        self.sets = sets
        self.number[:] = -1
        for i, rows in enumerate(sets):
            self.number[rows] = i

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Say which rows will be asked for at any time: they stay in memory."""
        self.kept = self._read(np.unique(rows))
        self.is_kept[:] = False
        self.is_kept[rows] = True

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Give rows on the device, in the number type of the data."""
        place = np.where(self.is_kept[index], KEPT, self.number[index])
        numbers = np.unique(place).tolist()
        self._load([i for i in numbers if i >= 0])
        parts: list[list[Part]] = []
        for i in numbers:
            wanted = index[place == i]
            if i >= 0:
                found = self.loaded[i].result()
            else:  # single rows that nobody announced are read here and now
                found = self.kept if i == KEPT else self._read(np.unique(wanted))
            at = np.searchsorted(found.rows, wanted)
            parts.append([(p[at], None if m is None else m[at]) for p, m in found.data])
        if len(parts) > 1:
            back = np.argsort(np.argsort(place, kind="stable"))
            parts = [[_join(some, back) for some in zip(*parts, strict=True)]]
        return [
            (_tensor(p, self.device), None if m is None else _tensor(m, self.device))
            for p, m in parts[0]
        ]

    def _load(self, wanted: list[int]) -> None:
        """See to it that sets are in memory or on their way, and no others but the next."""
        if not wanted:
            return
        ahead = wanted if len(wanted) > 1 else [*wanted, wanted[0] + 1]
        for i in [i for i in self.loaded if i not in ahead]:
            self._drop(i)
        for i in ahead:
            if i < len(self.sets) and i not in self.loaded:
                n = max(map(len, self.sets))
                self.room[i] = self.free.pop() if self.free else [s.room(n) for s in self.sources]
                rows = np.sort(self.sets[i])
                self.loaded[i] = self.reader.submit(self._read, rows, self.room[i])

    def _drop(self, i: int) -> None:
        """Give up a set; the one reader is done with its room before it fills it anew."""
        self.loaded.pop(i).cancel()
        self.free.append(self.room.pop(i))

    def _read(self, rows: NDArray[np.int64], room: Sequence[Part | None] = ()) -> Set:
        """Read sorted rows."""
        places = room or [None] * len(self.sources)
        data = [images.rows(rows, r) for images, r in zip(self.sources, places, strict=True)]
        return Set(rows, data)


def _join(parts: Sequence[Part], order: NDArray[np.int64]) -> Part:
    """Put parts together in an order."""
    masks = [mask for _, mask in parts if mask is not None]
    mask = np.concatenate(masks)[order] if masks else None
    return np.concatenate([pixels for pixels, _ in parts])[order], mask


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Move an array of any byte order to the device."""
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    return torch.from_numpy(native).to(device)


def _take(tensor: Tensor, at: Tensor) -> Tensor:
    """Take rows; torch can't do so of unsigned numbers wider than a byte."""
    signed = SIGNED.get(tensor.dtype)
    return tensor[at] if signed is None else tensor.view(signed)[at].view(tensor.dtype)
