"""What the encoder says of a batch, and what is known of it beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from atomvae.latent import Angle, Branches, Categorical, Factor

Known = Mapping[str, Tensor]  # observed values of factors by name, (B, size), NaN where unknown


def unknown(value: Tensor) -> Tensor:
    """Rows of observed values (B, size) that are not known: (B,) bool."""
    return value.isnan().any(1)


@dataclass(frozen=True)
class Posterior:
    """Probabilities of the branches, distributions in each, and the values that are known.

    Parameters
    ----------
    branches
        Alternatives that are enumerated, with their probabilities given what is known.
    q
        Distribution of each factor by name, batch shape (B, K), event shape (size,).
    known
        Observed values by name, (B, size), NaN where unknown.
    surprise
        (B,) minus the log probability that the encoder gave to the known values, nats; zero
        where nothing is known.
    """

    branches: Branches
    q: dict[str, Distribution]
    known: Known
    surprise: Tensor

    def draw(self, factor: Factor) -> Tensor:
        """Draw a value of each branch, or take the known one: (B, K, size)."""
        return self._or_known(factor, factor.draw)

    def point(self, factor: Factor) -> Tensor:
        """Give the value that stands for each branch, or the known one: (B, K, size)."""
        return self._or_known(factor, factor.point)

    def variance(self, factor: Factor) -> Tensor:
        """Give the variance of each branch, zero where the value is known: (B, K, size)."""
        variance = self.q[factor.name].variance
        known = self.known.get(factor.name)
        return variance if known is None else variance * unknown(known)[:, None, None]

    def probabilities(self, factor: Categorical) -> Tensor:
        """Give the probability of each class, (B, size), one where it is known."""
        p = factor.probabilities(self.q[factor.name], self.branches)
        known = self.known.get(factor.name)
        return p if known is None else torch.where(unknown(known)[:, None], p, known)

    def _or_known(self, factor: Factor, value_of: Callable[[Distribution], Tensor]) -> Tensor:
        known = self.known.get(factor.name)
        if factor.is_given:
            assert known is not None
            return known[:, None].expand(-1, self.branches.label.shape[1], -1)
        value = value_of(self.q[factor.name])
        if known is None or (factor.chooses and not isinstance(factor, Angle)):
            return value  # classes that are branches: the weights of the others are zero
        return torch.where(unknown(known)[:, None, None], value, known[:, None].nan_to_num())

    def kl(self, factor: Factor) -> Tensor:
        """Give the KL divergence to the prior, or minus the log prior of known values: (B,)."""
        kl = factor.kl(self.q[factor.name], self.branches)
        known = self.known.get(factor.name)
        if known is None:
            return kl
        return torch.where(unknown(known), kl, -factor.log_prior(known.nan_to_num()))


def posterior(
    latent: Sequence[Factor], params: Mapping[str, Tensor], frame: Branches, known: Known
) -> Posterior:
    """Make the posterior of the encoder's numbers, given what is known.

    Parameters
    ----------
    latent
        Factors.
    params
        Numbers of each factor by name, (B, K, n_params).
    frame
        Turns and labels of the branches; their weights are not looked at.
    known
        Observed values by name, (B, size), NaN where unknown.

    Returns
    -------
    Posterior
        Exact in the branches: their weights follow Bayes' rule from the probability that each
        gives to the known values.
    """
    logit = frame.log_weight * 0
    for f in latent:
        if f.chooses:
            logit = logit + params[f.name][..., 0]  # logits add
    branches = replace(frame, log_weight=logit.log_softmax(1))
    q: dict[str, Distribution] = {}
    for f in latent:  # the other factors are told of the angle of the motif
        if isinstance(f, Angle):
            q[f.name] = f.posterior(params[f.name], branches)
            turn = q[f.name].mean[..., 0]
            if f.name in known:
                turn = torch.where(known[f.name].isnan(), turn, known[f.name].nan_to_num())
            branches = replace(branches, turn=turn)
    for f in latent:
        if f.n_params and f.name not in q:
            q[f.name] = f.posterior(params[f.name], branches)
    log_weight = branches.log_weight
    for f in latent:
        if f.name in known and not f.is_given:
            value = known[f.name]
            log_q = f.log_q(q[f.name], value.nan_to_num(), branches)  # (B, K)
            log_weight = log_weight + log_q.masked_fill(unknown(value)[:, None], 0.0)
    surprise = -log_weight.logsumexp(1)
    branches = replace(branches, log_weight=log_weight.log_softmax(1))
    return Posterior(branches, q, known, surprise)


def pick(
    params: Mapping[str, Tensor], frame: Branches, index: Tensor
) -> tuple[dict[str, Tensor], Branches]:
    """Take some branches, (B, K') int64, of parameters and frame."""
    chosen = {
        name: p.gather(1, index[..., None].expand(-1, -1, p.shape[-1]))
        for name, p in params.items()
    }
    return chosen, replace(
        frame,
        log_weight=frame.log_weight.gather(1, index),
        turn=frame.turn.gather(1, index),
        label=frame.label.gather(1, index),
    )
