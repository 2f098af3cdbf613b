"""Factors that say what a patch shows: they are fed to the decoder."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical, kl_divergence

from atomvae.latent.factor import Branches, Factor

LOG_SD = 8.0  # |log sd| in units of the prior: keeps float32 finite, far from any real posterior


class NormalFactor(Factor):
    """A factor with a diagonal normal posterior and the prior N(0, sigma)."""

    sigma: float

    @property
    def n_params(self) -> int:
        """Mean and log sd of every dimension, in units of the prior's sd."""
        return 2 * self.size

    def normal(self, mean: Tensor, log_sd: Tensor) -> Distribution:
        """Make the diagonal normal of encoder outputs (B, K, size)."""
        sd = self.sigma * log_sd.clamp(-LOG_SD, LOG_SD).exp()
        base = Normal(self.sigma * mean, sd.expand(mean.shape), validate_args=False)
        return Independent(base, 1, validate_args=False)

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Make the diagonal normal of params (B, K, 2 size)."""
        mean, log_sd = params.chunk(2, -1)
        return self.normal(mean, log_sd)

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Average the closed form over the branches: (B,) nats."""
        assert isinstance(q, Independent)
        scale = torch.full_like(q.stddev, self.sigma)
        prior = Normal(torch.zeros_like(scale), scale, validate_args=False)
        return branches.average(kl_divergence(q.base_dist, prior).sum(-1))


@dataclass(frozen=True)
class Gaussian(NormalFactor):
    """Continuous content with the prior N(0, sigma).

    Parameters
    ----------
    size
        Number of dimensions.
    name
        Name of its columns in the latents table.
    sigma
        Standard deviation of the prior.

    Examples
    --------
    >>> z = Gaussian(2)
    >>> q = z.posterior(torch.zeros(5, 1, z.n_params), Branches.one(5))
    >>> q.rsample().shape, float(z.kl(q, Branches.one(5)).sum())
    (torch.Size([5, 1, 2]), 0.0)
    """

    size: int = 2
    name: str = "z"
    sigma: float = 1.0


@dataclass(frozen=True)
class Categorical(Factor):
    """A class with a uniform prior, enumerated: every class is decoded, none is sampled.

    Parameters
    ----------
    size
        Number of classes.
    name
        Name of its columns in the latents table.

    Examples
    --------
    >>> kinds = Categorical(3)
    >>> label = torch.tensor([[0, 1, 2]])
    >>> even = Branches(torch.full((1, 3), 1 / 3).log(), torch.zeros(1, 3), label)
    >>> q = kinds.posterior(torch.zeros(1, 3, 1), even)
    >>> q.mean[0, 1], abs(float(kinds.kl(q, even))) < 1e-6
    (tensor([0., 1., 0.]), True)
    """

    size: int = 2
    name: str = "class"

    chooses: ClassVar[bool] = True

    @property
    def n_params(self) -> int:
        """One logit for each branch."""
        return 1

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Put all mass of a branch (B, K) on the class of that branch."""
        one_hot = torch.nn.functional.one_hot(branches.label, self.size).to(params.dtype)
        return OneHotCategorical(probs=one_hot, validate_args=False)

    def draw(self, q: Distribution) -> Tensor:
        """Give the class of each branch, one-hot (B, K, size): nothing is left to chance."""
        return q.mean

    def probabilities(self, branches: Branches) -> Tensor:
        """Give the probability of each class, (B, size)."""
        empty = branches.weight.new_zeros(len(branches.label), self.size)
        return empty.scatter_add(1, branches.label, branches.weight)

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Give the KL of the class probabilities to the uniform prior, (B,) nats."""
        p = self.probabilities(branches)
        return (p * p.clamp_min(1e-30).log()).sum(1) + math.log(self.size)
