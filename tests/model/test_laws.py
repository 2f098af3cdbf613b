"""Laws of the model: one test each, for every composition of factors, networks and noise."""

import inspect
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from compositions import (
    COMPOSITIONS,
    SHAPE,
    ZOO,
    arbitrary,
    data,
    every,
    images,
    inferred,
    is_relaxed,
    make,
    tensors,
)
from torch.distributions import Bernoulli, Normal, Poisson

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Code, Scale, Shift
from atomvae.model import likelihood, zoo
from atomvae.model.config import TrainConfig
from atomvae.model.encode import encode
from atomvae.model.model import Model
from atomvae.model.train import train


@pytest.fixture(autouse=True)
def own_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_every_function_of_the_zoo_is_tried():
    made = {
        name
        for name, function in inspect.getmembers(zoo, inspect.isfunction)
        if function.__module__ == zoo.__name__
        and inspect.signature(function).return_annotation in (Model, "Model")
    }
    assert made - {"compose"} == set(ZOO)


# The bound.


def noise_of(model, output):
    """What the likelihood is, by torch's own distributions."""
    kind = model.likelihood
    if isinstance(kind, likelihood.Bernoulli):
        return Bernoulli(logits=output)
    if isinstance(kind, likelihood.Poisson):
        return Poisson(output.exp())
    return Normal(output, kind.level.to(output).expand(output.shape))


@every
@torch.no_grad()
def test_terms_are_nats_per_patch(name):
    """Written out: sums over pixels and channels, a mean over branches, nothing else."""
    model = arbitrary(name)
    batch = tensors(model, 3)
    torch.manual_seed(1)
    terms = model.bound(**batch)
    names = {f.name for f in inferred(model)} | {"nll"}
    assert set(terms) == (names | {"surprise"} if batch["known"] else names)
    assert all(t.shape == (3,) and t.isfinite().all() for t in terms.values())

    torch.manual_seed(1)  # the same draws
    state = model.infer(batch["image"], known=batch["known"])
    z = {f.name: state.draw(f) for f in model.latent}
    target = batch["image"] if batch["target"] is None else batch["target"]
    pixels = target.flatten(2).transpose(1, 2)  # (B, D, c)
    nll = torch.zeros(3).double()
    for k in range(model.n_branches):
        output = model.reconstruct({n: v[:, k] for n, v in z.items()}, model.grid.expand(3, -1, -1))
        log_p = noise_of(model, output).log_prob(pixels)[:, model.field].sum((1, 2))
        nll -= state.branches.weight[:, k] * log_p
    assert torch.allclose(terms["nll"], nll)
    assert torch.allclose(state.branches.weight.sum(1), torch.ones(3).double())


@every
@torch.no_grad()
def test_kls_are_those_of_what_is_drawn(name):
    """The sum of the KL terms is the mean of log q - log p over draws: one branch, then values."""
    model, n = arbitrary(name), 4000
    batch = tensors(model, 1)
    free = [f for f in inferred(model) if not is_relaxed(f) and not isinstance(f, Code)]
    state = model.infer(batch["image"], known=batch["known"])
    exact = sum((state.kl(f) for f in free), torch.zeros(1))

    params = model.parameters_of(batch["image"], batch["known"])
    params = {name: p.expand(n, -1, -1) for name, p in params.items()}
    given = {name: v.expand(n, -1) for name, v in batch["known"].items()}
    rows = torch.arange(n)

    def draw(known, factors):
        state = model.posterior_of(params, known=given | known)
        branch = torch.multinomial(state.branches.weight, 1)[:, 0]
        return state, branch, {f.name: state.draw(f)[rows, branch] for f in factors}

    values = {}
    discrete = [f for f in free if f.chooses and f is not model.angle]
    if discrete:
        values |= draw({}, discrete)[2]
    if model.angle is not None:
        values |= draw(values, [model.angle])[2]
    rest = [f for f in free if f.name not in values]
    state, branch, drawn = draw(values, rest)
    gap = -state.surprise - sum(
        (f.log_prior((values | drawn)[f.name]) for f in free), torch.zeros(n)
    )
    for f in rest:
        gap = gap + state.q[f.name].log_prob(drawn[f.name][:, None])[rows, branch]
    assert abs(gap.mean() - exact) < 3.5 * gap.std() / math.sqrt(n) + 1e-3


# Known values.


@every
def test_nothing_known_changes_nothing(name):
    """All NaN: the terms and gradients are those without known values, the surprise is zero."""
    model = arbitrary(name)
    batch = tensors(model, 3)
    unknown = {f.name: torch.full((3, f.size), torch.nan) for f in inferred(model)}
    results = []
    for known in ({}, unknown):
        torch.manual_seed(1)
        terms = model.bound(**batch | {"known": batch["known"] | known})
        model.zero_grad()
        sum(t.sum() for t in terms.values()).backward()
        results.append((terms, [p.grad.clone() for p in model.parameters()]))
    (plain, gradient), (terms, same_gradient) = results
    assert all(torch.equal(terms[n], plain[n]) for n in plain)
    assert terms["surprise"].abs().max() < 1e-12
    assert all(torch.allclose(a, b) for a, b in zip(gradient, same_gradient, strict=True))


PAIRS = [(name, f.name) for name in COMPOSITIONS for f in inferred(make(name))]


def density(model, f, state, value):
    """q of a value (B, size) in each branch (B, K), from the definitions."""
    q, value = state.q[f.name], value[:, None]
    if isinstance(f, Code):
        return torch.ones_like(state.branches.weight)
    if is_relaxed(f):
        return (q.logits.softmax(-1) * value).sum(-1)
    if isinstance(f, Categorical):
        kinds = [g for g in model.latent if isinstance(g, Categorical) and g.chooses]
        place = [list(v) for v in itertools.product(*(range(g.size) for g in kinds))]
        mine = torch.tensor(place)[state.branches.label][..., kinds.index(f)]
        return (mine == value.argmax(-1)).double()
    turns = 2 * math.pi * torch.arange(-4, 5) if isinstance(f, Angle) else torch.zeros(1)
    normal = Normal(q.mean[..., None], q.stddev[..., None])
    return normal.log_prob(value[..., None] + turns).exp().sum(-1).prod(-1)


@pytest.mark.parametrize("name, factor", PAIRS)
@torch.no_grad()
def test_known_value_is_used_and_branches_follow_bayes(name, factor):
    model = arbitrary(name)
    batch = tensors(model, 3)
    f = next(f for f in model.latent if f.name == factor)
    value = f.draw_prior(3).double()
    value[2] = torch.nan
    before = model.infer(batch["image"], known=batch["known"])
    after = model.infer(batch["image"], known=batch["known"] | {factor: value})

    joint = before.branches.weight * density(model, f, before, value.nan_to_num())
    joint[2] = before.branches.weight[2]
    evidence = joint.sum(1)
    assert torch.allclose(after.branches.weight, joint / evidence[:, None])
    assert torch.allclose(after.surprise, -evidence.log())

    if not (isinstance(f, Categorical) and f.chooses):
        assert torch.equal(after.draw(f)[:2], value[:2, None].expand(-1, model.n_branches, -1))
        assert torch.equal(after.point(f)[2], before.point(f)[2])
    elif not is_relaxed(f):
        assert torch.allclose(f.probabilities(after.q[factor], after.branches)[:2], value[:2])
    log_prior = {
        Angle: torch.full((3,), -math.log(2 * math.pi)),
        Categorical: torch.full((3,), -math.log(f.size)),
        Code: torch.zeros(3),
    }.get(type(f))
    if log_prior is None:
        log_prior = Normal(0.0, f.sigma).log_prob(value.nan_to_num()).sum(-1)
    assert torch.allclose(after.kl(f)[:2], -log_prior[:2].double())
    if not is_relaxed(f):
        assert torch.allclose(after.kl(f)[2], before.kl(f)[2])
    for g in model.latent:  # the rest of the posterior is averaged by Bayes' weights
        if isinstance(g, Shift | Scale) and g is not f:
            prior = Normal(torch.zeros(g.size).double(), g.sigma)
            q = before.q[g.name].base_dist
            kl = torch.distributions.kl_divergence(q, prior.expand(q.mean.shape)).sum(-1)
            assert torch.allclose(after.kl(g), (after.branches.weight * kl).sum(1))
    if isinstance(f, Angle) and "shift" in after.q:  # told in the frame of the known angle
        mean = 0.1 * model.parameters_of(batch["image"], batch["known"])["shift"][:2, :, :2]
        c, s = value[:2].cos(), value[:2].sin()
        turned = torch.stack(
            [c * mean[..., 0] - s * mean[..., 1], s * mean[..., 0] + c * mean[..., 1]], -1
        )
        assert torch.allclose(after.q["shift"].mean[:2], turned)


@pytest.mark.parametrize("name, factor", PAIRS)
def test_surprise_teaches_the_encoder(name, factor):
    """The surprise at a known value moves the head of its factor; a code has no density."""
    model = arbitrary(name)
    batch = tensors(model, 3)
    f = next(f for f in model.latent if f.name == factor)
    known = batch["known"] | {factor: f.draw_prior(3).double()}
    surprise = model.infer(batch["image"], known=known).surprise.sum()
    if isinstance(f, Code):
        assert surprise.abs() < 1e-12
        return
    surprise.backward()
    gradient = model.heads[factor].weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


# Training.

N, BATCH = 64, 24  # enough for a first guess; three steps an epoch, the last one smaller


def settings(epochs, batch=BATCH, **more):
    return TrainConfig(epochs=epochs, batch_size=batch, **more)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@every
def test_gradient_reaches_every_parameter(name):
    model = make(name)
    terms = model.bound(**tensors(model, 6))
    sum(t.mean() for t in terms.values()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not dead


@every
def test_training_moves_all_weights_and_nothing_else(name):
    """Also with fewer patches than a batch; random states and the model's constants stay."""
    model, before = make(name), make(name)
    state, np_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    history = train(model, **data(model, 5), config=settings(3, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()
    assert list(history["step"]) == [1, 2, 3] and np.isfinite(history["held_out"]).all()
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    assert not [n for (n, p), q in pairs if torch.equal(p, q)]
    assert torch.equal(model.grid, before.grid) and torch.equal(model.turns, before.turns)


@every
def test_history_is_the_mean_over_all_patches(name, monkeypatch):
    """Batches of 5, 5 and 3: each row counts once."""
    model, seen = make(name), []
    bound = model.bound

    def watched(*args, **kwargs):
        terms = bound(*args, **kwargs)
        if torch.is_grad_enabled():
            seen.append({n: t.detach() for n, t in terms.items()})
        return terms

    monkeypatch.setattr(model, "bound", watched)
    history = train(model, **data(model, 13), config=settings(1, 5, held_out=0))
    assert [len(terms["nll"]) for terms in seen] == [5, 5, 3]
    total = 0.0
    for term in seen[0]:
        mean = float(torch.cat([terms[term] for terms in seen]).mean())
        assert history[term].iloc[0] == pytest.approx(mean, rel=1e-5, abs=1e-6)
        total += 0 if term == "surprise" else mean
    assert history["loss"].iloc[0] == pytest.approx(total, rel=1e-5)


class Stop(Exception):
    pass


KINDS = {  # one composition of each kind, and what is known of every third patch
    "conv_ae": {},
    "jvae": {},
    "skip_rvae": {"angle": 0.5},
    "ssrvae": {"class": 1},
    "ssvae_number": {"number": 2.0},
    "crvae": {},
    "ved": {},
    "bernoulli": {},
    "two_classes": {},
    "gumbel": {},
    "small_poses": {},
    "one_to_counts": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_ends_with_the_same_weights(name, tmp_path, monkeypatch):
    """Two epochs and two are four, bit for bit; all comes from the file, not from the model."""
    monkeypatch.setattr("atomvae.model.train.SAVE_SECONDS", 0.0)  # every epoch
    third = np.arange(N) % 3 == 0
    known = {n: np.where(third, v, -1 if n == "class" else np.nan) for n, v in KINDS[name].items()}
    whole = make(name)
    arguments = data(whole, N) | {"config": settings(4)}
    arguments["known"] |= known
    history = train(whole, **arguments)

    def stop(values):
        if values["step"] == 7:
            raise Stop

    file, steps = tmp_path / "checkpoint", []
    with pytest.raises(Stop):
        train(make(name), **arguments, checkpoint=file, progress=stop)
    model = make(name, seed=9)
    again = train(
        model, **arguments, checkpoint=file, progress=lambda values: steps.append(values["step"])
    )
    assert steps == [7, 8, 9, 10, 11, 12]
    assert same_weights(model, whole)
    pd.testing.assert_frame_equal(again, history, check_exact=True)


@every
def test_number_type_does_not_matter(name):
    """Whole numbers as any type give the same weights and the same table."""
    results = []
    for kind in (np.float64, np.uint8, np.uint16):
        model = make(name)
        arguments = data(model, 13)
        patches = arguments["patches"]
        if model.likelihood.standardised:
            patches = np.clip(np.round(60 * patches + 80), 0, 255)
        arguments["patches"] = patches.astype(kind)
        train(model, **arguments, config=settings(1, 5))
        results.append((model, encode(model, **arguments)))
    for model, table in results[1:]:
        assert same_weights(model, results[0][0])
        pd.testing.assert_frame_equal(table, results[0][1], check_exact=True)


@every
def test_offset_and_gain_do_not_matter(name):
    """What is normalised away, in patches, targets and numbers, leaves the latents as they are."""
    tables = []
    for gain, offset in ((1.0, 0.0), (1e-4, 3.0)):
        model = make(name)
        arguments = data(model, 13)
        if model.likelihood.standardised or model.shape != model.target_shape:
            arguments["patches"] = gain * arguments["patches"] + offset
        if model.likelihood.standardised and arguments["targets"] is not None:
            arguments["targets"] = gain * arguments["targets"] + offset
        if "dose" in arguments["known"]:
            arguments["known"]["dose"] = 1000 * arguments["known"]["dose"] + 7
        train(model, **arguments, config=settings(1, 5))
        tables.append(encode(model, **arguments))
    assert np.allclose(*tables, atol=2e-4)


@every
def test_bad_patches_are_refused(name):
    model = make(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    good = data(model, 5)
    bad = {value: good["patches"].copy() for value in (np.nan, np.inf)}
    for value, patches in bad.items():
        patches[3, 1, 2, 2] = value
        with pytest.raises(InputError, match="patch 3 has NaN or infinite"):
            train(model, **good | {"patches": patches})
        with pytest.raises(InputError, match="patch 3 has NaN or infinite"):
            encode(model, **good | {"patches": patches})
    with pytest.raises(InputError, match="model expects"):
        train(model, **good | {"patches": images(model, 5, shape=(1, *SHAPE[1:]))})
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", ZOO)
def test_unknown_options_are_errors(name):
    with pytest.raises(TypeError, match="widht"):
        ZOO[name](SHAPE, widht=3)
