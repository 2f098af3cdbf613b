"""Pictures that a model draws, as numpy arrays in the units of the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Shift
from atomvae.latent.pose import to_motif
from atomvae.model.model import Model
from atomvae.model.networks import pixel_grid


@torch.no_grad()
def decode(
    model: Model,
    z: ArrayLike,
    *,
    angle: ArrayLike = 0.0,
    shift: ArrayLike = (0.0, 0.0),
    label: ArrayLike = 0,
    shape: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Draw the mean image of content at a pose.

    Parameters
    ----------
    model
        Any model; a pose also turns and shifts the images of one without pose factors.
    z
        Continuous content, (n, d) or (d,), in the order of the factors.
    angle
        Radians, counter-clockwise on screen; one or n.
    shift
        (y, x) in pixels of the patch; (2,) or (n, 2).
    label
        Class, where the model has classes; one or n.
    shape
        (height, width) of the picture in the same pixels; the patch's by default.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.

    Raises
    ------
    InputError
        If z has the wrong number of columns, or a label is no class.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> decode(zoo.skip_rvae((8, 9)), [0.0, 1.0], angle=np.pi / 2).shape
    (1, 8, 9)
    """
    device, dtype = model.grid.device, model.grid.dtype
    content = torch.as_tensor(np.atleast_2d(np.asarray(z, float)), dtype=dtype, device=device)
    wanted = sum(f.size for f in model.content if not isinstance(f, Categorical))
    if content.shape[1] != wanted:
        raise InputError(f"z has {content.shape[1]} columns, the model has {wanted} dimensions")
    n = len(content)

    def rows(value: ArrayLike, size: int) -> torch.Tensor:  # (n, size)
        array = np.broadcast_to(np.asarray(value, float).reshape(-1, size), (n, size))
        return torch.as_tensor(array.copy(), dtype=dtype, device=device)

    unit = max(model.shape[1:]) / 2
    pose = {"angle": rows(angle, 1), "shift": rows(shift, 2) / unit}
    inverse = to_motif([Shift(), Angle()], pose)
    h, w = shape if shape is not None else model.shape[1:]
    grid = pixel_grid(h, w).to(device, dtype) * (max(h, w) / max(model.shape[1:]))
    assert inverse is not None
    coords = grid @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]
    values, column = {}, 0
    for f in model.content:
        if isinstance(f, Categorical):
            kind = torch.as_tensor(np.broadcast_to(label, (n,)).copy(), device=device).long()
            if kind.min() < 0 or kind.max() >= f.size:
                raise InputError(f"label is {kind.tolist()}, expected 0 to {f.size - 1}")
            values[f.name] = torch.nn.functional.one_hot(kind, f.size).to(dtype)
        else:
            values[f.name] = content[:, column : column + f.size]
            column += f.size
    mean = model.draw_motif(values, coords)  # (n, h w, c)
    image = (mean.double() * model.scale + model.offset).float()
    array: NDArray[np.float32] = image.transpose(1, 2).reshape(n, -1, h, w).cpu().numpy()
    return array[:, 0] if array.shape[1] == 1 else array


def manifold(
    model: Model, n: int = 12, *, axes: tuple[int, int] = (0, 1), label: int = 0
) -> NDArray[Any]:
    """Draw a grid of pictures over two content dimensions at quantiles of the prior.

    Parameters
    ----------
    model
        Any model with continuous content.
    n
        Pictures along each side, at the normal quantiles 0.05 to 0.95.
    axes
        Dimensions that vary: the first down the rows, the second along the columns. With one
        dimension there is one column.
    label
        Class, where the model has classes.

    Returns
    -------
    ndarray
        (n, n, h, w) or (n, n, c, h, w), in data units; (n, 1, ...) for one dimension.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> manifold(zoo.vae((8, 8)), 3).shape
    (3, 3, 8, 8)
    """
    size = sum(f.size for f in model.content if not isinstance(f, Categorical))
    if size == 0:
        raise InputError("the model has no continuous content, so it has no manifold")
    quantiles = norm.ppf(np.linspace(0.05, 0.95, n)) if n > 1 else np.zeros(1)
    z = np.zeros((n, n if size > 1 else 1, size))
    z[..., axes[0]] = quantiles[:, None]
    if size > 1:
        z[..., axes[1]] = quantiles[None, :]
    images = decode(model, z.reshape(-1, size), label=label)
    return images.reshape(*z.shape[:2], *images.shape[1:])
