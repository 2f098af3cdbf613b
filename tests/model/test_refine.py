"""Refined posteriors: never worse, and as good as closed forms and the Cramér-Rao bound allow."""

import math

import numpy as np
import pytest
import torch
from compositions import data, every, inferred, make, tensors
from scores import circular_sd
from torch import nn

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Shift
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.encode import encode
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model
from atomvae.model.networks import Encoder
from atomvae.model.refine import refine
from atomvae.model.seeding import seeded
from atomvae.model.train import train

CPU = torch.device("cpu")
NOISE = 0.2  # of the motifs


@torch.no_grad()
def bound(model, params, target, known=None, draws=32):
    """Bound of every patch by draws of its own: (draws, B) nats."""
    known = known or {}
    state = model.posterior_of(params, int(model.kept), known)
    b, k = state.branches.label.shape
    values = target.flatten(2).transpose(1, 2)
    coords = model.grid.expand(b * k, -1, -1)
    out = []
    with seeded(CPU, 99):
        for _ in range(draws):
            z = {f.name: state.draw(f).flatten(0, 1) for f in model.latent}
            output = model.reconstruct(z, coords).view(b, k, *values.shape[1:])
            log_p = model.likelihood.log_prob(values[:, None], output)[..., model.field].sum(-1)
            kl = sum(state.kl(f) for f in inferred(model))
            out.append((state.branches.weight * log_p).sum(1) - kl)
    return torch.stack(out)


def gain(model, before, after, target, known=None, draws=32):
    """Mean gain of every patch and its standard error, nats."""
    start, end = (bound(model, p, target, known, draws) for p in (before, after))
    return (end - start).mean(0), (end - start).std(0) / math.sqrt(draws)


def seen(name, n=4):
    """A model whose posteriors are far from right, its numbers for some patches, the patches."""
    model = make(name, seed=3)
    with seeded(CPU, 7):
        for p in model.heads.parameters():
            p.data += 0.2 * torch.randn_like(p)
    given = tensors(model, n, seed=1)
    target = given["image"] if given["target"] is None else given["target"]
    with torch.no_grad():
        params = model.parameters_of(given["image"], given["known"])
    return model, params, target, given["known"]


@every
def test_no_patch_gets_worse_and_most_get_better(name):
    model, before, target, known = seen(name)
    weights = {n: p.clone() for n, p in model.state_dict().items()}
    generator = torch.get_rng_state()
    after = refine(model, before, target, known=known, steps=8)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert {n: p.shape for n, p in after.items()} == {n: p.shape for n, p in before.items()}
    mean, error = gain(model, before, after, target, known)
    assert (mean >= -3 * error).all(), mean
    assert (mean > 3 * error).float().mean() > 0.5, mean


@pytest.mark.parametrize("name", ["rvae", "jvae", "small_poses"])
def test_steps_that_go_astray_are_taken_back(name, monkeypatch):
    model, before, target, known = seen(name)
    monkeypatch.setattr("atomvae.model.refine.RATE", 20.0)
    after = refine(model, before, target, known=known, steps=8)
    mean, error = gain(model, before, after, target, known)
    assert (mean >= -3 * error).all(), mean
    assert any(torch.equal(after[n][0], before[n][0]) for n in before)


@pytest.mark.parametrize("name", ["jrvae", "ssvae_number", "crvae", "two_classes", "gumbel"])
def test_known_values_stay_known(name):
    """Values of an inferred factor that are known for half of the patches."""
    model, before, target, known = seen(name, n=8)
    with seeded(CPU, 5):
        for f in inferred(model):
            if isinstance(f, Categorical):
                known[f.name] = torch.eye(f.size)[torch.randint(f.size, (8,))]
            if f.name == "number":
                known[f.name] = torch.randn(8, 1)
            if f.name in known:
                known[f.name][::2] = torch.nan
    after = refine(model, before, target, known=known, steps=8)
    mean, error = gain(model, before, after, target, known)
    assert (mean >= -3 * error).all() and mean.mean() > 0
    state = model.posterior_of(after, int(model.kept), known)
    for f in inferred(model):
        if isinstance(f, Categorical) and f.name in known:
            p = state.probabilities(f)
            assert torch.allclose(p[1::2], known[f.name][1::2], atol=1e-4)


def test_linear_decoder_reaches_its_posterior():
    """Mean and sds of the best diagonal posterior have closed forms."""
    model = zoo.linear_vae((6, 5), 3, seed=1)
    image = 2 * torch.randn(9, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.parameters_of(image)
        after = model.posterior_of(refine(model, before, image, steps=150)).q["z"]
        w, b = (p.double() for p in model.decoder.net[0].parameters())
        precision = w.T @ w / float(model.likelihood.level) ** 2 + torch.eye(3)
        x = image.flatten(1).double() - b
        mean = torch.linalg.solve(precision, (x @ w / float(model.likelihood.level) ** 2).T).T
    sd = precision.diagonal().rsqrt()
    assert ((after.mean[:, 0] - mean) / sd).abs().max() < 0.05
    assert (after.stddev[:, 0] / sd - 1).abs().max() < 0.05
    start = model.posterior_of(before).q["z"]
    assert ((start.mean[:, 0] - mean) / sd).abs().max() > 1  # there was something to do


class Formula(nn.Module):
    """A decoder that knows the motifs: three unequal blobs, scaled by class, in pixels of 20."""

    pointwise = True
    BLOBS = ((-4.5, 0, 1.7, 1.0), (2.5, -3, 1.7, 1.0), (2.5, 3, 1.3, 0.7))

    def __init__(self, shape, content=0):
        super().__init__()
        self.shape, self.content, self.settings = shape, content, {}

    def forward(self, content, coords):
        y, x = coords.unbind(-1)
        half = max(self.shape[1:]) / 2
        image = sum(
            height * torch.exp(-((half * y - a) ** 2 + (half * x - b) ** 2) / (2 * width**2))
            for a, b, width, height in self.BLOBS
        )
        if self.content:
            steps = torch.arange(1.0, self.content + 1, dtype=image.dtype)
            image = image * (0.05 * content @ steps)[:, None]
        return image[..., None]


def oracle(latent, size=20):
    """A model that knows motif and noise, with an encoder that knows nothing."""
    shape = (1, size, size)
    content = sum(f.size for f in latent if not f.is_pose)
    with seeded(CPU, 0):
        return Model(latent, Encoder(shape), Formula(shape, content), GaussianNoise(1, sd=NOISE))


def motifs(model, n, seed):
    """Images (n, 1, size, size) of motifs at any angle, a little shifted (pixels), with noise."""
    rng = np.random.default_rng(seed)
    angle, shift = rng.uniform(-np.pi, np.pi, n), rng.normal(0, 0.5, (n, 2))
    noise = rng.normal(scale=NOISE, size=(n, *model.shape))
    return (draw(model, angle, shift) + noise).astype(np.float32), angle, shift


def draw(model, angle, shift):
    """Clean images (n, 1, size, size) in double precision."""
    z = {
        "angle": torch.from_numpy(angle)[:, None],
        "shift": torch.from_numpy(shift) / (model.shape[1] / 2),
    }
    coords = model.grid.double().expand(len(angle), -1, -1)
    return model.double().reconstruct(z, coords).view(-1, *model.shape).numpy()


def cramer_rao(model, angle, shift, mask=True, step=1e-4):
    """Least rms error of angle (radians) and shift (pixels) on the pixels that count."""
    valid = (model.field.view(*model.shape[1:]).numpy() & mask).ravel()
    truth = np.column_stack([angle, shift])
    slope = []
    for i in range(3):
        up, down = (truth + s * step * np.eye(3)[i] for s in (1, -1))
        change = draw(model, up[:, 0], up[:, 1:]) - draw(model, down[:, 0], down[:, 1:])
        slope.append(change.reshape(len(angle), -1)[:, valid] / (2 * step))
    slope = np.stack(slope, 1)  # (n, 3, P)
    variance = np.linalg.inv(slope @ slope.transpose(0, 2, 1) / NOISE**2)
    return np.sqrt(np.diagonal(variance, axis1=1, axis2=2).mean(0))


def test_errors_reach_the_cramer_rao_bound_from_an_encoder_that_knows_nothing():
    model = oracle([Shift(), Angle()])
    image, angle, shift = motifs(model, 60, seed=0)
    least = cramer_rao(model, angle, shift)
    model.float()
    start = encode(model, image)
    table = encode(model, image, refine=100)
    assert circular_sd(start["angle"], angle) > 20
    error = np.angle(np.exp(1j * (table["angle"].to_numpy() - angle)))  # no free constant
    assert 0.8 < np.sqrt((error**2).mean()) / least[0] < 1.3
    for axis, name in enumerate(("shift_y", "shift_x")):
        error = table[name] - shift[:, axis]
        assert 0.8 < np.sqrt((error**2).mean()) / least[1 + axis] < 1.3
        assert table[f"{name}_sd"].mean() == pytest.approx(least[1 + axis], rel=0.25)


def test_classes_follow_from_bayes_rule():
    """Without anything else to infer, one step gives the exact posterior of the class."""
    model = oracle([Categorical(3)], size=12)
    rng = np.random.default_rng(0)
    z = torch.eye(3)[torch.from_numpy(rng.integers(3, size=40))]
    with torch.no_grad():
        clean = model.reconstruct({"class": z}, model.grid.expand(40, -1, -1))
        image = clean.view(40, 1, 12, 12) + NOISE * torch.randn(40, 1, 12, 12)
        drawn = model.reconstruct({"class": torch.eye(3)}, model.grid.expand(3, -1, -1))
        log_p = model.likelihood.log_prob(image.view(40, 1, -1, 1), drawn).sum(-1)
        params = refine(model, model.parameters_of(image), image, steps=1)
        p = model.posterior_of(params).branches.weight
    assert torch.allclose(p, log_p.softmax(1), atol=1e-4)
    assert 0.4 < float(p.amax(1).mean()) < 0.98  # not all of them are clear


def test_an_encoder_that_is_wrong_is_overruled():
    """Logits that prefer a copy at random, for a model that is otherwise right."""
    model = oracle([Shift(), Angle()])
    image, angle, _ = motifs(model, 30, seed=1)
    model.float()
    with torch.no_grad():
        model.heads["angle"].weight[0] *= 60
    assert circular_sd(encode(model, image)["angle"], angle) > 20
    assert circular_sd(encode(model, image, refine=40)["angle"], angle) < 4


def test_a_little_training_and_refinement_find_angle_and_shift():
    known = oracle([Shift(), Angle()])
    image, angle, shift = motifs(known, 400, seed=2)
    model = zoo.rvae(image.shape[1:], seed=0)
    train(model, image, TrainConfig(epochs=5, batch_size=40))
    test, angle, shift = motifs(known, 60, seed=3)
    start, table = encode(model, test), encode(model, test, refine=15)
    assert circular_sd(table["angle"], angle) < 0.85 * circular_sd(start["angle"], angle)
    error = [
        np.hypot(t["shift_y"] - shift[:, 0], t["shift_x"] - shift[:, 1]) for t in (start, table)
    ]
    assert error[1].mean() < 0.8 * error[0].mean()
    assert table["reconstruction_error"].mean() < start["reconstruction_error"].mean()


@pytest.mark.parametrize("name", ["jrvae", "crvae", "poisson", "gumbel", "conv_vae"])
def test_the_batch_does_not_matter(name):
    model = make(name, seed=3)
    given = data(model, 7)
    tables = [encode(model, **given, refine=6, batch_size=size) for size in (7, 3, 1)]
    for table in tables[1:]:
        assert np.allclose(table.to_numpy(float), tables[0].to_numpy(float), rtol=1e-3, atol=1e-3)


class Store:
    """Patches with a mask, as they come from a file."""

    def __init__(self, image, mask):
        self.image, self.mask, self.pixel_nm = image, mask, None
        self.atom_id = self.frame = np.arange(len(image))


def test_masked_pixels_do_not_count():
    """What they hold changes nothing, and their loss is felt as the Cramér-Rao bound says."""
    model = oracle([Shift(), Angle()])
    image, angle, shift = motifs(model, 40, seed=4)
    mask = np.arange(20) > 8
    least = cramer_rao(model, angle, shift, mask)
    assert least[0] > 1.2 * cramer_rao(model, angle, shift)[0]
    model.float()
    mask = np.tile(mask, (40, 20, 1))
    spoilt = np.where(mask[:, None], image, 1e6)
    a, b = (encode(model, Store(x, mask), refine=100) for x in (image, spoilt))
    assert np.allclose(a.to_numpy(float), b.to_numpy(float))
    error = np.angle(np.exp(1j * (a["angle"].to_numpy() - angle)))
    assert 0.8 < np.sqrt((error**2).mean()) / least[0] < 1.3


def test_a_patch_without_pixels_gives_finite_numbers():
    model = oracle([Shift(), Angle()])
    image, _, _ = motifs(model, 3, seed=5)
    mask = np.ones((3, 20, 20), bool)
    mask[1] = False
    table = encode(model.float(), Store(image, mask), refine=10)
    assert np.isfinite(table.to_numpy(float)).all()


def test_what_cannot_be_refined_is_refused():
    model = make("ved")
    given = data(model, 3)
    with pytest.raises(InputError, match="pass targets"):
        encode(model, given["patches"], refine=5)
    assert len(encode(model, given["patches"], targets=given["targets"], refine=5)) == 3
    with pytest.raises(InputError, match="refine is -1"):
        encode(make("vae"), np.zeros((2, *make("vae").shape)), refine=-1)


def test_no_steps_change_nothing():
    model, params, target, known = seen("jrvae")
    after = refine(model, params, target, known=known, steps=0)
    assert all(torch.equal(after[name], params[name]) for name in params)
