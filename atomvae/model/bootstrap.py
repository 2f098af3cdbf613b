"""Bootstrap samples of patches, and of what goes with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvae.model.batches import read_targets
from atomvae.model.data import Images, pick, read_images
from atomvae.model.known import read_known
from atomvae.model.model import Model

BLOCKS = 20  # frames from which on whole frames are drawn, and not patches
FEW = 0.5  # share of known values below which all of them stay in every sample


@dataclass(frozen=True)
class Sample:
    """Patches as `train` reads them: fields as in `Images`."""

    image: Any  # an array, or `Picked` rows of one on disk
    mask: Any
    atom_id: NDArray[np.int64]
    frame: NDArray[np.int64]
    pixel_nm: float | None


def resample(
    model: Model,
    patches: Any,
    seed: int,
    *,
    targets: Any = None,
    known: Mapping[str, ArrayLike] | None = None,
    memory_gb: float | None = None,
) -> tuple[Sample, Sample | None, dict[str, NDArray[Any]]]:
    """Draw as many patches as there are, with replacement: a bootstrap sample.

    Parameters
    ----------
    model
        Whose factors the known values are.
    patches, targets, known
        As for `train`.
    seed
        Of the draw.
    memory_gb
        A stored array that is larger is read as it is needed, see `read_images`.

    Returns
    -------
    patches, targets, known
        To be passed to `train`. Copies of a patch have one frame number, so they are held out
        together.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> sample, _, _ = resample(zoo.vae((2, 2)), np.arange(40).reshape(10, 2, 2), seed=0)
    >>> sample.image.shape, len(np.unique(sample.frame)) < 10
    ((10, 1, 2, 2), True)
    """
    images, shown = read_images(patches, memory_gb), read_targets(targets, memory_gb)
    n, frame = len(images), images.frame
    rng = np.random.default_rng([seed, 9])
    frames = np.unique(frame) if frame is not None else np.arange(0)
    if frame is not None and len(frames) >= BLOCKS:
        order = np.argsort(frame, kind="stable")
        blocks = np.split(order, np.searchsorted(frame[order], frames[1:]))
        rows = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
    else:
        rows, frame = rng.integers(n, size=n), rng.permutation(n)
    rare = np.zeros(n, bool)
    given = {f.name for f in model.given}
    for name, value in read_known(model, known, n).items():
        there = ~value.isnan().any(1).numpy()
        rare |= there & (there.mean() < FEW) & (name not in given)
    rows = np.concatenate([rows, np.setdiff1d(np.flatnonzero(rare), rows)])
    rows = np.sort(rows)  # near each other in a store are then near each other in the sample
    values = {name: np.asarray(value)[rows] for name, value in (known or {}).items()}
    return _take(images, rows, frame), _take(shown, rows, frame) if shown else None, values


def _take(images: Images, rows: NDArray[np.int64], frame: NDArray[np.int64]) -> Sample:
    """Take rows, with frame numbers (n,) of all."""
    mask = None if images.mask is None else pick(images.mask, rows)
    return Sample(
        pick(images.pixels, rows), mask, images.atom_id[rows], frame[rows], images.pixel_nm
    )
