"""Encoders, and the coordinates that encoder and decoder share.

Coordinates are (y, x) offsets from the centre of the patch, y down, in units of half its longer
side along both axes, so a turn doesn't shear a patch that isn't square.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]  # channels, height, width


def pixel_grid(height: int, width: int) -> Tensor:
    """Give the coordinates of the pixels of a patch, row by row.

    Returns
    -------
    Tensor
        (height * width, 2) float32, (y, x) in half longer sides.

    Examples
    --------
    >>> pixel_grid(2, 4)[0].tolist()
    [-0.25, -0.75]
    """
    unit = max(height, width) / 2
    y = (torch.arange(height) - (height - 1) / 2) / unit
    x = (torch.arange(width) - (width - 1) / 2) / unit
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)


def sample_image(image: Tensor, coords: Tensor) -> Tensor:
    """Look up images at coordinates, bilinear, zero outside.

    Parameters
    ----------
    image
        (N, c, h, w).
    coords
        (N, a, b, 2), (y, x) in half longer sides.

    Returns
    -------
    Tensor
        (N, c, a, b).

    Examples
    --------
    >>> image = torch.arange(6.0).view(1, 1, 2, 3)
    >>> sample_image(image, pixel_grid(2, 3).view(1, 2, 3, 2)).flatten().round().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    h, w = image.shape[-2:]
    unit = coords.new_tensor([w / max(h, w), h / max(h, w)])
    return nn.functional.grid_sample(image, coords.flip(-1) / unit, align_corners=False)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
}


def mlp(sizes: list[int], activation: str = "tanh") -> nn.Sequential:
    """Make a stack of linear layers, each but the last followed by an activation."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """Fully connected encoder of a patch.

    Parameters
    ----------
    shape
        (channels, height, width) of a patch.
    width
        Units of each layer, and number of features that come out.
    depth
        Number of layers. With none the features are the pixels, so the model is linear up to its
        latents.
    activation
        After each layer: tanh or leaky_relu. Where pose is content, as in a model without pose
        factors, rectifiers find it in far fewer steps; where angles are inferred, tanh is better
        on few patches.

    Examples
    --------
    >>> Encoder((1, 8, 8), width=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    >>> Encoder((1, 8, 8), depth=0).width
    64
    """

    def __init__(
        self, shape: Shape, width: int = 128, depth: int = 2, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.shape = shape
        self.width = width if depth else math.prod(shape)
        self.settings: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "activation": activation,
        }
        layers = [mlp([math.prod(shape), *[width] * depth], activation)] if depth else []
        last = [ACTIVATIONS[activation]()] if depth else []
        self.net = nn.Sequential(nn.Flatten(), *layers, *last)

    def forward(self, image: Tensor) -> Tensor:
        """(N, c, h, w) -> (N, width)."""
        features: Tensor = self.net(image)
        return features


class ConvEncoder(nn.Module):
    """Convolutional encoder: each layer halves the patch, then one fully connected layer.

    Examples
    --------
    >>> ConvEncoder((1, 9, 8), width=16)(torch.zeros(5, 1, 9, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, shape: Shape, width: int = 128, depth: int = 2, channels: int = 16) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.settings: dict[str, Any] = {"width": width, "depth": depth, "channels": channels}
        c, h, w = shape
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(c, channels, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
            c, h, w, channels = channels, (h + 1) // 2, (w + 1) // 2, 2 * channels
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * h * w, width), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        """(N, c, h, w) -> (N, width)."""
        features: Tensor = self.net(image)
        return features
