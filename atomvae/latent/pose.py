"""Factors that say how a motif lies in its patch: they move the decoder's coordinates.

A pose maps a point of the motif to a point of the patch. Points are (y, x) offsets from the
centre of the patch with y down, in units of half the longer side, the same along both axes. The
pose of a model is the product Shift . Rotation . Shear . Scale, in whatever order they are
listed: a shift inside a rotation would live in a frame that the model is free to turn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from atomvae.latent.circle import MAX_SD, WrappedNormal, wrapped_log_prob
from atomvae.latent.content import NormalFactor
from atomvae.latent.factor import Branches, Factor

NODES = 24  # of the Gauss-Hermite sum in the KL of the angle


def turn_matrix(angle: Tensor) -> Tensor:
    """Turn by an angle, counter-clockwise as seen on screen with y down.

    The one place where the sense of rotation of the package is written down: +90 degrees takes
    (dy, dx) = (0, 1), to the right, to (-1, 0), up.

    Parameters
    ----------
    angle
        Any shape, radians.

    Returns
    -------
    Tensor
        (..., 2, 2) matrices that act on (dy, dx).

    Examples
    --------
    >>> right = torch.tensor([0.0, 1.0])
    >>> (turn_matrix(torch.tensor(math.pi / 2)) @ right).round().tolist()
    [-1.0, -0.0]
    """
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def affine(linear: Tensor, shift: Tensor) -> Tensor:
    """Homogeneous (..., 3, 3) of a linear part (..., 2, 2) and a shift (..., 2)."""
    top = torch.cat([linear, shift[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 3)
    return torch.cat([top, bottom], -2)


def _linear(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Write out the homogeneous matrix of the linear map [[a, b], [c, d]]."""
    linear = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)
    return affine(linear, torch.zeros_like(linear[..., 0]))


class Pose(Factor):
    """A factor with a matrix; `rank` is its place in the product, outermost first."""

    is_pose: ClassVar[bool] = True
    rank: ClassVar[int]

    def matrix(self, value: Tensor) -> Tensor:
        """(..., size) -> (..., 3, 3); the matrix of -value is the inverse."""
        raise NotImplementedError


@dataclass(frozen=True)
class Shift(NormalFactor, Pose):
    """Shift of the motif in the patch, (y, x), in half sides of the patch, prior N(0, sigma).

    The encoder gives the mean in the frame of the motif. There a motif that is drawn off its
    centre is a constant, which `Model.recentre` removes, and not one that turns with the angle.
    The posterior is isotropic (one sd for both axes), so it keeps its form in every frame.

    Examples
    --------
    >>> Shift().matrix(torch.tensor([0.5, 0.0])) @ torch.tensor([0.0, 0.0, 1.0])
    tensor([0.5000, 0.0000, 1.0000])
    """

    name: str = "shift"
    sigma: float = 0.1
    size: int = 2

    rank: ClassVar[int] = 0

    @property
    def n_params(self) -> int:
        """Two means and one log sd."""
        return 3

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Make an isotropic normal of params (B, K, 3), turned from the motif to the patch."""
        mean = (turn_matrix(branches.turn) @ params[..., :2, None])[..., 0]
        return self.normal(mean, params[..., 2:])

    @property
    def columns(self) -> list[str]:
        """Down and right."""
        return [f"{self.name}_y", f"{self.name}_x"]

    def matrix(self, value: Tensor) -> Tensor:
        """Translate by value (..., 2)."""
        eye = torch.eye(2, dtype=value.dtype, device=value.device)
        return affine(eye.expand(*value.shape[:-1], 2, 2), value)


@dataclass(frozen=True)
class Rotation(NormalFactor, Pose):
    """A small turn, radians, counter-clockwise, prior N(0, sigma); for full turns use `Angle`.

    Examples
    --------
    >>> Rotation(sigma=0.2).n_params
    2
    """

    name: str = "rotation"
    sigma: float = 0.5
    size: int = 1

    rank: ClassVar[int] = 1

    def matrix(self, value: Tensor) -> Tensor:
        """Turn by value (..., 1)."""
        linear = turn_matrix(value[..., 0])
        return affine(linear, torch.zeros_like(linear[..., 0]))


@dataclass(frozen=True)
class Shear(NormalFactor, Pose):
    """Pure shear of unit determinant, prior N(0, sigma) of each component.

    One component h1 gives exp(h1 [[0, 1], [1, 0]]), with axes at 45 degrees in the frame of the
    motif. Two give exp([[h2, h1], [h1, -h2]]), every pure shear: with scale and rotation, all
    linear maps that don't mirror. A simple shear by h is, for small h, a pure shear by h / 2 and
    a turn by h / 2.

    Parameters
    ----------
    name
        Name of its columns in the latents table.
    sigma
        Standard deviation of the prior of a component.
    size
        Number of components, 1 or 2.

    Examples
    --------
    >>> round(float(torch.linalg.det(Shear().matrix(torch.tensor([0.3])))), 5)
    1.0
    >>> Shear(size=2).matrix(torch.tensor([0.0, 0.1])).diagonal()
    tensor([1.1052, 0.9048, 1.0000])
    """

    name: str = "shear"
    sigma: float = 0.1
    size: int = 1

    rank: ClassVar[int] = 2

    def matrix(self, value: Tensor) -> Tensor:
        """Shear by value (..., size)."""
        h1 = value[..., 0]
        h2 = value[..., 1] if self.size == 2 else torch.zeros_like(h1)
        s = (h1**2 + h2**2).clamp_min(1e-16).sqrt()  # sqrt has no gradient at zero
        c, ratio = s.cosh(), s.sinh() / s
        return _linear(c + ratio * h2, ratio * h1, ratio * h1, c - ratio * h2)


@dataclass(frozen=True)
class Scale(NormalFactor, Pose):
    """Magnification by exp(value), prior N(0, sigma): never negative.

    Examples
    --------
    >>> round(float(Scale().matrix(torch.tensor([-50.0]))[0, 0]) * 1e22, 3)
    1.929
    """

    name: str = "scale"
    sigma: float = 0.1
    size: int = 1

    rank: ClassVar[int] = 3

    def matrix(self, value: Tensor) -> Tensor:
        """Magnify by exp(value), value (..., 1)."""
        s = value[..., 0].exp()
        return _linear(s, torch.zeros_like(s), torch.zeros_like(s), s)


@lru_cache
def _hermite(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of the mean over a standard normal (Gauss-Hermite)."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return tuple(x.tolist()), tuple((w / w.sum()).tolist())


@dataclass(frozen=True)
class Angle(Pose):
    """A turn over the full circle, radians, counter-clockwise, with a uniform prior.

    The encoder looks at `copies` of the patch, each turned back by another angle, and gives each
    a logit and a small remaining angle: the posterior is a mixture of wrapped normals. So one
    gradient step compares all starting angles, which a single angle can't do: it stays in the
    local minimum where it starts.

    Parameters
    ----------
    copies
        Number of turned copies of the patch; 1 looks only at the patch as it is.

    Examples
    --------
    >>> angle = Angle(copies=4)
    >>> [round(math.degrees(t)) for t in angle.turns]
    [45, 135, 225, 315]
    """

    name: str = "angle"
    copies: int = 8
    size: int = 1

    rank: ClassVar[int] = 1

    @property
    def chooses(self) -> bool:
        """Turned copies are branches."""
        return True

    @property
    def n_params(self) -> int:
        """Logit of the copy, remaining angle, sd."""
        return 3

    @property
    def turns(self) -> list[float]:
        """Angles of the copies, radians.

        Half a step off zero: then all copies are interpolated alike on a square grid, and no copy
        stands out by its smoother noise.
        """
        if self.copies == 1:
            return [0.0]
        return [2 * math.pi * (j + 0.5) / self.copies for j in range(self.copies)]

    def posterior(self, params: Tensor, branches: Branches) -> Distribution:
        """Make a wrapped normal within half a step of the copy's turn, of params (B, K, 3).

        The copies of a patch (and class) share one sd: a narrow part inside a wide one would say
        nothing of an image, and would make the sum in `kl` inexact.
        """
        rest = math.pi / self.copies * params[..., 1].tanh()
        shared = (branches.within_class.exp() @ params[..., 2:])[..., 0]
        sd = 1e-3 + (MAX_SD - 1e-3) * (shared - 2).sigmoid()
        loc = branches.turn + rest
        return Independent(WrappedNormal(loc[..., None], sd[..., None]), 1, validate_args=False)

    def kl(self, q: Distribution, branches: Branches) -> Tensor:
        """Give the KL of the mixture over the copies to the uniform prior, (B,) nats.

        The mean of the log density of the mixture under each of its parts is a Gauss-Hermite sum
        (error of about 1e-4 nats for parts that overlap, less for others).
        Taking the mixture and not its parts matters: a copy and its neighbour that agree on the
        angle don't pay twice.
        """
        assert isinstance(q, Independent)
        loc, sd = q.base_dist.loc[..., 0], q.base_dist.scale[..., 0]  # (B, K)
        nodes, weights = (loc.new_tensor(v) for v in _hermite(NODES))  # (n,)
        value = loc[..., None] + sd[..., None] * nodes  # (B, K, n)
        parts = wrapped_log_prob(value[..., None] - loc[:, None, None], sd[:, None, None])
        density = (parts + branches.within_class[:, :, None]).logsumexp(-1)  # (B, K, n)
        return branches.average((density * weights).sum(-1)) + math.log(2 * math.pi)

    def log_prior(self, value: Tensor) -> Tensor:
        """Give the uniform log density of values (..., 1), per radian."""
        return torch.full_like(value[..., 0], -math.log(2 * math.pi))

    def draw_prior(self, n: int) -> Tensor:
        """Draw n angles over the full turn: (n, 1) radians."""
        return (2 * torch.rand(n, 1) - 1) * math.pi

    def matrix(self, value: Tensor) -> Tensor:
        """Turn by value (..., 1)."""
        linear = turn_matrix(value[..., 0])
        return affine(linear, torch.zeros_like(linear[..., 0]))


def to_motif(poses: Sequence[Pose], values: Mapping[str, Tensor]) -> Tensor | None:
    """Matrix that takes a point of the patch to the motif: the inverse of the pose.

    Parameters
    ----------
    poses
        Pose factors in any order.
    values
        Value of each by name, (..., size).

    Returns
    -------
    Tensor or None
        (..., 3, 3), or None without poses.

    Examples
    --------
    >>> inverse = to_motif([Angle(), Shift()], {
    ...     "angle": torch.tensor([math.pi / 2]), "shift": torch.tensor([1.0, 0.0])})
    >>> (inverse @ torch.tensor([0.0, 0.0, 1.0])).round().tolist()  # 1 up of the motif's centre
    [0.0, 1.0, 1.0]
    """
    inverse = None
    for pose in sorted(poses, key=lambda pose: pose.rank):
        matrix = pose.matrix(-values[pose.name])
        inverse = matrix if inverse is None else matrix @ inverse
    return inverse
