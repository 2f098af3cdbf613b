"""What the model thinks of the noise of the data."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class GaussianNoise(nn.Module):
    """Independent normal noise of every pixel, one learnt level per channel.

    Parameters
    ----------
    channels
        Number of channels.
    floor
        Smallest noise, in standard deviations of the data: without it a model that reproduces a
        pixel exactly has an infinite likelihood.

    Examples
    --------
    >>> noise = GaussianNoise(1)
    >>> noise.log_prob(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1)).shape
    torch.Size([1, 3])
    """

    def __init__(self, channels: int, floor: float = 0.01) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"floor": floor}
        self.floor = floor
        self.log_excess = nn.Parameter(torch.zeros(channels))

    @property
    def sd(self) -> Tensor:
        """(channels,) noise, in standard deviations of the data."""
        return self.floor + self.log_excess.exp()

    def log_prob(self, value: Tensor, mean: Tensor) -> Tensor:
        """Give the log density of (..., channels) pixels, summed over channels: (...)."""
        sd = self.sd
        log_norm = sd.log() + 0.5 * math.log(2 * math.pi)
        return -(0.5 * ((value - mean) / sd) ** 2 + log_norm).sum(-1)
