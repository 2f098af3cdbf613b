"""The data of a training run on its device, in the units of the model."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.model.data import Images, Survey, block_rows, read_images, survey
from atomvae.model.known import read_known
from atomvae.model.model import Model
from atomvae.model.stream import open_source, set_rows, shuffle

LABELLED = 0.125  # least share of patches with a known value in a batch
MOST = 8192  # patches with a known value from which they are drawn to make up that share


class Batches:
    """Patches, what is to be decoded, and known values.

    Parameters
    ----------
    model
        Whose units are used.
    images
        What the encoder sees.
    targets
        What is to be decoded; None for the images themselves.
    known
        Values of factors by name, see `read_known`.
    device
        Where the tensors are wanted.
    measure
        Measure the units of the model on these data.
    memory_gb
        Bounds the sets of patches on disk that are in memory at a time, see `set_rows`.

    Raises
    ------
    InputError
        If the data don't fit the model.
    """

    def __init__(
        self,
        model: Model,
        images: Images,
        targets: Images | None,
        known: Mapping[str, ArrayLike] | None,
        device: torch.device,
        *,
        measure: bool = False,
        memory_gb: float | None = None,
    ) -> None:
        self.device, likelihood = device, model.likelihood
        decodes = measure or targets is not None or model.shape == model.target_shape
        check_shapes(model, images, (images if targets is None else targets) if decodes else None)
        check = likelihood.check if decodes else None
        found = survey(images, check if targets is None else None)
        images = replace(images, mask=None) if found.whole else images
        shown, aimed = images, found
        if targets is not None:
            aimed = survey(targets, check)
            shown = replace(targets, mask=None) if aimed.whole else targets
        if measure:
            model.offset[:], model.scale[:] = measured(found)
            if likelihood.standardised:
                model.target_offset[:], model.target_scale[:] = measured(aimed)
        self.images, self.shown = images, shown
        self.decodes = decodes and (targets is not None or not likelihood.standardised)
        self.units = [_units(model.offset, model.scale, device)]
        self.units.append(_units(model.target_offset, model.target_scale, device))
        self.source = open_source([images] if targets is None else [images, shown], device)
        values = math.prod(images.shape) + (0 if targets is None else math.prod(shown.shape))
        self.set_rows = set_rows(values, memory_gb)
        values_known = read_known(model, known, len(images), measure=measure)
        self.known = {name: value.to(device) for name, value in values_known.items()}
        self.guess: dict[str, Tensor] = {}
        self.labelled = self._labelled(model)

    def _labelled(self, model: Model) -> NDArray[np.int64]:
        """Rows with values that are known for few patches: they must not be met too rarely."""
        given = {f.name for f in model.given}
        there = np.zeros(len(self.images), bool)
        for name, value in self.known.items():
            if name not in given:
                there |= ~value.isnan().any(1).cpu().numpy()
        self.is_labelled = there
        rows = np.flatnonzero(there) if 0 < there.mean() < LABELLED else np.empty(0, np.int64)
        few: NDArray[np.int64] = rows[
            np.linspace(0, len(rows) - 1, min(len(rows), MOST), dtype=int)
        ]
        return few

    def with_labelled(
        self, rows: NDArray[np.int64], allowed: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Add labelled rows among those allowed (sorted) until they are a fair share of a batch."""
        if len(self.labelled) == 0:
            return rows  # the common case, at no cost for any number of patches
        at = np.searchsorted(allowed, self.labelled).clip(max=len(allowed) - 1)
        pool = self.labelled[allowed[at] == self.labelled]
        wanted = int(np.ceil(LABELLED * len(rows))) - int(self.is_labelled[rows].sum())
        if len(pool) == 0 or wanted <= 0:
            return rows
        return np.concatenate([rows, rng.choice(pool, wanted)])

    def guessed(self) -> NDArray[np.int64]:
        """Rows for which something is guessed."""
        there = np.zeros(len(self.images), bool)
        for value in self.guess.values():
            there |= ~value.isnan().any(1).cpu().numpy()
        return np.flatnonzero(there)

    def order(self, rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
        """Order the rows (sorted) of an epoch, see `shuffle`, and prepare to take them so."""
        sets = shuffle(rows, self.set_rows, seed, epoch)
        self.source.follow(sets)
        return np.concatenate(sets)

    def keep(self, *rows: NDArray[np.int64]) -> None:
        """Say which rows are taken again and again, beside those in the order of an epoch."""
        self.source.keep(np.unique(np.concatenate([*rows, self.labelled])))

    def walk(self, size: int) -> Iterator[tuple[NDArray[np.int64], dict[str, Any]]]:
        """Take all rows as they come, so many at a time: rows, and what `take` gives for them."""
        rows = np.arange(len(self.images))
        step = max(1, block_rows(self.images.shape) // size) * size
        self.source.follow([rows[i : i + step] for i in range(0, len(rows), step)])
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, self.take(part)

    def take(self, rows: NDArray[np.int64], guess: Collection[str] = ()) -> dict[str, Any]:
        """Give the arguments of `Model.bound` for some rows; `guess` names factors to guess."""
        index = torch.from_numpy(rows).to(self.device)
        known = {name: value[index] for name, value in self.known.items()}
        for name in guess:
            value = self.guess[name][index]
            told = known.get(name, torch.full_like(value, torch.nan))
            known[name] = value.where(told.isnan(), told)
        found = self.source.rows(rows)
        return {
            "image": _normalise(*found[0], *self.units[0]),
            "mask": found[-1][1] if self.decodes else found[0][1],
            "target": _normalise(*found[-1], *self.units[1]) if self.decodes else None,
            "known": known,
        }

    @cached_property
    def digest(self) -> str:
        """Say in short which patches, targets and known values these are, by a few of them."""
        rows = np.arange(0, len(self.images), max(1, len(self.images) // 64))
        sample = hashlib.sha256()
        for images in [self.images] if self.shown is self.images else [self.images, self.shown]:
            sample.update(np.ascontiguousarray(images.rows(rows)[0]).tobytes())
        for value in self.known.values():
            sample.update(value[torch.from_numpy(rows).to(self.device)].cpu().numpy().tobytes())
        return sample.hexdigest()


def measured(found: Survey) -> tuple[Tensor, Tensor]:
    """Offset and scale of patches, or InputError where a channel has no contrast."""
    if not found.has_contrast:
        raise InputError(
            "all pixels of a channel are equal, expected patches with contrast; check the data"
        )
    return found.offset, found.scale


def _units(offset: Tensor, scale: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and scale (c, 1, 1) as they are now."""
    a, b = (v.detach().clone().to(device)[:, None, None] for v in (offset, scale))
    return a, b


def _normalise(pixels: Tensor, mask: Tensor | None, offset: Tensor, scale: Tensor) -> Tensor:
    """Bring pixels of any number type to the units of a model: float32, zero where masked."""
    out = pixels.to(torch.float64, copy=True).sub_(offset).div_(scale)
    if mask is not None:
        out.masked_fill_(~mask[:, None], 0.0)
    return out.float()


def check_shapes(model: Model, images: Images, targets: Images | None) -> None:
    """Raise InputError unless patches and targets have the shapes that the model expects."""
    if images.shape != model.shape:
        raise InputError(
            f"patches have shape {images.shape} (channels, height, width), the model expects "
            f"{model.shape}; cut them alike or make a model of their shape"
        )
    if targets is None or (targets.shape == model.target_shape and len(targets) == len(images)):
        return
    raise InputError(
        f"targets are {len(targets)} of shape {targets.shape}, the model decodes "
        f"{model.target_shape} for each of {len(images)} patches; pass targets that fit"
    )


def read_targets(targets: Any, memory_gb: float | None = None) -> Images | None:
    """Read what is to be decoded: like patches, or spectra (n, length) as pictures of one row.

    Examples
    --------
    >>> read_targets(np.zeros((5, 64))).shape
    (1, 1, 64)
    """
    if targets is None:
        return None
    if not hasattr(targets, "image") and np.ndim(targets) == 2:
        targets = np.asarray(targets)[:, None]
    return read_images(targets, memory_gb)
