"""Models that the laws are tried on: every function of the zoo, and what else can be composed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from atomvae.latent import (
    Angle,
    Categorical,
    Code,
    Condition,
    Factor,
    Gaussian,
    Rotation,
    Scale,
    Shear,
    Shift,
)
from atomvae.model import zoo
from atomvae.model.decode import continuous_size
from atomvae.model.decoders import ConvDecoder, CoordinateDecoder, ImageDecoder
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Poisson
from atomvae.model.model import Model
from atomvae.model.networks import ConvEncoder, Encoder

SUIT = Condition(4, "suit", discrete=True)
DOSE = Condition(2, "dose")
WIDTH = {"width": 12}
SMALL: Any = {
    "encoder": partial(Encoder, **WIDTH),
    "decoder": partial(CoordinateDecoder, **WIDTH, waves=6),
}
CONV: Any = {
    "encoder": partial(ConvEncoder, **WIDTH, channels=4),
    "decoder": partial(ConvDecoder, **WIDTH, channels=4),
}

ZOO: dict[str, Callable[..., Model]] = {
    "ae": zoo.ae,
    "conv_ae": zoo.conv_ae,
    "linear_ae": zoo.linear_ae,
    "linear_vae": zoo.linear_vae,
    "vae": zoo.vae,
    "conv_vae": zoo.conv_vae,
    "rvae": zoo.rvae,
    "skip_rvae": zoo.skip_rvae,
    "affine_rvae": zoo.affine_rvae,
    "jvae": zoo.jvae,
    "jrvae": zoo.jrvae,
    "ssvae": zoo.ssvae,
    "ssrvae": zoo.ssrvae,
    "ssvae_number": zoo.ssvae_number,
    "cvae": partial(zoo.cvae, given=SUIT),
    "crvae": partial(zoo.crvae, given=DOSE),
    "ved": lambda shape, seed=0: zoo.ved(shape, (1, 17), seed=seed),
}


def other(latent: list[Any], **parts: Any) -> Callable[..., Model]:
    """Make a composition that is called like those of the zoo."""
    return partial(zoo.compose, latent=latent, **{**SMALL, **parts})


RIGID = [Shift(), Angle()]
OTHERS: dict[str, Callable[..., Model]] = {
    "conv_pose": other([*RIGID, Gaussian(2)], **CONV),
    "code_pose": other([*RIGID, Code(2)]),
    "angle_alone": other([Angle(copies=4)]),
    "one_copy": other([Angle(copies=1), Gaussian(1)]),
    "bernoulli": other([*RIGID, Gaussian(2)], likelihood=Bernoulli),
    "poisson": other([*RIGID, Gaussian(2)], likelihood=Poisson),
    "poisson_image": other(
        [Gaussian(2)], likelihood=Poisson, decoder=partial(ImageDecoder, **WIDTH)
    ),
    "noise_given": other([*RIGID, Gaussian(2)], likelihood=partial(GaussianNoise, sd=0.4)),
    "two_classes": other([*RIGID, Categorical(2), Gaussian(2), Categorical(3, "kind")]),
    "gumbel": other([*RIGID, Gaussian(2), Categorical(3, temperature=0.67)]),
    "gumbel_and_class": other(
        [Gaussian(2), Categorical(3, "kind", temperature=0.67), Categorical(2)]
    ),
    "small_poses": other([Scale(), Shear(size=2, sigma=0.2), Rotation(), Shift(), Gaussian(2)]),
    "image_poses": other(
        [Shift(sigma=0.2), Rotation(), Shear(), Scale(), Categorical(2)],
        decoder=partial(ImageDecoder, **WIDTH),
    ),
    "two_conditions": other([*RIGID, Gaussian(2), SUIT, DOSE, Gaussian(2, "number", sigma=0.5)]),
    "class_and_condition": other([Gaussian(2), DOSE, Categorical(3)], **CONV),
    "spectrum_to_image": other(
        [Gaussian(2)], decoder=partial(ConvDecoder, **WIDTH), target=(3, 7, 12)
    ),
    "one_to_counts": lambda shape, seed=0: zoo.compose(
        shape, [*RIGID, Gaussian(2)], **SMALL, likelihood=Poisson, target=shape[-2:], seed=seed
    ),
}
COMPOSITIONS = ZOO | OTHERS
SHAPE = (2, 9, 8)
every = pytest.mark.parametrize("name", COMPOSITIONS)


def make(name: str, shape: Any = SHAPE, seed: int = 0) -> Model:
    """Make an untrained model."""
    return COMPOSITIONS[name](shape, seed=seed)


def arbitrary(name: str) -> Model:
    """Make a model in double precision whose posteriors are far from the priors."""
    model = make(name).double()
    for p in model.heads.parameters():
        p.data += 0.4 * torch.randn_like(p)
    return model


def inferred(model: Model) -> list[Factor]:
    """Factors that are not given."""
    return [f for f in model.latent if not f.is_given]


def is_relaxed(factor: Factor) -> bool:
    """Whether a factor is a class that is drawn, not enumerated."""
    return isinstance(factor, Categorical) and not factor.chooses


def is_decoder_of_another_thing(model: Model) -> bool:
    """Whether targets are to be passed."""
    return model.shape != model.target_shape


def images(model: Model, n: int, seed: int = 0, shape: Any = None) -> np.ndarray:
    """Make patches (n, c, h, w), or others of the shape, that suit the likelihood.

    An off-centre blob over a slope, of random place and height, and noise.
    """
    rng = np.random.default_rng([seed, 11])
    c, h, w = model.shape if shape is None else shape
    y, x = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    dy, dx, height = rng.normal(size=(3, n, 1, 1))
    blob = np.exp(-((y - dy - 1) ** 2 + (x - dx) ** 2) / 4)
    slope = x * np.arange(1, c + 1)[:, None, None] / 20
    image = (1 + 0.2 * height[:, None]) * blob[:, None] + slope
    image = image + 0.2 * rng.normal(size=image.shape)
    if isinstance(model.likelihood, Bernoulli):
        return (image > 0.5).astype(float)
    if isinstance(model.likelihood, Poisson):
        return rng.poisson(3 * np.clip(image, 0.1, None)).astype(float)
    return image


def conditions(model: Model, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Make the values that the conditions of a model need, by name, as `train` takes them."""
    rng = np.random.default_rng([seed, 12])
    return {
        f.name: rng.integers(f.size, size=n) if f.discrete else 5 + 2 * rng.normal(size=(n, f.size))
        for f in model.given
    }


def data(model: Model, n: int, seed: int = 0) -> dict[str, Any]:
    """Make the arguments `patches`, `known` and `targets` of `train` for any composition."""
    targets = None
    if is_decoder_of_another_thing(model):
        targets = images(model, n, seed + 1, model.target_shape)
    return {
        "patches": images(model, n, seed),
        "known": conditions(model, n, seed),
        "targets": targets,
    }


def contents(model: Model, n: int, seed: int = 0) -> dict[str, Any]:
    """Make the arguments of `decode` for arbitrary content."""
    rng = np.random.default_rng(seed)
    kinds = [f for f in model.latent if isinstance(f, Categorical)]
    label = np.stack([rng.integers(f.size, size=n) for f in kinds], 1) if kinds else 0
    z = rng.normal(size=(n, continuous_size(model)))
    return {"z": z, "label": label, "given": conditions(model, n)}


def tensors(model: Model, n: int, seed: int = 0) -> dict[str, Any]:
    """Make the arguments `image`, `known` and `target` of `Model.bound`, in the model's dtype."""
    given = data(model, n, seed)
    dtype = model.grid.dtype
    known = {}
    for f in model.given:
        value = torch.from_numpy(given["known"][f.name])
        known[f.name] = (torch.eye(f.size)[value] if f.discrete else (value - 5) / 2).to(dtype)
    arrays = {"image": given["patches"], "target": given["targets"]}
    out = {k: None if v is None else torch.from_numpy(v).to(dtype) for k, v in arrays.items()}
    if out["target"] is None and not model.likelihood.standardised:
        out["target"] = out["image"]
    return out | {"known": known}
