"""What the model thinks of the noise of the data: from the decoder's output to a probability."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atomvae.errors import InputError


class Likelihood(nn.Module):
    """Noise of every pixel, independent of the others.

    `log_prob`, `mean` and `sd` take the output of the decoder, (..., channels).
    """

    settings: dict[str, Any]
    standardised: ClassVar[bool]  # whether data come in standard deviations, or as they are

    def check(self, pixels: NDArray[Any]) -> None:
        """Raise InputError if pixels can't come from this distribution."""

    def log_prob(self, value: Tensor, output: Tensor) -> Tensor:
        """Give the log density of pixels (..., channels), summed over channels: (...)."""
        raise NotImplementedError

    def mean(self, output: Tensor) -> Tensor:
        """Give the expected pixels, (..., channels)."""
        raise NotImplementedError

    def sd(self, output: Tensor) -> Tensor:
        """Give the noise of the pixels, (..., channels)."""
        raise NotImplementedError


class GaussianNoise(Likelihood):
    """Normal noise, one level per channel, learnt or given.

    Parameters
    ----------
    channels
        Number of channels.
    floor
        Smallest noise that is learnt, in standard deviations of the data: without it a model that
        reproduces a pixel exactly has an infinite likelihood.
    sd
        The noise, in standard deviations of the data, if it is known; None learns it.

    Examples
    --------
    >>> noise = GaussianNoise(1)
    >>> noise.log_prob(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1)).shape
    torch.Size([1, 3])
    """

    standardised: ClassVar[bool] = True

    def __init__(self, channels: int, floor: float = 0.01, sd: float | None = None) -> None:
        super().__init__()
        if sd is not None and not sd > 0:
            raise InputError(f"noise sd is {sd}, expected a positive number of data sds")
        self.settings = {"floor": floor, "sd": sd}
        self.floor, self.given = floor, sd
        if sd is None:
            self.log_excess = nn.Parameter(torch.zeros(channels))

    @property
    def level(self) -> Tensor:
        """(channels,) noise, in standard deviations of the data; (1,) when it is given."""
        if self.given is not None:
            return torch.tensor([self.given])
        return self.floor + self.log_excess.exp()

    def log_prob(self, value: Tensor, output: Tensor) -> Tensor:
        """Give the log density of pixels (..., channels), summed over channels: (...)."""
        sd = self.level.to(output)
        squares = 0.5 * ((value - output) / sd) ** 2
        return -(squares + sd.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """The output itself, in standard deviations of the data."""
        return output

    def sd(self, output: Tensor) -> Tensor:
        """The same noise everywhere, in standard deviations of the data."""
        return self.level.to(output).expand(output.shape)


class Bernoulli(Likelihood):
    """Pixels between 0 and 1 as probabilities of being bright; the output is their logit.

    Grey values are no outcomes of a Bernoulli variable: for them this is the usual cross-entropy,
    and no normalised likelihood. Bounds of such models compare among themselves only.

    Examples
    --------
    >>> float(Bernoulli(1).log_prob(torch.ones(1), torch.zeros(1)).exp())
    0.5
    """

    standardised: ClassVar[bool] = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.settings = {}

    def check(self, pixels: NDArray[Any]) -> None:
        """Raise unless all pixels lie between 0 and 1."""
        low, high = float(np.min(pixels)), float(np.max(pixels))
        if low < 0 or high > 1:
            raise InputError(
                f"pixels run from {low:.4g} to {high:.4g}, a Bernoulli likelihood expects 0 to 1; "
                "scale them, or use Gaussian or Poisson noise"
            )

    def log_prob(self, value: Tensor, output: Tensor) -> Tensor:
        """Give minus the cross-entropy, summed over channels: (...)."""
        return (value * output - nn.functional.softplus(output)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """Probability of being bright."""
        return output.sigmoid()

    def sd(self, output: Tensor) -> Tensor:
        """Standard deviation of a draw."""
        p = output.sigmoid()
        return (p * (1 - p)).sqrt().clamp_min(1e-6)


class Poisson(Likelihood):
    """Counts; the output is the log of their rate.

    Examples
    --------
    >>> round(float(Poisson(1).log_prob(torch.zeros(1), torch.zeros(1))), 4)
    -1.0
    """

    standardised: ClassVar[bool] = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.settings = {}

    def check(self, pixels: NDArray[Any]) -> None:
        """Raise unless all pixels are counts."""
        low = float(np.min(pixels))
        if low < 0 or not np.array_equal(pixels, np.round(pixels)):
            raise InputError(
                f"pixels start at {low:.4g} or are no whole numbers, a Poisson likelihood expects "
                "counts; divide by the gain, or use Gaussian noise"
            )

    def log_prob(self, value: Tensor, output: Tensor) -> Tensor:
        """Give the log probability, summed over channels: (...)."""
        output = output.clamp_max(30.0)  # exp stays finite in float32
        return (value * output - output.exp() - (value + 1).lgamma()).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """The rate."""
        return output.clamp_max(30.0).exp()

    def sd(self, output: Tensor) -> Tensor:
        """Root of the rate."""
        return self.mean(output).sqrt().clamp_min(1e-6)
