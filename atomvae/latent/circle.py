"""The normal distribution wrapped around the circle, which torch lacks."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

MAX_SD = 1.5  # rad; beyond it a wrapped normal is flat, and the terms of |k| > 1 would be needed


def wrap(angle: Tensor) -> Tensor:
    """Bring angles into [-pi, pi).

    Parameters
    ----------
    angle
        Any shape, radians.

    Returns
    -------
    Tensor
        The same angles, radians in [-pi, pi); the gradient passes unchanged.

    Examples
    --------
    >>> round(float(wrap(torch.tensor(2 * math.pi + 0.25))), 4)
    0.25
    """
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def wrapped_log_prob(delta: Tensor, scale: Tensor) -> Tensor:
    """Log density of a wrapped normal at the angle ``delta`` from its centre, both broadcast.

    Sums the images k = -1, 0, 1; up to ``MAX_SD`` the rest is below 1e-8 of the density.

    Examples
    --------
    >>> grid = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)[:-1]
    >>> density = wrapped_log_prob(grid, torch.tensor(1.2, dtype=torch.float64)).exp()
    >>> round(float(density.mean() * 2 * math.pi), 6)
    1.0
    """
    delta = wrap(delta)
    images = torch.stack([delta - 2 * math.pi, delta, delta + 2 * math.pi])
    log_norm = torch.log(scale) + 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(-0.5 * (images / scale) ** 2, 0) - log_norm


class WrappedNormal(Distribution):
    """Normal distribution wrapped around the circle, element by element.

    Parameters
    ----------
    loc
        Centre, radians, any shape.
    scale
        Standard deviation before wrapping, radians, same shape, at most ``MAX_SD``.

    Examples
    --------
    >>> q = WrappedNormal(torch.tensor([3.0]), torch.tensor([0.3]))
    >>> q.rsample((5,)).shape
    torch.Size([5, 1])
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = wrap(loc), scale
        super().__init__(loc.shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Any centre, a positive scale."""
        return {"loc": constraints.real, "scale": constraints.positive}

    @property
    def mean(self) -> Tensor:
        """Circular mean, radians in [-pi, pi)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Square of the circular sd sqrt(-2 log R), which is the variance before wrapping."""
        return self.scale**2

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw differentiable samples, radians in [-pi, pi)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return wrap(self.loc + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the log density per radian."""
        return wrapped_log_prob(value - self.loc, self.scale)
