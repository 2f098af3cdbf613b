"""The model: its modes, pixels, seeds, device and files."""

import math

import numpy as np
import pytest
import torch
from compositions import (
    COMPOSITIONS,
    contents,
    data,
    every,
    images,
    make,
    tensors,
)
from elsewhere import Elsewhere, is_there, send

from atomvae.errors import InputError
from atomvae.latent import Angle, Condition, Gaussian, Shift
from atomvae.model import zoo
from atomvae.model.decode import decode
from atomvae.model.encode import encode, summarise
from atomvae.model.files import load_model, save_model
from atomvae.model.objective import objective


@pytest.fixture(autouse=True)
def own_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.no_grad()
def test_the_mode_is_the_most_probable_pair_of_classes():
    """Not the pair of the most probable classes, which may be impossible."""
    model = make("two_classes")
    p = torch.tensor([[0.0, 0.4, 0.0], [0.3, 0.0, 0.3]])
    heads = [model.heads["class"], model.heads["kind"], model.heads["angle"]]
    for head in heads:
        head.weight.zero_()
        head.bias.zero_()
    heads[0].bias += p.log().clamp_min(-1e5).flatten()  # a logit of each branch
    table = encode(model, images(model, 2))
    assert np.isfinite(table.to_numpy()).all()
    assert (table["class"] == 0).all() and (table["kind"] == 1).all()
    assert np.allclose(table["class_p"], 0.4) and np.allclose(table["kind_p"], 0.4)


def test_the_mode_is_of_the_most_probable_class_not_branch():
    """A class that is spread over all turned copies against one that lies in a single copy."""
    model = make("jrvae")
    p = torch.zeros(1, model.copies, model.classes)
    p[0, :, 1], p[0, 3, 2] = 0.6 / model.copies, 0.4
    params = {
        n: torch.zeros(1, model.n_branches, model.heads[n].out_features // 3) for n in model.heads
    }
    params["class"] = p.log().clamp_min(-100).flatten(1)[..., None]
    columns, _ = summarise(model, model.posterior_of(params))
    assert columns["class"] == 1 and abs(columns["class_p"] - 0.6) < 1e-5


# Pixels.


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


@every
def test_all_pixels_are_the_full_loss_bit_for_bit(name):
    model = make(name)
    batch = tensors(model, 5)
    torch.manual_seed(1)
    full = model.bound(**batch)
    torch.manual_seed(1)
    drawn = model.bound(**batch, pixels=math.prod(model.target_shape[1:]))
    assert all(torch.equal(full[n], drawn[n]) for n in full)


def test_pixel_drawing_is_unbiased_and_has_the_variance_of_the_formula():
    model = zoo.rvae((8, 8))
    loss = torch.randn(64).double().exp()  # any loss per pixel
    mask = model.field & (torch.rand(64) < 0.7)
    n, count, calls = 9, int(model.field.sum()), 4000
    estimates = []
    for _ in range(calls):
        index, weight = model.draw_pixels(mask.expand(5, -1), n)
        assert model.field[index].all()  # pixels out of the field are never drawn
        assert (index.sort(1).values.diff(dim=1) > 0).all()  # without replacement
        estimates.append((loss[index] * weight).sum(1))
    estimate = torch.stack(estimates)  # (calls, 5)
    variance = count**2 * (1 - n / count) * (loss * mask)[model.field].var() / n
    error = (variance / calls).sqrt()
    assert ((estimate.mean(0) - loss[mask].sum()).abs() < 3.5 * error).all()
    assert ((estimate.var(0) / variance - 1).abs() < 0.12).all()


def test_the_images_of_a_batch_together_see_all_pixels_alike():
    model = zoo.vae((8, 8))
    loss = torch.randn(64).double().exp()
    index, weight = model.draw_pixels(model.field.expand(16, -1), 12)  # 3 times 64 pixels
    assert (index.flatten().bincount(minlength=64) == 3).all()
    assert torch.isclose((loss[index] * weight).sum(1).mean(), loss.sum())


def test_masked_pixels_have_no_weight():
    model = zoo.rvae((8, 8))
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, 27:30] = True
    index, weight = model.draw_pixels(mask, 20)
    assert (weight[~mask.gather(1, index)] == 0).all()
    everything, ones = model.draw_pixels(mask, None)
    assert everything[ones > 0].tolist() == [27, 28, 29] and ones.sum() == 3


@pytest.mark.parametrize("name", ["skip_rvae", "poisson"])
def test_subsampled_value_and_gradient_are_unbiased(name):
    model = fixed(COMPOSITIONS[name]((1, 8, 8), seed=3))
    image = torch.randn(1, 1, 8, 8).double().abs().round()  # counts, as one of them needs
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
    # how probable a known value was is said by all of them
    known = {"z": torch.randn(5, 2)}
    assert torch.equal(
        model.infer(image, 4, known).surprise, model.infer(image, None, known).surprise
    )


# Seeds, devices, files.


@every
def test_seed_sets_the_weights_and_the_global_state_is_left_alone(name):
    torch.manual_seed(5)
    np_before = np.random.get_state()[1].copy()
    before = torch.get_rng_state()
    a, b, c = (make(name, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == np_before).all()
    assert torch.get_default_dtype() == torch.float32
    pairs = zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True)
    for parameter, p, q, r in ((n, p, q, r) for (n, p), q, r in pairs):
        assert torch.equal(p, q)
        same = parameter == "likelihood.log_excess" or parameter.startswith("priors.")
        assert same == torch.equal(p, r)  # those begin at what they mean: no noise, no shift


@every
def test_everything_lives_on_the_device_of_the_model(name):
    model = send(make(name))
    batch = send(tensors(model, 3))
    mask = send(torch.ones(3, *model.target_shape[1:], dtype=torch.bool))
    with Elsewhere():
        terms = model.bound(**batch, mask=mask, pixels=5, keep=2)
        columns, z = summarise(model, model.infer(batch["image"], known=batch["known"]))
        model.recentre(batch["image"], batch["known"])
    assert all(is_there(t) for t in (*terms.values(), *columns.values(), *z.values()))


# torch's relaxed classes look at their logits to check them, whatever they are asked.
UNCHECKED = [name for name in COMPOSITIONS if not name.startswith("gumbel")]


@pytest.mark.parametrize("name", UNCHECKED)
def test_a_step_waits_for_no_value(name):
    """Each look at a value would let a GPU run dry; where there are no values, it is an error."""
    model = make(name).to("meta")
    batch = tensors(make(name), 3)
    known = {n: v.to("meta") for n, v in batch.pop("known").items()}
    batch = {n: None if v is None else v.to("meta") for n, v in batch.items()}
    mask = torch.ones(3, *model.target_shape[1:], dtype=torch.bool, device="meta")
    for keep, pixels in ((2, 5), (None, None)):
        terms = model.bound(**batch, known=known, mask=mask, pixels=pixels, keep=keep)
        loss = objective({n: t.mean() for n, t in terms.items()}, (), 0.5)
        loss.backward()
        assert loss.is_meta and all(t.is_meta for t in terms.values())


@every
def test_a_loaded_model_gives_the_same_output(name, tmp_path):
    """Every weight, unit and setting counts; the files are two, and say version 2."""
    model = make(name, seed=4)
    for t in (t for t in model.state_dict().values() if t.is_floating_point()):
        t += 0.1 + 0.1 * torch.rand(t.shape).to(t.dtype)
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded.latent == model.latent and not loaded.training
    arguments, content = data(model, 3), contents(model, 3)
    assert encode(model, **arguments).equals(encode(loaded, **arguments))
    assert np.array_equal(decode(model, **content), decode(loaded, **content))
    state = loaded.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"model.yaml", "weights.safetensors"}
    assert (tmp_path / "m" / "model.yaml").read_text().startswith("version: 2\n")


PARTS = ("encoder", "decoder", "likelihood")


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="different names"):
        zoo.compose((8, 8), [Gaussian(2), Gaussian(3)])
    with pytest.raises(InputError, match="two Angle"):
        zoo.compose((8, 8), [Angle(), Angle("other")])
    with pytest.raises(InputError, match="all given"):
        zoo.compose((8, 8), [Condition(2)])
    with pytest.raises(InputError, match="terms of the loss"):
        zoo.compose((8, 8), [Gaussian(2, "nll")])
    with pytest.raises(InputError, match="has no meaning"):
        zoo.compose((8, 8), [Gaussian(2), Shift()], target=(8, 9))
    with pytest.raises(InputError, match="content 3"):
        zoo.Model([Gaussian(2)], *(getattr(zoo.vae((8, 8), 3), n) for n in PARTS))
    with pytest.raises(InputError, match="patch shape"):
        zoo.vae((8,))
    with pytest.raises(TypeError):
        zoo.vae((8, 8), skip=True)


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


def test_decode_draws_a_larger_picture_around_the_same_centre():
    model = zoo.skip_rvae((8, 8))
    small, large = decode(model, [0.5, 0.0])[0], decode(model, [0.5, 0.0], shape=(12, 14))[0]
    assert np.abs(large[2:-2, 3:-3] - small).max() < 1e-5
