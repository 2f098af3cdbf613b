"""Poses of every composition: turns, shifts, scales and shears, of patches and of pictures."""

import math

import numpy as np
import pytest
import torch
from compositions import (
    COMPOSITIONS,
    SHAPE,
    arbitrary,
    contents,
    data,
    every,
    make,
    tensors,
)
from scipy.linalg import expm

from atomvae.latent import Angle, Rotation, Scale, Shear, Shift
from atomvae.model import zoo
from atomvae.model.decode import decode
from atomvae.model.encode import encode
from atomvae.model.networks import pixel_grid, sample_image


@pytest.fixture(autouse=True)
def own_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def having(kind, shape=SHAPE):
    """Names of the compositions with a factor of a kind."""
    return [n for n in COMPOSITIONS if any(isinstance(f, kind) for f in make(n, shape).latent)]


def drawn(model, content, *, given=None, **pose):
    """Decode to (n, c, h, w), with values of the smaller poses among `given`."""
    c = model.target_shape[0]
    picture = decode(model, **content | {"given": content["given"] | (given or {})}, **pose)
    return picture.reshape(len(picture), c, *picture.shape[-2:])


@every
def test_a_quarter_turn_is_rot90(name):
    """Positive angles are counter-clockwise, as numpy.rot90; no pixel is sheared off its place."""
    model = make(name, seed=1)
    content, (h, w) = contents(model, 2), model.target_shape[1:]
    still = drawn(model, content)
    for k, shape in ((1, (w, h)), (2, (h, w)), (3, (w, h))):
        turned = drawn(model, content, angle=k * np.pi / 2, shape=shape)
        assert np.abs(turned - np.rot90(still, k, axes=(2, 3))).max() < 2e-4 * np.abs(still).max()
    assert np.abs(np.rot90(still, 2, axes=(2, 3)) - still).max() > 1e-2


@every
def test_a_shift_of_one_pixel_moves_the_motif_by_one_pixel(name):
    """Shift is outermost: whatever the other poses, the picture moves as a whole."""
    model = make(name, seed=1)
    content = contents(model, 2)
    small = {f.name: [0.2] * f.size for f in model.poses if not isinstance(f, Angle | Shift)}
    still = drawn(model, content, angle=0.7, given=small)
    down, right = (drawn(model, content, angle=0.7, given=small, shift=s) for s in ((1, 0), (0, 1)))
    assert np.allclose(down[..., 1:, :], still[..., :-1, :], atol=1e-4)
    assert np.allclose(right[..., 1:], still[..., :-1], atol=1e-4)
    assert np.abs(right - still).max() > 1e-2


@pytest.mark.parametrize("name", having(Scale))
def test_scale_magnifies(name):
    """By exp(value): three times as large, every third pixel is a pixel of before."""
    model = make(name, seed=1)
    content, (_, h, w) = contents(model, 2), model.target_shape
    still = drawn(model, content)
    large = drawn(model, content, given={"scale": math.log(3)}, shape=(3 * h, 3 * w))
    assert np.abs(large[..., 1::3, 1::3] - still).max() < 1e-4


GENERATORS = {  # of the linear map of (dy, dx), for each component
    Rotation: [[[0, -1], [1, 0]]],
    Angle: [[[0, -1], [1, 0]]],
    Shear: [[[0, 1], [1, 0]], [[1, 0], [0, -1]]],
    Scale: [[[1, 0], [0, 1]]],
}


@every
@torch.no_grad()
def test_the_pose_is_a_product_of_exponentials(name):
    """Shift . Rotation . Shear . Scale, as documented; shears keep areas, scales square them."""
    model = arbitrary(name)
    content = {f.name: f.draw_prior(1).double() for f in model.content}
    pose = {f.name: 3 * f.draw_prior(1).double() for f in model.poses}
    found = model.reconstruct(content | pose, model.grid[None])
    inverse, shift = np.eye(2), np.zeros(2)
    for kind in (Scale, Shear, Rotation, Angle):  # innermost first
        for f in (f for f in model.poses if isinstance(f, kind)):
            generator = np.einsum("k,kab->ab", pose[f.name][0], GENERATORS[kind][: f.size])
            inverse = inverse @ expm(-generator)
            area = np.exp(-2 * float(pose[f.name])) if kind is Scale else 1.0
            assert np.isclose(np.linalg.det(expm(-generator)), area)
    shift = next((pose[f.name].numpy() for f in model.poses if isinstance(f, Shift)), shift)
    coords = (model.grid.numpy() - shift) @ inverse.T
    expected = model.draw_motif(content, torch.from_numpy(coords)[None])
    assert torch.allclose(found, expected, atol=1e-9)


TURNED = [n for n in having(Angle) if make(n).copies % 4 == 0]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", TURNED)
def test_a_turn_of_the_patch_moves_only_the_pose(name, k):
    """Exact equivariance at quarter turns; half turns also where patches aren't square."""
    model = make(name, SHAPE if k == 2 else (2, 9, 9), seed=2)
    arguments = data(model, 4)
    a = encode(model, **arguments)
    targets = arguments["targets"]
    b = encode(
        model,
        np.rot90(arguments["patches"], k, axes=(2, 3)),
        known=arguments["known"],
        targets=None if targets is None else np.rot90(targets, k, axes=(2, 3)),
    )
    turn = np.angle(np.exp(1j * (b["angle"] - a["angle"] - k * np.pi / 2)))
    assert np.abs(turn).max() < 1e-4
    moved = [c for c in a if c == "angle" or c in ("shift_y", "shift_x")]
    assert np.allclose(a.drop(columns=moved), b.drop(columns=moved), atol=1e-4)
    if "shift_y" in a:
        z = (a["shift_x"] - 1j * a["shift_y"]) * 1j**k  # counter-clockwise with y down
        assert np.allclose(b["shift_x"] - 1j * b["shift_y"], z, atol=1e-4)


RIGID = [n for n in having(Shift) if all(isinstance(f, Shift | Angle) for f in make(n).poses)]


@pytest.mark.parametrize("name", RIGID)
@torch.no_grad()
def test_recentring_leaves_the_pictures_and_centres_the_shifts(name):
    model = arbitrary(name)
    batch = tensors(model, 8)
    pictures, means = [], []
    for _ in range(2):
        state = model.infer(batch["image"], known=batch["known"])
        shift = next(f for f in model.latent if isinstance(f, Shift))
        mean = model.parameters_of(batch["image"], batch["known"])[shift.name][..., :2]
        for label in range(model.classes):
            weight = state.branches.weight * (state.branches.label == label)
            means.append((weight[..., None] * mean).sum((0, 1)) / weight.sum())
        z = {f.name: state.point(f).flatten(0, 1) for f in model.latent}  # of every branch
        pictures.append(model.reconstruct(z, model.grid.expand(8 * model.n_branches, -1, -1)))
        model.recentre(batch["image"], batch["known"])
    before, after = torch.stack(means).chunk(2)
    assert before.abs().min() > 1e-3 and after.abs().max() < 1e-6
    assert torch.allclose(*pictures, atol=1e-6)


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
    copies = model._turned(image).view(8, 2, 9, 9)
    half = model._turned(torch.rot90(image, 1, (2, 3))).view(8, 2, 9, 9)
    # a patch turned by +90 degrees looks in copy j as the patch itself in copy j - 2
    assert torch.allclose(half, copies.roll(2, 0), atol=1e-5)
