"""Several models of the same data."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError
from atomvae.model.agreement import class_agreement, discrete, entropy
from atomvae.model.batches import read_targets
from atomvae.model.bootstrap import resample
from atomvae.model.config import TrainConfig
from atomvae.model.data import read_images
from atomvae.model.encode import encode
from atomvae.model.files import describe, load_model, save_model
from atomvae.model.model import Model
from atomvae.model.side_by_side import side_by_side
from atomvae.model.train import train

Known = Mapping[str, ArrayLike]


def train_ensemble(
    model: Model,
    patches: Any,
    config: TrainConfig | None = None,
    *,
    members: int = 8,
    warm_up: int = 10,
    targets: Any = None,
    known: Known | None = None,
    folder: str | Path | None = None,
) -> list[Model]:
    """Train members from a shared warm start, each on a bootstrap sample of the patches.

    The members share what the warm start has found, pose and classes above all, and differ in
    what the data leave open: each goes on with patches drawn from all of them with replacement,
    and with an order and noise of its own. Neighbouring patches overlap, so whole frames are drawn
    where there are at least 20. Values that are known for few patches stay known in every sample.

    Parameters
    ----------
    model
        Untrained, from `zoo` or composed, or trained before; it is left as it is.
    patches, targets, known
        As for `train`.
    config
        Settings of the warm start and the members, each of which has a seed of its own; so many
        members as it has processes are trained at the same time.
    members
        How many.
    warm_up
        Epochs of the warm start; 0 starts the members from the model as it is.
    folder
        Where finished models and checkpoints are kept: a call that was stopped goes on there.

    Returns
    -------
    list of Model
        The members, trained.

    Raises
    ------
    InputError
        If there are fewer than two members, the data don't fit the model, or the folder is that of
        another ensemble.

    Notes
    -----
    Resampling is what makes the dispersion of the members honest. On cards (800 patches of 24 x 24
    pixels, four members) the members differed in what they drew by 0.90 (VAE), 0.98 (with classes)
    and 1.00 (skip-rVAE) of what models of independent data differ by; with all patches in another
    order, by 0.60, 0.52 and 0.77. A member is 2 to 10 % less accurate for it, their mean is not.
    With rectifiers, as `zoo.vae` has them now, the VAE's 0.90 is 0.71: they follow their own data
    more closely. Members that are trained for less time are closer to each other than the data
    warrant: on 3,000 cards of 48 x 48 with classes, 0.92 after a whole run each, 0.68 after 3
    epochs.

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
    if warm_up < 0:
        raise InputError(f"warm_up is {warm_up} epochs, expected 0 or more")
    config = config or TrainConfig()
    place = Path(folder) if folder is not None else None
    if place is not None:
        _claim(place, _identity(model, patches, config, warm_up, targets, known))
    start = copy.deepcopy(model)
    if warm_up:
        settings = config.model_copy(update={"epochs": warm_up, "processes": 1})
        _finish(start, "warm_up", place, patches, settings, targets, known)
    jobs = [(start, i, place, patches, config, targets, known) for i in range(members)]
    out = []
    for state in side_by_side(_member, jobs, config.processes):
        out.append(copy.deepcopy(start).eval())
        out[-1].load_state_dict({name: torch.from_numpy(v) for name, v in state.items()})
    return out


def _member(
    start: Model,
    i: int,
    place: Path | None,
    patches: Any,
    config: TrainConfig,
    targets: Any,
    known: Known | None,
) -> dict[str, NDArray[Any]]:
    """Train one member on its sample; gives its weights."""
    seed = _seed(config, i)
    sample = resample(
        start, patches, seed, targets=targets, known=known, memory_gb=config.memory_gb
    )
    settings = config.model_copy(update={"seed": seed, "processes": 1})
    member = copy.deepcopy(start)
    _finish(member, f"member_{i:02d}", place, sample[0], settings, *sample[1:])
    return {name: value.cpu().numpy() for name, value in member.state_dict().items()}


def _seed(config: TrainConfig, member: int) -> int:
    """Seed of a member: no two ensembles share one."""
    return int(np.random.SeedSequence([config.seed, 8, member]).generate_state(1)[0])


def _identity(
    model: Model, patches: Any, config: TrainConfig, warm_up: int, targets: Any, known: Known | None
) -> dict[str, Any]:
    """Say what must be the same for the models in a folder to be of this ensemble."""
    images, shown = read_images(patches, 0), read_targets(targets, 0)
    few = [np.asarray(values)[:: _step(values)] for values in (known or {}).values()]
    for part in (images, shown):
        if part is not None:
            few.append(part.rows(np.arange(0, len(part), _step(part)))[0])
    sample = hashlib.sha256()
    for values in few:
        sample.update(np.ascontiguousarray(values).tobytes())
    for value in model.state_dict().values():
        sample.update(value.cpu().numpy().tobytes())
    return {
        "model": describe(model),
        "config": config.model_dump(mode="json", exclude={"device", "processes"}),
        "warm_up": warm_up,
        "patches": [len(images), *images.shape],
        "sample": sample.hexdigest(),
    }


def _step(values: Any) -> int:
    """Step through values that meets some 64 of them."""
    return max(1, len(values) // 64)


def _claim(place: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as that of an ensemble, or raise if it is of another."""
    place.mkdir(parents=True, exist_ok=True)
    mark = place / "ensemble.json"
    if not mark.exists():
        part = mark.with_name("ensemble.json.part")
        part.write_text(json.dumps(identity))
        part.replace(mark)
    elif json.loads(mark.read_text()) != json.loads(json.dumps(identity)):
        raise InputError(
            f"{place} holds an ensemble of another model, other settings or patches; delete it to "
            "start anew or choose another folder"
        )


def _finish(
    model: Model,
    name: str,
    place: Path | None,
    patches: Any,
    config: TrainConfig,
    targets: Any,
    known: Known | None,
) -> None:
    """Train a model in place, or read it where that was done before."""
    if place is None:
        train(model, patches, config, targets=targets, known=known)
        return
    if (place / name / "model.yaml").exists():
        model.load_state_dict(load_model(place / name).state_dict())
        return
    checkpoint = place / f"{name}.checkpoint.safetensors"
    train(model, patches, config, targets=targets, known=known, checkpoint=checkpoint)
    save_model(model, place / name)
    checkpoint.unlink(missing_ok=True)


def compare_class_numbers(
    make: Callable[[int], Model],
    patches: Any,
    numbers: Sequence[int] = (2, 3, 4, 5, 6),
    config: TrainConfig | None = None,
    *,
    members: int = 4,
    known: Known | None = None,
) -> pd.DataFrame:
    """Train small ensembles with different numbers of classes, and see how far members agree.

    Classes that are in the data are found again in other patches of the same kind; what is
    divided at will is divided otherwise. So each member is trained from the beginning on a
    bootstrap sample, without a shared start, which would make any number look stable. Fewer classes
    than there are may be stable too (Ben-Hur et al., PSB 2002): of the numbers with an agreement
    near one, the largest is the guide.

    Parameters
    ----------
    make
        Makes an untrained model with a number of classes.
    patches, config, known
        As for `train_ensemble`.
    numbers
        Numbers of classes to try.
    members
        Models for each number.

    Returns
    -------
    DataFrame
        A row per number: classes, agreement (`class_agreement` of the members on all patches; with
        several discrete factors, of their combinations), used (the number of classes as told by
        the entropy of their shares, mean over members) and reconstruction_error (mean).

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> images = np.random.default_rng(0).normal(size=(30, 8, 8))
    >>> table = compare_class_numbers(
    ...     lambda k: zoo.jvae((8, 8), classes=k), images, (2,), TrainConfig(epochs=1), members=2)
    >>> list(table)
    ['classes', 'agreement', 'used', 'reconstruction_error']
    """
    config = config or TrainConfig()
    rows = []
    for k in numbers:
        tables = []
        for i in range(members):
            model, seed = make(k), _seed(config, i)
            sample, _, values = resample(
                model, patches, seed, known=known, memory_gb=config.memory_gb
            )
            train(model, sample, config.model_copy(update={"seed": seed}), known=values)
            tables.append(encode(model, patches, known=known))
        names = [f.name for f in discrete(model)]
        labels = [t.groupby(names).ngroup().to_numpy() for t in tables]
        shares = [np.bincount(label) / len(label) for label in labels]
        rows.append({
            "classes": k,
            "agreement": class_agreement(labels),
            "used": float(np.mean([np.exp(entropy(share)) for share in shares])),
            "reconstruction_error": float(np.mean([t["reconstruction_error"] for t in tables])),
        })  # fmt: skip
    return pd.DataFrame(rows)
