"""Pictures that a model draws, as numpy arrays in the units of the data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Condition, Factor, Pose, Shift
from atomvae.latent.content import NormalFactor
from atomvae.latent.pose import to_motif
from atomvae.model.model import Model
from atomvae.model.networks import pixel_grid

PIXELS = 2**17  # drawn at a time: bounds the memory of the coordinate decoder
ENDS = (0.05, 0.95)  # quantiles at the ends of a manifold


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
    content = np.atleast_2d(np.asarray(z, float))
    n = len(content)
    rest = dict(given or {})
    values = _content(model, content, label, rest)
    poses = [Shift(), Angle(), *(f for f in model.poses if not isinstance(f, Angle | Shift))]
    chosen: dict[str, ArrayLike] = {"angle": angle, "shift": shift}
    for f in poses:
        value = chosen[f.name] if f.name in chosen else rest.pop(f.name, np.zeros(f.size))
        values[f.name] = to_model(model, f, value, n)
    if rest:
        raise InputError(f"given names {sorted(rest)}, the model has no such factors")
    return render(model, poses, values, shape)


@torch.no_grad()
def render(
    model: Model,
    poses: Sequence[Pose],
    values: Mapping[str, NDArray[np.float64]],
    shape: Sequence[int] | None = None,
    pixels: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Draw images of values that are in the units of the model.

    Parameters
    ----------
    model
        Any model.
    poses
        Poses that are applied, whether the model has them or not.
    values
        Of the content and of these poses by name, (n, size).
    shape
        (height, width) of the pictures; the patch's by default.
    pixels
        Makes pixels (m, P, c) of the decoder's output, on the CPU; the likelihood's mean by
        default. Called a few images at a time, in their order.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.
    """
    device, dtype = model.grid.device, model.grid.dtype
    h, w = shape if shape is not None else model.target_shape[1:]
    grid = pixel_grid(h, w).to(device, dtype) * (max(h, w) / max(model.target_shape[1:]))
    n, step, parts = len(next(iter(values.values()))), max(1, PIXELS // (h * w)), []
    for start in range(0, max(n, 1), step):
        some = {
            name: torch.as_tensor(value[start : start + step], dtype=dtype, device=device)
            for name, value in values.items()
        }
        inverse = to_motif(poses, some)
        coords = grid.expand(min(step, n - start), -1, -1)
        if inverse is not None:
            coords = coords @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]
        output = model.draw_motif(some, coords)
        drawn = (model.likelihood.mean(output) if pixels is None else pixels(output.cpu())).cpu()
        drawn = drawn.double() * model.target_scale.cpu() + model.target_offset.cpu()
        parts.append(drawn.float().transpose(1, 2).reshape(*drawn.shape[::2], h, w))  # (m, c, h, w)
    array: NDArray[np.float32] = torch.cat(parts).numpy()
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
    labels = _rows("label", label, n, max(kinds, 1))
    values: dict[str, NDArray[np.float64]] = {}
    for f in model.content:
        value: ArrayLike
        if isinstance(f, Categorical):
            value, kind = labels[:, kind], kind + 1
        elif f.is_given:
            if f.name not in given:
                raise InputError(
                    f"the model is conditional on {f.name!r}: pass given={{{f.name!r}: ...}}"
                )
            value = given.pop(f.name)
        else:
            value, column = z[:, column : column + f.size], column + f.size
        values[f.name] = to_model(model, f, value, n)
    return values


def is_class(f: Factor) -> bool:
    """Whether the values of a factor are classes, written as whole numbers."""
    return isinstance(f, Categorical) or (isinstance(f, Condition) and f.discrete)


def to_model(model: Model, f: Factor, value: ArrayLike, n: int) -> NDArray[np.float64]:
    """Bring values of a factor from the units of the latents table to those of the model.

    Parameters
    ----------
    model
        Whose units are used.
    f
        Factor; it need not be one of the model's.
    value
        Classes as whole numbers, angles in radians, shifts in pixels, numbers in their own units.
    n
        Number of rows; one value is repeated.

    Returns
    -------
    ndarray
        (n, size); classes one-hot, shifts in half sides, numbers standardised.

    Raises
    ------
    InputError
        If the shape is wrong or there is no such class.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> to_model(zoo.vae((8, 8)), Shift(), (2.0, 0.0), 1)
    array([[0.5, 0. ]])
    """
    if is_class(f):
        return _one_hot(f.name, _rows(f.name, value, n, 1)[:, 0], f.size)
    rows = _rows(f.name, value, n, f.size)
    if isinstance(f, Shift):
        return rows / (max(model.target_shape[1:]) / 2)
    unit = model.unit(f.name)
    if unit is None:
        return rows
    offset, scale = unit.double().cpu().numpy()
    return np.asarray((rows - offset) / scale)


def continuous_size(model: Model) -> int:
    """Number of dimensions of the content that is continuous and inferred: the columns of z."""
    return sum(f.size for f in model.content if not isinstance(f, Categorical) and not f.is_given)


def content_columns(model: Model) -> list[str]:
    """Columns of the latents table that make up z, in order.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> content_columns(zoo.ssvae_number((8, 8)))
    ['z_0', 'z_1', 'number_0']
    """
    return [c for f in _continuous(model) for c in f.columns]


def _continuous(model: Model) -> list[Factor]:
    """Content that is continuous and inferred."""
    return [f for f in model.content if not isinstance(f, Categorical) and not f.is_given]


def _rows(name: str, value: ArrayLike, n: int, size: int) -> NDArray[np.float64]:
    """One row or n of a value, as (n, size)."""
    array = np.asarray(value, float)
    if array.size not in (size, n * size):
        raise InputError(f"{name} has shape {array.shape}, expected ({size},) or ({n}, {size})")
    return np.broadcast_to(array.reshape(-1, size), (n, size)).copy()


def _one_hot(name: str, label: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    if (label < 0).any() or (label >= size).any() or (label != np.round(label)).any():
        raise InputError(f"{name} is {label.tolist()}, expected 0 to {size - 1}")
    return np.asarray(np.eye(size)[label.astype(int)])


def manifold_axes(
    model: Model,
    n: int = 12,
    *,
    axes: Sequence[int | str] = (0, 1),
    latents: pd.DataFrame | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Give the values at which `manifold` draws, for the axes of its figure.

    Parameters
    ----------
    model, n, axes, latents
        As of `manifold`.

    Returns
    -------
    dict
        Name of the column and its n values, in the units of the latents table: first those of the
        rows, then those of the columns of the grid.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> {name: v.round(2) for name, v in manifold_axes(zoo.vae((8, 8)), 2).items()}
    {'z_0': array([-1.64,  1.64]), 'z_1': array([-1.64,  1.64])}
    """
    quantiles = content_quantiles(model, np.linspace(*ENDS, n) if n > 1 else [0.5], latents)
    return {content_columns(model)[i]: quantiles[:, i] for i in _positions(model, axes)}


def content_quantiles(
    model: Model, share: ArrayLike, latents: pd.DataFrame | None = None
) -> NDArray[np.float64]:
    """Give quantiles of the continuous content: of its prior, or of a table.

    Parameters
    ----------
    model
        Any model with continuous content.
    share
        (m,) probabilities.
    latents
        Table of `encode` whose quantiles are taken, column by column; None for the prior.

    Returns
    -------
    ndarray
        (m, d) in the order of z and the units of the table.

    Raises
    ------
    InputError
        If there is no continuous content, or it has no normal prior and there is no table.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> content_quantiles(zoo.vae((8, 8)), [0.5])
    array([[0., 0.]])
    """
    if continuous_size(model) == 0:
        names = [f.name for f in model.latent]
        raise InputError(f"the factors {names} hold no continuous content; decode the classes")
    probabilities = np.asarray(share, float)
    if latents is not None:
        return np.asarray(np.quantile(read_content(model, latents), probabilities, axis=0))
    parts = []
    for f in _continuous(model):
        if not isinstance(f, NormalFactor):
            raise InputError(
                f"{f.name!r} has no normal prior whose quantiles could be drawn: pass "
                "latents=encode(model, patches), whose spread is then used"
            )
        unit = model.unit(f.name)
        plain = np.zeros(f.size), np.ones(f.size)
        offset, scale = plain if unit is None else unit.double().cpu().numpy()
        parts.append(offset + scale * f.sigma * norm.ppf(probabilities)[:, None])
    return np.concatenate(parts, 1)


def read_content(model: Model, latents: pd.DataFrame) -> NDArray[np.float64]:
    """Take the continuous content z (n, d) out of a table of `encode`, in its units.

    Raises
    ------
    InputError
        If columns are missing, there are no rows or values are not finite.
    """
    columns = content_columns(model)
    if missing := [c for c in columns if c not in latents]:
        raise InputError(
            f"the latents lack {missing}, found {list(latents)}; encode with this model"
        )
    z = latents[columns].to_numpy(np.float64)
    if not len(z) or not np.isfinite(z).all():
        raise InputError(
            f"{(~np.isfinite(z)).any(1).sum()} of {len(z)} rows of latents have no finite content, "
            "expected some rows and all of them finite"
        )
    return z


def _positions(model: Model, axes: Sequence[int | str]) -> list[int]:
    """Positions in z of the one or two axes of a manifold."""
    columns = content_columns(model)
    found = [columns.index(a) if a in columns else a for a in axes]
    if len(columns) == 1:
        found = found[:1]  # one dimension makes one column
    whole = all(isinstance(a, int) and 0 <= a < len(columns) for a in found)
    if not whole or len(set(found)) < len(found) or len(found) not in (1, 2):
        raise InputError(
            f"axes are {tuple(axes)}, expected one or two different ones of {columns}, by name or "
            "by number from 0"
        )
    return [int(a) for a in found]


def manifold(
    model: Model,
    n: int = 12,
    *,
    axes: Sequence[int | str] = (0, 1),
    label: ArrayLike = 0,
    given: Mapping[str, ArrayLike] | None = None,
    latents: pd.DataFrame | None = None,
) -> NDArray[Any]:
    """Draw a grid of pictures over two content dimensions at quantiles of the prior.

    Parameters
    ----------
    model
        Any model with continuous content.
    n
        Pictures along each side, at the quantiles 0.05 to 0.95; the dimensions that don't vary
        stay at their median.
    axes
        Dimensions that vary, by number or by column of the latents table: the first down the
        rows, the second along the columns. With one there is one column.
    label
        Class, where the model has classes; several with several discrete factors.
    given
        Values of conditions, which have no default, and of the smaller poses, as for `decode`.
    latents
        Table of `encode` whose quantiles are taken instead of the prior's. The code of an
        autoencoder has no prior, so there it is needed. For a class of its own, pass its rows.

    Returns
    -------
    ndarray
        (n, n, h, w) or (n, n, c, h, w), in data units; (n, 1, ...) for one dimension. Where it was
        drawn say `manifold_axes`.

    Raises
    ------
    InputError
        If there is no continuous content, no such axis, or neither a prior nor latents.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> manifold(zoo.vae((8, 8)), 3).shape
    (3, 3, 8, 8)
    """
    if n < 1:
        raise InputError(f"n is {n}, expected at least one picture along a side")
    values = list(manifold_axes(model, n, axes=axes, latents=latents).values())
    sides = [*(len(v) for v in values), 1][:2]
    z = np.empty((*sides, continuous_size(model)))
    z[:] = content_quantiles(model, [0.5], latents)[0]
    for number, grid in zip(
        _positions(model, axes), np.meshgrid(*values, indexing="ij"), strict=True
    ):
        z[..., number] = grid.reshape(sides)
    images = decode(model, z.reshape(-1, z.shape[-1]), label=label, given=given)
    return images.reshape(*sides, *images.shape[1:])
