"""Decoders: functions of content and coordinates.

Coordinates are (y, x) offsets from the centre of the patch, y down, in units of half its longer
side along both axes, so a turn doesn't shear a patch that isn't square.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atomvae.model.networks import Shape, mlp, sample_image

IN_CACHE = 8192  # points decoded at once without gradients: more leave the processor's cache


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
        if torch.is_grad_enabled() or coords.device.type != "cpu":
            return self._draw(content, coords)
        n = max(1, IN_CACHE // max(1, coords.shape[1]))
        parts = (slice(i, i + n) for i in range(0, max(1, len(coords)), n))
        return torch.cat([self._draw(content[part], coords[part]) for part in parts])

    def _draw(self, content: Tensor, coords: Tensor) -> Tensor:
        """Do the same for points that are few enough."""
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

    Parameters
    ----------
    shape
        (channels, height, width) of a patch.
    content
        Number of content dimensions.
    width, depth
        Units and number of hidden layers; with none the decoder is linear.
    activation
        After each hidden layer, tanh or leaky_relu, see `Encoder`.

    Examples
    --------
    >>> decoder = ImageDecoder((1, 8, 8), content=2, width=16)
    >>> decoder(torch.zeros(5, 2), torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 1])
    """

    pointwise: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        content: int,
        width: int = 128,
        depth: int = 2,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.shape, self.content = shape, content
        self.settings: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "activation": activation,
        }
        self.net = mlp([content, *[width] * depth, math.prod(shape)], activation)

    def forward(self, content: Tensor, coords: Tensor) -> Tensor:
        """(N, content), (N, P, 2) -> (N, P, channels)."""
        image = self.net(content).view(-1, *self.shape)
        return sample_image(image, coords[:, None])[:, :, 0].transpose(1, 2)


class ConvDecoder(nn.Module):
    """Draws the whole motif by transposed convolutions, then looks it up at the coordinates.

    Each layer doubles the side of the picture and halves its channels.

    Examples
    --------
    >>> decoder = ConvDecoder((1, 9, 8), content=2, width=16)
    >>> decoder(torch.zeros(5, 2), torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 1])
    """

    pointwise: ClassVar[bool] = False

    def __init__(
        self, shape: Shape, content: int, width: int = 128, depth: int = 2, channels: int = 16
    ) -> None:
        super().__init__()
        self.shape, self.content = shape, content
        self.settings: dict[str, Any] = {"width": width, "depth": depth, "channels": channels}
        first = channels * 2 ** (depth - 1)
        sides = [-(-n // 2**depth) for n in shape[1:]]
        layers: list[nn.Module] = [
            nn.Linear(content, width),
            nn.LeakyReLU(0.1),
            nn.Linear(width, first * math.prod(sides)),
            nn.LeakyReLU(0.1),
            nn.Unflatten(1, (first, *sides)),
        ]
        for i in range(depth):
            last = i == depth - 1
            here, there = first >> i, shape[0] if last else first >> (i + 1)
            layers.append(nn.ConvTranspose2d(here, there, 4, stride=2, padding=1))
            layers += [] if last else [nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers)

    def forward(self, content: Tensor, coords: Tensor) -> Tensor:
        """(N, content), (N, P, 2) -> (N, P, channels)."""
        image = self.net(content)[..., : self.shape[1], : self.shape[2]]
        return sample_image(image, coords[:, None])[:, :, 0].transpose(1, 2)
