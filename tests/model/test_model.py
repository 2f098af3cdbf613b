"""The model, its decoder and its files."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Gaussian
from atomvae.model import zoo
from atomvae.model.decode import decode, manifold
from atomvae.model.encode import encode
from atomvae.model.files import load_model, save_model
from atomvae.model.networks import ConvEncoder, pixel_grid, sample_image

ZOO = {
    "vae": zoo.vae, "rvae": zoo.rvae, "skip_rvae": zoo.skip_rvae, "jvae": zoo.jvae,
    "jrvae": zoo.jrvae,
}  # fmt: skip
POINTWISE = ["rvae", "skip_rvae", "jrvae"]


@pytest.fixture(autouse=True)
def own_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", ZOO)
def test_a_quarter_turn_is_rot90(name):
    """Positive angles turn counter-clockwise on screen, as numpy.rot90 does."""
    model = ZOO[name]((1, 9, 9), seed=1)
    z = np.random.default_rng(0).normal(size=(2, 2))
    still = decode(model, z)
    for k in (1, 2, 3):
        turned = decode(model, z, angle=k * np.pi / 2)
        assert np.abs(turned - np.rot90(still, k, axes=(1, 2))).max() < 1e-4
    assert np.abs(turned - still).max() > 1e-2


@pytest.mark.parametrize("name", ZOO)
def test_a_shift_of_one_pixel_moves_the_motif_by_one_pixel(name):
    model = ZOO[name]((1, 8, 12), seed=1)
    still = decode(model, [[0.3, -1.0]])[0]
    down = decode(model, [[0.3, -1.0]], shift=(1, 0))[0]
    right = decode(model, [[0.3, -1.0]], shift=(0, 1))[0]
    assert np.abs(down[1:] - still[:-1]).max() < 1e-5
    assert np.abs(right[:, 1:] - still[:, :-1]).max() < 1e-5


def test_shift_is_outermost():
    """The centre of a turned motif lies at the shift, whatever the angle."""
    model = zoo.skip_rvae((9, 9))
    both = decode(model, [0.0, 0.0], angle=np.pi / 2, shift=(2, 0))[0]
    turned = decode(model, [0.0, 0.0], angle=np.pi / 2)[0]
    assert np.abs(both[2:] - turned[:-2]).max() < 1e-5


def test_a_patch_that_is_not_square_is_not_sheared():
    """A disc on 16 x 32 pixels stays the same disc at every angle."""
    grid = pixel_grid(16, 32)
    steps = grid.view(16, 32, 2)
    assert torch.allclose(steps[1, 0] - steps[0, 0], torch.tensor([1 / 16, 0]))
    assert torch.allclose(steps[0, 1] - steps[0, 0], torch.tensor([0, 1 / 16]))
    disc = (-(grid**2).sum(1) / (2 * 0.15**2)).exp().view(1, 1, 16, 32)
    for angle in (0.4, 1.2, math.pi / 2):
        c, s = math.cos(angle), math.sin(angle)
        turned = grid @ torch.tensor([[c, -s], [s, c]])
        out = sample_image(disc, turned.view(1, 16, 32, 2))
        assert float((out - disc).abs().sum()) < 0.03 * float(disc.sum())


def test_turned_copies_are_turned_back():
    """Copy j is the patch turned by minus the angle j; quarter turns of a copy are rot90."""
    model = zoo.rvae((9, 9))
    image = torch.randn(2, 1, 9, 9)
    copies = model._turned(image).view(2, 8, 9, 9)
    half = model._turned(torch.rot90(image, 1, (2, 3))).view(2, 8, 9, 9)
    # a patch turned by +90 degrees looks in copy j as the patch itself in copy j - 2
    assert torch.allclose(half, copies.roll(2, 1), atol=1e-5)


def test_an_angle_of_the_patch_moves_only_the_angle():
    """Exact equivariance at quarter turns: angle + 90 degrees, shift turned, content the same."""
    model = zoo.skip_rvae((1, 15, 15), latent_dim=3, seed=2)
    image = np.random.default_rng(0).normal(size=(4, 15, 15))
    a, b = encode(model, image), encode(model, np.rot90(image, 1, axes=(1, 2)))
    turn = np.angle(np.exp(1j * (b["angle"] - a["angle"] - np.pi / 2)))
    assert np.abs(turn).max() < 1e-4
    for name in ("z_0", "z_1", "z_2", "angle_sd", "reconstruction_error"):
        assert np.allclose(a[name], b[name], atol=1e-4)
    assert np.allclose(b["shift_y"], -a["shift_x"], atol=1e-4)
    assert np.allclose(b["shift_x"], a["shift_y"], atol=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_the_image_reaches_the_output_through_the_latents_alone(name):
    model = ZOO[name]((1, 8, 8))
    z = {f.name: torch.randn(3, f.size) for f in model.latent}
    if "class" in z:
        z["class"] = torch.eye(3)
    coords = model.grid.expand(3, -1, -1)
    before = model.reconstruct(z, coords)
    image = torch.randn(3, 1, 8, 8, requires_grad=True)
    model.bound(image)
    after = model.reconstruct(z, coords)
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ZOO)
def test_gradient_reaches_every_parameter(name):
    model = ZOO[name]((2, 8, 8))
    terms = model.bound(torch.randn(6, 2, 8, 8), pixels=None)
    sum(t.mean() for t in terms.values()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not dead


def fixed(model):
    """The model with posteriors of no width, so that pixels are all that is random."""
    with torch.no_grad():
        for name, low in (("z", 4), ("shift", 2)):
            f = next(f for f in model.latent if f.name == name)
            bias = model.heads[name].bias.view(model.classes, f.n_params)
            weight = model.heads[name].weight.view(model.classes, f.n_params, -1)
            start = f.size if name == "z" else low
            bias[:, start:], weight[:, start:] = -30.0, 0.0
        bias = model.heads["angle"].bias.view(model.classes, 3)
        weight = model.heads["angle"].weight.view(model.classes, 3, -1)
        bias[:, 2], weight[:, 2] = -30.0, 0.0
    return model.double()


@pytest.mark.parametrize("name", POINTWISE)
def test_all_pixels_are_the_full_loss_bit_for_bit(name):
    model = ZOO[name]((1, 8, 8))
    image = torch.randn(5, 1, 8, 8)
    torch.manual_seed(1)
    full = model.bound(image)
    torch.manual_seed(1)
    drawn = model.bound(image, pixels=64)
    assert all(torch.equal(full[n], drawn[n]) for n in full)


def test_pixel_drawing_is_unbiased_and_has_the_variance_of_the_formula():
    model = zoo.rvae((8, 8))
    loss = torch.randn(64).double().exp()  # any loss per pixel
    mask = torch.rand(64) < 0.7
    n, count, draws = 9, int(mask.sum()), 20_000
    index, weight = model.draw_pixels(mask.expand(draws, -1), n)
    assert mask[index].all()  # masked pixels are never drawn
    assert (index.sort(1).values.diff(dim=1) > 0).all()  # without replacement
    estimate = (loss[index] * weight).sum(1)
    variance = count**2 * (1 - n / count) * loss[mask].var() / n
    error = (variance / draws).sqrt()
    assert abs(estimate.mean() - loss[mask].sum()) < 3 * error
    assert abs(estimate.var() / variance - 1) < 0.1


def test_fewer_valid_pixels_than_wanted_are_all_taken():
    model = zoo.rvae((8, 8))
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, :5] = True
    index, weight = model.draw_pixels(mask, 20)
    assert sorted(index[weight > 0].tolist()) == [0, 1, 2, 3, 4] and weight.sum() == 5


@pytest.mark.parametrize("name", POINTWISE)
def test_subsampled_value_and_gradient_are_unbiased(name):
    model = fixed(ZOO[name]((1, 8, 8), seed=3))
    image = torch.randn(1, 1, 8, 8).double()
    weight = model.decoder.layers[0].weight

    def value_and_gradient(batch, pixels):
        loss = model.bound(image.expand(batch, -1, -1, -1), pixels=pixels)["nll"].mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        return torch.cat([loss.detach()[None], gradient[:3, :3].flatten()])

    full = value_and_gradient(1, None)
    groups = torch.stack([value_and_gradient(40, 7) for _ in range(30)])
    error = groups.std(0) / math.sqrt(len(groups))
    assert ((groups.mean(0) - full).abs() < 4 * error).all()
    assert (error > 0).all()


def test_masked_pixels_have_no_influence():
    model = zoo.skip_rvae((1, 8, 8))
    mask = torch.rand(4, 8, 8) < 0.8
    image = torch.randn(4, 1, 8, 8)
    target = torch.where(mask[:, None], image, 0.0)
    torch.manual_seed(1)
    a = model.bound(target, mask, pixels=20)
    # what the encoder sees is the same; the target differs where it doesn't count
    index, weight = model.draw_pixels((model.field & mask.flatten(1)), 20)
    assert mask.flatten(1).gather(1, index)[weight > 0].all()
    assert all(v.isfinite().all() for v in a.values())
    full = model.bound(target, mask)["nll"]
    count = (model.field & mask.flatten(1)).sum(1)
    bare = model.likelihood.log_prob(torch.zeros(1), torch.zeros(1)).item()
    assert (full > -count * bare).all()  # nll >= number of counted pixels times its floor


def test_terms_are_summed_over_pixels_and_channels():
    """Tripling a channel triples its loss: nats per patch, no hidden mean."""
    terms = {}
    for channels in (1, 3):
        model = zoo.vae((channels, 8, 8))
        for p in model.decoder.parameters():
            p.data.zero_()
        image = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        terms[channels] = model.bound(image.expand(-1, channels, -1, -1))["nll"]
    assert torch.allclose(3 * terms[1], terms[3])


def test_a_kept_part_of_the_branches_is_still_a_bound():
    """Truncated posteriors are posteriors: the KL of the angle is that of what is left."""
    model = zoo.jrvae((8, 8))
    image = torch.randn(5, 1, 8, 8)
    posterior = model.infer(image, keep=4)
    assert posterior.branches.label.shape == (5, 4)
    assert torch.allclose(posterior.branches.weight.sum(1), torch.ones(5))
    everything = model.infer(image).branches.weight.sort(1, descending=True).values[:, :4]
    expected = everything / everything.sum(1, keepdim=True)
    found = posterior.branches.weight.sort(1, descending=True).values
    assert torch.allclose(found, expected, atol=1e-5)


def test_seed_sets_the_weights_and_the_global_state_is_left_alone():
    torch.manual_seed(5)
    np_before = np.random.get_state()[1].copy()
    before = torch.get_rng_state()
    a, b, c = (zoo.skip_rvae((8, 8), seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == np_before).all()
    assert torch.get_default_dtype() == torch.float32
    same = [torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    other = [torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True)]
    assert all(same)
    assert not any(o for o, p in zip(other, a.named_parameters(), strict=True) if "log" not in p[0])


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="different names"):
        zoo.compose((8, 8), [Gaussian(2), Gaussian(3)])
    with pytest.raises(InputError, match="two Angle"):
        zoo.compose((8, 8), [Angle(), Angle("other")])
    with pytest.raises(InputError, match="patch shape"):
        zoo.vae((8,))
    with pytest.raises(TypeError):
        zoo.vae((8, 8), skip=True)


@pytest.mark.parametrize("name", ZOO)
def test_a_loaded_model_gives_the_same_output(name, tmp_path):
    model = ZOO[name]((2, 8, 9), seed=4)
    model.offset[:] = torch.tensor([100.0, 3.0])
    model.centre[:] = 0.1
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    image = np.random.default_rng(0).normal(size=(3, 2, 8, 9))
    a, b = encode(model, image), encode(loaded, image)
    assert a.equals(b)
    assert np.array_equal(decode(model, [[1.0, 2.0]]), decode(loaded, [[1.0, 2.0]]))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "model.yaml",
        "weights.safetensors",
    ]


def test_a_model_of_unusual_parts_is_saved_whole(tmp_path):
    from atomvae.latent import Rotation, Scale, Shear, Shift

    latent = [Shift(sigma=0.3), Rotation(sigma=0.2), Shear(), Scale(), Categorical(2, name="kind")]
    model = zoo.compose((12, 12), latent, encoder=partial(ConvEncoder, width=16), seed=1)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.latent == model.latent
    image = np.random.default_rng(0).normal(size=(3, 12, 12))
    assert encode(model, image).equals(encode(loaded, image))
    assert {"rotation", "shear_sd", "scale", "kind", "kind_p"} <= set(encode(model, image))


def test_files_that_are_not_ours_are_refused_and_never_executed(tmp_path):
    save_model(zoo.vae((8, 8)), tmp_path)
    file = tmp_path / "model.yaml"
    text = file.read_text()
    marker = tmp_path / "executed"
    for bad, match in [
        (text.replace("Gaussian\n", "Wavelet\n", 1), "Wavelet"),
        (text.replace("sigma:", "sigmo:", 1), "sigmo"),
        (text.replace("version: 2", "version: 99"), "99"),
        (text.replace("shape:", "shapes:"), "shape"),
        (f"!!python/object/apply:os.system ['touch {marker}']", "YAML"),
        ("just text", "version"),
    ]:
        file.write_text(bad)
        with pytest.raises(InputError, match=match):
            load_model(tmp_path)
    assert not marker.exists()
    file.write_text(text)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated"):
        load_model(tmp_path)


def test_manifold_axes_are_the_ones_that_vary():
    model = zoo.skip_rvae((8, 8), latent_dim=3)
    grid = manifold(model, 5, axes=(2, 0))
    assert grid.shape == (5, 5, 8, 8)
    from scipy.stats import norm

    q = norm.ppf(np.linspace(0.05, 0.95, 5))
    assert np.allclose(grid[1, 4], decode(model, [q[4], 0.0, q[1]])[0], atol=1e-6)


def test_decode_draws_a_larger_picture_around_the_same_centre():
    model = zoo.skip_rvae((8, 8))
    small, large = decode(model, [0.5, 0.0])[0], decode(model, [0.5, 0.0], shape=(12, 14))[0]
    assert np.abs(large[2:-2, 3:-3] - small).max() < 1e-5
