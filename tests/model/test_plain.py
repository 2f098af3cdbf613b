"""The plain family against known truths: principal components, evidence, rates of information."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.ndimage import gaussian_filter

from atomvae.datasets.digits import digits
from atomvae.errors import InputError
from atomvae.latent import Gaussian
from atomvae.model import zoo
from atomvae.model.batches import Batches
from atomvae.model.config import TermWeight, TrainConfig
from atomvae.model.data import read_images
from atomvae.model.decode import decode
from atomvae.model.decoders import ImageDecoder
from atomvae.model.encode import encode
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Poisson
from atomvae.model.train import train

SIDE = 5
FULL = {"batch_size": 200, "held_out": 0.0}  # every step on all of 200 patches


def spectrum_data(eigenvalues, n=200, seed=0):
    """Patches whose sample covariance has exactly these eigenvalues, and their axes (D, D)."""
    rng = np.random.default_rng(seed)
    d = len(eigenvalues)
    whole = np.linalg.qr(np.c_[np.ones(n), rng.normal(size=(n, d))])[0][:, 1:]  # mean 0
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = math.sqrt(n) * whole * np.sqrt(eigenvalues) @ axes.T + rng.normal(size=d)
    return x.reshape(n, SIDE, SIDE), axes


def eigenvalues_of(*first, rest):
    return np.r_[first, np.full(SIDE**2 - len(first), rest)]


def columns(model):
    """Of the decoder's map (D, K), in data units."""
    k = sum(f.size for f in model.content)
    drawn = decode(model, np.eye(k)) - decode(model, np.zeros((1, k)))
    return drawn.reshape(k, -1).T


def codes(model, images):
    table = encode(model, images)
    return table[[f"z_{i}" for i in range(sum(f.size for f in model.content))]].to_numpy()


def information(model, images):
    """KL of each content dimension, averaged over the patches: (K,) nats."""
    mean = codes(model, images)
    sd = encode(model, images)[[f"z_{i}_sd" for i in range(mean.shape[1])]].to_numpy()
    return 0.5 * (mean**2 + sd**2 - 1 - 2 * np.log(sd)).mean(0)


@torch.no_grad()
def bound(model, images, draws):
    """Bound of each patch, the mean of many draws: (n,) nats, as a density in data units."""
    batch = Batches(model, read_images(images), None, None, torch.device("cpu")).take(
        np.arange(len(images))
    )
    total = sum(sum(model.bound(**batch).values()) for _ in range(draws)) / -draws
    return total.numpy() - images[0].size * math.log(float(model.target_scale[0]))


# -- linear: principal components ---------------------------------------------------------------


def reaches_principal_space(model, images, axes, eigenvalues):
    """The two gates of a linear autoencoder, and what it reached."""
    k = sum(f.size for f in model.content)
    angle = subspace_angles(columns(model), axes[:, :k]).max()
    error = ((decode(model, codes(model, images)) - images) ** 2).mean()
    excess = error / eigenvalues[k:].sum() * len(axes) - 1
    return angle < 1e-2 and abs(excess) < 1e-3, (angle, excess)


def test_linear_autoencoder_is_principal_components():
    eigenvalues = eigenvalues_of(9, 4, 1.5, 0.4, rest=0.1)
    images, axes = spectrum_data(eigenvalues)
    model = zoo.linear_ae((SIDE, SIDE), 3)
    assert not reaches_principal_space(model, images, axes, eigenvalues)[0]  # untrained
    train(model, images, TrainConfig(epochs=700, learning_rate=0.05, **FULL))
    reached, figures = reaches_principal_space(model, images, axes, eigenvalues)
    assert reached, figures
    swapped = np.roll(axes, -1, axis=1)  # components 2 to 4
    assert not reaches_principal_space(model, images, swapped, eigenvalues)[0]


def evidence(eigenvalues, k):
    """Largest log evidence of probabilistic PCA, nats per patch (Tipping & Bishop, 1999)."""
    d, noise = len(eigenvalues), eigenvalues[k:].mean()
    log_det = np.log(eigenvalues[:k]).sum() + (d - k) * math.log(noise)
    return -0.5 * (d * math.log(2 * math.pi) + log_det + d)


def test_linear_vae_reaches_the_evidence_of_probabilistic_pca():
    """To a hundredth of what its weakest component is worth, and the error of the draws."""
    eigenvalues = eigenvalues_of(9, 4.5, 1.7, rest=0.25)
    images, axes = spectrum_data(eigenvalues)
    model = zoo.linear_vae((SIDE, SIDE), 3)
    history = train(model, images, TrainConfig(epochs=800, learning_rate=0.1, **FULL))
    parts = np.array([bound(model, images, 60).mean() for _ in range(10)])
    reached, error = parts.mean(), parts.std(ddof=1) / math.sqrt(len(parts))
    best, worth = evidence(eigenvalues, 3), evidence(eigenvalues, 3) - evidence(eigenvalues, 2)
    assert error < 0.005 * worth
    assert best - 0.01 * worth - 3 * error < reached < best + 3 * error
    # the noise is what the components leave over
    assert abs(history["noise"].iloc[-1] ** 2 / eigenvalues[3:].mean() - 1) < 0.02
    # and, unlike an autoencoder, it finds the axes themselves, with the right lengths
    found = columns(model)
    found = found[:, np.argsort(-np.linalg.norm(found, axis=0))]
    length = np.linalg.norm(found, axis=0)
    assert np.allclose(length**2, eigenvalues[:3] - eigenvalues[3:].mean(), rtol=0.1)
    assert (np.abs((found / length * axes[:, :3]).sum(0)) > 0.99).all()


# -- beta and capacity --------------------------------------------------------------------------

NOISE2 = 0.25
SWEEP = eigenvalues_of(8, 4, 2, 1, rest=0.1)


def beta_vae(images, beta, **settings):
    noise = math.sqrt(NOISE2) / images.std()  # in sd of the data
    likelihood = partial(GaussianNoise, sd=float(noise))
    model = zoo.compose((SIDE, SIDE), [Gaussian(6)], likelihood=likelihood, **zoo.LINEAR)
    weights = (TermWeight(term="z", weight=beta),)
    train(model, images, TrainConfig(learning_rate=0.1, weights=weights, **settings))
    return model


@pytest.mark.parametrize("active", [4, 3, 2, 1, 0])
def test_beta_decides_which_components_are_active(active):
    """With a linear decoder: those with eigenvalue > beta sigma^2, at half its logarithm."""
    bright, dark = (np.r_[16, SWEEP][active], SWEEP[active])
    beta = math.sqrt(bright * max(dark, 0.5)) / NOISE2
    assert (beta * NOISE2 < SWEEP).sum() == active
    images, _ = spectrum_data(SWEEP)
    found = np.sort(information(beta_vae(images, beta, epochs=500, **FULL), images))[::-1]
    assert (found > 0.01).sum() == active, found
    expected = 0.5 * np.log(np.maximum(SWEEP[:6] / (beta * NOISE2), 1))
    assert np.abs(found - expected).max() < 0.04, found


def test_the_best_weights_are_those_of_the_objective():
    """By the bound alone, weights from before the penalty took hold would look best."""
    images, _ = spectrum_data(SWEEP, n=400)
    beta = math.sqrt(8 * 4) / NOISE2
    model = beta_vae(images, beta, epochs=150, batch_size=360)
    assert (information(model, images) > 0.01).sum() == 1


def bars(n, seed, size=16):
    """Bars of any angle and length: a curved manifold of two dimensions."""
    rng = np.random.default_rng(seed)
    angle, length = rng.uniform(0, np.pi, n), rng.uniform(2, 5, n)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    across, along = c * y - s * x, c * x + s * y
    return np.exp(-((across / 1.5) ** 2 + (along / length[:, None, None]) ** 2) / 2)


def noisy_bars(n, seed, noise):
    return bars(n, seed) + noise * np.random.default_rng([seed, 1]).normal(size=(n, 16, 16))


def keeps_to_capacity(model, images, history, nats, reached=0.8):
    """Whether the KL ends within 5 % of the capacity, and rises as it does on the way there."""
    target = nats * np.minimum(history["step"] / history["step"].iloc[-1] / reached, 1)
    late = history["step"] > 0.2 * history["step"].iloc[-1]
    follows = np.abs(history["z"] - target)[late].max() < 0.1 * nats
    return abs(information(model, images).sum() / nats - 1) < 0.05, follows


def test_the_kl_follows_the_capacity():
    images = noisy_bars(600, 0, 0.1)
    model, plain = zoo.vae((16, 16)), zoo.vae((16, 16))
    weights = (TermWeight(term="z", weight=100, capacity_nats=3),)
    history = train(model, images, TrainConfig(epochs=70, weights=weights))
    assert keeps_to_capacity(model, images, history, 3.0) == (True, True)
    history = train(plain, images, TrainConfig(epochs=70))
    assert keeps_to_capacity(plain, images, history, 3.0) == (False, False)
    own = float(information(plain, images).sum())  # even at the nats that it comes to by itself
    assert keeps_to_capacity(plain, images, history, own) == (True, False)


# -- curved manifolds ---------------------------------------------------------------------------


def principal_error(images, test, truth, k):
    """Squared error of k principal components."""
    flat, mean = images.reshape(len(images), -1), images.reshape(len(images), -1).mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:k]
    drawn = mean + (test.reshape(len(test), -1) - mean) @ axes.T @ axes
    return ((drawn - truth.reshape(len(test), -1)) ** 2).mean()


def drawn_error(model, test, truth):
    return ((decode(model, codes(model, test)) - truth) ** 2).mean()


NOISE = 0.05


@pytest.mark.parametrize("make", [zoo.ae, zoo.vae, zoo.conv_ae, zoo.conv_vae])
def test_two_numbers_draw_a_bar(make):
    """Where two principal components can't, nor the mean image."""
    images, test, truth = noisy_bars(600, 0, NOISE), noisy_bars(200, 1, NOISE), bars(200, 1)
    model = make((16, 16), 2)
    assert sum(f.size for f in model.content) == 2 < 16 * 16
    train(model, images, TrainConfig(epochs=50))
    error = drawn_error(model, test, truth)
    assert error < 0.2 * principal_error(images, test, truth, 2)
    assert error < 0.05 * principal_error(images, test, truth, 0)
    assert error < 0.2 * NOISE**2  # and its noise is gone
    other = np.random.default_rng(0).permutation(200)  # it looks at its patch
    assert drawn_error(model, test, truth[other]) > principal_error(images, test, truth, 0)


@pytest.mark.parametrize("make", [zoo.linear_ae, zoo.linear_vae])
def test_linear_models_can_not(make):
    images, test, truth = noisy_bars(600, 0, NOISE), noisy_bars(200, 1, NOISE), bars(200, 1)
    model = make((16, 16), 2)
    train(model, images, TrainConfig(learning_rate=0.05))
    ratio = drawn_error(model, test, truth) / principal_error(images, test, truth, 2)
    assert 0.98 < ratio < 1.1


# -- other noise --------------------------------------------------------------------------------


def binary_vae(images, **settings):
    model = zoo.compose((8, 8), [Gaussian(8)], decoder=ImageDecoder, likelihood=Bernoulli)
    train(model, images, TrainConfig(**settings))
    return model


def factorised(images, test):
    """Log probability of each test image if pixels were independent, nats."""
    p = (images.sum(0) + 0.5) / (len(images) + 1)
    return (test * np.log(p) + (1 - test) * np.log(1 - p)).sum((1, 2))


def test_bernoulli_vae_of_digits_knows_more_than_independent_pixels():
    """Black and white digits, so that the bound is one of a probability, in nats."""
    rng = np.random.default_rng(0)
    source = rng.permutation((digits().images >= 0.5).astype(np.float32))
    images, test = source[:1400], source[1400:]
    gain = bound(binary_vae(images), test, 10) - factorised(images, test)
    assert gain.mean() > 4  # nats per image
    assert gain.mean() > 10 * gain.std() / math.sqrt(len(test))
    # pixels that are independent indeed: nothing to know, and a bound must not say otherwise
    mixed = rng.permuted(source, axis=0)
    images, test = mixed[:1400], mixed[1400:]
    gain = bound(binary_vae(images), test, 10) - factorised(images, test)
    assert gain.mean() < 3 * gain.std() / math.sqrt(len(test))


@pytest.mark.parametrize("dose", [2.0, 10.0])
def test_poisson_vae_recovers_the_rate(dose):
    """Better than the best Gaussian filter, chosen by the truth."""
    rate, true = (dose * (0.2 + bars(n, seed)) for n, seed in ((600, 0), (200, 1)))
    rng = np.random.default_rng(5)
    counts, test = rng.poisson(rate), rng.poisson(true)
    model = zoo.compose((16, 16), [Gaussian(2)], decoder=ImageDecoder, likelihood=Poisson)
    train(model, counts, TrainConfig())
    error = drawn_error(model, test, true)
    widths = np.arange(0.4, 3, 0.2)
    smooth = min(((gaussian_filter(1.0 * test, (0, w, w)) - true) ** 2).mean() for w in widths)
    assert error < 0.5 * smooth
    assert error < 0.5 * ((rate.mean(0) - true) ** 2).mean()  # of the mean rate
    assert drawn_error(model, test, np.roll(true, 1, 0)) > smooth


@pytest.mark.parametrize(
    ("likelihood", "pixels", "message"),
    [
        (Bernoulli, [0.0, 1.2], "pixels run from 0 to 1.2"),
        (Bernoulli, [-0.1, 1.0], "pixels run from -0.1 to 1"),
        (Poisson, [-1.0, 3.0], "expects counts"),
        (Poisson, [0.5, 3.0], "expects counts"),
    ],
)
def test_data_that_the_noise_can_not_give_are_refused(likelihood, pixels, message):
    model = zoo.compose((2, 2), [Gaussian(1)], decoder=ImageDecoder, likelihood=likelihood)
    images = np.resize(pixels, (20, 2, 2))
    with pytest.raises(InputError, match=message):
        train(model, images, TrainConfig(epochs=1))


@pytest.mark.parametrize("sd", [0.0, -1.0, math.nan])
def test_a_noise_that_is_none_is_refused(sd):
    with pytest.raises(InputError, match="noise sd"):
        GaussianNoise(1, sd=sd)
