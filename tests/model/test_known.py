"""Values that are known beforehand: their units, what is made of them, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from compositions import COMPOSITIONS, SUIT, conditions, data, images, inferred, make

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Code, Condition, Gaussian, Shift
from atomvae.model import zoo
from atomvae.model.batches import Batches
from atomvae.model.config import TrainConfig
from atomvae.model.data import read_images
from atomvae.model.encode import encode
from atomvae.model.guess import first_guess
from atomvae.model.known import read_known
from atomvae.model.train import train

PAIRS = [(name, f.name) for name in COMPOSITIONS for f in inferred(make(name))]
LATENT = [Shift(), Angle(), Gaussian(2), Categorical(3), Gaussian(1, "number", sigma=0.5)]


def some_values(f, n, seed=0):
    """Known values of a factor as a user has them."""
    rng = np.random.default_rng(seed)
    if isinstance(f, Categorical):
        return rng.integers(f.size, size=n)
    if isinstance(f, Angle):
        return rng.uniform(-np.pi, np.pi, n)
    value = rng.normal(size=(n, f.size)) * (1.0 if isinstance(f, Shift) else 0.3)
    return value[:, 0] if f.size == 1 else value


def test_values_come_in_the_units_of_the_user():
    model = zoo.compose((8, 12), [*LATENT, SUIT, Condition(2, "dose")])
    number = np.array([10.0, 30.0, np.nan, 20.0])
    known = {
        "shift": [[3.0, -6.0]] * 4,  # pixels; half of the longer side is 6
        "angle": [1.0, np.nan, -2.0, 3.0],
        "class": [2, -1, np.nan, 0],
        "number": number,
        "suit": np.array([3, 0, 1, 2], np.uint8),
        "dose": [[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]],  # the second is always the same
    }
    out = {n: v.numpy() for n, v in read_known(model, known, 4, measure=True).items()}
    assert all(v.dtype == np.float32 for v in out.values())
    assert np.allclose(out["shift"], [[0.5, -1.0]] * 4)
    assert np.array_equal(out["angle"][:, 0], np.float32(known["angle"]), equal_nan=True)
    expected = np.full((4, 3), np.nan)
    expected[0], expected[3] = [0, 0, 1], [1, 0, 0]
    assert np.array_equal(out["class"], expected, equal_nan=True)
    sd = np.nanstd(number)  # to the prior N(0, 0.5), by the known ones alone
    assert np.allclose(out["number"][:, 0], 0.5 * (number - 20) / sd, equal_nan=True)
    assert np.array_equal(out["suit"], np.eye(4)[[3, 0, 1, 2]])
    assert np.allclose(out["dose"][:, 0], (np.arange(4) * 2 - 3) / np.sqrt(5))
    assert np.array_equal(out["dose"][:, 1], np.zeros(4))
    # measured once: other values are brought to the same units
    other = read_known(model, known | {"number": [20.0, np.nan, np.nan, np.nan]}, 4)
    assert np.allclose(other["number"][0], 0)


@pytest.mark.parametrize("name, factor", PAIRS)
def test_a_known_value_comes_back_and_the_rest_stays(name, factor):
    """In the table: the very value, no sd, probability one; rows without it are unchanged."""
    model = make(name)
    f = next(f for f in model.latent if f.name == factor)
    if (unit := model.unit(factor)) is not None:
        unit[0], unit[1] = 5.0, 2.0
    arguments = data(model, 5)
    value = some_values(f, 5).astype(float)
    value[3:] = np.nan
    plain = encode(model, **arguments)
    table = encode(model, **arguments | {"known": arguments["known"] | {factor: value}})
    assert list(table) == list(plain)
    pd.testing.assert_frame_equal(table[3:], plain[3:])
    if isinstance(f, Categorical):
        assert (table[factor][:3] == value[:3]).all()
        assert np.allclose(table[f"{factor}_p"][:3], 1)
        return
    found = table[f.columns][:3].to_numpy()
    assert np.allclose(found, value[:3].reshape(3, -1), rtol=1e-6, atol=1e-6)
    if not isinstance(f, Code):
        assert (table[[f"{c}_sd" for c in f.columns]][:3] < 1e-6).to_numpy().all()
    if isinstance(f, Angle) and model.classes == 1:
        assert np.allclose(table["angle_p"][:3], 1)


def test_a_row_with_any_unknown_number_is_unknown():
    model = make("rvae").double()
    image = torch.randn(2, *model.shape).double()
    half = torch.tensor([[0.3, torch.nan], [torch.nan, torch.nan]]).double()
    results = []
    for known in ({"shift": half}, {"shift": half * torch.nan}):
        torch.manual_seed(0)
        results.append(model.bound(image, known=known))
    assert all(torch.equal(a, b) for a, b in zip(*(r.values() for r in results), strict=True))


def test_known_shifts_are_where_the_motif_is():
    """Their mean is not taken for an offset of the drawn motif."""
    model = make("rvae")
    patches = images(model, 40)
    shift = np.random.default_rng(0).normal(size=(40, 2)) + 2
    train(model, patches, TrainConfig(epochs=2, batch_size=20), known={"shift": shift})
    assert torch.equal(model.centre, torch.zeros(1, 2))
    free = make("rvae")
    train(free, patches, TrainConfig(epochs=2, batch_size=20))
    assert free.centre.abs().max() > 1e-3


def test_labels_of_a_few_patches_are_met_in_every_batch():
    model, seen = make("ssvae"), []
    bound = model.bound

    def watched(image, *args, known, **kwargs):
        if torch.is_grad_enabled():
            seen.append(int((~known["class"].isnan()).any(1).sum()))
        return bound(image, *args, known=known, **kwargs)

    model.bound = watched
    label = np.full(100, -1)
    label[::34] = [0, 1, 2]  # three of a hundred
    settings = TrainConfig(epochs=2, batch_size=20, held_out=0)
    train(model, images(model, 100), settings, known={"class": label})
    assert len(seen) == 10 and min(seen) >= 3  # an eighth of a batch


def turned_motifs(n):
    """Three unequal blobs at any angle, radians."""
    rng = np.random.default_rng(0)
    angle, axis = rng.uniform(-np.pi, np.pi, n), np.arange(20) - 9.5
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    v, u = c * axis[:, None] + s * axis, -s * axis[:, None] + c * axis  # turned back
    image = rng.normal(scale=0.1, size=v.shape)
    for a, b, height in ((-4.5, 0, 1.0), (2.5, -3, 1.0), (2.5, 3, 0.6)):
        image += height * np.exp(-((v - a) ** 2 + (u - b) ** 2) / 5)
    return image, angle


def test_guessed_angles_continue_the_known_ones():
    """Patches compared with each other leave a common turn open; a few known angles settle it."""
    image, angle = turned_motifs(150)
    model, known = zoo.rvae((20, 20)), np.where(np.arange(150) < 12, angle + 0.7, np.nan)
    device = torch.device("cpu")
    batches = Batches(model, read_images(image), None, {"angle": known}, device, measure=True)
    guess = first_guess(model, batches, seed=0)["angle"][:, 0].numpy()
    error = np.angle(np.exp(1j * (guess - angle - 0.7)))
    assert np.nanmax(np.abs(error)) < np.radians(10) and np.isfinite(guess).mean() > 0.9


def test_a_guess_compares_no_more_patches_where_all_labels_are_known():
    """Comparing each with each is for a few hundred patches, not for all of a labelled set."""
    image, angle = turned_motifs(400)
    model = zoo.ssrvae((20, 20))
    known = {"class": np.zeros(400, int), "angle": angle}
    batches = Batches(model, read_images(image), None, known, torch.device("cpu"), measure=True)
    guess = first_guess(model, batches, seed=0, most=70)
    assert (~guess["class"].isnan()).all(1).sum() <= 3 * 70


BAD = {
    "another name": ({"klass": [0] * 5}, "named 'klass', the model has"),
    "too few classes": ({"class": [0] * 4}, r"shape \(4,\), expected \(5,\)"),
    "one-hot classes": ({"class": np.eye(5)}, r"shape \(5, 5\), expected \(5,\)"),
    "class out of range": ({"class": [0, 1, 2, 3, -1]}, "expected whole numbers from 0 to 2"),
    "half a class": ({"class": [0, 1, 0.5, 1, 1]}, "expected whole numbers"),
    "infinite class": ({"class": [0, 1, np.inf, 1, 1]}, "expected whole numbers"),
    "class by name": ({"class": list("abcde")}, "can't be read .* expected whole numbers"),
    "number by name": ({"number": list("abcde")}, "can't be read .* expected numbers"),
    "ragged": ({"shift": [[0, 1], [1]]}, "can't be read .* expected numbers"),
    "flat shifts": ({"shift": np.zeros(10)}, r"shape \(10,\), expected \(5, 2\)"),
    "wide number": ({"number": np.zeros((5, 2))}, r"shape \(5, 2\), expected \(5, 1\)"),
    "infinite number": ({"number": [0, 1, 2, 3, np.inf]}, "infinite"),
    "no class known": ({"class": [-1] * 5}, "unknown for 5 of 5 .* leave it out"),
    "no number known": ({"angle": [np.nan] * 5}, "unknown for 5 of 5 .* leave it out"),
    "no condition": ({"suit": None}, "conditional on 'suit'"),
    "condition for some": ({"suit": [0, 1, 2, 3, -1]}, "unknown for 1 of 5 .* a value for each"),
    "condition out of range": ({"suit": [0, 1, 2, 3, 4]}, "expected whole numbers from 0 to 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_known_is_refused_in_one_line(case):
    values, match = BAD[case]
    model = zoo.compose((8, 8), [*LATENT, SUIT])
    patches = images(model, 5)
    known = {n: v for n, v in (conditions(model, 5) | values).items() if v is not None}
    for act in (train, encode):
        with pytest.raises(InputError, match=match) as error:
            act(model, patches, known=known)
        assert "\n" not in str(error.value)
    assert not model.trained


def test_the_prior_of_a_condition_moves_the_zero_of_the_content_and_no_picture():
    """The same pictures, and the KL to N(middle, spread) of the content as it is decoded."""
    model, image = (
        zoo.crvae((8, 8), given=Condition(3, "suit", discrete=True)),
        torch.rand(6, 1, 8, 8),
    )
    known = {"suit": torch.eye(3).repeat(2, 1)}

    def terms():
        torch.manual_seed(0)
        return model.bound(image, known=known)

    with torch.no_grad():
        before = terms()
        raw = model.infer(image, known=known)
        model.priors["z"].weight.normal_()
        after = terms()
        middle, log_spread = model.prior_of(model.content[0], known)
        prior = torch.distributions.Normal(middle[:, None], log_spread.exp()[:, None])
        kl = torch.distributions.kl_divergence(raw.q["z"].base_dist, prior).sum(-1)
    assert torch.allclose(before["nll"], after["nll"], rtol=1e-4)
    assert torch.allclose(after["z"], raw.branches.average(kl), rtol=1e-4)
    assert not torch.allclose(before["z"], after["z"], rtol=0.1)
