"""Pictures that a model draws, as numpy arrays in the units of the data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Condition, Shift
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
    given: Mapping[str, ArrayLike] | None = None,
    shape: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Draw the mean image of content at a pose.

    Parameters
    ----------
    model
        Any model; a pose also turns and shifts the images of one without pose factors.
    z
        Continuous content, (n, d) or (d,), in the order of the factors and in the units of the
        latents table.
    angle
        Radians, counter-clockwise on screen; one or n.
    shift
        (y, x) in pixels of the patch; (2,) or (n, 2).
    label
        Class, where the model has classes; one or n. With several discrete factors, (n, factors).
    given
        Values of conditions, which have no default, and of the smaller poses (scale, shear,
        rotation), which are zero by default; by name, one row or n.
    shape
        (height, width) of the picture in the same pixels; the patch's by default.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.

    Raises
    ------
    InputError
        If z has the wrong number of columns, a label is no class, or a condition is missing.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> decode(zoo.skip_rvae((8, 9)), [0.0, 1.0], angle=np.pi / 2).shape
    (1, 8, 9)
    """
    dtype, unit = model.grid.dtype, max(model.target_shape[1:]) / 2
    content = np.atleast_2d(np.asarray(z, float))
    n = len(content)
    given = dict(given or {})
    values = _content(model, content, label, given)
    pose: dict[str, NDArray[np.float64]] = {
        "angle": _rows(angle, n, 1),
        "shift": _rows(shift, n, 2) / unit,
    }
    small = [f for f in model.poses if not isinstance(f, Angle | Shift)]
    for f in small:
        pose[f.name] = _rows(given.pop(f.name, np.zeros(f.size)), n, f.size)
    if given:
        raise InputError(f"given names {sorted(given)}, the model has no such factors")
    inverse = to_motif([Shift(), Angle(), *small], {k: _tensor(model, v) for k, v in pose.items()})
    h, w = shape if shape is not None else model.target_shape[1:]
    grid = pixel_grid(h, w).to(model.grid.device, dtype)
    grid = grid * (max(h, w) / max(model.target_shape[1:]))
    assert inverse is not None
    coords = grid @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]
    output = model.draw_motif({k: _tensor(model, v) for k, v in values.items()}, coords)
    mean = model.likelihood.mean(output).double()  # (n, h w, c)
    image = (mean * model.target_scale + model.target_offset).float()
    array: NDArray[np.float32] = image.transpose(1, 2).reshape(n, -1, h, w).cpu().numpy()
    return array[:, 0] if array.shape[1] == 1 else array


def _content(
    model: Model,
    z: NDArray[np.float64],
    label: ArrayLike,
    given: dict[str, ArrayLike],
) -> dict[str, NDArray[np.float64]]:
    """Content by factor, (n, size), in the units of the model; takes what it uses from `given`."""
    n, column, kind = len(z), 0, 0
    wanted = continuous_size(model)
    if z.shape[1] != wanted:
        raise InputError(f"z has {z.shape[1]} columns, the model has {wanted} dimensions")
    kinds = sum(isinstance(f, Categorical) for f in model.content)
    labels = _rows(label, n, max(kinds, 1))
    values: dict[str, NDArray[np.float64]] = {}
    for f in model.content:
        if isinstance(f, Categorical):
            values[f.name] = _one_hot(f.name, labels[:, kind], f.size)
            kind += 1
        elif isinstance(f, Condition):
            if f.name not in given:
                raise InputError(f"the model is conditional on {f.name!r}: pass given={{...}}")
            value = given.pop(f.name)
            if f.discrete:
                values[f.name] = _one_hot(f.name, _rows(value, n, 1)[:, 0], f.size)
            else:
                values[f.name] = to_units(model, f.name, _rows(value, n, f.size))
        else:
            values[f.name] = to_units(model, f.name, z[:, column : column + f.size])
            column += f.size
    return values


def continuous_size(model: Model) -> int:
    """Number of dimensions of the content that is continuous and inferred: the columns of z."""
    return sum(f.size for f in model.content if not isinstance(f, Categorical) and not f.is_given)


def to_units(model: Model, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring values of a factor (n, size) from the units of the table to those of the model."""
    unit = model.unit(name)
    if unit is None:
        return values
    offset, scale = unit.double().cpu().numpy()
    return np.asarray((values - offset) / scale)


def _rows(value: ArrayLike, n: int, size: int) -> NDArray[np.float64]:
    """One row or n of a value, as (n, size)."""
    array = np.asarray(value, float)
    if array.size not in (size, n * size):
        raise InputError(f"a value has shape {array.shape}, expected ({size},) or ({n}, {size})")
    return np.broadcast_to(array.reshape(-1, size), (n, size)).copy()


def _one_hot(name: str, label: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    if (label < 0).any() or (label >= size).any() or (label != np.round(label)).any():
        raise InputError(f"{name} is {label.tolist()}, expected 0 to {size - 1}")
    return np.asarray(np.eye(size)[label.astype(int)])


def _tensor(model: Model, value: NDArray[np.float64]) -> torch.Tensor:
    return torch.as_tensor(value, dtype=model.grid.dtype, device=model.grid.device)


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
    size = continuous_size(model)
    if size == 0:
        raise InputError("the model has no continuous content, so it has no manifold")
    quantiles = norm.ppf(np.linspace(0.05, 0.95, n)) if n > 1 else np.zeros(1)
    z = np.zeros((n, n if size > 1 else 1, size))
    z[..., axes[0]] = quantiles[:, None]
    if size > 1:
        z[..., axes[1]] = quantiles[None, :]
    images = decode(model, z.reshape(-1, size), label=label)
    return images.reshape(*z.shape[:2], *images.shape[1:])
