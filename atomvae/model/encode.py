"""What a trained model says of patches: a table with a row per atom."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle, Categorical, Shift
from atomvae.latent.circle import wrap
from atomvae.model.data import Images, choose_device, normalise, read_images
from atomvae.model.model import Model, Posterior

MODE = np.pi / 6  # half the distance between the angles of a sixfold motif


def encode(
    model: Model, patches: Any, *, batch_size: int = 512, device: str = "auto"
) -> pd.DataFrame:
    """Encode patches.

    A posterior may have several modes: the angle of a motif with n-fold symmetry has n of them.
    Values and standard deviations are those of the most probable mode (the class with the largest
    probability, and within it the angles within 30 degrees of the most probable one); nothing is
    drawn at random.

    Parameters
    ----------
    model
        A trained model.
    patches
        A PatchStore, or an array (n, h, w) or (n, c, h, w).
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
        - rotation, shear, scale and their _sd, where the model has them;
        - class (int64) and class_p, its probability;
        - reconstruction_error: root mean square, over the pixels that count, of patch minus
          reconstruction in units of the learnt noise; about 1 when nothing but noise is left.

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
    images = read_images(patches)
    if images.shape != model.shape:
        raise InputError(
            f"patches have shape {images.shape} (channels, height, width), the model was made for "
            f"{model.shape}"
        )
    target = choose_device(device)
    home = model.grid.device
    model.to(target)
    pixels, mask = normalise(images, model.offset, model.scale)
    try:
        parts = [
            _encode_batch(
                model,
                pixels[i : i + batch_size].to(target),
                None if mask is None else mask[i : i + batch_size].to(target),
            )
            for i in range(0, len(images), batch_size)
        ]
    finally:
        model.to(home)
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return _finish(model, columns, images)


@torch.no_grad()
def _encode_batch(model: Model, image: Tensor, mask: Tensor | None) -> dict[str, NDArray[Any]]:
    """Columns of one batch, in the units of the model."""
    posterior = model.infer(image)
    weight, best = main_mode(model, posterior)  # (B, K), (B,)
    columns: dict[str, Tensor] = {}
    z: dict[str, Tensor] = {}
    for f in model.latent:
        q = posterior.q[f.name]
        if isinstance(f, Categorical):
            p = f.probabilities(posterior.branches)
            columns[f.name], columns[f"{f.name}_p"] = p.argmax(1), p.amax(1)
            z[f.name] = q.mean[torch.arange(len(best)), best]
            continue
        mean = q.mean  # (B, K, size)
        if isinstance(f, Angle):
            centre = mean[torch.arange(len(best)), best]  # (B, 1)
            mean = wrap(mean - centre[:, None])
            columns["angle_p"] = (posterior.branches.weight * (weight > 0)).sum(1)
        value = (weight[..., None] * mean).sum(1)
        variance = (weight[..., None] * (q.variance + (mean - value[:, None]) ** 2)).sum(1)
        z[f.name] = wrap(value + centre) if isinstance(f, Angle) else value
        for i in range(f.size):
            label = (
                f.name if f.is_pose and f.size == 1 else f"{f.name}_{'yx'[i] if f.is_pose else i}"
            )
            columns[label], columns[f"{label}_sd"] = z[f.name][:, i], variance[:, i].sqrt()
    mean = model.reconstruct(z, model.grid.expand(len(image), -1, -1))  # (B, D, c)
    residual = (image.flatten(2).transpose(1, 2) - mean) / model.likelihood.sd
    valid = model.field.expand(len(image), -1)
    valid = valid if mask is None else valid & mask.flatten(1)
    squares = (residual**2).mean(-1) * valid
    columns["reconstruction_error"] = (squares.sum(1) / valid.sum(1).clamp_min(1)).sqrt()
    return {name: c.cpu().numpy() for name, c in columns.items()}


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
    weight = branches.weight
    for f in model.latent:
        if isinstance(f, Categorical):
            weight = weight * (branches.label == f.probabilities(branches).argmax(1)[:, None])
    best = weight.argmax(1)
    for f in model.latent:
        if isinstance(f, Angle):
            angle = posterior.q[f.name].mean[..., 0]  # (B, K)
            weight = weight * (wrap(angle - angle.gather(1, best[:, None])).abs() < MODE)
    return weight / weight.sum(1, keepdim=True), best


def _finish(model: Model, columns: dict[str, NDArray[Any]], images: Images) -> pd.DataFrame:
    """Make the table, with lengths in pixels and nm."""
    table = pd.DataFrame({"atom_id": images.atom_id, **columns})
    unit = max(model.shape[1:]) / 2  # pixels in half a side
    for f in model.latent:
        if isinstance(f, Shift):
            for axis in "yx":
                name = f"{f.name}_{axis}"
                table[[name, f"{name}_sd"]] *= unit
                if images.pixel_nm is not None:
                    table[f"{name}_nm"] = table[name] * images.pixel_nm
    return table
