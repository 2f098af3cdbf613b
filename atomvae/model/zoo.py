"""The family of models: every variant is a composition of factors and networks.

``shape`` is (height, width) or (channels, height, width) of a patch in pixels. The seed sets the
initial weights; the global random state is left alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from atomvae.errors import InputError
from atomvae.latent import (
    Angle,
    Categorical,
    Code,
    Condition,
    Factor,
    Gaussian,
    Scale,
    Shear,
    Shift,
)
from atomvae.model.decoders import ConvDecoder, CoordinateDecoder, ImageDecoder
from atomvae.model.likelihood import GaussianNoise, Likelihood
from atomvae.model.model import Model
from atomvae.model.networks import ConvEncoder, Encoder, Shape
from atomvae.model.seeding import seeded

Network = Callable[..., nn.Module]  # of a shape, and for decoders the number of content values


def full_shape(shape: Sequence[int]) -> Shape:
    """Check the shape of a patch and put in the channel.

    Raises
    ------
    InputError
        If it isn't two or three positive integers.

    Examples
    --------
    >>> full_shape((24, 24))
    (1, 24, 24)
    """
    numbers = [int(n) for n in shape]
    if len(numbers) not in (2, 3) or min(numbers) < 1 or numbers != list(shape):
        raise InputError(
            f"patch shape is {tuple(shape)}, expected (height, width) or (channels, height, width)"
        )
    c, h, w = numbers if len(numbers) == 3 else [1, *numbers]
    return c, h, w


def compose(
    shape: Sequence[int],
    latent: Sequence[Factor],
    *,
    encoder: Network = Encoder,
    decoder: Network = CoordinateDecoder,
    likelihood: Callable[[int], Likelihood] = GaussianNoise,
    target: Sequence[int] | None = None,
    seed: int = 0,
) -> Model:
    """Make a model of any factors and networks.

    Parameters
    ----------
    shape
        (height, width) or (channels, height, width) of a patch.
    latent
        Factors, in any order.
    encoder
        `Encoder` (fully connected) or `ConvEncoder`; `functools.partial` sets their sizes.
    decoder
        `CoordinateDecoder` (pixels at coordinates, which poses need to be cheap), `ImageDecoder`
        or `ConvDecoder` (whole images).
    likelihood
        `GaussianNoise`, `Bernoulli` or `Poisson`.
    target
        Shape of what is decoded, where that isn't the patch.
    seed
        Seed of the initial weights.

    Returns
    -------
    Model
        Untrained, on the CPU.

    Examples
    --------
    >>> from atomvae.latent import Gaussian, Rotation, Scale, Shift
    >>> skip = partial(CoordinateDecoder, skip=True)
    >>> model = compose((16, 16), [Gaussian(3), Rotation(), Scale(), Shift()], decoder=skip)
    >>> [f.name for f in model.latent]
    ['z', 'rotation', 'scale', 'shift']
    """
    full = full_shape(shape)
    shown = full if target is None else full_shape(target)
    content = sum(f.size for f in latent if not f.is_pose)
    with seeded(torch.device("cpu"), seed):
        return Model(latent, encoder(full), decoder(shown, content), likelihood(shown[0]))


SKIP: Any = partial(CoordinateDecoder, skip=True)  # feeds content into every layer
LINEAR: Any = {"encoder": partial(Encoder, depth=0), "decoder": partial(ImageDecoder, depth=0)}
# Where pose has to be content, rectifiers find it in time: with tanh the prior silences it first.
FLAT: Any = {
    "encoder": partial(Encoder, activation="leaky_relu"),
    "decoder": partial(ImageDecoder, activation="leaky_relu"),
}
CONV: Any = {"encoder": ConvEncoder, "decoder": ConvDecoder}


def ae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Autoencoder: a code without a prior, judged by the squared error.

    Examples
    --------
    >>> [f.name for f in ae((16, 16)).latent]
    ['z']
    """
    return compose(shape, [Code(latent_dim)], decoder=ImageDecoder, seed=seed)


def conv_ae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Convolutional autoencoder, its decoder of transposed convolutions.

    Examples
    --------
    >>> type(conv_ae((16, 16)).decoder).__name__
    'ConvDecoder'
    """
    return compose(shape, [Code(latent_dim)], **CONV, seed=seed)


def linear_ae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Linear autoencoder: it finds the space of the first principal components.

    Examples
    --------
    >>> sum(p.numel() for p in linear_ae((4, 4), 1).parameters())  # two maps, their biases, noise
    50
    """
    return compose(shape, [Code(latent_dim)], **LINEAR, seed=seed)


def linear_vae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Linear VAE: probabilistic principal components, in order up to sign (Lucas et al., 2019).

    Examples
    --------
    >>> linear_vae((8, 8)).n_branches
    1
    """
    return compose(shape, [Gaussian(latent_dim)], **LINEAR, seed=seed)


def vae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Plain VAE: content alone, whole images. Beta and capacity are `TrainConfig.weights`.

    Examples
    --------
    >>> vae((16, 16)).n_branches
    1
    """
    return compose(shape, [Gaussian(latent_dim)], **FLAT, seed=seed)


def conv_vae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """VAE of convolutional networks.

    Examples
    --------
    >>> type(conv_vae((16, 16)).encoder).__name__
    'ConvEncoder'
    """
    return compose(shape, [Gaussian(latent_dim)], **CONV, seed=seed)


def rvae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Rotationally and translationally invariant VAE.

    Examples
    --------
    >>> rvae((16, 16)).n_branches  # turned copies of the patch
    8
    """
    return compose(shape, [Shift(), Angle(), Gaussian(latent_dim)], seed=seed)


def skip_rvae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """RVAE whose decoder is fed its content again at every layer.

    Examples
    --------
    >>> skip_rvae((16, 16)).decoder.skip
    True
    """
    return compose(shape, [Shift(), Angle(), Gaussian(latent_dim)], decoder=SKIP, seed=seed)


def affine_rvae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """RVAE that also takes scale and shear out of the content.

    Examples
    --------
    >>> [f.name for f in affine_rvae((16, 16)).poses]
    ['shift', 'angle', 'shear', 'scale']
    """
    poses = [Shift(), Angle(), Shear(sigma=0.2, size=2), Scale()]
    return compose(shape, [*poses, Gaussian(latent_dim)], decoder=SKIP, seed=seed)


def jvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """VAE with continuous content and a class.

    Examples
    --------
    >>> jvae((16, 16), classes=4).n_branches
    4
    """
    latent = [Gaussian(latent_dim), Categorical(classes)]
    return compose(shape, latent, decoder=ImageDecoder, seed=seed)


def jrvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """RVAE with a class; pose and content are found for each class.

    Examples
    --------
    >>> jrvae((16, 16), classes=2).n_branches
    16
    """
    latent = [Shift(), Angle(), Gaussian(latent_dim), Categorical(classes)]
    return compose(shape, latent, decoder=SKIP, seed=seed)


def ssvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """VAE with a class that is known for some patches: pass them as `train(known={"class": ...})`.

    The joint model; where the class is unknown, the objective sums over all of them (model M2 of
    Kingma et al., 2014).

    Examples
    --------
    >>> ssvae((16, 16), classes=4).n_branches
    4
    """
    return jvae(shape, latent_dim, classes, seed=seed)


def ssrvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """RVAE with a class that is known for some patches, see `ssvae`.

    Examples
    --------
    >>> ssrvae((16, 16), classes=2).n_branches
    16
    """
    return jrvae(shape, latent_dim, classes, seed=seed)


def ssvae_number(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """VAE with a number that is known for some patches: `train(known={"number": ...})`.

    Examples
    --------
    >>> [f.name for f in ssvae_number((16, 16)).latent]
    ['z', 'number']
    """
    latent = [Gaussian(latent_dim), Gaussian(1, "number")]
    return compose(shape, latent, decoder=ImageDecoder, seed=seed)


def cvae(shape: Sequence[int], latent_dim: int = 2, *, given: Condition, seed: int = 0) -> Model:
    """VAE conditional on a class or on numbers, which are passed with every patch.

    Examples
    --------
    >>> [f.name for f in cvae((16, 16), given=Condition(4, "suit", discrete=True)).latent]
    ['z', 'suit']
    """
    return compose(shape, [Gaussian(latent_dim), given], **FLAT, seed=seed)


def crvae(shape: Sequence[int], latent_dim: int = 2, *, given: Condition, seed: int = 0) -> Model:
    """RVAE conditional on a class or on numbers, which are passed with every patch.

    Examples
    --------
    >>> crvae((16, 16), given=Condition(1, "dose")).n_branches
    8
    """
    latent = [Shift(), Angle(), Gaussian(latent_dim), given]
    return compose(shape, latent, decoder=SKIP, seed=seed)


def ved(
    shape: Sequence[int], target: Sequence[int], latent_dim: int = 8, *, seed: int = 0
) -> Model:
    """Encoder-decoder: from patches to something else, `train(model, patches, targets=...)`.

    Parameters
    ----------
    shape
        Of a patch.
    target
        Of what is decoded: (1, length) for a spectrum, (3, height, width) for colours.
    latent_dim
        Number of content dimensions.
    seed
        Seed of the initial weights.

    Examples
    --------
    >>> ved((16, 16), (1, 64)).target_shape
    (1, 1, 64)
    """
    parts: Any = {"encoder": ConvEncoder, "decoder": ImageDecoder}
    return compose(shape, [Gaussian(latent_dim)], **parts, target=target, seed=seed)
