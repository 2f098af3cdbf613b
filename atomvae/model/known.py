"""Values of factors that are known beforehand: conditions, labels, numbers."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Categorical, Condition, Factor, Shift
from atomvae.model.model import Model


def read_known(
    model: Model, known: Mapping[str, ArrayLike] | None, n: int, *, measure: bool = False
) -> dict[str, Tensor]:
    """Check known values and bring them to the units of the model.

    Parameters
    ----------
    model
        Whose factors they are.
    known
        Values by the name of the factor: classes as whole numbers (n,), below zero or NaN where
        unknown; numbers (n,) or (n, size), NaN where unknown (a row with any NaN is unknown);
        angles in radians; shifts in pixels.
    n
        Number of patches.
    measure
        Standardise numbers by these values from now on.

    Returns
    -------
    dict
        (n, size) float32 by name, NaN where unknown; classes one-hot.

    Raises
    ------
    InputError
        If a name is no factor, a shape is wrong, a class does not exist, a condition is missing or
        not known for every patch, or nothing of a factor is known.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> read_known(zoo.jvae((8, 8)), {"class": [2, -1]}, 2)["class"]
    tensor([[0., 0., 1.],
            [nan, nan, nan]])
    """
    known = dict(known or {})
    factors = {f.name: f for f in model.latent}
    for name in known:
        if name not in factors:
            raise InputError(f"known values are named {name!r}, the model has {sorted(factors)}")
    for condition in (f.name for f in model.given):
        if condition not in known:
            raise InputError(
                f"the model is conditional on {condition!r}: pass known={{{condition!r}: ...}} "
                "with a value for every patch"
            )
    out = {}
    for name, values in known.items():
        f = factors[name]
        array = _one_hot(f, values, n) if _is_class(f) else _numbers(f, values, n)
        missing = np.isnan(array).any(1)
        if missing.all() or (f.is_given and missing.any()):
            raise InputError(
                f"{name!r} is unknown for {missing.sum()} of {n} patches, expected "
                + ("a value for each" if f.is_given else "some values; leave it out")
            )
        tensor = torch.from_numpy(array)
        if isinstance(f, Shift):
            tensor = tensor / (max(model.shape[1:]) / 2)
        if (unit := model.unit(name)) is not None:
            if measure:
                unit.copy_(_measure(f, array[~missing]))
            offset, scale = unit.double().cpu()
            tensor = (tensor - offset) / scale
        out[name] = tensor.float()
    return out


def _is_class(f: Factor) -> bool:
    return isinstance(f, Categorical) or (isinstance(f, Condition) and f.discrete)


def _floats(f: Factor, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        what = "whole numbers from 0" if _is_class(f) else "numbers"
        raise InputError(f"{f.name!r} can't be read ({error}), expected {what}") from error


def _one_hot(f: Factor, values: ArrayLike, n: int) -> NDArray[np.float64]:
    """Classes (n,) as one-hot rows (n, size), NaN where unknown."""
    label = _floats(f, values)
    if label.shape != (n,):
        raise InputError(f"{f.name!r} has shape {label.shape}, expected ({n},): one class a patch")
    there = np.nan_to_num(label, nan=-1.0) >= 0
    chosen = label[there]
    if (chosen >= f.size).any() or (chosen != np.round(chosen)).any():
        raise InputError(
            f"{f.name!r} runs from {chosen.min():g} to {chosen.max():g}, expected whole numbers "
            f"from 0 to {f.size - 1}"
        )
    out = np.full((n, f.size), np.nan)
    out[there] = np.eye(f.size)[chosen.astype(int)]
    return out


def _numbers(f: Factor, values: ArrayLike, n: int) -> NDArray[np.float64]:
    """Numbers (n,) or (n, size) as rows (n, size)."""
    array = _floats(f, values)
    array = array[:, None] if array.ndim == 1 and f.size == 1 else array
    if array.shape != (n, f.size):
        raise InputError(f"{f.name!r} has shape {array.shape}, expected ({n}, {f.size})")
    if np.isinf(array).any():
        raise InputError(f"{f.name!r} has infinite values, expected numbers, NaN where unknown")
    return array


def _measure(f: Factor, values: NDArray[np.float64]) -> Tensor:
    """Offset and scale (2, size) that make values (m, size) fit the prior of a factor."""
    sd = values.std(0) / getattr(f, "sigma", 1.0)
    return torch.from_numpy(np.stack([values.mean(0), np.where(sd > 0, sd, 1.0)]))
