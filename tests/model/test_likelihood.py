"""Noise models against torch's distributions, and the data they refuse."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compositions import COMPOSITIONS, data, make
from torch import distributions

from atomvae.errors import InputError
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.encode import encode
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Poisson
from atomvae.model.train import train

OUTPUT = torch.linspace(-6, 6, 60, dtype=torch.float64).view(2, 10, 3)  # (..., channels)


def learnt(sd):
    noise = GaussianNoise(3, floor=0.05).double()
    noise.log_excess.data = (torch.tensor(sd).double() - 0.05).log()
    return noise


CASES = {
    "learnt": (
        learnt([0.1, 1.0, 3.0]),
        distributions.Normal(OUTPUT, torch.tensor([0.1, 1, 3]).double()),
    ),
    "given": (GaussianNoise(3, sd=0.25), distributions.Normal(OUTPUT, 0.25)),
    "bernoulli": (Bernoulli(3), distributions.Bernoulli(logits=OUTPUT)),
    "poisson": (Poisson(3), distributions.Poisson(OUTPUT.exp())),
}


@pytest.mark.parametrize("case", CASES)
def test_likelihood_is_that_of_torch(case):
    noise, expected = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        value = expected.sample()
    found = noise.log_prob(value, OUTPUT)
    assert found.shape == (2, 10)
    assert torch.allclose(found, expected.log_prob(value).sum(-1))
    assert torch.allclose(noise.mean(OUTPUT), expected.mean)
    assert torch.allclose(noise.sd(OUTPUT), expected.stddev.clamp_min(1e-6))


def test_grey_values_are_judged_by_cross_entropy():
    p, x = (
        OUTPUT.sigmoid(),
        torch.rand(2, 10, 3, generator=torch.Generator().manual_seed(0)).double(),
    )
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    assert torch.allclose(Bernoulli(3).log_prob(x, OUTPUT), expected)


@pytest.mark.parametrize("noise", [GaussianNoise(1), Bernoulli(1), Poisson(1)], ids=repr)
def test_extreme_outputs_stay_finite_in_single_precision(noise):
    output = torch.tensor([[-1e4], [-90.0], [90.0], [1e4]], requires_grad=True)
    log_prob = noise.log_prob(torch.ones(4, 1), output)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and output.grad.isfinite().all()
    assert noise.mean(output).isfinite().all() and noise.sd(output).isfinite().all()


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan")])
def test_noise_that_is_none_is_refused(sd):
    with pytest.raises(InputError, match="positive"):
        GaussianNoise(1, sd=sd)


def test_given_noise_stays_and_learnt_noise_keeps_its_floor():
    image = np.random.default_rng(0).normal(size=(20, 8, 8))
    for floor, sd in ((0.01, 0.3), (5.0, None)):
        noise = GaussianNoise(1, floor=floor, sd=sd)
        model = zoo.compose((8, 8), zoo.vae((8, 8)).latent, likelihood=lambda _, n=noise: n)
        history = train(model, image, TrainConfig(epochs=2))
        level = history["noise"].iloc[-1] / float(model.scale[0])
        assert level == pytest.approx(0.3) if sd else level > 5


REFUSED = {
    ("bernoulli", -0.1): "0 to 1",
    ("bernoulli", 1.1): "0 to 1",
    ("bernoulli", 255.0): "0 to 1",
    ("poisson", -1.0): "counts",
    ("poisson", 0.5): "counts",
    ("one_to_counts", 0.5): "counts",
}


@pytest.mark.parametrize("name, value", REFUSED)
def test_pixels_that_the_noise_cannot_make_are_refused_at_the_door(name, value):
    model = make(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    arguments = data(model, 6)
    key = "patches" if arguments["targets"] is None else "targets"
    arguments[key] = arguments[key].copy()
    arguments[key][4, 0, 3, 3] = value
    with pytest.raises(InputError, match=REFUSED[name, value]) as error:
        train(model, **arguments, config=TrainConfig(epochs=1))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=REFUSED[name, value]):
        encode(model, **arguments)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_only_what_is_decoded_must_be_counts():
    model = make("one_to_counts")
    arguments = data(model, 6)
    arguments["patches"] = arguments["patches"] - 0.5
    train(model, **arguments, config=TrainConfig(epochs=1))


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
@pytest.mark.parametrize("outside", [np.nan, -7.5])
def test_masked_pixels_may_be_anything(name, outside):
    model = COMPOSITIONS[name]((1, 9, 8))
    image = data(model, 6)["patches"]
    mask = np.ones((6, 9, 8), bool)
    mask[2, 5:] = False
    image[2, 0, 5:] = outside
    ids = np.arange(6)
    store = SimpleNamespace(image=image, mask=mask, atom_id=ids, frame=ids, pixel_nm=0.1)
    train(model, store, TrainConfig(epochs=1))
    assert np.isfinite(encode(model, store).to_numpy()).all()
