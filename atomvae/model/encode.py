"""What a trained model says of patches: a table with a row per atom."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Code, Shift
from atomvae.latent.circle import wrap
from atomvae.model.batches import Batches, read_targets
from atomvae.model.data import Images, choose_device, read_images
from atomvae.model.model import Model
from atomvae.model.posterior import Known, Posterior
from atomvae.model.refine import refine as refined

MODE = np.pi / 6  # half the distance between the angles of a sixfold motif


def encode(
    model: Model,
    patches: Any,
    *,
    known: Mapping[str, ArrayLike] | None = None,
    targets: Any = None,
    refine: int = 0,
    batch_size: int = 512,
    device: str = "auto",
) -> pd.DataFrame:
    """Encode patches.

    A posterior may have several modes: the angle of a motif with n-fold symmetry has n of them.
    Values and standard deviations are those of the most probable mode (the class, or combination
    of classes, with the largest probability, and within it the angles within 30 degrees of the
    most probable one); nothing is drawn at random.

    Parameters
    ----------
    model
        A trained model.
    patches
        A PatchStore, which is read block by block, or an array (n, h, w) or (n, c, h, w).
    known
        Values of factors by name, see `train`: conditions, and whatever else is known.
    targets
        What was to be decoded, where that isn't the patches: for the reconstruction error, and to
        refine.
    refine
        Gradient steps by which the posterior of each patch is improved, see `refine.refine`; 10
        close nearly all of the gap that a usual training leaves. Slow: each step costs as much as
        three of training.
    batch_size
        Patches at a time; doesn't change the result beyond rounding.
    device
        auto, cpu or cuda.

    Returns
    -------
    DataFrame
        In the order of the patches:

        - atom_id (int64), the row number for an array;
        - NAME_0, NAME_1, ... and NAME_0_sd, ... for each continuous content NAME (z);
        - angle, angle_sd (radians, counter-clockwise on screen, -pi to pi) and angle_p, the
          probability of the mode;
        - shift_y, shift_x and their _sd (pixels of the patch; motif relative to the patch
          centre), also as shift_y_nm, shift_x_nm when the size of a pixel is known;
        - rotation, shear (shear_0, shear_1 when it has two components), scale and their _sd,
          where the model has them;
        - class (int64), that of the mode, and class_p, its probability, for each discrete factor;
        - reconstruction_error: root mean square, over the pixels that count, of patch minus
          reconstruction in units of the learnt noise; about 1 when nothing but noise is left.
          Not there for an encoder-decoder unless its targets are given.

    Raises
    ------
    InputError
        If patches and model don't fit, or a pixel is NaN.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> table = encode(zoo.rvae((8, 8)), np.zeros((3, 8, 8)))
    >>> list(table.columns)[:5]
    ['atom_id', 'shift_y', 'shift_y_sd', 'shift_x', 'shift_x_sd']
    """
    images, shown = read_images(patches, 0), read_targets(targets, 0)
    if refine and shown is None and model.shape != model.target_shape:
        raise InputError("refining compares with what was to be decoded: pass targets")
    target, home = choose_device(device), model.grid.device
    batches = Batches(model, images, shown, known, target)
    model.to(target)
    try:
        walk = batches.walk(batch_size)
        parts = [_encode_batch(model, **batch, steps=refine) for _, batch in walk]
    finally:
        model.to(home)
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return _finish(model, columns, images)


@torch.no_grad()
def _encode_batch(
    model: Model,
    image: Tensor,
    mask: Tensor | None,
    target: Tensor | None,
    known: Known,
    steps: int,
) -> dict[str, NDArray[Any]]:
    """Columns of one batch, in the units of the model."""
    if target is None and model.shape == model.target_shape:
        target = image
    params = model.parameters_of(image, known)
    if steps:
        assert target is not None
        params = refined(model, params, target, mask, known, steps=steps)
    posterior = model.posterior_of(params, int(model.kept), known)  # the others were not trained
    columns, z = summarise(model, posterior)
    if target is not None:
        output = model.reconstruct(z, model.grid.expand(len(image), -1, -1))  # (B, D, c)
        residual = target.flatten(2).transpose(1, 2) - model.likelihood.mean(output)
        valid = model.field.expand(len(image), -1)
        valid = valid if mask is None else valid & mask.flatten(1)
        squares = ((residual / model.likelihood.sd(output)) ** 2).mean(-1) * valid
        error = (squares.sum(1) / valid.sum(1).clamp_min(1)).sqrt()
        columns["reconstruction_error"] = error
    return {name: c.cpu().numpy() for name, c in columns.items()}


def summarise(model: Model, posterior: Posterior) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sum up posteriors by their most probable modes.

    Returns
    -------
    columns
        Values, their sd and probabilities by column, (B,).
    z
        The value of each factor by name, (B, size): what to decode.
    """
    weight, best = main_mode(model, posterior)  # (B, K), (B,)
    rows = torch.arange(len(best), device=best.device)
    columns: dict[str, Tensor] = {}
    z: dict[str, Tensor] = {}
    for f in model.latent:
        mean = posterior.point(f)  # (B, K, size)
        if isinstance(f, Categorical):
            kind = mean[rows, best].argmax(1)
            columns[f.name] = kind
            columns[f"{f.name}_p"] = posterior.probabilities(f)[rows, kind]
        if f.is_given or isinstance(f, Categorical):
            z[f.name] = mean[rows, best]
            continue
        if isinstance(f, Angle):
            centre = mean[rows, best]  # (B, 1)
            mean = wrap(mean - centre[:, None])
            columns["angle_p"] = (posterior.branches.weight * (weight > 0)).sum(1)
        value = (weight[..., None] * mean).sum(1)
        spread = posterior.variance(f) + (mean - value[:, None]) ** 2
        variance = (weight[..., None] * spread).sum(1)
        z[f.name] = wrap(value + centre) if isinstance(f, Angle) else value
        for i, label in enumerate(f.columns):
            columns[label] = z[f.name][:, i]
            if not isinstance(f, Code):
                columns[f"{label}_sd"] = variance[:, i].sqrt()
    return columns, z


def main_mode(model: Model, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Find the most probable mode of a mixture over branches.

    Returns
    -------
    weight, best
        (B, K) weights of the branches within the mode, which sum to one, and (B,) the most
        probable branch.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> model = zoo.rvae((8, 8))
    >>> weight, best = main_mode(model, model.infer(torch.zeros(2, 1, 8, 8)))
    >>> weight.shape, best.shape
    (torch.Size([2, 8]), torch.Size([2]))
    """
    branches = posterior.branches
    likely = branches.log_mass(branches.label).argmax(1, keepdim=True)
    weight = branches.weight * (branches.label == branches.label.gather(1, likely))
    best = weight.argmax(1)
    for f in model.latent:
        if isinstance(f, Angle):
            angle = posterior.point(f)[..., 0]  # (B, K)
            weight = weight * (wrap(angle - angle.gather(1, best[:, None])).abs() < MODE)
    return weight / weight.sum(1, keepdim=True), best


def _finish(model: Model, columns: dict[str, NDArray[Any]], images: Images) -> pd.DataFrame:
    """Make the table, with lengths in pixels and nm."""
    table = pd.DataFrame({"atom_id": images.atom_id, **columns})
    half = max(model.shape[1:]) / 2  # pixels in half a side
    for f in model.latent:
        if isinstance(f, Shift):
            for name in f.columns:
                table[[name, f"{name}_sd"]] *= half
                if images.pixel_nm is not None:
                    table[f"{name}_nm"] = table[name] * images.pixel_nm
        unit = model.unit(f.name)
        if unit is not None and not f.is_given:
            offset, scale = unit.double().cpu().numpy()
            for i, name in enumerate(f.columns):
                table[name] = table[name] * scale[i] + offset[i]
                table[f"{name}_sd"] *= scale[i]
    return table
