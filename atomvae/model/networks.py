"""Encoders, and decoders that are functions of content and coordinates.

Coordinates are (y, x) offsets from the centre of the patch, y down, in units of half its longer
side along both axes, so a turn doesn't shear a patch that isn't square.
"""

import math
from itertools import pairwise
from typing import Any, ClassVar

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


def mlp(sizes: list[int]) -> nn.Sequential:
    """Make a stack of linear layers, each but the last followed by tanh."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
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
        Number of layers.

    Examples
    --------
    >>> Encoder((1, 8, 8), width=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, shape: Shape, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.settings: dict[str, Any] = {"width": width, "depth": depth}
        self.net = nn.Sequential(nn.Flatten(), mlp([math.prod(shape), *[width] * depth]), nn.Tanh())

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


class CoordinateDecoder(nn.Module):
    """Intensity as a function of content and position, evaluated only where it is asked.

    Parameters
    ----------
    shape
        (channels, height, width) of a patch.
    content
        Number of content dimensions.
    width, depth
        Units and number of hidden layers.
    skip
        Add h0, the linear map of position and content, to the output of every layer again
        (skip-rVAE), so that content reaches all layers undiminished.
    waves
        Number of plane waves of the position that are offered to the first layer beside the
        position itself, in all directions, up to half the Nyquist frequency: with them a
        lattice is learnt in a tenth of the steps, and what a turn can't alias stays smooth.

    Notes
    -----
    Coordinate network of spatial-VAE (Bepler et al., 2019); generative skip connections of Dieng
    et al. (2018).

    Examples
    --------
    >>> decoder = CoordinateDecoder((1, 8, 8), content=2, width=16, skip=True)
    >>> decoder(torch.zeros(5, 2), torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 1])
    """

    wave: Tensor
    pointwise: ClassVar[bool] = True  # a pixel costs nothing unless it is asked for

    def __init__(
        self,
        shape: Shape,
        content: int,
        width: int = 128,
        depth: int = 2,
        skip: bool = False,
        waves: int = 32,
    ) -> None:
        super().__init__()
        self.shape, self.content = shape, content
        self.settings: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "skip": skip,
            "waves": waves,
        }
        self.skip = skip
        k = torch.arange(waves) + 0.5
        number = math.pi / 4 * max(shape[1:]) * k / waves  # rad per unit, up to Nyquist / 2
        turn = k * math.pi * (3 - math.sqrt(5))  # a spiral: all directions alike
        wave = torch.stack([number * turn.cos(), number * turn.sin()])
        self.register_buffer("wave", wave, persistent=False)  # (2, waves)
        self.position = nn.Linear(2 + 2 * waves, width)
        self.z = nn.Linear(content, width, bias=False) if content else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, shape[0])
        with torch.no_grad():
            self.position.weight *= 3  # atoms are narrow: start with steep features

    def forward(self, content: Tensor, coords: Tensor) -> Tensor:
        """(N, content), (N, P, 2) -> (N, P, channels)."""
        phase = coords @ self.wave
        features = torch.cat([coords, phase.sin(), phase.cos()], -1)
        h0 = self.position(features)  # (N, P, width)
        if self.z is not None:
            h0 = h0 + self.z(content)[:, None]
        h = h0 if self.skip else h0.tanh()
        for layer in self.layers:
            h = layer(h).tanh()
            h = h + h0 if self.skip else h
        intensity: Tensor = self.out(h)
        return intensity


class ImageDecoder(nn.Module):
    """Draws the whole motif, then looks it up at the coordinates.

    Examples
    --------
    >>> decoder = ImageDecoder((1, 8, 8), content=2, width=16)
    >>> decoder(torch.zeros(5, 2), torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 1])
    """

    pointwise: ClassVar[bool] = False

    def __init__(self, shape: Shape, content: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.shape, self.content = shape, content
        self.settings: dict[str, Any] = {"width": width, "depth": depth}
        self.net = mlp([content, *[width] * depth, math.prod(shape)])

    def forward(self, content: Tensor, coords: Tensor) -> Tensor:
        """(N, content), (N, P, 2) -> (N, P, channels)."""
        image = self.net(content).view(-1, *self.shape)
        return sample_image(image, coords[:, None])[:, :, 0].transpose(1, 2)
