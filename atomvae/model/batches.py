"""The data of a training run on its device, in the units of the model."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.model.data import Images, measure_scale, normalise, read_images
from atomvae.model.known import read_known
from atomvae.model.model import Model

LABELLED = 0.125  # least share of patches with a known value in a batch


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
        Where the tensors are kept.
    measure
        Measure the units of the model on these data.

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
    ) -> None:
        self.images, self.device = images, device
        standardised = model.likelihood.standardised
        shown = images if targets is None else targets
        decodes = measure or targets is not None or model.shape == model.target_shape
        check_shapes(model, images, shown if decodes else None)
        if decodes:
            pixels = shown.pixels
            counted = pixels if shown.mask is None else pixels.swapaxes(0, 1)[:, shown.mask]
            model.likelihood.check(counted)
        if measure:
            model.offset[:], model.scale[:] = measure_scale(images)
            if standardised:
                model.target_offset[:], model.target_scale[:] = measure_scale(shown)
        image, self.mask = normalise(images, model.offset, model.scale)
        self.image, self.target = image.to(device), None
        if decodes and (targets is not None or not standardised):
            target, self.mask = normalise(shown, model.target_offset, model.target_scale)
            self.target = target.to(device)
        self.mask = None if self.mask is None else self.mask.to(device)
        values = read_known(model, known, len(images), measure=measure)
        self.known = {name: value.to(device) for name, value in values.items()}
        self.guess: dict[str, Tensor] = {}
        self.labelled = self._labelled(model)

    def _labelled(self, model: Model) -> NDArray[np.int64]:
        """Rows with values that are known for few patches: they must not be met too rarely."""
        given = {f.name for f in model.given}
        there = np.zeros(len(self.images), bool)
        for name, value in self.known.items():
            if name not in given:
                there |= ~value.isnan().any(1).cpu().numpy()
        rare = 0 < there.mean() < LABELLED
        return np.flatnonzero(there) if rare else np.empty(0, np.int64)

    def with_labelled(
        self, rows: NDArray[np.int64], allowed: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Add labelled rows among those allowed until they are a fair share of the batch."""
        if len(self.labelled) == 0:
            return rows  # the common case, at no cost for any number of patches
        pool = np.intersect1d(self.labelled, allowed)
        wanted = int(np.ceil(LABELLED * len(rows))) - int(np.isin(rows, pool).sum())
        if len(pool) == 0 or wanted <= 0:
            return rows
        return np.concatenate([rows, rng.choice(pool, wanted)])

    def guessed(self) -> NDArray[np.int64]:
        """Rows for which something is guessed."""
        there = np.zeros(len(self.images), bool)
        for value in self.guess.values():
            there |= ~value.isnan().any(1).cpu().numpy()
        return np.flatnonzero(there)

    def take(self, rows: NDArray[np.int64], guess: Collection[str] = ()) -> dict[str, Any]:
        """Give the arguments of `Model.bound` for some rows; `guess` names factors to guess."""
        index = torch.from_numpy(rows).to(self.device)
        known = {name: value[index] for name, value in self.known.items()}
        for name in guess:
            value = self.guess[name][index]
            told = known.get(name, torch.full_like(value, torch.nan))
            known[name] = value.where(told.isnan(), told)
        return {
            "image": self.image[index],
            "mask": None if self.mask is None else self.mask[index],
            "target": None if self.target is None else self.target[index],
            "known": known,
        }


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


def read_targets(targets: Any) -> Images | None:
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
    return read_images(targets)
