"""Factors that say what a patch shows: they are fed to the decoder."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    Normal,
    RelaxedOneHotCategorical,
    constraints,
    kl_divergence,
)
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from atomvae.latent.factor import Branches, Factor

LOG_SD = 8.0  # |log sd| in units of the prior: keeps float32 finite, far from any real posterior
NEVER = -1e4  # log probability of what is known not to be: finite, so no gradient is NaN


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

    def prior(self, like: Tensor) -> Normal:
        """Make the prior, with the shape and type of a tensor."""
        return Normal(
            torch.zeros_like(like), torch.full_like(like, self.sigma), validate_args=False
        )

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Average the closed form over the branches: (B,) nats."""
        assert isinstance(q, Independent)
        return branches.average(kl_divergence(q.base_dist, self.prior(q.stddev)).sum(-1))

    def log_prior(self, value: Tensor) -> Tensor:
        """Give the log prior density of values (..., size)."""
        log_prior: Tensor = self.prior(value).log_prob(value).sum(-1)  # type: ignore[no-untyped-call]
        return log_prior

    def draw_prior(self, n: int) -> Tensor:
        """Draw n values of the prior: (n, size)."""
        return self.sigma * torch.randn(n, self.size)


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


class Point(Distribution):
    """All mass on one value."""

    has_rsample = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The value."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Give the value."""
        return self.value.expand(self._extended_shape(torch.Size(sample_shape)))


@dataclass(frozen=True)
class Categorical(Factor):
    """A class with a uniform prior.

    Parameters
    ----------
    size
        Number of classes.
    name
        Name of its columns in the latents table.
    temperature
        None enumerates: every class is decoded, with a pose and content of its own, none is
        sampled. A number draws relaxed one-hot values of that temperature instead (Gumbel-softmax;
        Jang et al. 2017, Maddison et al. 2017), for when classes are many: one decode, a noisier
        gradient, and one pose for all classes. The KL is that between the relaxed distributions,
        by one sample: the objective stays a bound.

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
    temperature: float | None = None

    @property
    def chooses(self) -> bool:
        """Enumerated classes are branches."""
        return self.temperature is None

    @property
    def n_params(self) -> int:
        """One logit for each branch, or for each class when they are no branches."""
        return 1 if self.chooses else self.size

    def label(self, branches: Branches) -> Tensor:
        """Class of each branch, (B, K) int64."""
        return self._prefix(branches) % self.size

    def _prefix(self, branches: Branches) -> Tensor:
        """Combination of this class and those of the discrete factors before it, (B, K)."""
        return branches.label // branches.strides.get(self.name, 1)

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Put all mass of a branch (B, K) on its class; or the relaxed one-hot of the logits."""
        if self.temperature is not None:
            temperature = params.new_tensor(self.temperature)
            return RelaxedOneHotCategorical(temperature, logits=params, validate_args=False)
        one_hot = torch.nn.functional.one_hot(self.label(branches), self.size).to(params.dtype)
        return Point(one_hot)

    def draw(self, q: Distribution) -> Tensor:
        """Give the class of each branch, one-hot (B, K, size), or a relaxed sample."""
        return q.rsample()

    def point(self, q: Distribution) -> Tensor:
        """Give the class of each branch, one-hot (B, K, size)."""
        if isinstance(q, Point):
            return q.mean
        assert isinstance(q, RelaxedOneHotCategorical)
        one_hot = torch.nn.functional.one_hot(q.logits.argmax(-1), self.size)
        return one_hot.to(q.logits.dtype)

    def probabilities(self, q: Distribution, branches: Branches) -> Tensor:
        """Give the probability of each class, (B, size)."""
        p = q.mean if isinstance(q, Point) else q.logits.softmax(-1)  # type: ignore[attr-defined]
        return (branches.weight[..., None] * p).sum(1)

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Give the KL to the uniform prior, (B,) nats.

        With several discrete factors, that of this class given the ones before it: together they
        are the KL of the joint posterior, which need not factorise.
        """
        if isinstance(q, RelaxedOneHotCategorical):
            relaxed = ExpRelaxedCategorical(q.temperature, logits=q.logits, validate_args=False)
            even = ExpRelaxedCategorical(
                q.temperature, logits=torch.zeros_like(q.logits), validate_args=False
            )
            value = relaxed.rsample()
            gap = relaxed.log_prob(value) - even.log_prob(value)  # type: ignore[no-untyped-call]
            return branches.average(gap)
        prefix = self._prefix(branches)
        given = branches.log_mass(prefix) - branches.log_mass(prefix // self.size)
        return branches.average(given) + math.log(self.size)

    def log_q(self, q: Distribution, value: Tensor, branches: Branches) -> Tensor:
        """Give the log probability in each branch, (B, K), of known classes (B, size), one-hot."""
        if isinstance(q, RelaxedOneHotCategorical):
            return (q.logits.log_softmax(-1) * value[:, None]).sum(-1)
        same = self.label(branches) == value.argmax(-1, keepdim=True)
        return torch.where(same, 0.0, NEVER).to(value.dtype)

    def log_prior(self, value: Tensor) -> Tensor:
        """Give minus the log of the number of classes for values (..., size)."""
        return torch.full_like(value[..., 0], -math.log(self.size))

    def draw_prior(self, n: int) -> Tensor:
        """Draw n classes, one-hot (n, size)."""
        return torch.eye(self.size)[torch.randint(self.size, (n,))]


@dataclass(frozen=True)
class Code(Factor):
    """Continuous content without a prior: the code of a plain autoencoder.

    Parameters
    ----------
    size
        Number of dimensions.
    name
        Name of its columns in the latents table.

    Examples
    --------
    >>> code = Code(2)
    >>> q = code.posterior(torch.ones(1, 1, 2), Branches.one(1))
    >>> q.rsample(), float(code.kl(q, Branches.one(1)))
    (tensor([[[1., 1.]]]), 0.0)
    """

    size: int = 2
    name: str = "z"

    @property
    def n_params(self) -> int:
        """The values themselves."""
        return self.size

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Put all mass on params (B, K, size)."""
        return Point(params)

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Nothing: there is no prior to pay for."""
        return torch.zeros_like(branches.log_weight[:, 0])

    def log_q(self, q: Distribution, value: Tensor, branches: Branches) -> Tensor:
        """Nothing: a code has no density."""
        return torch.zeros_like(branches.log_weight)

    def log_prior(self, value: Tensor) -> Tensor:
        """Nothing: there is no prior."""
        return torch.zeros_like(value[..., 0])

    def draw_prior(self, n: int) -> Tensor:
        """Draw standard normal values: a code has no prior, and any choice is arbitrary."""
        return torch.randn(n, self.size)


@dataclass(frozen=True)
class Condition(Code):
    """Content that is given with every patch and told to encoder and decoder: nothing infers it.

    Parameters
    ----------
    size
        Number of values, or of classes.
    name
        Name under which the values are passed.
    discrete
        A class, passed as a number 0 ... size - 1 and used one-hot, instead of `size` continuous
        values, which are standardised by the training data.

    Examples
    --------
    >>> Condition(4, "suit", discrete=True).n_params
    0
    """

    size: int = 1
    name: str = "condition"
    discrete: bool = False

    is_given: ClassVar[bool] = True

    @property
    def n_params(self) -> int:
        """None: it is never inferred."""
        return 0

    def draw_prior(self, n: int) -> Tensor:
        """Draw classes one-hot, or standard normal values."""
        if self.discrete:
            return torch.eye(self.size)[torch.randint(self.size, (n,))]
        return torch.randn(n, self.size)
