"""What the members of an ensemble agree on, and where they don't."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical
from atomvae.model.batches import Batches
from atomvae.model.data import choose_device, read_images
from atomvae.model.encode import encode, summarise
from atomvae.model.model import Model
from atomvae.model.posterior import Posterior

ROWS = 512  # patches at a time
Known = Mapping[str, ArrayLike]


def class_probabilities(
    model: Model,
    patches: Any,
    *,
    known: Known | None = None,
    name: str = "class",
    device: str = "auto",
) -> NDArray[np.float64]:
    """Give the probability of every class of a discrete factor for each patch.

    Returns
    -------
    ndarray
        (n, classes), rows sum to one.

    Raises
    ------
    InputError
        If the model has no such factor, or patches and model don't fit.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> class_probabilities(zoo.jvae((8, 8)), np.zeros((2, 8, 8))).shape
    (2, 3)
    """
    kinds = {f.name: f for f in discrete(model)}
    if name not in kinds:
        raise InputError(f"the model has no discrete factor {name!r}, found {sorted(kinds)}")
    states = _states(model, patches, known, device)
    return np.concatenate(
        [state.probabilities(kinds[name]).double().cpu().numpy() for _, _, state in states]
    )


def discrete(model: Model) -> list[Categorical]:
    """Factors of a model that are classes and not given."""
    return [f for f in model.latent if isinstance(f, Categorical)]


def _states(
    model: Model, patches: Any, known: Known | None, device: str
) -> Iterator[tuple[NDArray[np.int64], Tensor, Posterior]]:
    """Rows, pixels that count (B, D), and what the model says of them, batch by batch."""
    images, target, home = read_images(patches, 0), choose_device(device), model.grid.device
    batches = Batches(model, images, None, known, target)
    model.to(target)
    try:
        for rows, batch in batches.walk(ROWS):
            valid = model.field.expand(len(rows), -1)
            if batch["mask"] is not None and model.shape == model.target_shape:
                valid = valid & batch["mask"].flatten(1)
            with torch.no_grad():
                state = model.infer(batch["image"], int(model.kept), batch["known"])
            yield rows, valid, state
    finally:
        model.to(home)


def match_classes(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find which class of another member is which class of the reference (Hungarian).

    Parameters
    ----------
    reference, other
        (n, classes) probabilities of the same patches.

    Returns
    -------
    ndarray
        (classes,): column k of the reference is column `result[k]` of the other.

    Examples
    --------
    >>> p = np.eye(3)[[0, 1, 2, 2]]
    >>> match_classes(p, p[:, [2, 0, 1]]).tolist()
    [1, 2, 0]
    """
    return np.asarray(linear_sum_assignment(-(reference.T @ other))[1], np.int64)


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of probabilities (..., classes), nats.

    Examples
    --------
    >>> entropy(np.array([0.5, 0.5])).round(4)
    np.float64(0.6931)
    """
    return np.asarray(-(p * np.log(np.clip(p, 1e-300, 1))).sum(-1))


def encode_ensemble(
    models: Sequence[Model],
    patches: Any,
    *,
    known: Known | None = None,
    targets: Any = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Encode patches with every member, bring the members into line, and average.

    Numbers mean something within a class: those of members that put a patch into another class
    than all together are left out of its means and spreads.

    Parameters
    ----------
    models
        Of one composition, see `train_ensemble`. Classes, content and angles are those of the
        first; how the others number their classes doesn't matter, nor their order.
    patches, known, targets, device
        As for `encode`.

    Returns
    -------
    DataFrame
        A row per patch:

        - atom_id;
        - for each discrete factor class, the most probable by the mean of the matched
          probabilities, class_p, its mean probability, and those of all, class_p0, class_p1, ...;
          class_entropy (nats) and class_information, the entropy of the mean less the mean
          entropy, nats: what the members disagree on (Houlsby et al., 2011);
        - every other column of `encode` that has an error bar (z_0, angle, shift_y, ...): the mean
          over members (circular for an angle), NAME_spread, the sd over members, and NAME_sd, the
          root mean square of their error bars. Before that, in each class, content is brought to
          the reference's by a shift and the orthogonal map that is best (Procrustes), and
          the angle by a turn (the circular mean of the difference; a motif that looks the same
          when turned may be met at several angles, which is then part of the spread);
        - reconstruction_error: mean over members;
        - dispersion: root mean square over members and pixels of what the members draw of the
          patch less their mean (unbiased), in units of the noise. It needs no alignment.

    Raises
    ------
    InputError
        If there are fewer than two members, or they are of different compositions.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> members = [zoo.jvae((8, 8), seed=s) for s in (0, 1)]
    >>> table = encode_ensemble(members, np.random.default_rng(0).normal(size=(9, 8, 8)))
    >>> [c for c in table if c.startswith("class")][:3]
    ['class', 'class_p', 'class_p0']
    """
    if len(models) < 2 or len({(m.latent, m.shape, m.target_shape) for m in models}) > 1:
        raise InputError("expected two or more models of one composition")
    tables = [encode(m, patches, known=known, targets=targets, device=device) for m in models]
    out = {"atom_id": tables[0]["atom_id"].to_numpy()}
    label = np.zeros((len(models), len(tables[0])), np.int64)  # of every member
    common = label[0]  # of all together
    for kind in discrete(models[0]):
        p = [
            class_probabilities(m, patches, known=known, name=kind.name, device=device)
            for m in models
        ]
        aligned = np.stack([q[:, match_classes(p[0], q)] for q in p])  # (members, n, classes)
        out |= _average_classes(kind.name, aligned)
        label = label * kind.size + aligned.argmax(2)
        common = common * kind.size + out[kind.name]
    agrees = label == common
    agrees[:, ~agrees.any(0)] = True
    for f in models[0].latent:
        if f.is_given or isinstance(f, Categorical):
            continue
        values = np.stack([t[f.columns].to_numpy(float) for t in tables])  # (members, n, size)
        if isinstance(f, Angle):
            values = _turn_alike(values, label)
        elif not f.is_pose and _is_free(models[0], f.name):
            values = _map_alike(values, label)
        for i, column in enumerate(f.columns):
            average = _average_angles if isinstance(f, Angle) else _average
            out[column], out[f"{column}_spread"] = average(values[..., i], agrees)
            if (sd := f"{column}_sd") in tables[0]:
                squares = np.stack([t[sd].to_numpy(float) ** 2 for t in tables])
                out[sd] = np.sqrt(_average(squares, agrees)[0])
    if "reconstruction_error" in tables[0]:
        out["reconstruction_error"] = np.mean([t["reconstruction_error"] for t in tables], 0)
    out["dispersion"] = dispersion(models, patches, known=known, device=device)
    return pd.DataFrame(out)


def _is_free(model: Model, name: str) -> bool:
    """Whether nothing but the prior says what the axes of content mean: no value was known."""
    unit = model.unit(name)
    return unit is None or bool((unit[0] == 0).all() and (unit[1] == 1).all())


def _average_classes(name: str, p: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Columns of a discrete factor, of matched probabilities (members, n, classes)."""
    mean = p.mean(0)
    every = {f"{name}_p{k}": mean[:, k] for k in range(mean.shape[1])}
    information = np.maximum(entropy(mean) - entropy(p).mean(0), 0.0)
    return {
        name: mean.argmax(1),
        f"{name}_p": mean.max(1),
        **every,
        f"{name}_entropy": entropy(mean),
        f"{name}_information": information,
    }


def _pairs(label: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Give members and, for each class, their rows, and those where the first is of that class."""
    for i in range(1, len(label)):
        for k in np.unique(label[i]):
            rows = label[i] == k
            yield i, rows, rows & (label[0] == k)


def _map_alike(values: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bring content (members, n, d) to that of the first member, class by class."""
    out = values.copy()
    for i, rows, both in _pairs(label):
        if both.sum() > values.shape[2]:
            centre, here = values[0, both].mean(0), values[i, both].mean(0)
            turn, _ = orthogonal_procrustes(values[i, both] - here, values[0, both] - centre)
            out[i, rows] = (values[i, rows] - here) @ turn + centre
    return out


def _turn_alike(angles: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bring angles (members, n, ...) to those of the first member, class by class."""
    out = angles.copy()
    for i, rows, both in _pairs(label):
        if both.any():
            out[i, rows] += np.angle(np.exp(1j * (angles[0, both] - angles[i, both])).mean())
    return out


def _average(
    values: NDArray[np.float64], counts: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sd (n,) over the members (members, n) that count; NaN for the sd of one."""
    number = counts.sum(0)
    mean = (values * counts).sum(0) / number
    squares = ((values - mean) ** 2 * counts).sum(0)
    return mean, np.sqrt(np.where(number > 1, squares / np.maximum(number - 1, 1), np.nan))


def _average_angles(
    angles: NDArray[np.float64], counts: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Circular mean and sd (n,) over the members (members, n) that count; NaN for the sd of one."""
    number = counts.sum(0)
    mean = (np.exp(1j * angles) * counts).sum(0) / number
    sd = np.sqrt(-2 * np.log(np.clip(np.abs(mean), 1e-12, 1)))
    return np.angle(mean), np.where(number > 1, sd, np.nan)


def dispersion(
    models: Sequence[Model], patches: Any, *, known: Known | None = None, device: str = "auto"
) -> NDArray[np.float64]:
    """Say how much members differ in what they draw of each patch.

    Parameters
    ----------
    models
        Of one composition.
    patches, known, device
        As for `encode`.

    Returns
    -------
    ndarray
        (n,): root mean square over members and the pixels that count of the drawn image less the
        mean of the members (unbiased, whatever their number), over that of their noise.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> model = zoo.vae((8, 8))
    >>> dispersion([model, model], np.random.default_rng(0).normal(size=(3, 8, 8))).tolist()
    [0.0, 0.0, 0.0]
    """
    n, (c, h, w) = len(read_images(patches, 0)), models[0].target_shape
    mean = np.zeros((n, h * w, c), np.float32)  # a running mean: no difference of large squares
    squares, noise, there = np.zeros((n, h * w, c), np.float32), np.zeros(n), np.zeros((n, h * w))
    for i, model in enumerate(models):
        offset, scale = (v.cpu().numpy() for v in (model.target_offset, model.target_scale))
        for rows, valid, state in _states(model, patches, known, device):
            drawn, sd = (v.double().cpu().numpy() * scale for v in _draw(model, state))
            step = drawn + offset - mean[rows]
            mean[rows] += step / (i + 1)
            squares[rows] += step * (drawn + offset - mean[rows])
            there[rows] = valid.cpu().numpy()
            noise[rows] += ((sd**2).mean(2) * there[rows]).sum(1)
    total = (squares.mean(2) * there).sum(1) / (len(models) - 1)
    return np.asarray(np.sqrt(np.maximum(total, 0) / np.maximum(noise / len(models), 1e-300)))


@torch.no_grad()
def _draw(model: Model, state: Posterior) -> tuple[Tensor, Tensor]:
    """Expected pixels and their noise (B, D, c), in the units of the model."""
    _, z = summarise(model, state)
    output = model.reconstruct(z, model.grid.expand(len(state.surprise), -1, -1))
    return model.likelihood.mean(output), model.likelihood.sd(output)


def co_association(labels: ArrayLike) -> NDArray[np.float32]:
    """Give the share of members that put two patches into one class; needs no alignment.

    Parameters
    ----------
    labels
        (members, n) classes.

    Returns
    -------
    ndarray
        (n, n), from 0 to 1 (Fred & Jain, IEEE Trans. Pattern Anal. 27, 835, 2005).

    Examples
    --------
    >>> co_association([[0, 0, 1], [2, 2, 2]]).tolist()
    [[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]]
    """
    array = np.asarray(labels)
    share = np.zeros((array.shape[1],) * 2, np.float32)
    for label in array:
        share += label[:, None] == label
    return share / np.float32(len(array))


def class_agreement(labels: ArrayLike) -> float:
    """Mean adjusted Rand index between members: 1 when all divide the patches alike, 0 by chance.

    Parameters
    ----------
    labels
        (members, n) classes; how a member numbers them doesn't matter.

    Returns
    -------
    float
        At most 1 (Hubert & Arabie, J. Classif. 2, 193, 1985).

    Examples
    --------
    >>> class_agreement([[0, 0, 1, 1], [1, 1, 0, 0]])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(
        np.mean([adjusted_rand_score(a, b) for a, b in combinations(np.asarray(labels), 2)])
    )
