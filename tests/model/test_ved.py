"""Encoder-decoders against known maps: spectra, pictures of spectra, clean patches, colours."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means

from atomvae.datasets.presets import PRESETS
from atomvae.datasets.simulate import simulate
from atomvae.errors import InputError
from atomvae.latent import Categorical, Code, Condition
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.decoders import ImageDecoder
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Poisson
from atomvae.model.networks import Encoder
from atomvae.model.predict import mixture_quantile, predict, residual_whiteness
from atomvae.model.train import train


def r2(found, truth):
    """Share of the variance that is found, over the mean of the truth."""
    return 1 - ((found - truth) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()


def held(prediction, truth):
    """Which values lie in their interval."""
    return (truth >= prediction.low) & (truth <= prediction.high)


# -- image to spectrum, and back ----------------------------------------------------------------


def spots(n, seed, noise=(0.05, 0.02), length=48, size=16):
    """Spots, and the spectra that their places and widths stand for; both also without noise."""
    rng = np.random.default_rng(seed)
    place, width = (rng.uniform(*ends, (n, 1)) for ends in ((-4, 4), (1, 2.5)))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    distance2 = (x - place[..., None]) ** 2 + y**2
    image = np.exp(-distance2 / (2 * width[..., None] ** 2))
    offset = np.arange(length) - length / 2 - 3.5 * place
    spectrum = np.exp(-((offset / (1.5 * width)) ** 2) / 2) / width
    pair = zip((image, spectrum), noise, strict=True)
    measured = [a + level * rng.normal(size=a.shape) for a, level in pair]
    return *measured, image, spectrum


@pytest.fixture(scope="module")
def mapped():
    """An encoder-decoder from spots to spectra."""
    image, spectrum, *_ = spots(1500, 0)
    model = zoo.ved((16, 16), (1, 48))
    train(model, image, TrainConfig(), targets=spectrum)
    return model


def test_spectra_are_predicted_from_images(mapped):
    image, spectrum, _, clean = spots(500, 1)
    found = predict(mapped, image)
    assert found.mean.shape == spectrum.shape
    assert r2(found.mean, spectrum) > 0.95
    assert r2(found.mean, clean) > r2(found.mean, spectrum)  # it doesn't draw the noise
    assert r2(found.mean, np.roll(clean, 1, 0)) < 0


def test_shuffled_pairs_teach_nothing():
    image, spectrum, *_ = spots(1500, 0)
    model = zoo.ved((16, 16), (1, 48))
    order = np.random.default_rng(2).permutation(len(image))
    train(model, image, TrainConfig(epochs=25), targets=spectrum[order])
    test, _, _, clean = spots(500, 1)
    assert abs(r2(predict(model, test).mean, clean)) < 0.05


def test_the_interval_holds_what_is_measured_anew(mapped, monkeypatch):
    """Nine of ten values; noise alone, and the spread of the mean alone, are too narrow."""
    image, spectrum, _, clean = spots(500, 1)
    found = predict(mapped, image)
    assert 0.85 < held(found, spectrum).mean() < 0.95
    assert (found.low < found.mean).all() and (found.mean < found.high).all()
    narrow = predict(mapped, image, interval=0.3)
    assert held(narrow, spectrum).mean() < 0.5
    # both parts count: on the flanks of the peaks the place of the spot decides
    level = float(mapped.likelihood.level.detach() * mapped.target_scale)
    noise_only = np.abs(spectrum - found.mean) < stats.norm.ppf(0.95) * level
    peak = clean > np.quantile(clean, 0.75)
    assert held(found, spectrum)[peak].mean() > noise_only[peak].mean() + 0.03
    monkeypatch.setattr(GaussianNoise, "level", torch.full((1,), 1e-6))
    spread_only = predict(mapped, image)
    assert held(spread_only, spectrum).mean() < 0.5


def test_images_are_predicted_from_spectra():
    image, spectrum, *_ = spots(1500, 0)
    model = zoo.ved((1, 48), (16, 16))
    train(model, spectrum[:, None], TrainConfig(), targets=image)
    test, measured, clean, _ = spots(300, 1)
    found = predict(model, measured[:, None])
    assert found.mean.shape == test.shape
    assert r2(found.mean, clean) > 0.95
    assert r2(found.mean, np.roll(clean, 1, 0)) < 0
    assert 0.85 < held(found, test).mean() < 0.95


def test_prediction_is_repeatable_and_agrees_with_more_samples(mapped):
    image, *_ = spots(40, 3)
    a, b = predict(mapped, image, seed=1), predict(mapped, image, seed=1)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    many = predict(mapped, image, samples=600, seed=2)
    width = many.high - many.low
    for x, y in zip(a, many, strict=True):
        assert (np.abs(x - y) / width).mean() < 0.05


# -- the interval itself ------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.5, 0.975])
def test_quantiles_of_a_mixture_are_those_of_its_draws(p):
    rng = np.random.default_rng(0)
    output = torch.tensor(rng.normal(size=(7, 3, 1)), dtype=torch.float64)
    chosen = output.numpy()[rng.integers(0, 7, 400_000)]
    for noise, draws in (
        (GaussianNoise(1, sd=0.3), chosen + 0.3 * rng.normal(size=chosen.shape)),
        (Poisson(1), rng.poisson(np.exp(chosen))),
        (Bernoulli(1), rng.random(chosen.shape) < 1 / (1 + np.exp(-chosen))),
    ):
        found = mixture_quantile(noise, output, p).numpy()
        below, at_most = (draws < found - 1e-9).mean(0), (draws <= found).mean(0)
        assert (below < p + 0.003).all() and (at_most > p - 0.003).all()


def told_by_kind(n=1000):
    """Patches of noise, and spectra that are +1 or -1 by a kind that the patches don't show."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, n)
    spectrum = np.where(kind, 1.0, -1.0)[:, None] + 0.1 * rng.normal(size=(n, 8))
    return rng.normal(size=(n, 4, 4)), spectrum, kind


@pytest.mark.parametrize("factor", [Categorical(2, "kind"), Condition(2, "kind", discrete=True)])
def test_a_class_that_is_not_known_leaves_both_possibilities(factor):
    image, spectrum, kind = told_by_kind()
    parts = {"encoder": partial(Encoder, depth=0), "decoder": ImageDecoder, "target": (1, 8)}
    model = zoo.compose((4, 4), [Code(1), factor], **parts)
    # Nothing held out: it would be judged without its kind, of which the patches know nothing.
    config = TrainConfig(epochs=30, held_out=0.0)
    train(model, image, config, targets=spectrum, known={"kind": kind})
    new = np.random.default_rng(1).normal(size=(50, 4, 4))
    for side in (0, 1):
        found = predict(model, new, known={"kind": np.full(50, side)})
        assert np.abs(found.mean - (2 * side - 1)).max() < 0.3
        assert (found.high - found.low).mean() < 0.6
    if factor.is_given:
        with pytest.raises(InputError, match="conditional on 'kind'"):
            predict(model, new)
        return
    found = predict(model, new)
    assert abs(found.mean.mean()) < 0.2
    assert np.abs(found.low + 1).mean() < 0.3 and np.abs(found.high - 1).mean() < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 1.0}, "interval is 1.0, expected a probability"),
        ({"interval": 0.0}, "interval is 0.0"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        predict(zoo.vae((6, 6)), np.zeros((2, 6, 6)), **settings)


# -- denoising ----------------------------------------------------------------------------------

SIZE = 12  # pixels of a patch: an atom of graphene and its neighbours
TRAINING = {"epochs": 2, "batch_size": 256, "learning_rate": 0.01}


def lattice(preset, frames, seed, **changes):
    """Expected frames (t, y, x) of as many samples, mean 0 and sd 1, and the atoms."""
    settings = PRESETS[preset].replace({"pixel_nm": 0.024, "probe_nm": 0.05, **changes})
    clean, atoms = [], []
    for k in range(frames):
        made = simulate(settings, frames=1, shape=(256, 256), seed=seed + k, difficulty="poisson")
        clean.append(made.expected(0))
        atoms.append(made.truth.assign(frame=k))
    stack = np.stack(clean)
    return (stack - stack.mean()) / stack.std(), pd.concat(atoms)


def noisy(clean, level, seed):
    return clean + level * np.random.default_rng(seed).normal(size=clean.shape)


def crops(stack, atoms, size=SIZE):
    """Patches around the pixels nearest to the atoms."""
    at = np.round(atoms[["y", "x"]].to_numpy()).astype(int) - size // 2
    inside = ((at >= 0) & (at + size <= stack.shape[1])).all(1)
    frame = atoms["frame"].to_numpy()[inside]
    windows = np.lib.stride_tricks.sliding_window_view(stack, (size, size), (1, 2))
    return windows[frame, *at[inside].T].astype(np.float32)


def psnr(found, truth):
    """Peak signal to noise ratio in dB."""
    return 10 * np.log10(np.ptp(truth) ** 2 / ((found - truth) ** 2).mean())


def noise_level(frame):
    """Robust sd of the differences on the diagonal: the noise of a frame that is well sampled."""
    part = frame[::2, ::2] - frame[1::2, ::2] - frame[::2, 1::2] + frame[1::2, 1::2]
    return np.median(np.abs(part)) / 2 / stats.norm.ppf(0.75)


def best_filters(measured, atoms, truth):
    """PSNR of Gaussian filter and non-local means on whole frames, each tuned by the truth."""
    widths = np.arange(0.5, 3, 0.25)
    smooth = max(psnr(crops(gaussian_filter(measured, (0, w, w)), atoms), truth) for w in widths)
    sigma = np.mean([noise_level(frame) for frame in measured])
    means = []
    for h in (0.1, 0.2, 0.4, 0.8):
        for side in (5, 9):
            settings = {"patch_size": side, "patch_distance": 20, "h": h * sigma, "sigma": sigma}
            drawn = [denoise_nl_means(frame, **settings, fast_mode=True) for frame in measured]
            means.append(psnr(crops(np.stack(drawn), atoms), truth))
    return smooth, max(means)


def denoisers(preset, frames, level, latent_dim):
    """Convolutional autoencoders taught by noisy and clean pairs, and by two noisy ones."""
    clean, atoms = lattice(preset, frames, seed=0)
    one, two = (crops(noisy(clean, level, k), atoms) for k in (1, 2))
    truth = crops(clean, atoms)
    patches = np.concatenate([one, two])
    made = []
    for targets in ([truth, truth], [two, one]):
        model = zoo.conv_ae((SIZE, SIZE), latent_dim)
        train(model, patches, TrainConfig(**TRAINING), targets=np.concatenate(targets))
        made.append(model)
    return made


@pytest.fixture(scope="module")
def graphene():
    return denoisers("graphene", frames=32, level=1.0, latent_dim=4)


def figures_of(models, preset, frames, level):
    """PSNR on new samples with new noise: with clean and noisy targets, and of the two filters."""
    clean, atoms = lattice(preset, frames, seed=1000)
    measured = noisy(clean, level, 7)
    patches, truth = crops(measured, atoms), crops(clean, atoms)
    taught = [psnr(predict(model, patches).mean, truth) for model in models]
    return *taught, *best_filters(measured, atoms, truth)


def test_the_noise_is_estimated_right():
    clean, _ = lattice("graphene", 1, seed=5)
    assert abs(noise_level(noisy(clean[0], 1.0, 0)) - 1) < 0.03


def test_denoising_beats_tuned_filters(graphene):
    by_clean, by_noisy, smooth, non_local = figures_of(graphene, "graphene", 1, 1.0)
    assert min(by_clean, by_noisy) > max(smooth, non_local) + 6  # dB
    assert by_clean - by_noisy < 0.3


@pytest.mark.slow
def test_denoising_keeps_what_is_rare():
    """Silicon in graphene, and the patches with silicon by themselves."""
    level = 1.5
    models = denoisers("si_graphene", frames=64, level=level, latent_dim=16)
    by_clean, by_noisy, smooth, non_local = figures_of(models, "si_graphene", 3, level)
    assert min(by_clean, by_noisy) > max(smooth, non_local) + 6
    assert by_clean - by_noisy < 0.3
    clean, atoms = lattice("si_graphene", 3, seed=1000)
    measured, truth = noisy(clean, level, 7), crops(clean, atoms)
    rare = truth.max((1, 2)) > 5
    assert 0.01 < rare.mean() < 0.3
    smooth = gaussian_filter(measured, (0, 1.25, 1.25))
    for model in models:
        drawn = predict(model, crops(measured, atoms)).mean
        assert psnr(drawn[rare], truth[rare]) > psnr(crops(smooth, atoms)[rare], truth[rare]) + 3


@pytest.mark.parametrize("which", [0, 1])
def test_the_alarm_is_raised_by_another_lattice(graphene, which, caplog):
    model = graphene[which]
    clean, atoms = lattice("graphene", 1, seed=1000)
    at_home = residual_whiteness(model, crops(noisy(clean, 1.0, 7), atoms))
    assert not at_home.alarm and not caplog.records
    assert len(at_home.correlation) and abs(at_home.correlation.mean()) < 0.03
    for preset, changes in (
        ("mos2_vacancies", {}), ("perovskite", {}), ("graphene", {"rotation": 0.5}),
    ):  # fmt: skip
        caplog.clear()
        clean, atoms = lattice(preset, 1, seed=1, **changes)
        abroad = residual_whiteness(model, crops(noisy(clean, 1.0, 7), atoms))
        assert abroad.alarm and "doesn't know such patches" in caplog.text
        assert abroad.correlation.mean() > 0.2


def test_whiteness_of_known_noise(monkeypatch):
    """A model that draws nothing leaves the patches themselves: their correlation is known."""
    model = zoo.vae((20, 20))
    monkeypatch.setattr(model, "reconstruct", lambda z, c: torch.zeros(len(c), c.shape[1], 1))
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, 21, 21))
    assert abs(residual_whiteness(model, white[:, :-1, :-1]).correlation.mean()) < 0.005
    smooth = white[:, 1:, :-1] + 0.5 * white[:, :-1, :-1]  # neighbours along y: 0.5 / 1.25
    assert abs(residual_whiteness(model, smooth).correlation.mean() - 0.2) < 0.005
    with pytest.raises(InputError, match="there is no residual"):
        residual_whiteness(zoo.ved((8, 8), (1, 8)), np.zeros((2, 8, 8)))


def test_whiteness_looks_at_pixels_that_count_alone(monkeypatch):
    rng = np.random.default_rng(1)
    image, mask = rng.normal(size=(200, 1, 16, 16)), np.ones((200, 16, 16), bool)
    image[..., 10:], mask[..., 10:] = 50.0, False
    store = SimpleNamespace(image=image, mask=mask, atom_id=np.arange(200), frame=np.zeros(200))
    model = zoo.vae((16, 16))
    monkeypatch.setattr(model, "reconstruct", lambda z, c: torch.zeros(len(c), c.shape[1], 1))
    assert abs(residual_whiteness(model, store).correlation.mean()) < 0.01
    assert residual_whiteness(model, image).alarm


# -- colours ------------------------------------------------------------------------------------


def coloured(n, seed, size=12, noise=0.03):
    """Grey spots, and their colour: the wider, the bluer; round ones green, long ones red."""
    rng = np.random.default_rng(seed)
    width, length = rng.uniform(1, 2.2, (n, 1, 1)), rng.uniform(1, 1.8, (n, 1, 1))
    place = rng.uniform(-1, 1, (2, n, 1, 1))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    distance2 = ((x - place[0]) / length) ** 2 + (y - place[1]) ** 2
    grey = np.exp(-distance2 / (2 * width**2))
    share = np.stack([(length - 1) / 0.8, (1.8 - length) / 0.8, (width - 1) / 1.2], 1)
    return grey + noise * rng.normal(size=grey.shape), share * grey[:, None]


def test_grey_patches_are_coloured():
    grey, colour = coloured(1500, 0)
    model = zoo.ved((12, 12), (3, 12, 12))
    train(model, grey, TrainConfig(), targets=colour)
    test, truth = coloured(300, 1)
    found = predict(model, test).mean
    assert found.shape == truth.shape
    assert all(r2(found[:, c], truth[:, c]) > 0.95 for c in range(3))
    # grey in the mean colour, the best without looking at the shape, is far from it
    share = colour.sum((0, 2, 3)) / grey.sum()
    pale = share[:, None, None] * test[:, None]
    assert max(r2(pale[:, c], truth[:, c]) for c in range(3)) < 0.8
    swapped = found[:, [1, 0, 2]]
    assert r2(swapped[:, 0], truth[:, 0]) < 0.5
