"""What every factor of the latent space offers, and the branches that a posterior enumerates.

The posterior of an image is a mixture over *branches*: every turned copy of the patch that the
encoder looks at, times every class. A branch has a probability and, for each continuous factor,
a distribution of its own. All branches are decoded and averaged exactly, so the objective is a
true bound and nothing discrete is ever sampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class Branches:
    """The discrete alternatives of a batch of posteriors.

    Parameters
    ----------
    log_weight
        (B, K) log probability of each branch; sums to one over K.
    turn
        (B, K) angle of the frame of the branch, radians, counter-clockwise: of the copy of the
        patch, or of the motif once its angle is known.
    label
        (B, K) int64, class of the branch; with several discrete factors, their combination, the
        last one running fastest.
    strides
        For each discrete factor by name, the number of combinations of those after it.

    Examples
    --------
    >>> Branches.one(3).weight
    tensor([[1.],
            [1.],
            [1.]])
    """

    log_weight: Tensor
    turn: Tensor
    label: Tensor
    strides: Mapping[str, int] = field(default_factory=dict)

    @property
    def weight(self) -> Tensor:
        """(B, K) probability of each branch."""
        return self.log_weight.exp()

    def log_mass(self, group: Tensor) -> Tensor:
        """Give the log probability of the group that each branch belongs to: (B, K)."""
        same = group[:, :, None] == group[:, None]
        return self.log_weight[:, None].masked_fill(~same, -torch.inf).logsumexp(-1)

    @property
    def within_class(self) -> Tensor:
        """(B, K, K) log probability of branch k' given the class of branch k."""
        same = self.label[:, :, None] == self.label[:, None]
        log_weight = self.log_weight[:, None].masked_fill(~same, -torch.inf)
        return log_weight - log_weight.logsumexp(-1, keepdim=True)

    @classmethod
    def one(cls, batch: int, dtype: torch.dtype = torch.float32) -> "Branches":
        """Make the branches of a model that has nothing to enumerate: one per image."""
        zero = torch.zeros(batch, 1, dtype=dtype)
        return cls(zero, zero, zero.long())

    def average(self, values: Tensor) -> Tensor:
        """Average (B, K) values over the branches: (B,)."""
        return (self.weight * values).sum(1)


class Factor:
    """One part of the latent space: settings without weights, so it is its own configuration.

    A factor says how many numbers it needs for each branch (`n_params`), makes its posterior of
    them, and knows the KL divergence to its prior. Content is fed to the decoder, a pose moves
    the coordinates at which the decoder is evaluated. The parts are frozen dataclasses.

    Any factor may be observed for some images. Then `log_q` says how probable the encoder held
    the observed value, and the KL is replaced by minus `log_prior` of the value.
    """

    name: str
    size: int

    is_pose: ClassVar[bool] = False
    is_given: ClassVar[bool] = False  # whether it is always observed, and nothing infers it

    @property
    def chooses(self) -> bool:
        """Whether its first parameter is a logit of the branch."""
        return False

    @property
    def n_params(self) -> int:
        """Numbers wanted from the encoder for each branch."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Names of its numbers in the latents table."""
        if self.is_pose and self.size == 1:
            return [self.name]
        return [f"{self.name}_{i}" for i in range(self.size)]

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Make the distribution of the value, event shape (size,), for params (B, K, n_params)."""
        raise NotImplementedError

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Give the KL divergence to the prior, averaged over the branches: (B,) nats."""
        raise NotImplementedError

    def log_q(self, q: Distribution, value: Tensor, branches: Branches) -> Tensor:
        """Give the log posterior density in each branch, (B, K), of an observed value (B, size)."""
        log_q: Tensor = q.log_prob(value[:, None])
        return log_q

    def log_prior(self, value: Tensor) -> Tensor:
        """Give the log prior density of values (..., size)."""
        raise NotImplementedError

    def draw(self, q: Distribution) -> Tensor:
        """Draw a differentiable value of each branch: (B, K, size)."""
        return q.rsample()

    def point(self, q: Distribution) -> Tensor:
        """Give the value that stands for the posterior of each branch: (B, K, size)."""
        return q.mean

    def draw_prior(self, n: int) -> Tensor:
        """Draw n values of the prior: (n, size)."""
        raise NotImplementedError
