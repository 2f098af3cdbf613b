"""The bound against the evidence of a motif at all angles of a fine grid."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from atomvae.latent import Angle, Categorical, pose
from atomvae.latent.circle import wrapped_log_prob
from atomvae.latent.pose import turn_matrix
from atomvae.model import zoo
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model

TWO_PI = 2 * math.pi


@pytest.fixture(autouse=True)
def own_seed_and_fine_rule(monkeypatch):
    """The laws of the angle bound the error of its rule of 24 nodes; here it shall not matter."""
    monkeypatch.setattr(pose, "NODES", 64)
    with torch.random.fork_rng():
        yield


class Blobs(nn.Module):
    """Three unequal blobs, of one of two sizes: an analytic decoder with nothing to learn."""

    pointwise = True

    def __init__(self, shape):
        super().__init__()
        self.shape, self.content = shape, 2

    def forward(self, content, coords):
        size = content @ torch.tensor([0.3, 0.4], dtype=content.dtype)  # (N,)
        out = 0.0
        for y, x, a in ((-0.5, 0.0, 1.0), (0.3, 0.3, 0.7), (0.2, -0.4, 0.4)):
            d2 = (coords[..., 0] - y) ** 2 + (coords[..., 1] - x) ** 2
            out = out + a * (-d2 / (2 * size[:, None] ** 2)).exp()
        return out[..., None]


@dataclasses.dataclass(frozen=True)
class Nodes(Angle):
    """An angle that visits the nodes of a fine Gauss-Hermite rule."""

    node: float = 0.0

    def draw(self, q):
        return q.mean + q.stddev * self.node


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_angle_and_class_against_a_grid(seed):
    """log p - ELBO = KL[q(angle, class), posterior on 4,096 angles], and ELBO < log p."""
    torch.manual_seed(seed)
    shape = (1, 9, 9)
    noise = GaussianNoise(1)
    noise.log_excess.data[:] = math.log(0.5)
    encoder = zoo.rvae(shape, seed=seed).encoder
    model = Model([Nodes(), Categorical(2)], encoder, Blobs(shape), noise).double()
    angles = torch.linspace(-math.pi, math.pi, 4097, dtype=torch.float64)[:-1]
    truth = torch.tensor([0.4, -2.0, 3.0]).double()
    content = torch.eye(2).double()

    def pictures(angle, label):  # (n, D)
        z = {"angle": angle[:, None], "class": content[label].expand(len(angle), 2)}
        return model.reconstruct(z, model.grid.expand(len(angle), -1, -1))[..., 0]

    image = pictures(truth, 0) + noise.level * torch.randn(3, 81).double()
    nll = torch.stack([
        -Normal(pictures(angles, c), noise.level).log_prob(image[:, None])[..., model.field].sum(-1)
        for c in (0, 1)
    ], 1)  # (B, C, G)  # fmt: skip
    joint = -nll - math.log(2) - math.log(TWO_PI)  # log p(x, angle, class)
    step = TWO_PI / len(angles)
    log_p = (joint + math.log(step)).flatten(1).logsumexp(1)

    posterior = model.infer(image.view(3, *shape))
    branches, q = posterior.branches, posterior.q["angle"]
    part = wrapped_log_prob(angles - q.mean, q.stddev) + branches.log_weight[..., None]
    log_q = torch.stack(
        [part[:, branches.label[0] == c].logsumexp(1) for c in (0, 1)], 1
    )  # (B, C, G)
    expected = (log_q.exp() * (log_q - joint + log_p[:, None, None])).sum((1, 2)) * step

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    bound = 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        model.latent = (Nodes(node=float(node)), Categorical(2))
        model.poses = [model.latent[0]]
        bound = bound - weight * sum(model.bound(image.view(3, *shape)).values())
    assert (bound < log_p).all()
    assert (log_p - bound - expected).abs().max() < 1e-5

    # the angle known: what is left is the class
    at = torch.tensor([100, 2000, 4000])
    known = {"angle": angles[at][:, None]}
    state = model.infer(image.view(3, *shape), known=known)
    p = torch.stack(
        [(state.branches.weight * (state.branches.label == c)).sum(1) for c in (0, 1)], 1
    )
    joint = joint[torch.arange(3), :, at]  # (B, C)
    gap = (p * (p.log() - joint.log_softmax(1))).sum(1)
    terms = model.bound(image.view(3, *shape), known=known)
    terms.pop("surprise")
    assert (joint.logsumexp(1) + sum(terms.values()) - gap).abs().max() < 1e-5


def test_positive_turn_of_the_motif_moves_its_blobs_as_the_matrix_says():
    """The sense of the angle in a picture, against the one place where it is written."""
    shape = (1, 33, 33)
    model = Model(
        [Angle(), Categorical(2)], zoo.rvae(shape).encoder, Blobs(shape), GaussianNoise(1)
    )
    angle = torch.tensor([[0.7]])
    z = {"angle": angle, "class": torch.tensor([[1.0, 0.0]])}
    picture = model.reconstruct(z, model.grid[None])[0, :, 0]
    brightest = model.grid[picture.argmax()]
    expected = turn_matrix(angle[0, 0]) @ torch.tensor([-0.5, 0.0])
    assert (brightest - expected).abs().max() < 1.5 / 16
