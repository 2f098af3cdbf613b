"""Laws that every factor keeps, and closed forms against numbers."""

import dataclasses
import itertools
import math

import pytest
import torch

from atomvae.latent import (
    Angle,
    Branches,
    Categorical,
    Code,
    Condition,
    Gaussian,
    Rotation,
    Scale,
    Shear,
    Shift,
)
from atomvae.latent.circle import WrappedNormal, wrap, wrapped_log_prob
from atomvae.latent.pose import to_motif, turn_matrix

CONTINUOUS = [
    Gaussian(3), Gaussian(1, sigma=0.2), Shift(), Shift(sigma=0.4), Rotation(), Shear(),
    Shear(size=2, sigma=0.2), Scale(),
]  # fmt: skip
POSES = [Shift(), Angle(), Angle(copies=1), Rotation(), Shear(), Shear(size=2), Scale()]
RELAXED = [Categorical(2, temperature=0.5), Categorical(5, temperature=1.3)]


def some_branches(batch=2, copies=4, classes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(batch, copies * classes, generator=generator, dtype=torch.float64)
    turn = torch.tensor(Angle(copies=copies).turns, dtype=torch.float64)
    label = torch.arange(classes).repeat(copies).expand(batch, -1)
    return Branches(logit.log_softmax(1), turn.repeat_interleave(classes).expand(batch, -1), label)


def some_params(factor, branches, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (*branches.label.shape, factor.n_params)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture(autouse=True)
def own_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("factor", [*CONTINUOUS, Angle(copies=4), *RELAXED], ids=repr)
def test_sample_has_its_shape_and_reaches_its_parameters(factor):
    branches = some_branches()
    params = some_params(factor, branches)
    q = factor.posterior(params, branches)
    value = factor.draw(q)
    assert value.shape == (2, 4, factor.size)
    assert q.log_prob(value).shape == (2, 4)
    # the weights make the sum depend on each number differently
    (value * torch.randn_like(value)).sum().backward(retain_graph=True)
    used = params.grad.abs() > 0
    first = 1 if factor.chooses else 0  # the logit acts through the weight of the branch
    assert used[..., first:].all()
    params.grad = None
    factor.kl(q, branches).sum().backward()
    assert (params.grad.abs() > 0)[..., first:].all()


@pytest.mark.parametrize("factor", CONTINUOUS, ids=repr)
def test_kl_is_the_mean_of_log_q_over_p(factor):
    branches = some_branches()
    q = factor.posterior(some_params(factor, branches), branches)
    value = q.sample((200_000,))
    prior = torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), factor.sigma)
    ratio = q.log_prob(value) - prior.log_prob(value).sum(-1)  # (n, B, K)
    mean = branches.average(ratio.mean(0))
    error = (branches.weight**2 * ratio.var(0) / len(value)).sum(1).sqrt()
    exact = factor.kl(q, branches)
    assert (exact > 0).all()
    assert ((exact - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("copies, classes", [(1, 1), (4, 1), (8, 1), (8, 3)])
def test_kl_of_the_angle_is_that_of_the_mixture(copies, classes):
    factor = Angle(copies=copies)
    branches = some_branches(3, copies, classes)
    q = factor.posterior(some_params(factor, branches), branches)
    loc, sd = q.base_dist.loc[..., 0], q.base_dist.scale[..., 0]
    grid = torch.linspace(-math.pi, math.pi, 8193, dtype=torch.float64)[:-1]
    expected = torch.zeros(3, dtype=torch.float64)
    for c in range(classes):
        weight = branches.weight * (branches.label == c)
        mass = weight.sum(1)
        part = wrapped_log_prob(grid - loc[..., None], sd[..., None]).exp()  # (B, K, G)
        density = ((weight / mass[:, None])[..., None] * part).sum(1)
        term = torch.xlogy(density, density * 2 * math.pi)
        expected += mass * term.mean(-1) * 2 * math.pi
    assert torch.allclose(factor.kl(q, branches), expected, atol=2e-4, rtol=0)


def test_kl_of_the_angle_of_the_known_cases():
    """One narrow copy costs log 2 pi minus the entropy of a normal; an even ring costs nothing."""
    factor, turn = Angle(copies=8), torch.tensor(Angle(copies=8).turns, dtype=torch.float64)
    label = torch.zeros(1, 8, dtype=torch.int64)
    params = torch.zeros(1, 8, 3, dtype=torch.float64)
    one = Branches(torch.tensor([[0.0] + [-60.0] * 7]).double(), turn[None], label)
    q = factor.posterior(params, one)
    sd = float(q.base_dist.scale[0, 0, 0])
    entropy = 0.5 * math.log(2 * math.pi * math.e * sd**2)
    assert float(factor.kl(q, one)) == pytest.approx(math.log(2 * math.pi) - entropy, abs=1e-9)
    even = Branches(torch.full((1, 8), -math.log(8)).double(), turn[None], label)
    params[..., 2] = 1.0  # sd of about 0.4 rad: neighbours overlap
    assert 0 <= float(factor.kl(factor.posterior(params, even), even)) < 1e-4


def test_kl_of_the_class_is_exact():
    branches = some_branches(5, copies=3, classes=4)
    factor = Categorical(4)
    q = factor.posterior(torch.zeros(5, 12, 1).double(), branches)
    p = factor.probabilities(q, branches)
    assert torch.allclose(p.sum(1), torch.ones(5, dtype=torch.float64))
    by_hand = torch.stack([
        sum(branches.weight[:, j * 4 + c] for j in range(3)) for c in range(4)
    ], 1)  # fmt: skip
    assert torch.allclose(p, by_hand)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=p),
        torch.distributions.Categorical(probs=torch.full((5, 4), 0.25, dtype=torch.float64)),
    )
    q = factor.posterior(some_params(factor, branches), branches)
    assert torch.allclose(factor.kl(q, branches), expected)
    assert (factor.draw(q).argmax(-1) == branches.label).all()


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 2)], ids=repr)
def test_kls_of_several_classes_add_up_to_that_of_the_joint(sizes):
    """Chain rule: whatever the joint, the terms are its KL, the first that of its margin."""
    factors = [Categorical(n, f"kind{i}") for i, n in enumerate(sizes)]
    classes = math.prod(sizes)
    branches = some_branches(4, copies=3, classes=classes)
    strides = {f.name: math.prod(sizes[i + 1 :]) for i, f in enumerate(factors)}
    branches = dataclasses.replace(branches, strides=strides)
    params = torch.zeros(4, 3 * classes, 1).double()
    terms = [f.kl(f.posterior(params, branches), branches) for f in factors]
    table = branches.weight.view(4, 3, *sizes).sum(1)  # copies, then the first class slowest
    joint = (table * table.log()).flatten(1).sum(1) + math.log(classes)
    assert torch.allclose(sum(terms), joint)
    for i, f in enumerate(factors):
        p = table.sum([j + 1 for j in range(len(sizes)) if j != i])
        assert torch.allclose(f.probabilities(f.posterior(params, branches), branches), p)
    p = table.flatten(2).sum(2)
    assert torch.allclose(terms[0], (p * p.log()).sum(1) + math.log(sizes[0]))
    assert all((t > -1e-12).all() for t in terms)


def concrete_log_density(value, logits, temperature):
    """Density of relaxed one-hot values, as Maddison, Mnih & Teh (2017) write it, eq. 10."""
    n = value.shape[-1]
    scaled = logits - temperature * value.log()
    return (
        math.lgamma(n)
        + (n - 1) * math.log(temperature)
        + (scaled - value.log()).sum(-1)
        - n * scaled.logsumexp(-1)
    )


@pytest.mark.parametrize("factor", RELAXED, ids=repr)
@torch.no_grad()
def test_relaxed_class_is_concrete_and_its_kl_is_that_of_what_is_drawn(factor):
    branches = some_branches()
    params = 2 * some_params(factor, branches)
    q = factor.posterior(params, branches)
    value = torch.stack([factor.draw(q) for _ in range(4000)])
    assert (value >= 0).all() and torch.allclose(value.sum(-1), torch.ones(1).double())
    # which is largest follows the logits, at any temperature
    share = torch.nn.functional.one_hot(value.argmax(-1), factor.size).double().mean(0)
    assert (share - params.softmax(-1)).abs().max() < 4 * 0.5 / math.sqrt(4000)
    value = value.clamp_min(1e-30)
    temperature = factor.temperature
    ratio = concrete_log_density(value, params, temperature) - concrete_log_density(
        value, torch.zeros_like(params), temperature
    )
    terms = torch.stack([factor.kl(q, branches) for _ in range(4000)])  # one sample each
    mine = (branches.weight * ratio).sum(-1)
    error = ((mine.var(0) + terms.var(0)) / 4000).sqrt()
    assert ((terms.mean(0) - mine.mean(0)).abs() < 4 * error).all()
    assert (terms.mean(0) > 0.05).all()


@pytest.mark.parametrize("factor", RELAXED, ids=repr)
def test_relaxed_class_of_the_prior_costs_nothing(factor):
    branches = some_branches()
    params = torch.zeros(2, 4, factor.size).double()
    assert factor.kl(factor.posterior(params, branches), branches).abs().max() < 1e-12


@pytest.mark.parametrize("factor", CONTINUOUS, ids=repr)
def test_densities_of_normal_factors(factor):
    branches = some_branches()
    params = some_params(factor, branches)
    value = torch.randn(2, factor.size).double()
    if isinstance(factor, Shift):
        mean, log_sd = params[..., :2], params[..., 2:].expand(-1, -1, 2)
        c, s = branches.turn.cos(), branches.turn.sin()
        mean = torch.stack([c * mean[..., 0] - s * mean[..., 1],
                            s * mean[..., 0] + c * mean[..., 1]], -1)  # fmt: skip
    else:
        mean, log_sd = params.chunk(2, -1)
    normal = torch.distributions.Normal(factor.sigma * mean, factor.sigma * log_sd.exp())
    q = factor.posterior(params, branches)
    expected = normal.log_prob(value[:, None]).sum(-1)
    assert torch.allclose(factor.log_q(q, value, branches), expected)
    assert torch.allclose(q.variance, normal.variance)
    prior = torch.distributions.Normal(torch.zeros(1).double(), factor.sigma)
    assert torch.allclose(factor.log_prior(value), prior.log_prob(value).sum(-1))


def test_densities_of_angles_and_classes():
    branches = some_branches(2, copies=4, classes=3)
    angle, kind = Angle(copies=4), Categorical(3)
    q = angle.posterior(some_params(angle, branches), branches)
    value = torch.tensor([[3.1], [-1.0]]).double()
    wraps = 2 * math.pi * torch.arange(-5, 6)
    normal = torch.distributions.Normal(q.mean, q.stddev)
    density = normal.log_prob(value[:, None] + wraps).exp().sum(-1).log()
    assert torch.allclose(angle.log_q(q, value, branches), density)
    uniform = torch.distributions.Uniform(-torch.tensor(math.pi).double(), math.pi)
    assert torch.allclose(angle.log_prior(value), uniform.log_prob(value[:, 0]))
    one_hot = torch.eye(3)[[2, 0]].double()
    even = torch.distributions.Categorical(logits=torch.zeros(3).double())
    assert torch.allclose(kind.log_prior(one_hot), even.log_prob(torch.tensor([2, 0])))
    q = kind.posterior(torch.zeros(2, 12, 1).double(), branches)
    log_q = kind.log_q(q, one_hot, branches)
    assert (log_q.exp() == (branches.label == torch.tensor([[2], [0]]))).all()
    for relaxed in RELAXED:
        params = some_params(relaxed, branches)
        q = relaxed.posterior(params, branches)
        one_hot = torch.eye(relaxed.size)[[1, 0]].double()
        logit = torch.distributions.Categorical(logits=params)
        expected = logit.log_prob(torch.tensor([[1], [0]]))
        assert torch.allclose(relaxed.log_q(q, one_hot, branches), expected)


@pytest.mark.parametrize("factor", [Code(3), Condition(2), Condition(3, discrete=True)], ids=repr)
def test_what_has_no_prior_costs_nothing(factor):
    branches = some_branches()
    value = factor.draw_prior(2).double()
    assert value.shape == (2, factor.size)
    assert torch.equal(factor.log_prior(value), torch.zeros(2).double())
    if isinstance(factor, Condition):
        assert factor.is_given and factor.n_params == 0
        return
    params = some_params(factor, branches)
    q = factor.posterior(params, branches)
    assert torch.equal(factor.draw(q), params) and torch.equal(factor.point(q), params)
    assert torch.equal(q.variance, torch.zeros_like(params))
    assert torch.equal(factor.kl(q, branches), torch.zeros(2).double())


@pytest.mark.parametrize(
    "factor", [*CONTINUOUS, Angle(), Categorical(3), Categorical(3, temperature=1.0)], ids=repr
)
def test_draws_of_the_prior_have_its_moments(factor):
    value, n = factor.draw_prior(40_000).double(), 40_000
    if isinstance(factor, Categorical):
        assert (value.sum(1) == 1).all()
        assert (value.mean(0) - 1 / 3).abs().max() < 4 * 0.5 / math.sqrt(n)
        return
    sd = math.pi / math.sqrt(3) if isinstance(factor, Angle) else factor.sigma
    assert value.mean(0).abs().max() < 4 * sd / math.sqrt(n)
    assert (value.std(0) / sd - 1).abs().max() < 0.02


def test_wrapped_normal_is_normalised_and_samples_as_its_density_says():
    for sd in (0.05, 0.5, 1.5):
        q = WrappedNormal(torch.tensor(3.0).double(), torch.tensor(sd).double())
        grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
        density = q.log_prob(grid).exp()
        assert float(density.mean() * 2 * math.pi) == pytest.approx(1, abs=1e-6)
        value = q.rsample((100_000,))
        assert value.min() >= -math.pi and value.max() < math.pi
        # circular moments: E cos(n (g - loc)) = exp(-n^2 sd^2 / 2)
        for n in (1, 2):
            moment = (n * (value - q.loc)).cos()
            error = moment.std() / math.sqrt(len(value))
            assert abs(moment.mean() - math.exp(-(n**2) * sd**2 / 2)) < 4 * error + 1e-12


def test_wrap():
    angle = torch.tensor([0.0, math.pi, -math.pi, 7.0, -7.0]).double()
    assert torch.allclose(wrap(angle).cos(), angle.cos())
    assert torch.allclose(wrap(angle).sin(), angle.sin(), atol=1e-12)
    assert (wrap(angle) < math.pi).all() and (wrap(angle) >= -math.pi).all()


@pytest.mark.parametrize("pose", POSES, ids=repr)
def test_pose_of_zero_is_the_identity_and_minus_is_the_inverse(pose):
    zero = torch.zeros(pose.size, dtype=torch.float64)
    assert torch.equal(pose.matrix(zero), torch.eye(3, dtype=torch.float64))
    value = torch.randn(6, pose.size, dtype=torch.float64)
    product = pose.matrix(value) @ pose.matrix(-value)
    assert torch.allclose(product, torch.eye(3, dtype=torch.float64).expand(6, 3, 3))
    area = torch.linalg.det(pose.matrix(value))
    expected = (2 * value[:, 0]).exp() if isinstance(pose, Scale) else torch.ones(6).double()
    assert torch.allclose(area, expected)


def test_order_of_listing_does_not_matter_and_shift_is_outermost():
    poses = [Shift(), Angle(), Shear(), Scale()]
    value = {p.name: torch.randn(5, p.size, dtype=torch.float64) for p in poses}
    expected = (
        Shift().matrix(value["shift"])
        @ Angle().matrix(value["angle"])
        @ Shear().matrix(value["shear"])
        @ Scale().matrix(value["scale"])
    )
    for order in itertools.permutations(poses):
        assert torch.allclose(to_motif(order, value) @ expected, torch.eye(3).double(), atol=1e-12)
    # outermost: the origin of the motif lies at the shift, whatever the angle
    origin = expected @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(origin[:, :2], value["shift"])


def test_shear_of_two_components_is_the_exponential_of_its_generator():
    for h1, h2 in [(0.3, 0.0), (0.0, 0.3), (-0.7, 0.4), (1e-12, -1e-12)]:
        generator = torch.tensor([[h2, h1], [h1, -h2]]).double()
        found = Shear(size=2).matrix(torch.tensor([h1, h2]).double())[:2, :2]
        assert torch.allclose(found, torch.linalg.matrix_exp(generator), atol=1e-14)
    one = Shear().matrix(torch.tensor([0.3]).double())
    assert torch.equal(one, Shear(size=2).matrix(torch.tensor([0.3, 0.0]).double()))


def test_poses_of_zero_have_gradients():
    for pose in POSES:
        value = torch.zeros(pose.size).double().requires_grad_()
        pose.matrix(value).sum().backward()
        assert value.grad.isfinite().all()


@pytest.mark.parametrize("kind", [Angle, Categorical, Code, Condition, Gaussian, Shear, Shift])
def test_unknown_settings_are_errors(kind):
    with pytest.raises(TypeError, match="sise"):
        kind(sise=2)


def test_positive_angle_is_counter_clockwise_on_screen():
    right, up = torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])  # (dy, dx), y down
    assert torch.allclose(turn_matrix(torch.tensor(math.pi / 2)) @ right, up, atol=1e-6)


def test_shift_is_told_in_the_frame_of_the_motif():
    quarter = torch.tensor([[math.pi / 2]]).double()
    branches = Branches(torch.zeros(1, 1).double(), quarter, torch.zeros(1, 1).long())
    params = torch.tensor([[[0.0, 1.0, 0.0]]]).double()  # right in the motif
    q = Shift(sigma=0.1).posterior(params, branches)
    expected = torch.tensor([-0.1, 0.0]).double()  # up in the patch
    assert torch.allclose(q.mean[0, 0], expected, atol=1e-6)


def test_factors_are_their_own_settings():
    assert Angle() == Angle(copies=8) and hash(Angle()) == hash(Angle(copies=8))
    assert eval(repr(Shift(sigma=0.3))) == Shift(sigma=0.3)
