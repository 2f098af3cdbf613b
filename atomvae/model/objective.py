"""From the terms of the bound to the number that is minimised.

Every schedule is a fraction of the run, so it fits a run of any length.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atomvae.errors import InputError
from atomvae.model.config import TermWeight, TrainConfig
from atomvae.model.model import Model


def objective(
    terms: Mapping[str, Tensor], weights: Sequence[TermWeight], fraction: float
) -> Tensor:
    """Weigh and add the terms.

    Parameters
    ----------
    terms
        Each term by name, (B,) nats per patch.
    weights
        Those that are not simply added.
    fraction
        Of the run that is done, 0 to 1.

    Returns
    -------
    Tensor
        Scalar; with no weights, the negative evidence lower bound.

    Examples
    --------
    >>> terms = {"nll": torch.tensor([3.0]), "z": torch.tensor([2.0])}
    >>> float(objective(terms, [TermWeight(term="z", weight=4.0)], 0.0))
    11.0
    """
    chosen = {weight.term: weight for weight in weights}
    total = torch.zeros((), device=next(iter(terms.values())).device)
    for name, term in terms.items():
        mean = term.mean()
        if (rule := chosen.get(name)) is not None:
            target = rule.target(fraction)
            mean = rule.weight * (mean if target is None else (mean - target).abs())
        total = total + mean
    return total


def content_gate(fraction: float, opened: float) -> float:
    """Pose and class first, content later: the factor on the continuous content.

    An open content explains a turn, a class or a condition by another picture before these are
    of use. So it is shut for the first two fifths of the time until it is `opened`, a fraction of
    the run, and then rises in proportion.

    Examples
    --------
    >>> [round(content_gate(f, opened=0.5), 2) for f in (0.1, 0.35, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if opened == 0:
        return 1.0
    return min(1.0, max(0.0, (fraction / opened - 0.4) / 0.6))


def one_cycle(fraction: float) -> float:
    """Learning rate over its peak after a fraction of the run: up for a quarter, then down.

    Examples
    --------
    >>> [round(one_cycle(f), 3) for f in (0.0, 0.25, 1.0)]
    [0.04, 1.0, 0.001]
    """
    low, high, x = (0.04, 1.0, fraction / 0.25) if fraction < 0.25 else (1.0, 0.001, 0.0)
    if fraction >= 0.25:
        x = (fraction - 0.25) / 0.75
    return high + (low - high) * (1 + math.cos(math.pi * x)) / 2


def check_weights(model: Model, config: TrainConfig) -> None:
    """Raise InputError if the weights name a term that the model doesn't have."""
    terms = ["nll", "surprise", *(f.name for f in model.latent if not f.is_given)]
    unknown = {w.term for w in config.weights} - {*terms}
    if unknown:
        raise InputError(f"weights name {sorted(unknown)}, the model has the terms {terms}")
