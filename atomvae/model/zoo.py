"""The family of models: every variant is a composition of factors and networks.

``shape`` is (height, width) or (channels, height, width) of a patch in pixels. The seed sets the
initial weights; the global random state is left alone.
"""

from collections.abc import Sequence

import torch

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Factor, Gaussian, Shift
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model
from atomvae.model.networks import CoordinateDecoder, Encoder, ImageDecoder, Shape
from atomvae.model.seeding import seeded


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
    image: bool = False,
    skip: bool = False,
    width: int = 128,
    seed: int = 0,
) -> Model:
    """Make a model of any factors.

    Parameters
    ----------
    shape
        (height, width) or (channels, height, width) of a patch.
    latent
        Factors, in any order.
    image
        Decode whole images (plain VAE) instead of pixels at coordinates.
    skip
        Feed content into every layer of the coordinate decoder.
    width
        Units per layer of encoder and decoder.
    seed
        Seed of the initial weights.

    Returns
    -------
    Model
        Untrained, on the CPU.

    Examples
    --------
    >>> from atomvae.latent import Gaussian, Rotation, Scale, Shift
    >>> model = compose((16, 16), [Gaussian(3), Rotation(), Scale(), Shift()], skip=True)
    >>> [f.name for f in model.latent]
    ['z', 'rotation', 'scale', 'shift']
    """
    full = full_shape(shape)
    content = sum(f.size for f in latent if not f.is_pose)
    with seeded(torch.device("cpu"), seed):
        decoder = (
            ImageDecoder(full, content, width)
            if image
            else CoordinateDecoder(full, content, width, skip=skip)
        )
        return Model(latent, Encoder(full, width), decoder, GaussianNoise(full[0]))


def vae(shape: Sequence[int], latent_dim: int = 2, *, seed: int = 0) -> Model:
    """Plain VAE: content alone, whole images.

    Examples
    --------
    >>> vae((16, 16)).n_branches
    1
    """
    return compose(shape, [Gaussian(latent_dim)], image=True, seed=seed)


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
    return compose(shape, [Shift(), Angle(), Gaussian(latent_dim)], skip=True, seed=seed)


def jvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """VAE with continuous content and a class.

    Examples
    --------
    >>> jvae((16, 16), classes=4).n_branches
    4
    """
    latent = [Gaussian(latent_dim), Categorical(classes)]
    return compose(shape, latent, image=True, seed=seed)


def jrvae(shape: Sequence[int], latent_dim: int = 2, classes: int = 3, *, seed: int = 0) -> Model:
    """RVAE with a class; pose and content are found for each class.

    Examples
    --------
    >>> jrvae((16, 16), classes=2).n_branches
    16
    """
    latent = [Shift(), Angle(), Gaussian(latent_dim), Categorical(classes)]
    return compose(shape, latent, seed=seed)
