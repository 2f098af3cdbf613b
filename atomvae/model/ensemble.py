"""Several models of the same data: what they agree on, and where they don't."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from atomvae.errors import InputError
from atomvae.latent import Categorical
from atomvae.model.batches import Batches
from atomvae.model.data import choose_device, read_images
from atomvae.model.draw import reconstruct
from atomvae.model.encode import encode
from atomvae.model.files import load_model, save_model
from atomvae.model.model import Model
from atomvae.model.train import TrainConfig, train

ROWS = 512  # patches at a time


def train_ensemble(
    model: Model,
    patches: Any,
    config: TrainConfig | None = None,
    *,
    members: int = 8,
    warm_up: int = 10,
    targets: Any = None,
    known: Mapping[str, ArrayLike] | None = None,
    folder: str | Path | None = None,
) -> list[Model]:
    """Train members from a shared warm start.

    The members share what the warm start has found, pose and classes above all, and differ in
    what the data leave open: each goes on with an order of patches, pixels and draws of its own.
    A shared start understates how much independent trainings would differ.

    Parameters
    ----------
    model
        Untrained, from `zoo` or composed; it ends as the warm start.
    patches, targets, known
        As for `train`.
    config
        Settings of the members; member i has the seed `config.seed + 1 + i`.
    members
        How many.
    warm_up
        Epochs of the warm start.
    folder
        Where finished models and checkpoints are kept: a call that was stopped goes on there.

    Returns
    -------
    list of Model
        The members, trained.

    Raises
    ------
    InputError
        If there are fewer than two members, or the data don't fit the model.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> images = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> short = TrainConfig(epochs=1)
    >>> len(train_ensemble(zoo.vae((8, 8)), images, short, members=2, warm_up=1))
    2
    """
    if members < 2:
        raise InputError(f"members is {members}, expected at least 2")
    config = config or TrainConfig()
    place = Path(folder) if folder is not None else None
    settings = config.model_copy(update={"epochs": warm_up})
    warm = _finished(model, "warm_up", place, patches, settings, targets, known)
    out = []
    for i in range(members):
        settings = config.model_copy(update={"seed": config.seed + 1 + i})
        member = copy.deepcopy(warm)
        out.append(_finished(member, f"member_{i:02d}", place, patches, settings, targets, known))
    return out


def _finished(
    model: Model,
    name: str,
    place: Path | None,
    patches: Any,
    config: TrainConfig,
    targets: Any,
    known: Mapping[str, ArrayLike] | None,
) -> Model:
    """Train a model, or read it where that was done before."""
    if place is None:
        train(model, patches, config, targets=targets, known=known)
        return model
    if (place / name / "model.yaml").exists():
        model.load_state_dict(load_model(place / name).state_dict())
        return model.eval()
    place.mkdir(parents=True, exist_ok=True)
    checkpoint = place / f"{name}.checkpoint.safetensors"
    train(model, patches, config, targets=targets, known=known, checkpoint=checkpoint)
    save_model(model, place / name)
    checkpoint.unlink(missing_ok=True)
    return model


def class_probabilities(
    model: Model,
    patches: Any,
    *,
    known: Mapping[str, ArrayLike] | None = None,
    name: str = "class",
    device: str = "auto",
) -> NDArray[np.float64]:
    """Give the probability of every class of a discrete factor for each patch.

    Returns
    -------
    ndarray
        (n, classes), rows sum to one.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> class_probabilities(zoo.jvae((8, 8)), np.zeros((2, 8, 8))).shape
    (2, 3)
    """
    kind = next((f for f in model.latent if f.name == name and isinstance(f, Categorical)), None)
    if kind is None:
        raise InputError(f"the model has no discrete factor {name!r}")
    images, target, home = read_images(patches), choose_device(device), model.grid.device
    batches = Batches(model, images, None, known, target)
    model.to(target)
    try:
        parts = []
        for i in range(0, len(images), ROWS):
            batch = batches.take(np.arange(i, min(i + ROWS, len(images))))
            with torch.no_grad():
                state = model.infer(batch["image"], int(model.kept), batch["known"])
                parts.append(state.probabilities(kind).double().cpu().numpy())
    finally:
        model.to(home)
    return np.concatenate(parts)


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
    known: Mapping[str, ArrayLike] | None = None,
    targets: Any = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Encode patches with every member, bring the members into line, and average.

    Parameters
    ----------
    models
        Of one composition, see `train_ensemble`. The first is the reference of the alignment, so
        the order of the others doesn't matter, nor how any of them numbers its classes.
    patches, known, targets, device
        As for `encode`.

    Returns
    -------
    DataFrame
        A row per patch:

        - atom_id;
        - class, the most probable by the mean of the matched probabilities, class_p0, class_p1,
          ... these means, class_entropy (nats) and class_information: the entropy of the mean
          less the mean entropy, nats: what the members disagree on (Houlsby et al., 2011);
        - z_0, ... and z_0_spread, ...: mean and sd over members, after the orthogonal map that
          brings a member's content closest to the reference's (Procrustes);
        - angle and angle_spread (radians): circular mean and sd over members, after the turn of
          each motif (class) that brings a member's angles closest to the reference's;
        - reconstruction_error: mean over members;
        - dispersion: root mean square over members and pixels of what the members draw of the
          patch less their mean, in units of what their mean leaves of all patches.

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
    ['class', 'class_p0', 'class_p1']
    """
    if len(models) < 2 or len({m.latent for m in models}) > 1:
        raise InputError("expected two or more models of one composition")
    tables = [encode(m, patches, known=known, targets=targets, device=device) for m in models]
    out = pd.DataFrame({"atom_id": tables[0]["atom_id"]})
    label = np.zeros(len(out), np.int64)
    if any(f.name == "class" and isinstance(f, Categorical) for f in models[0].latent):
        label = _average_classes(out, models, patches, known, device)
    names = [str(c) for c in tables[0]]
    columns = [c for c in names if c.startswith("z_") and not c.endswith("_sd")]
    if columns:
        values = [t[columns].to_numpy(float) for t in tables]
        for name, stack in zip(columns, np.moveaxis(_turn_alike(values), 2, 0), strict=True):
            out[name], out[f"{name}_spread"] = stack.mean(0), stack.std(0)
    if "angle" in tables[0]:
        angles = _zero_alike([t["angle"].to_numpy() for t in tables], label)
        mean = np.exp(1j * angles).mean(0)
        out["angle"] = np.angle(mean)
        out["angle_spread"] = np.sqrt(-2 * np.log(np.clip(np.abs(mean), 1e-12, 1)))
    if "reconstruction_error" in tables[0]:
        out["reconstruction_error"] = np.mean([t["reconstruction_error"] for t in tables], 0)
    out["dispersion"] = _dispersion(models, patches, known, targets, device)
    return out


def _average_classes(
    out: pd.DataFrame,
    models: Sequence[Model],
    patches: Any,
    known: Mapping[str, ArrayLike] | None,
    device: str,
) -> NDArray[np.int64]:
    """Put in the columns of the class; gives the class of each patch."""
    p = [class_probabilities(m, patches, known=known, device=device) for m in models]
    aligned = np.stack([q[:, match_classes(p[0], q)] for q in p])  # (members, n, classes)
    mean = aligned.mean(0)
    out["class"] = mean.argmax(1)
    for k in range(mean.shape[1]):
        out[f"class_p{k}"] = mean[:, k]
    out["class_entropy"] = entropy(mean)
    out["class_information"] = np.maximum(entropy(mean) - entropy(aligned).mean(0), 0.0)
    return out["class"].to_numpy()


def _turn_alike(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Bring contents (n, d) of members to that of the first: (members, n, d)."""
    centre = values[0].mean(0)
    out = [values[0]]
    for other in values[1:]:
        moved = other - other.mean(0)
        turn, _ = orthogonal_procrustes(moved, values[0] - centre)
        out.append(moved @ turn + centre)
    return np.stack(out)


def _zero_alike(
    angles: Sequence[NDArray[np.float64]], label: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Bring angles (n,) of members to those of the first, class by class: (members, n)."""
    out = np.stack(angles)
    for k in np.unique(label):
        there = label == k
        for i in range(1, len(out)):
            offset = np.angle(np.exp(1j * (out[0, there] - out[i, there])).mean())
            out[i, there] += offset
    return out


def _dispersion(
    models: Sequence[Model],
    patches: Any,
    known: Mapping[str, ArrayLike] | None,
    targets: Any,
    device: str,
) -> NDArray[np.float64]:
    """How much members differ in what they draw of each patch (n,), see `encode_ensemble`."""
    drawn = np.stack([reconstruct(m, patches, known=known, device=device) for m in models])
    drawn = drawn.reshape(*drawn.shape[:2], models[0].target_shape[0], -1)  # (m, n, c, pixels)
    drawn = drawn[..., models[0].field.cpu().numpy()]
    mean = drawn.mean(0)
    spread = ((drawn - mean) ** 2).mean((0, 2, 3))
    shown = read_images(patches if targets is None else targets).pixels.astype(float)
    unit = np.asarray(models[0].target_scale.cpu()).mean() ** 2
    if shown.shape[1:] == models[0].target_shape:
        shown = shown.reshape(*shown.shape[:2], -1)[..., models[0].field.cpu().numpy()]
        unit = ((shown - mean) ** 2).mean()
    return np.asarray(np.sqrt(spread / unit))


def co_association(labels: ArrayLike) -> NDArray[np.float64]:
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
    return np.asarray((array[:, :, None] == array[:, None]).mean(0))


def compare_class_numbers(
    make: Callable[[int], Model],
    patches: Any,
    numbers: Sequence[int] = (2, 3, 4, 5, 6),
    config: TrainConfig | None = None,
    *,
    members: int = 4,
    warm_up: int = 2,
) -> pd.DataFrame:
    """Train small ensembles with different numbers of classes, and see how far members agree.

    Parameters
    ----------
    make
        Makes an untrained model with a number of classes.
    patches, config, members, warm_up
        As for `train_ensemble`. A short warm start leaves the members free to disagree.
    numbers
        Numbers of classes to try.

    Returns
    -------
    DataFrame
        A row per number: classes, agreement (mean adjusted Rand index between members; 1 when all
        divide the patches alike, 0 by chance), information (mean class_information, nats) and
        reconstruction_error (mean).

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> images = np.random.default_rng(0).normal(size=(30, 8, 8))
    >>> table = compare_class_numbers(
    ...     lambda k: zoo.jvae((8, 8), classes=k), images, (2,), TrainConfig(epochs=1), members=2)
    >>> list(table)
    ['classes', 'agreement', 'information', 'reconstruction_error']
    """
    from sklearn.metrics import adjusted_rand_score

    rows = []
    for k in numbers:
        models = train_ensemble(make(k), patches, config, members=members, warm_up=warm_up)
        labels = [class_probabilities(m, patches).argmax(1) for m in models]
        pairs = [adjusted_rand_score(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
        table = encode_ensemble(models, patches)
        rows.append({
            "classes": k,
            "agreement": float(np.mean(pairs)),
            "information": float(table["class_information"].mean()),
            "reconstruction_error": float(table["reconstruction_error"].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)
