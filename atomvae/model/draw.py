"""What to do with a trained model: reconstruct patches, sample, and walk through its latents.

Positions in the latent space are rows of the table of `encode`: columns by name, in their units.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Code, Factor, Pose, Shift
from atomvae.latent.circle import wrap
from atomvae.model.batches import Batches
from atomvae.model.data import choose_device, read_images
from atomvae.model.decode import content_columns, is_class, read_content, render, to_model
from atomvae.model.encode import summarise
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Likelihood, Poisson
from atomvae.model.model import Model
from atomvae.model.seeding import seeded

Row = ArrayLike | Mapping[str, Any] | pd.Series | pd.DataFrame


@torch.no_grad()
def reconstruct(
    model: Model,
    patches: Any,
    *,
    known: Mapping[str, ArrayLike] | None = None,
    with_pose: bool = True,
    batch_size: int = 512,
    device: str = "auto",
) -> NDArray[np.float32]:
    """Draw what a model sees in patches: the mean images at their encoded latents.

    The latents are those that `encode` reports, of the most probable mode; nothing is drawn at
    random.

    Parameters
    ----------
    model
        A trained model.
    patches
        A PatchStore, or an array (n, h, w) or (n, c, h, w).
    known
        Values of factors by name, see `train`: conditions, and whatever else is known.
    with_pose
        Whether the motif lies as in the patch. False draws it in its own frame: unturned, not
        shifted, sheared or scaled.
    batch_size
        Patches at a time; doesn't change the result beyond rounding.
    device
        auto, cpu or cuda.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units; of the shape of
        the targets for an encoder-decoder.

    Raises
    ------
    InputError
        If patches and model don't fit, or a condition is missing.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> reconstruct(zoo.rvae((8, 8)), np.zeros((3, 8, 8))).shape
    (3, 8, 8)
    """
    images = read_images(patches, 0)
    target, home = choose_device(device), model.grid.device
    batches = Batches(model, images, None, known, target)
    parts = []
    model.to(target)
    try:
        for rows, batch in batches.walk(batch_size):
            _, z = summarise(model, model.infer(batch["image"], known=batch["known"]))
            values = {name: value.double().cpu().numpy() for name, value in z.items()}
            if not with_pose:
                values |= {f.name: np.zeros((len(rows), f.size)) for f in model.poses}
            parts.append(render(model, model.poses, values))
    finally:
        model.to(home)
    return np.concatenate(parts)


def seen_pixels(model: Model) -> NDArray[np.bool_]:
    """Say which pixels of what is decoded count in the training and in errors.

    With an angle these are the disc inscribed in the patch: what leaves the frame on turning can't
    be compared. Elsewhere a decoder was taught nothing.

    Returns
    -------
    ndarray
        (h, w) bool.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> seen_pixels(zoo.rvae((3, 3))).astype(int).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    >>> int(seen_pixels(zoo.rvae((8, 8))).sum()), bool(seen_pixels(zoo.vae((8, 8))).all())
    (52, True)
    """
    seen: NDArray[np.bool_] = model.field.cpu().numpy().reshape(model.target_shape[1:])
    return seen


def sample(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    given: Mapping[str, ArrayLike] | None = None,
    latents: pd.DataFrame | None = None,
    with_pose: bool = True,
    noise: bool = False,
) -> NDArray[np.float32]:
    """Draw images at random: latents from their priors, and the images they make.

    Parameters
    ----------
    model
        A trained model.
    n
        Number of images.
    seed
        The same seed gives the same images. What is given doesn't change what else is drawn.
    given
        Values of factors by name, one row or n, in the units of the latents table: conditions,
        which have no prior, and whatever else shall not be drawn, e.g. ``{"class": 2}``.
    latents
        Table of `encode`. If given, the continuous content is drawn from the normal distribution
        with its mean and covariance instead of the prior. The code of an autoencoder has no
        prior, so there it is needed.
    with_pose
        Whether poses are drawn, too; False leaves the motif in its own frame.
    noise
        Whether the noise of the model is added: then these are data as the model holds them to
        be, else their means.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.

    Raises
    ------
    InputError
        If a condition is not given, a code has neither values nor latents, or a name or value
        does not fit the model.

    References
    ----------
    A density fitted to the codes of an autoencoder: Ghosh et al., "From variational to
    deterministic autoencoders" (2020), arXiv:1903.12436.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> sample(zoo.jrvae((8, 8)), 5, given={"class": 1}).shape
    (5, 8, 8)
    """
    if n < 1:
        raise InputError(f"n is {n}, expected at least one image")
    given = dict(given or {})
    _check_names(model, given)
    with seeded(torch.device("cpu"), seed):
        values = {f.name: f.draw_prior(n).double().numpy() for f in model.latent}
        values |= {} if latents is None else _fitted(model, latents, n)
        for f in model.latent:
            if f.name in given:
                values[f.name] = to_model(model, f, given[f.name], n)
            elif f.is_given:
                raise InputError(
                    f"the model is conditional on {f.name!r}, which has no prior: pass "
                    f"given={{{f.name!r}: ...}}"
                )
            elif isinstance(f, Code) and latents is None:
                raise InputError(
                    f"{f.name!r} is a code without a prior: pass latents=encode(model, patches), "
                    "whose mean and covariance are then used"
                )
            elif f.is_pose and not with_pose:
                values[f.name] = np.zeros((n, f.size))
        pixels = partial(draw_noise, model.likelihood) if noise else None
        return render(model, model.poses, values, pixels=pixels)


def _fitted(model: Model, latents: pd.DataFrame, n: int) -> dict[str, NDArray[np.float64]]:
    """Draw continuous content from a normal fitted to a table: by factor, in model units."""
    z = read_content(model, latents)
    if len(z) < 2:
        raise InputError("found one row of latents, expected some: it has no spread")
    variance, directions = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    normal = torch.randn(n, z.shape[1]).double().numpy()
    table = pd.DataFrame(
        z.mean(0) + normal * np.sqrt(variance.clip(0)) @ directions.T,
        columns=content_columns(model),
    )
    return {
        f.name: to_model(model, f, table[f.columns], n)
        for f in model.content
        if set(f.columns) <= set(table)
    }


def draw_noise(likelihood: Likelihood, output: Tensor) -> Tensor:
    """Draw pixels (..., channels) for the decoder's output, in the units of the likelihood.

    Examples
    --------
    >>> float(draw_noise(Bernoulli(1), torch.tensor([99.0])))
    1.0
    """
    mean = likelihood.mean(output)
    match likelihood:
        case GaussianNoise():
            return mean + likelihood.sd(output) * torch.randn_like(mean)
        case Bernoulli():
            return torch.bernoulli(mean)
        case Poisson():
            return torch.poisson(mean)
    raise InputError(f"can't draw the noise of {type(likelihood).__name__}; leave noise out")


def traverse(
    model: Model,
    z0: Row,
    axis: str | int,
    values: ArrayLike,
    *,
    label: ArrayLike = 0,
    given: Mapping[str, ArrayLike] | None = None,
) -> NDArray[np.float32]:
    """Draw pictures along one latent, with all others held.

    Parameters
    ----------
    model
        A trained model.
    z0
        Where to start: a row of the latents table, whose pose and class are kept, or content
        (d,) alone, which lies untouched in the middle of its patch.
    axis
        What varies: a column of the latents table ("z_1", "angle", "shift_y", "shear", "class"),
        a condition, or the number of a dimension of z. Images of any model can be turned and
        shifted.
    values
        (n,) values it takes, in the units of the table: radians, pixels, classes.
    label
        Class, where the model has classes and z0 is no row.
    given
        Values of factors by name that are held instead of those of z0; conditions are needed.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.

    Raises
    ------
    InputError
        If the model has no such axis, or a value doesn't fit it.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> turns = np.linspace(0, np.pi, 5)
    >>> traverse(zoo.rvae((8, 8)), [0.0, 1.0], "angle", turns).shape
    (5, 8, 8)
    """
    steps = np.atleast_1d(np.asarray(values, float))
    if steps.ndim != 1 or not len(steps):
        raise InputError(f"values have shape {steps.shape}, expected (n,) with n of at least 1")
    row = _read_row(model, z0, label)
    table = _hold(model, pd.DataFrame([row] * len(steps)), given)
    table[_axis(model, axis)] = steps
    return _draw_table(model, table)


def interpolate(
    model: Model,
    a: Row,
    b: Row,
    n: int = 10,
    *,
    given: Mapping[str, ArrayLike] | None = None,
) -> NDArray[np.float32]:
    """Draw pictures between two rows of a latents table, both ends included.

    Content, shift and the small poses change evenly; the angle turns evenly along the shorter
    arc, modulo a full turn whatever the symmetry of the motif; a class changes halfway, and with
    it what the content means. Columns that both rows lack are zero for poses, so rows of
    ``["z_0", "z_1"]`` change the content alone.

    Parameters
    ----------
    model
        A trained model.
    a, b
        Rows of the latents table, or content (d,) alone.
    n
        Number of pictures, at least 2.
    given
        Values of factors by name that replace those of the rows, one or n; conditions are needed.

    Returns
    -------
    ndarray
        (n, h, w) float32, or (n, c, h, w) with several channels, in data units.

    Raises
    ------
    InputError
        If the rows don't fit the model or each other.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> interpolate(zoo.vae((8, 8)), [0.0, -1.0], [0.0, 1.0], 4).shape
    (4, 8, 8)
    """
    if n < 2:
        raise InputError(f"n is {n}, expected at least 2: both ends are drawn")
    first, last = _read_row(model, a, 0), _read_row(model, b, 0)
    if set(first) != set(last):
        lone = sorted(set(first) ^ set(last))
        raise InputError(f"only one of the rows has {lone}, expected the same columns in both")
    jumps = {c for f in model.content if is_class(f) for c in _columns(f)}
    t = np.linspace(0, 1, n)
    table = pd.DataFrame(index=range(n))
    for name, start in first.items():
        step = last[name] - start
        if name in jumps:
            table[name] = np.where(t < 0.5, start, last[name])
        elif name == "angle":
            table[name] = start + t * float(wrap(torch.tensor(step)))
        else:
            table[name] = start + t * step
    return _draw_table(model, _hold(model, table, given))


def _columns(f: Factor) -> list[str]:
    """Columns of a value of a factor: one of its own name for classes and lone conditions."""
    return [f.name] if is_class(f) or (f.is_given and f.size == 1) else f.columns


def _poses(model: Model) -> list[Pose]:
    """Poses that may be applied: those of the model, turns and shifts of any image."""
    own: list[Pose] = list(model.poses)
    if min(model.target_shape[1:]) > 1:
        for free in (Angle(), Shift()):
            own += [] if any(isinstance(f, type(free)) for f in own) else [free]
    return own


def _factors(model: Model) -> list[Factor]:
    return [*model.content, *_poses(model)]


def _check_names(model: Model, given: Mapping[str, ArrayLike]) -> None:
    names = [f.name for f in model.latent]
    if unknown := sorted(set(given) - {*names}):
        raise InputError(f"given names {unknown}, the model has the factors {names}")


def _axis(model: Model, axis: str | int) -> str:
    """Column that an axis stands for."""
    content = content_columns(model)
    if isinstance(axis, int) and 0 <= axis < len(content):
        return content[axis]
    names = {c: c for f in _factors(model) for c in _columns(f)}
    names |= {f.name: _columns(f)[0] for f in _factors(model) if len(_columns(f)) == 1}
    if axis not in names:
        raise InputError(f"axis is {axis!r}, expected one of {sorted(names)}")
    return names[str(axis)]


def _read_row(model: Model, row: Row, label: ArrayLike) -> dict[str, float]:
    """What a row says of the factors of a model, by column."""
    if isinstance(row, pd.DataFrame):
        if len(row) != 1:
            raise InputError(f"found a table of {len(row)} rows, expected one: table.iloc[0]")
        row = row.iloc[0]
    if isinstance(row, Mapping | pd.Series):
        wanted = [c for f in _factors(model) for c in _columns(f)]
        return {c: float(row[c]) for c in wanted if c in row}
    content, z = content_columns(model), np.asarray(row, float)
    if z.shape != (len(content),):
        raise InputError(
            f"z has shape {z.shape}, expected ({len(content)},) for {content}, or a row of a table"
        )
    kinds = [f.name for f in model.content if isinstance(f, Categorical)]
    labels = np.asarray(label, float).ravel()
    if len(labels) not in (1, len(kinds)):
        raise InputError(f"label has {len(labels)} classes, expected one for each of {kinds}")
    classes = np.broadcast_to(labels, max(len(kinds), 1))
    return dict(zip([*content, *kinds], [*z, *classes], strict=False))


def _hold(model: Model, table: pd.DataFrame, given: Mapping[str, ArrayLike] | None) -> pd.DataFrame:
    """Put given values of factors, one row or n, into a table (n rows)."""
    given = dict(given or {})
    _check_names(model, given)
    for f in model.latent:
        if f.name in given:
            columns = _columns(f)
            value = np.asarray(given[f.name], float)
            if value.size not in (len(columns), len(columns) * len(table)):
                raise InputError(
                    f"{f.name} has shape {value.shape}, expected ({len(columns)},) or "
                    f"({len(table)}, {len(columns)})"
                )
            table[columns] = np.broadcast_to(
                value.reshape(-1, len(columns)), (len(table), len(columns))
            )
    return table


def _draw_table(model: Model, table: pd.DataFrame) -> NDArray[np.float32]:
    """Draw the mean image of each row; poses that the table lacks are zero."""
    values = {}
    for f in _factors(model):
        columns = _columns(f)
        lacking = [c for c in columns if c not in table]
        if lacking and not f.is_pose:
            cure = f"given={{{f.name!r}: ...}}" if f.is_given else "a row of encode of this model"
            raise InputError(f"the row lacks {lacking} of the factor {f.name!r}: pass {cure}")
        full = table.assign(**dict.fromkeys(lacking, 0.0))
        values[f.name] = to_model(model, f, full[columns].to_numpy(np.float64), len(table))
    return render(model, _poses(model), values)
