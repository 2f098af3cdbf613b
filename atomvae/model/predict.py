"""What a model expects of new data, with an interval, and an alarm for patches it doesn't know."""

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Code
from atomvae.model.batches import Batches
from atomvae.model.data import choose_device, read_images
from atomvae.model.encode import summarise
from atomvae.model.likelihood import Bernoulli, GaussianNoise, Likelihood, Poisson
from atomvae.model.model import Model
from atomvae.model.posterior import Known
from atomvae.model.seeding import seeded

log = logging.getLogger(__name__)

HALVINGS = 16  # of the bracket of a quantile
FAR = 9.0  # sd from the mean beyond which no quantile of counts lies
STRUCTURE = 0.05  # correlation of neighbours in the residual that is no longer noise
SURE = 3.0  # standard errors that it must be above zero


class Prediction(NamedTuple):
    """What is expected of new data, pixel by pixel, in the units of the targets.

    Attributes
    ----------
    mean : ndarray float32
        Expected values: (n, h, w); (n, c, h, w) with several channels; (n, length) for spectra.
    low, high : ndarray float32
        Ends of the interval that holds a new measurement with the chosen probability.
    """

    mean: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Whiteness(NamedTuple):
    """How far residuals are from white noise.

    Attributes
    ----------
    correlation : ndarray (n,) float64
        Correlation of neighbouring pixels in the residual of each patch, averaged over both axes
        and the channels; NaN for a patch without a pair of pixels that count.
    alarm : bool
        True if the residuals are no noise: the model doesn't know such patches.
    """

    correlation: NDArray[np.float64]
    alarm: bool


def predict(
    model: Model,
    patches: Any,
    *,
    known: Mapping[str, ArrayLike] | None = None,
    samples: int = 64,
    interval: float = 0.9,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
) -> Prediction:
    """Predict what is decoded from patches, with an interval.

    The interval is that of a new measurement: it has the spread of what the patch leaves open
    (draws from the posterior of all factors, classes and turns included) and the noise of the
    model on top, as a mixture whose quantiles are exact.

    Parameters
    ----------
    model
        A trained model.
    patches
        A PatchStore, or an array (n, h, w) or (n, c, h, w).
    known
        Values of factors by name, see `train`: conditions, and whatever else is known.
    samples
        Draws from the posterior of each patch.
    interval
        Probability of the interval, between 0 and 1.
    seed
        Of the draws, which also depend on the batch.
    batch_size
        Patches at a time.
    device
        auto, cpu or cuda.

    Returns
    -------
    Prediction
        mean, low and high, in the order of the patches and in the units of the targets.

    Raises
    ------
    InputError
        If patches and model don't fit, a pixel is NaN, or a number is out of its range.

    Notes
    -----
    Training leaves a posterior of an encoder-decoder hardly wider than it must be, and its noise
    is one level for all pixels of a channel. So the interval is right on average over pixels;
    where little is left open it is too wide, and on steep flanks it is too narrow.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> mean, low, high = predict(zoo.ved((8, 8), (1, 20)), np.zeros((3, 8, 8)), samples=4)
    >>> mean.shape, bool((low < mean).all() and (mean < high).all())
    ((3, 20), True)
    """
    if not 0 < interval < 1:
        raise InputError(f"interval is {interval}, expected a probability between 0 and 1")
    if samples < 1 or batch_size < 1:
        raise InputError(f"samples is {samples}, batch_size {batch_size}; expected 1 or more")
    images, target, home = read_images(patches, 0), choose_device(device), model.grid.device
    batches = Batches(model, images, None, known, target)
    tails = ((1 - interval) / 2, (1 + interval) / 2)
    parts: list[list[Tensor]] = []
    model.to(target)
    try:
        for rows, batch in batches.walk(batch_size):
            with seeded(target, seed, int(rows[0])), torch.no_grad():
                output = _draw_outputs(model, batch["image"], batch["known"], samples)
                mean = model.likelihood.mean(output).mean(0)
                ends = [mixture_quantile(model.likelihood, output, p) for p in tails]
                parts.append([_shaped(model, values) for values in (mean, *ends)])
    finally:
        model.to(home)
    return Prediction(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))


def _draw_outputs(model: Model, image: Tensor, known: Known, samples: int) -> Tensor:
    """Decode draws from the posterior: (S, B, D, c), as the likelihood takes it."""
    state = model.infer(image, known=known)
    if model.n_branches == 1 and all(isinstance(f, Code) for f in model.latent):
        samples = 1  # all draws are the same
    branch = torch.multinomial(state.branches.weight, samples, replacement=True)  # (B, S)
    rows = torch.arange(len(image), device=image.device)
    grid = model.grid.expand(len(image), -1, -1)
    outputs = []
    for k in branch.T:
        z = {f.name: state.draw(f)[rows, k] for f in model.latent}
        outputs.append(model.reconstruct(z, grid))
    return torch.stack(outputs)


def mixture_quantile(likelihood: Likelihood, output: Tensor, p: float) -> Tensor:
    """Find quantiles of an even mixture of noise distributions, by halving a bracket.

    Parameters
    ----------
    likelihood
        The noise.
    output
        (S, ..., channels) of the decoder: one distribution for each of S.
    p
        Probability.

    Returns
    -------
    Tensor
        (..., channels): the smallest value that a draw doesn't exceed with at least probability p.

    Examples
    --------
    >>> output = torch.tensor([[-1.0], [1.0]])
    >>> round(float(mixture_quantile(GaussianNoise(1, sd=1e-3), output, 0.25)), 4)
    -1.0
    >>> float(mixture_quantile(Poisson(1), torch.full((1, 1), 1.0), 0.95))  # of rate e
    6.0
    """
    mean, sd = likelihood.mean(output), likelihood.sd(output)
    discrete = not isinstance(likelihood, GaussianNoise)
    if discrete:
        low, high = (mean - FAR * sd).amin(0) - 1, (mean + FAR * sd).amax(0) + 1
    else:  # between the smallest and the largest quantile of the parts
        ends = mean + sd * torch.special.ndtri(mean.new_tensor(p))
        low, high = ends.amin(0), ends.amax(0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = _probability(likelihood, middle, mean, sd).mean(0) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high.floor() if discrete else high


def _probability(likelihood: Likelihood, value: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Probability that a draw of each part is at most `value`, (S, ..., channels)."""
    match likelihood:
        case GaussianNoise():
            p: Tensor = torch.special.ndtr((value - mean) / sd)
        case Poisson():
            count = value.floor().clamp_min(0) + 1
            p = torch.special.gammaincc(count.expand(mean.shape), mean) * (value >= 0)
        case Bernoulli():
            p = (1 - mean) * (value >= 0) + mean * (value >= 1)
        case _:
            raise InputError(f"no interval is known for {type(likelihood).__name__} noise")
    return p


def _shaped(model: Model, values: Tensor) -> Tensor:
    """Bring values (B, D, c) to the units and the shape of the targets, on the CPU."""
    data = (values.double() * model.target_scale + model.target_offset).float()
    c, h, w = model.target_shape
    image = data.transpose(1, 2).reshape(-1, c, h, w).cpu()
    if c > 1:
        return image
    return image[:, 0, 0] if h == 1 else image[:, 0]


def residual_whiteness(
    model: Model,
    patches: Any,
    *,
    known: Mapping[str, ArrayLike] | None = None,
    batch_size: int = 512,
    device: str = "auto",
) -> Whiteness:
    """Tell whether a denoiser, or any autoencoder, is applied to patches that it doesn't know.

    What a model takes away from patches like those it was trained on is noise, and noise of
    neighbouring pixels is independent. From another lattice it also takes parts of the atoms.

    Parameters
    ----------
    model
        A trained model that decodes what has the shape and the units of the patches.
    patches
        A PatchStore, or an array (n, h, w) or (n, c, h, w).
    known
        Values of factors by name, see `train`: conditions, and whatever else is known.
    batch_size
        Patches at a time; doesn't change the result beyond rounding.
    device
        auto, cpu or cuda.

    Returns
    -------
    Whiteness
        The alarm is raised, and a warning logged, if the correlation averaged over all patches is
        above 0.05, a twentieth of the residual being structure, and certainly above zero.

    Raises
    ------
    InputError
        If the model decodes another shape, patches and model don't fit, or a pixel is NaN.

    Notes
    -----
    Noise that is correlated by itself (afterglow, row noise, resampled images) raises the alarm
    too, and so does a model that leaves structure in the patches it was trained on: compare the
    correlation with theirs.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> noise = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> residual_whiteness(zoo.vae((8, 8)), noise).alarm
    False
    >>> residual_whiteness(zoo.vae((8, 8)), noise.cumsum(-1)).alarm
    True
    """
    if model.shape != model.target_shape:
        raise InputError(
            f"the model decodes {model.target_shape} from patches of {model.shape}: there is no "
            "residual; only a model that decodes what its patches show has one"
        )
    images, target, home = read_images(patches, 0), choose_device(device), model.grid.device
    batches = Batches(model, images, None, known, target)
    model.to(target)
    try:
        parts = [_correlate(model, batch) for _, batch in batches.walk(batch_size)]
    finally:
        model.to(home)
    correlation, pairs = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    seen = np.isfinite(correlation)
    if not seen.any():
        raise InputError(
            "no patch has a residual in two neighbouring pixels that count; check patches and masks"
        )
    mean, error = correlation[seen].mean(), 1 / math.sqrt(pairs.sum())
    alarm = bool(mean > max(STRUCTURE, SURE * error))
    if alarm:
        log.warning(
            "the model doesn't know such patches: neighbouring pixels of what it leaves over are "
            "correlated by %.2f, noise by at most %.2f",
            mean,
            STRUCTURE,
        )
    return Whiteness(correlation, alarm)


@torch.no_grad()
def _correlate(model: Model, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Correlation of neighbours in each residual, and the number of pairs: (B,) and (B,)."""
    image, mask = batch["image"], batch["mask"]
    _, z = summarise(model, model.infer(image, known=batch["known"]))
    b, c, h, w = image.shape
    output = model.likelihood.mean(model.reconstruct(z, model.grid.expand(b, -1, -1)))
    drawn = (
        output.double() * model.target_scale + model.target_offset - model.offset
    ) / model.scale
    residual = image.double() - drawn.transpose(1, 2).view(b, c, h, w)
    valid = model.field.view(1, 1, h, w).expand(b, 1, h, w)
    valid = valid if mask is None else valid & mask[:, None]
    residual = residual * valid
    pairs, products = residual.new_zeros(b), residual.new_zeros(b, c)
    for axis in (2, 3):
        n = residual.shape[axis] - 1
        first, second = (residual.narrow(axis, i, n) for i in (0, 1))
        pairs += (valid.narrow(axis, 0, n) & valid.narrow(axis, 1, n)).sum((1, 2, 3))
        products += (first * second).sum((2, 3))
    power = (residual**2).sum((2, 3)) / valid.sum((2, 3))  # a mean that isn't zero is structure
    correlation = (products / power).mean(1) / pairs
    return correlation.cpu(), pairs.cpu()
