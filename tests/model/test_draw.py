"""What a model draws is what its decoder says, at the values asked for, for every composition."""

import numpy as np
import pandas as pd
import pytest
import torch
from compositions import COMPOSITIONS, SHAPE, conditions, images
from scipy.stats import norm

from atomvae.errors import InputError
from atomvae.latent import Categorical, Code, Condition
from atomvae.model import zoo
from atomvae.model.decode import content_columns, decode, manifold, manifold_axes
from atomvae.model.draw import interpolate, reconstruct, sample, traverse
from atomvae.model.encode import encode

SQUARE = (1, 9, 9)
SMALL_POSES = ("rotation", "scale", "shear")


def make(name, shape=SHAPE):
    """A model with units that are not one: of its data, and of numbers that may be known."""
    model = COMPOSITIONS[name](shape, seed=1)
    if model.likelihood.standardised:
        model.target_offset[:], model.target_scale[:] = 7.0, 2.0
        model.offset[:], model.scale[:] = 0.3, 1.5
    for f in model.latent:
        if (unit := model.unit(f.name)) is not None and f.name != "z":
            unit[0], unit[1] = 5.0, 2.0
    return model


def written_out(model, table, known, with_pose=True):
    """Decode a table of `encode` by hand."""
    kinds = [f.name for f in model.content if isinstance(f, Categorical)]
    given = {f.name: known[f.name] for f in model.given}
    pose = {}
    if with_pose:
        if "angle" in table:
            pose["angle"] = table["angle"]
        if "shift_y" in table:
            pose["shift"] = table[["shift_y", "shift_x"]]
        small = [f for f in model.poses if f.name in SMALL_POSES]
        given |= {f.name: table[f.columns] for f in small}
    label = table[kinds] if kinds else 0
    return decode(model, table[content_columns(model)], label=label, given=given, **pose)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_reconstructions_are_decodes_of_what_is_encoded(name):
    model = make(name)
    patches, known = images(model, 7), conditions(model, 7)
    table = encode(model, patches, known=known)
    whole = reconstruct(model, patches, known=known)
    own = reconstruct(model, patches, known=known, with_pose=False, batch_size=3)
    assert whole.dtype == np.float32 and len(whole) == 7
    scale = np.abs(whole).max()
    assert np.abs(whole - written_out(model, table, known)).max() < 1e-5 * scale
    assert np.abs(own - written_out(model, table, known, with_pose=False)).max() < 1e-5 * scale


def test_known_values_are_drawn():
    """A class that is told is the class that is drawn, also where classes are relaxed draws."""
    for name in ("ssrvae", "gumbel"):
        model = make(name)
        patches, label = images(model, 6), np.array([0, 1, 2, 2, 1, 0])
        drawn = reconstruct(model, patches, known={"class": label})
        table = encode(model, patches, known={"class": label}).assign(**{"class": label})
        assert np.abs(drawn - written_out(model, table, {})).max() < 1e-4


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_samples_of_every_composition(name):
    model = make(name)
    patches, known = images(model, 9), conditions(model, 9)
    codes = any(isinstance(f, Code) and not isinstance(f, Condition) for f in model.latent)
    latents = encode(model, patches, known=known) if codes else None
    given = {k: v[:1] for k, v in conditions(model, 5).items()}
    before = torch.get_rng_state()
    a, b, c = (sample(model, 5, seed=s, given=given, latents=latents) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.isfinite(a).all() and np.array_equal(a, b) and not np.array_equal(a, c)
    noisy = sample(model, 5, given=given, latents=latents, noise=True)
    assert noisy.shape == a.shape and not np.array_equal(noisy, a)
    if codes:
        with pytest.raises(InputError, match="code without a prior: pass latents="):
            sample(model, 5, given=given)
    for condition in given:
        rest = {k: v for k, v in given.items() if k != condition}
        with pytest.raises(InputError, match=f"conditional on '{condition}'"):
            sample(model, 5, given=rest, latents=latents)


def linear(maker, dim=2):
    """A linear model, its W (9, dim) and offset in data units, and its noise."""
    rng = np.random.default_rng(0)
    model = maker((3, 3), dim)
    model.target_offset[:], model.target_scale[:] = 4.0, 2.5
    w, b = rng.normal(size=(9, dim)), rng.normal(size=9)
    with torch.no_grad():
        model.decoder.net[0].weight[:] = torch.from_numpy(w)
        model.decoder.net[0].bias[:] = torch.from_numpy(b)
        model.likelihood.log_excess[:] = np.log(0.5 - model.likelihood.floor)
    return model, 2.5 * w, 4 + 2.5 * b, 2.5 * 0.5


def has_moments(x, mean, covariance):
    """Whether rows (n, d) have a mean and a covariance, each entry within five standard errors."""
    n, d = x.shape, np.diag(covariance)
    errors = (x.mean(0) - mean) / np.sqrt(d / n[0])
    spread = np.sqrt((covariance**2 + np.outer(d, d)) / n[0])
    deviations = (np.cov(x.T) - covariance) / spread
    return np.abs(errors).max() < 5 and np.abs(deviations).max() < 5


def test_samples_of_a_linear_vae_have_its_covariance():
    model, w, mean, sd = linear(zoo.linear_vae)
    x = sample(model, 40_000, noise=True).reshape(-1, 9).astype(float)
    assert has_moments(x, mean, w @ w.T + sd**2 * np.eye(9))
    assert not has_moments(x, mean, w @ w.T + 0.9 * sd**2 * np.eye(9))  # the test can tell
    means = sample(model, 40_000).reshape(-1, 9).astype(float)
    assert has_moments(means, mean, w @ w.T)
    values = np.linalg.svd(means - means.mean(0), compute_uv=False)
    assert values[2] < 1e-4 * values[1]  # two dimensions and no noise


def test_codes_are_drawn_from_the_spread_of_the_latents():
    model, w, mean, _ = linear(zoo.linear_ae, 3)
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + [3.0, -2.0, 0.5]
    latents = pd.DataFrame(codes, columns=["z_0", "z_1", "z_2"])
    x = sample(model, 40_000, latents=latents).reshape(-1, 9).astype(float)
    centre = mean + w @ codes.mean(0)
    assert has_moments(x, centre, w @ np.cov(codes.T) @ w.T)
    grid = manifold(model, 3, latents=latents)
    low, middle = (np.quantile(codes, q, axis=0) for q in (0.05, 0.5))
    expected = decode(model, [low[0], middle[1], middle[2]])[0]
    assert np.allclose(grid[0, 1], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["poisson_image", "bernoulli"])
def test_noise_is_that_of_the_likelihood(name):
    model = make(name)
    given = {f.name: np.full(f.size, 0.3) for f in model.latent}
    mean = sample(model, 1, given=given)[0].astype(float)
    x = sample(model, 20_000, given=given, noise=True).astype(float)
    assert np.array_equal(x, np.round(x)) and x.min() == 0
    variance = mean if name == "poisson_image" else mean * (1 - mean)
    assert (x.max() == 1) == (name == "bernoulli")
    assert np.abs((x.mean(0) - mean) / np.sqrt(variance / len(x))).max() < 5
    assert x.var(0) == pytest.approx(variance, rel=0.1)


def test_noise_of_an_unknown_likelihood_is_refused():
    model = zoo.vae((8, 8))
    model.likelihood = type("Other", (zoo.Likelihood,), {"mean": lambda self, output: output})()
    model.likelihood.standardised = True
    assert sample(model, 1).shape == (1, 8, 8)
    with pytest.raises(InputError, match="noise of Other"):
        sample(model, 1, noise=True)


def test_what_is_given_is_not_drawn():
    model = make("jrvae")
    rng = np.random.default_rng(0)
    z, angle, shift = rng.normal(size=(4, 2)), rng.normal(size=4), rng.normal(size=(4, 2))
    given = {"z": z, "angle": angle, "shift": shift, "class": [0, 2, 1, 1]}
    expected = decode(model, z, angle=angle, shift=shift, label=[0, 2, 1, 1])
    assert np.allclose(sample(model, 4, given=given), expected, atol=1e-4)
    still = sample(model, 4, given={"angle": 0.0, "shift": (0.0, 0.0)})
    assert np.array_equal(still, sample(model, 4, with_pose=False))  # same content and classes
    assert not np.allclose(still, sample(model, 4), atol=1e-2)


def test_drawn_angles_are_uniform():
    """A ramp along x, turned: the horizontal slope of the pictures is the cosine of the angle."""
    model = make("rvae", SQUARE)
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
        model.decoder.position.weight[0, 1] = 1e-3  # of x, where tanh is linear
        for layer in (*model.decoder.layers, model.decoder.out):
            layer.weight[0, 0] = 1.0
    x = sample(model, 4000, given={"shift": (0.0, 0.0)}).astype(float)
    across, up = x[:, 4, 8] - x[:, 4, 0], x[:, 0, 4] - x[:, 8, 4]
    angle = np.sort(np.arctan2(up, across))
    expected = -np.pi + 2 * np.pi * (np.arange(4000) + 0.5) / 4000
    assert np.abs(angle - expected).max() < 2 * np.pi * 1.63 / np.sqrt(4000)  # KS at 1 %


@pytest.mark.parametrize("name", ["vae", "conv_vae", "skip_rvae", "jrvae", "small_poses"])
def test_traversing_the_angle_turns_the_picture(name):
    model = make(name, SQUARE)
    z = np.random.default_rng(0).normal(size=2)
    turns = traverse(model, z, "angle", np.arange(4) * np.pi / 2, label=0)
    for k in range(4):
        assert np.abs(turns[k] - np.rot90(turns[0], k)).max() < 1e-3
    assert np.abs(turns[1] - turns[0]).max() > 1e-2
    moved = traverse(model, z, "shift_y", [0, 1])
    assert np.abs(moved[1, 1:] - moved[0, :-1]).max() < 1e-3


AXES = {
    "rvae": ["z_1", 0, "shift_x"],
    "ae": ["z_0"],
    "ved": ["z_7"],
    "ssvae_number": ["number_0", "number", 2],
    "jrvae": ["class", "z_0"],
    "two_classes": ["kind", "class"],
    "crvae": ["dose_1"],
    "cvae": ["suit", 1],
    "affine_rvae": ["shear_1", "scale", "angle"],
    "small_poses": ["rotation", "scale", "shear_0"],
    "angle_alone": ["angle"],
    "spectrum_to_image": [1],
}


@pytest.mark.parametrize("name", AXES)
def test_a_traversal_changes_one_value_and_keeps_the_others(name):
    model = make(name)
    patches, known = images(model, 1), conditions(model, 1)
    row = encode(model, patches, known=known)
    row = row.assign(**{k: v for k, v in known.items() if np.ndim(v) == 1})
    row = row.assign(**{f"dose_{i}": known["dose"][0, i] for i in (0, 1) if "dose" in known})
    kinds = {"class": [0, 1], "kind": [2, 0, 1], "suit": [3, 1]}
    for axis in AXES[name]:
        values = kinds.get(axis, [-0.4, 0.9, 0.1])
        column = content_columns(model)[axis] if isinstance(axis, int) else axis
        column = {"number": "number_0"}.get(column, column)
        rows = pd.concat([row] * len(values), ignore_index=True).assign(**{column: values})
        conditioned = {k: rows[[c for c in rows if c.split("_")[0] == k]] for k in known}
        expected = written_out(model, rows, conditioned)
        held = {k: v for k, v in known.items() if k != axis.__str__().split("_")[0]}
        for start in (row, row.iloc[0], dict(row.iloc[0])):
            drawn = traverse(model, start, axis, values)
            assert np.allclose(drawn, expected, atol=1e-4)
        bare = row.iloc[0].drop(list(held), errors="ignore")
        assert np.allclose(traverse(model, bare, axis, values, given=held), expected, atol=1e-4)


def test_interpolations_end_where_they_should():
    model = make("affine_rvae")
    table = encode(model, images(model, 2))
    path = interpolate(model, table.iloc[0], table.iloc[1], 5)
    ends = written_out(model, table, {})
    assert np.allclose(path[[0, -1]], ends, atol=1e-4)
    half = table[list(table)].mean().to_frame().T
    gap = np.angle(np.exp(1j * (table["angle"][1] - table["angle"][0])))
    half["angle"] = table["angle"][0] + gap / 2
    assert np.allclose(path[2], written_out(model, half, {})[0], atol=1e-4)
    content = interpolate(model, *(table[["z_0", "z_1"]].iloc[i] for i in (0, 1)), 3)
    assert np.allclose(content[[0, 2]], decode(model, table[["z_0", "z_1"]]), atol=1e-4)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_interpolations_of_every_composition_end_at_their_rows(name):
    model = make(name)
    known = conditions(model, 2)
    table = encode(model, images(model, 2), known=known)
    given = {k: np.concatenate([v[:1], v[:1], v[1:]]) for k, v in known.items()}
    path = interpolate(model, table.iloc[0], table.iloc[1], 3, given=given)
    assert np.allclose(path[[0, 2]], written_out(model, table, known), atol=1e-4)


def test_the_angle_goes_the_short_way_round():
    model = make("rvae")
    a = {"z_0": 0.5, "z_1": -1.0, "angle": np.radians(170), "shift_y": 0, "shift_x": 0}
    b = a | {"angle": np.radians(-150)}
    path = interpolate(model, a, b, 3)
    degrees = np.radians([170, 190, 210])
    assert np.allclose(path, decode(model, [[0.5, -1.0]] * 3, angle=degrees), atol=1e-4)


def test_the_class_changes_halfway():
    model = make("two_classes")
    a = {"z_0": 0.0, "z_1": 0.0, "class": 0, "kind": 2}
    path = interpolate(model, a, a | {"class": 1, "kind": 1}, 4)
    labels = [[0, 2], [0, 2], [1, 1], [1, 1]]
    assert np.allclose(path, decode(model, np.zeros((4, 2)), label=labels), atol=1e-5)


def test_a_manifold_is_drawn_in_the_units_of_the_table():
    model = make("two_conditions")
    given = {"suit": 3, "dose": [4.0, 6.0]}
    axes = manifold_axes(model, 5, axes=("number_1", 0))
    quantiles = norm.ppf(np.linspace(0.05, 0.95, 5))
    assert list(axes) == ["number_1", "z_0"]
    assert np.allclose(axes["number_1"], 5 + 2 * 0.5 * quantiles)
    assert np.allclose(axes["z_0"], quantiles)
    grid = manifold(model, 5, axes=("number_1", 0), given=given)
    z = [quantiles[4], 0.0, 5.0, axes["number_1"][1]]
    assert np.allclose(grid[1, 4], decode(model, z, given=given)[0], atol=1e-5)


def test_a_manifold_of_each_class():
    model = make("two_classes")
    for label in ([0, 2], [1, 0]):
        grid = manifold(model, 3, label=label)
        assert np.allclose(grid[1, 1], decode(model, [0.0, 0.0], label=label)[0], atol=1e-6)
    one = manifold(COMPOSITIONS["one_copy"](SQUARE), 4)
    assert one.shape == (4, 1, 9, 9) and np.abs(one[0] - one[3]).max() > 1e-3


def test_many_pictures_are_drawn_in_parts(monkeypatch):
    model = make("skip_rvae")
    z = np.random.default_rng(0).normal(size=(11, 2))
    whole, angle = decode(model, z, angle=np.arange(11.0)), np.arange(11.0)
    monkeypatch.setattr("atomvae.model.decode.PIXELS", 300)  # three pictures
    assert np.allclose(decode(model, z, angle=angle), whole, atol=1e-5)
    assert decode(model, np.empty((0, 2))).shape == (0, *SHAPE)


VAE, RVAE, AE = zoo.vae((8, 8)), zoo.rvae((8, 8)), zoo.ae((8, 8))
VED, JVAE = zoo.ved((8, 8), (1, 16), 2), zoo.jvae((8, 8))
CVAE = zoo.cvae((8, 8), given=Condition(4, "suit", discrete=True))
ROW = pd.Series({"z_0": 0.0, "z_1": 1.0, "angle": 0.3})


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: manifold(COMPOSITIONS["angle_alone"](SHAPE)), "no continuous content"),
        (lambda: manifold(AE), "no normal prior .* pass latents="),
        (lambda: manifold(AE, latents=pd.DataFrame({"z_0": [1.0]})), "latents lack .'z_1'"),
        (lambda: manifold(VAE, axes=(0, 2)), "axes are .0, 2., expected .*z_1"),
        (lambda: manifold(VAE, axes=(1, 1)), "different ones"),
        (lambda: manifold(VAE, axes=("z_5", 0)), "axes are"),
        (lambda: manifold(VAE, 0), "at least one picture"),
        (lambda: manifold(JVAE, label=3), "class is .*expected 0 to 2"),
        (lambda: manifold(CVAE), "conditional on 'suit'"),
        (lambda: manifold(VAE, latents=pd.DataFrame({"z_0": [np.nan], "z_1": 0})), "finite"),
        (lambda: sample(VAE, 0), "at least one image"),
        (lambda: sample(VAE, 1, given={"class": 0}), "given names .'class'"),
        (lambda: sample(VAE, 3, given={"z": [1.0, 2.0, 3.0]}), "z has shape .3,., expected"),
        (lambda: sample(AE, 1, latents=pd.DataFrame({"z_0": [1.0], "z_1": 0})), "no spread"),
        (lambda: traverse(VAE, [0.0, 0.0], "z_2", [0]), "axis is 'z_2', expected one of"),
        (lambda: traverse(VAE, [0.0, 0.0], "class", [0]), "axis is 'class'"),
        (lambda: traverse(VAE, [0.0, 0.0], "shear", [0]), "axis is 'shear'"),
        (lambda: traverse(VED, [0.0, 0.0], "angle", [0]), "axis is 'angle'"),
        (lambda: traverse(VAE, [0.0, 0.0], 2, [0]), "axis is 2"),
        (lambda: traverse(VAE, [0.0], 0, [0]), "z has shape .1,., expected .2,."),
        (lambda: traverse(VAE, [0.0, 0.0], 0, []), "values have shape"),
        (lambda: traverse(JVAE, [0.0, 0.0], "class", [0.5]), "expected 0 to 2"),
        (lambda: traverse(JVAE, ROW, 0, [0]), "row lacks .'class'"),
        (lambda: traverse(CVAE, [0.0, 0.0], 0, [0]), "lacks .'suit'.* pass given="),
        (lambda: traverse(VAE, [0.0, 0.0], 0, [0], given={"y": 1}), "given names"),
        (lambda: traverse(RVAE, [0.0, 0.0], 0, [0], given={"shift": 1}), "shift has shape"),
        (lambda: interpolate(VAE, [0.0, 0.0], [1.0, 0.0], 1), "at least 2"),
        (lambda: interpolate(RVAE, ROW, ROW.drop("angle")), "only one of the rows has .'angle'"),
        (lambda: interpolate(VAE, ROW[["z_0"]], ROW[["z_0"]]), "row lacks .'z_1'"),
        (lambda: interpolate(VAE, pd.DataFrame([ROW, ROW]), ROW), "table of 2 rows"),
        (lambda: reconstruct(CVAE, np.zeros((2, 8, 8))), "conditional on 'suit'"),
        (lambda: reconstruct(VAE, np.zeros((2, 9, 8))), "patches have shape"),
    ],
)
def test_what_makes_no_sense_is_refused(draw, message):
    with pytest.raises(InputError, match=message) as error:
        draw()
    assert "\n" not in str(error.value)
