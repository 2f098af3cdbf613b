"""The bound against exact evidence: a linear decoder, and a motif on a grid of angles."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from atomvae.latent import Angle, Categorical, Gaussian, pose
from atomvae.latent.circle import wrapped_log_prob
from atomvae.latent.pose import turn_matrix
from atomvae.model import zoo
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model

SHAPE = (2, 5, 5)
ZOO = {
    "vae": zoo.vae, "rvae": zoo.rvae, "skip_rvae": zoo.skip_rvae, "jvae": zoo.jvae,
    "jrvae": zoo.jrvae,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sigma(Gaussian):
    """A Gaussian that visits its sigma points: their mean is exact for anything quadratic."""

    point: int = 0

    def draw(self, q):
        offset = torch.zeros(self.size, dtype=q.mean.dtype)
        offset[self.point // 2] = (-1) ** self.point * math.sqrt(self.size)
        return q.mean + q.stddev * offset


class Linear(nn.Module):
    """d(z) = W z + b at every pixel, whatever the coordinates."""

    pointwise = True

    def __init__(self, shape, content, weight=None):
        super().__init__()
        self.shape, self.content = shape, content
        self.map = nn.Linear(content, math.prod(shape)).double()
        if weight is not None:
            self.map.weight.data = weight

    def forward(self, content, coords):
        c, h, w = self.shape
        assert coords.shape[1] == h * w  # all pixels are asked for, in order
        return self.map(content).view(-1, c, h * w).transpose(1, 2)


def exact_bound(model, image):
    """ELBO with the expectation over the Gaussian content done exactly."""
    z = next(f for f in model.latent if isinstance(f, Gaussian))
    total, n = 0.0, 2 * z.size
    for point in range(n):
        model.latent = tuple(
            Sigma(z.size, point=point) if isinstance(f, Gaussian) else f for f in model.latent
        )
        terms = model.bound(image)
        total = total - sum(terms.values()) / n
    return total


def linear_model(name, seed):
    torch.manual_seed(seed)
    model = ZOO[name](SHAPE, latent_dim=3, seed=seed)
    content = sum(f.size for f in model.content)
    latent = [Sigma(f.size) if isinstance(f, Gaussian) else f for f in model.latent]
    noise = GaussianNoise(SHAPE[0])
    noise.log_excess.data = torch.tensor([-0.5, 0.3])
    out = Model(latent, model.encoder, Linear(SHAPE, content), noise).double()
    out.content = [f for f in out.latent if not f.is_pose]
    return out


def observed(model):
    """Index of the entries of the linear map that the likelihood looks at, and their noise."""
    c, h, w = model.shape
    seen = model.field.repeat(c)
    sd = model.likelihood.level.repeat_interleave(h * w)
    return seen, sd[seen]


@pytest.fixture(autouse=True)
def own_seed_and_fine_rule(monkeypatch):
    """The laws of the angle bound the error of its rule of 24 nodes; here it shall not matter."""
    monkeypatch.setattr(pose, "NODES", 64)
    with torch.random.fork_rng():
        yield


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ZOO)
def test_gap_is_the_kl_to_the_true_posterior(name, seed):
    """log p - ELBO = KL[q, posterior] for the arbitrary q of an untrained encoder."""
    model = linear_model(name, seed)
    image = torch.randn(4, *SHAPE, dtype=torch.float64)
    seen, sd = observed(model)
    weight, bias = model.decoder.map.weight[seen], model.decoder.map.bias[seen]
    x = image.flatten(1)[:, seen]
    wz = weight[:, :3]
    covariance = wz @ wz.T + torch.diag(sd**2)
    offsets = weight[:, 3:].T if model.classes > 1 else torch.zeros(1, len(sd)).double()
    log_px_c = torch.stack(
        [MultivariateNormal(bias + o, covariance).log_prob(x) for o in offsets], 1
    )  # (B, C)
    log_p = log_px_c.logsumexp(1) - math.log(model.classes)

    posterior = model.infer(image)
    branches, q = posterior.branches, posterior.q
    precision = torch.eye(3).double() + wz.T @ (wz / sd[:, None] ** 2)
    residual = x[:, None] - bias - offsets[branches.label]  # (B, K, D)
    mean = (residual / sd**2) @ wz @ torch.linalg.inv(precision)  # (B, K, 3)
    true = MultivariateNormal(mean, precision_matrix=precision)
    mine = MultivariateNormal(q["z"].mean, torch.diag_embed(q["z"].variance))
    gap = (branches.weight * kl_divergence(mine, true)).sum(1)
    if model.classes > 1:
        p = torch.stack([branches.weight[:, c :: model.classes].sum(1) for c in range(3)], 1)
        gap = gap + (p * (p.log() - log_px_c.log_softmax(1))).sum(1)
    if "shift" in q:  # the decoder ignores the pose: its true posterior is the prior
        prior = Independent(Normal(torch.zeros(2).double(), 0.1), 1)
        gap = gap + (branches.weight * kl_divergence(q["shift"], prior.expand([4, 1]))).sum(1)
    if "angle" in q:
        gap = gap + angle_kl_on_a_grid(branches, q["angle"])
    assert (gap > 0.05).all()  # an arbitrary q is far from the posterior
    error = (log_p - exact_bound(model, image) - gap).abs().max()
    assert error < 1e-5


def angle_kl_on_a_grid(branches, q):
    grid = torch.linspace(-math.pi, math.pi, 8193, dtype=torch.float64)[:-1]
    part = wrapped_log_prob(grid - q.mean, q.stddev)  # (B, K, G)
    total = 0.0
    for label in branches.label[0].unique():
        mask = branches.label[0] == label
        weight = branches.weight[:, mask]
        log_q = (part[:, mask] + (weight / weight.sum(1, keepdim=True)).log()[..., None]).logsumexp(
            1
        )
        term = log_q.exp() * (log_q + math.log(2 * math.pi))
        total = total + weight.sum(1) * term.mean(1) * 2 * math.pi
    return total


@torch.no_grad()
def test_bound_is_the_evidence_when_the_encoder_is_exact():
    """W'W diagonal: then a diagonal posterior is exact, and ELBO = log p."""
    torch.manual_seed(3)
    d = math.prod(SHAPE)
    w = torch.linalg.qr(torch.randn(d, 3).double())[0] * torch.tensor([3.0, 1.0, 0.4]).double()
    noise = GaussianNoise(SHAPE[0])
    noise.double().log_excess.data[:] = math.log(0.3 - noise.floor)

    class Identity(nn.Flatten):
        shape, width, settings = SHAPE, d, {}

    model = Model([Sigma(3)], Identity(), Linear(SHAPE, 3, w), noise).double()
    model.decoder.map.bias.data.zero_()
    precision = (w.T @ w).diagonal() / 0.3**2 + 1
    head = model.heads["z"]
    head.weight.data[:3] = (w / 0.3**2 / precision).T
    head.weight.data[3:], head.bias.data[:3] = 0, 0
    head.bias.data[3:] = -0.5 * precision.log()
    image = torch.randn(6, *SHAPE, dtype=torch.float64)
    evidence = MultivariateNormal(
        torch.zeros(d).double(), w @ w.T + 0.09 * torch.eye(d).double()
    ).log_prob(image.flatten(1))
    assert (evidence - exact_bound(model, image)).abs().max() < 1e-5


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
    joint = -nll - math.log(2) - math.log(2 * math.pi)  # log p(x, angle, class)
    step = 2 * math.pi / len(angles)
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
