"""The bound against exact evidence, which a linear decoder has for every composition."""

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from compositions import COMPOSITIONS, inferred, is_relaxed, make, tensors
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from atomvae.latent import Angle, Categorical, Code, Gaussian, pose
from atomvae.latent.circle import wrapped_log_prob
from atomvae.model import zoo
from atomvae.model.config import TermWeight
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model
from atomvae.model.objective import objective

SHAPE = (2, 5, 5)
TWO_PI = 2 * math.pi


@pytest.fixture(autouse=True)
def own_seed_and_fine_rule(monkeypatch):
    """The laws of the angle bound the error of its rule of 24 nodes; here it shall not matter."""
    monkeypatch.setattr(pose, "NODES", 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# A linear decoder: everything is known in closed form.


@dataclasses.dataclass(frozen=True)
class Sigma(Gaussian):
    """A Gaussian that visits its sigma points: their mean is exact for anything quadratic."""

    offset: tuple[float, ...] | None = None

    def draw(self, q):
        if self.offset is None:
            return super().draw(q)
        return q.mean + q.stddev * q.mean.new_tensor(self.offset)


class Linear(nn.Module):
    """d(z) = W z + b at every pixel, whatever the coordinates."""

    pointwise = True

    def __init__(self, shape, content):
        super().__init__()
        self.shape, self.content = shape, content
        scale = 1 / math.sqrt(max(content, 1))
        self.weight = nn.Parameter(scale * torch.randn(math.prod(shape), content).double())
        self.bias = nn.Parameter(torch.randn(math.prod(shape)).double())

    def forward(self, content, coords):
        c, h, w = self.shape
        assert coords.shape[1] == h * w  # all pixels are asked for, in order
        image = nn.functional.linear(content, self.weight, self.bias)
        return image.view(-1, c, h * w).transpose(1, 2)


def linear_model(name, seed=0, shape=SHAPE):
    """A composition with a linear decoder and Gaussian noise; its encoder is any."""
    model = make(name, shape, seed)
    latent = [
        Sigma(f.size, f.name, f.sigma) if isinstance(f, Gaussian) else f for f in model.latent
    ]
    decoder = Linear(model.target_shape, sum(f.size for f in model.content))
    noise = GaussianNoise(model.target_shape[0])
    noise.log_excess.data = torch.linspace(-0.5, 0.3, model.target_shape[0])
    return Model(latent, model.encoder, decoder, noise).double()


def exact_bound(model, batch):
    """ELBO with the expectation over the Gaussian content done exactly."""
    sizes = [f.size for f in model.latent if isinstance(f, Gaussian)]
    n, latent, total = sum(sizes), model.latent, 0.0
    points = [s * math.sqrt(n) * row for row in np.eye(n) for s in (1, -1)] or [np.zeros(0)]
    for point in points:
        parts = iter(np.split(point, np.cumsum(sizes)))
        model.latent = tuple(
            dataclasses.replace(f, offset=tuple(next(parts))) if isinstance(f, Sigma) else f
            for f in latent
        )
        terms = model.bound(**batch)
        total = total - sum(t for n, t in terms.items() if n != "surprise") / len(points)
    model.latent = latent
    return total


class Truth:
    """Evidence and true posterior of a linear model, given the known values of a batch."""

    def __init__(self, model, batch):
        c, h, w = model.target_shape
        seen = model.field.repeat(c)
        weight, sd = model.decoder.weight[seen], model.likelihood.level.repeat_interleave(h * w)
        self.sd = sd[seen]
        target = batch["image"] if batch["target"] is None else batch["target"]
        sizes = [f.size for f in model.content]
        column = dict(zip([f.name for f in model.content], weight.split(sizes, 1), strict=True))
        kinds = [f for f in model.content if isinstance(f, Categorical)]
        known = batch["known"]

        mean = model.decoder.bias[seen].expand(len(target), -1)
        log_known = torch.zeros(len(target)).double()
        for f in model.latent:
            if f.name in known and f not in kinds:
                if f.name in column:
                    mean = mean + known[f.name] @ column[f.name].T
                if isinstance(f, Angle):
                    log_known = log_known - math.log(TWO_PI)
                elif not f.is_given:
                    prior = Normal(torch.zeros(f.size).double(), f.sigma)
                    log_known = log_known + prior.log_prob(known[f.name]).sum(-1)
        self.free = [f for f in model.content if isinstance(f, Gaussian) and f.name not in known]
        self.w = torch.cat([weight[:, :0], *(column[f.name] for f in self.free)], 1)
        self.prior = torch.tensor([f.sigma for f in self.free for _ in range(f.size)]).double()
        covariance = (self.w * self.prior**2) @ self.w.T + torch.diag(self.sd**2)

        residual, joint = [], []
        for place in itertools.product(*(range(f.size) for f in kinds)):
            here, log_p = mean, log_known
            for f, k in zip(kinds, place, strict=True):
                here = here + column[f.name][:, k]
                log_p = log_p - math.log(f.size)
                if f.name in known:
                    log_p = log_p + known[f.name][:, k].log()  # minus infinity for the others
            residual.append(target.flatten(1)[:, seen] - here)
            normal = MultivariateNormal(torch.zeros(len(self.sd)).double(), covariance)
            joint.append(log_p + normal.log_prob(residual[-1]))
        self.residual, joint = torch.stack(residual, 1), torch.stack(joint, 1)  # (B, C, D), (B, C)
        self.log_p = joint.logsumexp(1)
        self.log_class = joint.log_softmax(1)

    def content(self, label):
        """True posterior of the unknown numbers in each branch."""
        precision = torch.diag(self.prior**-2) + self.w.T @ (self.w / self.sd[:, None] ** 2)
        rows = torch.arange(len(label))[:, None]
        pull = (self.residual[rows, label] / self.sd**2) @ self.w
        return MultivariateNormal(pull @ torch.linalg.inv(precision), precision_matrix=precision)


def gap_to(truth, model, batch):
    """KL from the posterior of the model to the true one, part by part."""
    known = batch["known"]
    state = model.infer(batch["image"], known=known)
    weight, label = state.branches.weight, state.branches.label
    gap = torch.zeros(len(weight)).double()
    if truth.free:
        mean, variance = (
            torch.cat([getattr(state.q[f.name], part) for f in truth.free], -1)
            for part in ("mean", "variance")
        )
        mine = MultivariateNormal(mean, torch.diag_embed(variance))
        gap = (weight * kl_divergence(mine, truth.content(label))).sum(1)
    p = torch.stack([(weight * (label == c)).sum(1) for c in range(model.classes)], 1)
    terms = p * (p.log() - truth.log_class)
    gap = gap + terms.where(p > 1e-12, 0.0).sum(1)
    for f in model.poses:  # the decoder ignores the pose: its true posterior is the prior
        if isinstance(f, Angle) and f.name not in known:
            gap = gap + angle_kl_on_a_grid(state.branches, state.q[f.name])
        elif f.name not in known:
            q, prior = state.q[f.name].base_dist, Normal(torch.zeros(f.size).double(), f.sigma)
            gap = gap + (weight * kl_divergence(q, prior.expand(q.mean.shape)).sum(-1)).sum(1)
    return gap


def angle_kl_on_a_grid(branches, q):
    grid = torch.linspace(-math.pi, math.pi, 8193, dtype=torch.float64)[:-1]
    part = wrapped_log_prob(grid - q.mean, q.stddev)  # (B, K, G)
    total = 0.0
    for label in branches.label[0].unique():
        mask = branches.label[0] == label
        weight = branches.weight[:, mask]
        share = (weight / weight.sum(1, keepdim=True)).nan_to_num()
        log_q = (part[:, mask] + share.log()[..., None]).logsumexp(1)
        term = log_q.exp() * (log_q + math.log(TWO_PI))
        total = total + (weight.sum(1) * term.mean(1) * TWO_PI).nan_to_num()
    return total


def has_evidence(name):
    """Whether all that is inferred has a prior that is enumerated or Gaussian."""
    return not any(isinstance(f, Code) or is_relaxed(f) for f in make(name).latent)


LINEAR = [name for name in COMPOSITIONS if has_evidence(name)]
CASES = [(name, (f.name,)) for name in LINEAR for f in inferred(make(name))]
CASES += [(name, ()) for name in LINEAR]


@torch.no_grad()
@pytest.mark.parametrize("name, told", CASES)
def test_gap_is_the_kl_to_the_true_posterior(name, told):
    """log p(x, known) - ELBO = KL[q, posterior] for the arbitrary q of an untrained encoder."""
    model = linear_model(name)
    batch = tensors(model, 3)
    for f in model.latent:
        if f.name in told:
            batch["known"][f.name] = f.draw_prior(3).double()
    truth = Truth(model, batch)
    gap = gap_to(truth, model, batch)
    assert (truth.log_p - exact_bound(model, batch) - gap).abs().max() < 1e-5
    if len(told) < len(inferred(model)):
        assert (gap > 1e-3).all()  # an arbitrary q is not the posterior


@torch.no_grad()
@pytest.mark.parametrize("name", LINEAR)
def test_bound_is_the_joint_probability_when_all_is_known(name):
    model = linear_model(name, seed=1)
    batch = tensors(model, 3)
    batch["known"] |= {f.name: f.draw_prior(3).double() for f in inferred(model)}
    error = Truth(model, batch).log_p - exact_bound(model, batch)
    assert error.abs().max() < 1e-8


@torch.no_grad()
@pytest.mark.parametrize("name", ["vae", "jvae", "ssvae_number", "class_and_condition"])
def test_drawn_bound_has_the_exact_mean(name):
    model, n = linear_model(name), 4000
    batch = tensors(model, 1)
    exact = exact_bound(model, batch)
    many = {k: v.expand(n, -1) for k, v in batch["known"].items()}
    terms = model.bound(batch["image"].expand(n, -1, -1, -1), known=many)
    drawn = -sum(terms.values())
    assert abs(drawn.mean() - exact) < 3.5 * drawn.std() / math.sqrt(n)


@torch.no_grad()
def test_importance_weighted_bounds_rise_to_the_evidence():
    """Draws, likelihood, prior and log q belong together: p(x, z) / q(z) has the mean p(x)."""
    model, n = linear_model("ssvae_number"), 200_000
    batch = tensors(model, 1)
    log_p = float(Truth(model, batch).log_p)
    state = model.infer(batch["image"])
    z, log_w = {}, torch.zeros(n).double()
    for f in model.latent:
        z[f.name] = state.q[f.name].rsample((n,))[:, 0, 0]
        log_q = state.q[f.name].log_prob(z[f.name][:, None, None])[:, 0, 0]
        log_w += f.log_prior(z[f.name]) - log_q
    output = model.decoder(torch.cat([z[f.name] for f in model.content], 1), model.grid[None])
    pixels = batch["image"].flatten(2).transpose(1, 2)
    log_w += model.likelihood.log_prob(pixels, output).sum(1)
    bounds = []
    for k in (1, 10, 100, 1000):
        group = log_w.view(-1, k).logsumexp(1) - math.log(k)
        bounds.append((float(group.mean()), float(group.std()) / math.sqrt(len(group))))
    means, errors = zip(*bounds, strict=True)
    assert abs(means[0] - float(exact_bound(model, batch))) < 3.5 * errors[0]
    assert all(a < b for a, b in itertools.pairwise(means))
    assert means[-1] < log_p + 3 * errors[-1]
    assert log_p - means[-1] < 0.1 * (log_p - means[0])


@torch.no_grad()
def test_bound_is_the_evidence_when_the_encoder_is_exact():
    """W'W diagonal: then a diagonal posterior is exact, and ELBO = log p."""
    d = math.prod(SHAPE)
    noise = GaussianNoise(SHAPE[0])
    noise.double().log_excess.data[:] = math.log(0.3 - noise.floor)

    class Identity(nn.Flatten):
        shape, width, settings = SHAPE, d, {}

    model = Model([Sigma(3)], Identity(), Linear(SHAPE, 3), noise).double()
    w = torch.linalg.qr(torch.randn(d, 3).double())[0] * torch.tensor([3.0, 1.0, 0.4]).double()
    model.decoder.weight.data, model.decoder.bias.data = w, torch.zeros(d).double()
    precision = (w.T @ w).diagonal() / 0.3**2 + 1
    head = model.heads["z"]
    head.weight.data[:3] = (w / 0.3**2 / precision).T
    head.weight.data[3:], head.bias.data[:3] = 0, 0
    head.bias.data[3:] = -0.5 * precision.log()
    image = torch.randn(6, *SHAPE, dtype=torch.float64)
    covariance = w @ w.T + 0.09 * torch.eye(d).double()
    evidence = MultivariateNormal(torch.zeros(d).double(), covariance).log_prob(image.flatten(1))
    batch = {"image": image, "target": None, "known": {}}
    assert (evidence - exact_bound(model, batch)).abs().max() < 1e-5
    assert gap_to(Truth(model, batch), model, batch).abs().max() < 1e-6


@torch.no_grad()
def test_relaxed_classes_are_a_bound_on_their_own_evidence():
    """Two relaxed classes are one number: both sides by quadrature, the bound by its draws."""
    model = zoo.compose(SHAPE, [Gaussian(2), Categorical(2, temperature=0.67)], seed=3)
    noise = GaussianNoise(2)
    model = Model(model.latent, model.encoder, Linear(SHAPE, 4), noise).double()
    model.heads["class"].bias += torch.tensor([1.0, -0.4]).double()
    image, n = torch.randn(1, *SHAPE).double(), 20_000
    wz, wc = model.decoder.weight[:, :2], model.decoder.weight[:, 2:]
    q = model.infer(image).q

    u = (torch.arange(n).double() + 0.5) / n
    logistic = u.log() - (1 - u).log()  # at even steps of its distribution

    def share(at):  # (n, 2) relaxed classes of logits that are `at` apart
        first = (at / 0.67).sigmoid()
        return torch.stack([first, 1 - first], 1)

    eye = noise.level[0] ** 2 * torch.eye(math.prod(SHAPE)).double()
    centre = image.flatten() - model.decoder.bias
    given = MultivariateNormal(torch.zeros(len(centre)).double(), wz @ wz.T + eye)
    log_p = given.log_prob(centre - share(logistic) @ wc.T).logsumexp(0) - math.log(n)

    apart = q["class"].logits[0, 0, 0] - q["class"].logits[0, 0, 1]
    at = logistic + apart
    y = share(at)
    mean, variance = q["z"].mean[0, 0], q["z"].variance[0, 0]
    residual = centre - y @ wc.T - wz @ mean
    spread = (wz**2 * variance).sum()
    sd2 = noise.level[0] ** 2
    expected = -0.5 * ((residual**2).sum(1) + spread) / sd2 - 25 * (TWO_PI * sd2).log()

    def logistic_log_density(value):
        return nn.functional.logsigmoid(value) + nn.functional.logsigmoid(-value)

    kl = (logistic_log_density(logistic) - logistic_log_density(at)).mean()
    kl_z = kl_divergence(q["z"].base_dist, Normal(torch.zeros(2).double(), 1)).sum()
    exact = expected.mean() - kl - kl_z

    terms = model.bound(image.expand(n, -1, -1, -1))
    drawn = -sum(terms.values())
    assert abs(terms["class"].mean() - kl) < 3.5 * terms["class"].std() / math.sqrt(n)
    assert abs(drawn.mean() - exact) < 3.5 * drawn.std() / math.sqrt(n)
    assert exact < log_p - 0.1
    assert drawn.mean() + 3.5 * drawn.std() / math.sqrt(n) < log_p


@pytest.mark.parametrize("beta, active", [(1.0, 3), (4.0, 2), (10.0, 1)])
def test_beta_keeps_the_dimensions_above_it(beta, active):
    """A linear VAE of known noise uses, at its optimum, what varies more than beta times it."""
    n, d, size = 60, 16, 4
    centred = torch.randn(n, d).double()
    axes = torch.linalg.svd(centred - centred.mean(0), full_matrices=False)
    variance = torch.tensor([20.0, 6.0, 2.5] + [0.3] * (d - 3)).double()  # of the noise: 1
    image = (math.sqrt(n) * axes.U * variance.sqrt() @ axes.Vh).view(n, 1, 4, 4)
    plain = zoo.compose(
        (4, 4), [Gaussian(size)], **zoo.LINEAR, likelihood=partial(GaussianNoise, sd=1.0)
    )
    model = Model([Sigma(size)], plain.encoder, plain.decoder, plain.likelihood).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=150, history_size=30, line_search_fn="strong_wolfe"
    )
    weights = (TermWeight(term="z", weight=beta),)

    def loss():
        optimizer.zero_grad()
        terms = {"nll": 0.0, "z": 0.0}
        for axis, sign in itertools.product(range(size), (1, -1)):
            offset = sign * math.sqrt(size) * np.eye(size)[axis]
            model.latent = (Sigma(size, offset=tuple(offset)),)
            for name, t in model.bound(image).items():
                terms[name] = terms[name] + t / (2 * size)
        total = objective(terms, weights, 1.0)
        total.backward()
        return total

    optimizer.step(loss)
    mean = model.infer(image).q["z"].mean[:, 0].detach()
    used = torch.linalg.eigvalsh(mean.T @ mean / n).flip(0)
    expected = (1 - beta / variance[:size]).clamp_min(0)  # of the posterior means
    assert int((expected > 0).sum()) == active
    assert torch.allclose(used, expected, atol=0.01)
