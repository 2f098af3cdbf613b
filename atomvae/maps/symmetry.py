"""Symmetry of a motif, and angles that are known only up to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import ndtr

from atomvae.errors import InputError

if TYPE_CHECKING:
    from atomvae.model.model import Model

ORDERS = (1, 2, 3, 4, 6)
"""Rotation orders that are looked for: those of a crystal."""
THRESHOLD = 0.75
"""Self-similarity above which a symmetry holds. In windows of two shells an atom beside a vacancy
stays below 0.6; neighbours displaced at random by 5 % of the spacing lower it to 0.85."""
_TOLERANCE = 0.05  # softness of that threshold: a distorted motif is nearly symmetric
_ISOTROPIC = 0.01  # share of the variance below which a motif has no direction
_DIRECTIONS = 144  # a multiple of 12, so that turns of 60 and 90 degrees are exact
_NOISE_IMAGES = 32


@dataclass(frozen=True)
class Symmetry:
    """Rotational symmetry of a motif.

    Examples
    --------
    >>> Symmetry(n=3, confidence=0.98, scores={1: 1.0, 3: 0.97}, anisotropy=0.4).n
    3
    """

    n: int
    """The largest order that holds: the motif looks the same after a turn by 2 pi / n."""
    confidence: float
    """Probability of n among the orders; 0 if the motif has no direction at all (then n is 1)."""
    scores: dict[int, float]
    """Order to self-similarity: 1 is a perfect symmetry, 0 none, negative for the opposite; NaN
    if the motif has no direction."""
    anisotropy: float
    """Share of the motif's variance that depends on direction, 0 to 1."""


def fold(angle: ArrayLike, n: int) -> NDArray[np.float64]:
    """Bring angles of an n-fold motif to [0, 2 pi / n).

    Parameters
    ----------
    angle
        Radians, any shape.
    n
        Order of the symmetry, at least 1.

    Examples
    --------
    >>> np.degrees(fold(np.radians([-10.0, 130.0, 359.0]), 3)).round(6).tolist()
    [110.0, 10.0, 119.0]
    """
    if n < 1:
        raise InputError(f"the symmetry order is {n}; expected 1 or more")
    period = 2 * np.pi / n
    folded = np.mod(np.asarray(angle, dtype=np.float64), period)
    # A tiny negative angle is rounded up to the period itself.
    result: NDArray[np.float64] = np.where(folded >= period, 0.0, folded)
    return result


def circular_mean(angle: ArrayLike, n: int = 1, weight: ArrayLike | None = None) -> float:
    """Mean direction of angles known modulo 2 pi / n: that of ``n angle``, divided by n.

    Parameters
    ----------
    angle
        Radians; NaN is left out.
    n
        Order of the symmetry.
    weight
        Of each angle; default equal.

    Returns
    -------
    float
        Radians in [0, 2 pi / n); NaN without angles.

    Examples
    --------
    >>> round(float(np.degrees(circular_mean(np.radians([350.0, 20.0])))), 6)
    5.0
    >>> round(float(np.degrees(circular_mean(np.radians([1.0, 122.0, 243.0]), n=3))), 6)
    2.0
    """
    vector = _resultant(angle, n, weight)
    return float("nan") if np.isnan(vector) else float(fold(np.angle(vector) / n, n))


def circular_sd(angle: ArrayLike, n: int = 1, weight: ArrayLike | None = None) -> float:
    """Circular standard deviation: ``sqrt(-2 log R) / n`` with R the resultant of ``n angle``.

    Parameters are those of `circular_mean`. Source: Mardia and Jupp, Directional Statistics,
    section 2.3.

    Returns
    -------
    float
        Radians; infinite if the directions cancel, NaN without angles.

    Examples
    --------
    >>> angle = np.random.default_rng(0).normal(scale=0.1, size=10_000)
    >>> round(circular_sd(angle, n=3), 2)
    0.1
    """
    length = abs(_resultant(angle, n, weight))
    with np.errstate(divide="ignore"):
        return float(np.sqrt(-2 * np.log(np.minimum(length, 1.0))) / n)


def sublattice_from_angle(angle: ArrayLike, n: int) -> tuple[NDArray[np.int64], float]:
    """Split sites into two sublattices whose motifs differ by half a period.

    In graphene the sites of A and B have threefold surroundings that differ by 60 degrees, so
    that ``3 angle`` takes two opposite directions.

    Parameters
    ----------
    angle
        Radians; NaN gives label -1.
    n
        Order of the motif, 3 for graphene.

    Returns
    -------
    labels : ndarray
        int64, 0 or 1; 0 is the sublattice of the first angle.
    agreement : float
        How sharp the split is: 1 if all angles take two opposite directions, about 0 if they are
        spread evenly.

    Examples
    --------
    >>> labels, agreement = sublattice_from_angle(np.radians([10.0, 70.0, 131.0, -170.0]), 3)
    >>> labels.tolist(), round(agreement, 2)
    ([0, 1, 0, 1], 1.0)
    """
    turned = n * np.asarray(angle, dtype=np.float64)
    known = np.isfinite(turned)
    labels = np.full(turned.shape, -1, dtype=np.int64)
    if not known.any():
        return labels, float("nan")
    axis = np.angle(np.exp(2j * turned[known]).mean()) / 2
    along = np.cos(turned[known] - axis)
    labels[known] = (along < 0) != (along[0] < 0)
    # Angles spread evenly have a mean of 2 / pi along the axis nearest to each.
    chance = 2 / np.pi
    return labels, float((np.abs(along).mean() - chance) / (1 - chance))


def symmetry_order(images: ArrayLike) -> Symmetry:
    """Find the rotational symmetry of a motif about its centre.

    On the inscribed disc, weighted towards its middle, each image is compared with itself turned
    by 2 pi / n after the mean over all directions is taken away. White noise is estimated from
    the mixed second differences and its share taken out of the variance, so that the
    self-similarity of a symmetric motif is 1 at any noise. The largest order whose value exceeds
    `THRESHOLD` is the answer; the scatter over the images and over noise makes it a probability.

    Parameters
    ----------
    images
        ``(m, h, w)`` or ``(h, w)``: the motif, centred; several images (other contents, other
        noise, any angle) count together.

    Raises
    ------
    InputError
        If the images have another shape, are smaller than 5 pixels, or hold NaN.

    Examples
    --------
    >>> y, x = np.mgrid[-8:9, -8:9]
    >>> bar = np.exp(-(y**2) / 4.0 - x**2 / 40.0)
    >>> symmetry = symmetry_order(bar)
    >>> symmetry.n, symmetry.confidence > 0.99
    (2, True)
    """
    stack = np.asarray(images, dtype=np.float64)
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or min(stack.shape) < 1 or min(stack.shape[1:]) < 5:
        raise InputError(
            f"the images have shape {stack.shape}; expected (m, h, w) of at least 5 x 5 pixels"
        )
    if not np.isfinite(stack).all():
        raise InputError("the images hold NaN or infinity; fill missing pixels first")
    noise = _noise_variance(stack)  # (m,)
    total, power, similar = _moments(stack)  # (m,), (m,), (m, orders)
    white = np.random.default_rng(0).normal(size=(_NOISE_IMAGES, *stack.shape[1:]))
    white_total, white_power, white_similar = _moments(white)
    signal = power - noise * white_power.mean()
    shared = similar - noise[:, None] * white_similar.mean(0)
    # Effective number of independent pixels, from how much the power of white noise varies.
    pixels = 2 * white_power.mean() ** 2 / white_power.var()
    blur = noise * white_power.mean()
    everything = max((total - noise * white_total.mean()).sum(), 1e-300)
    error = np.sqrt((2 * blur**2 / pixels + 4 * np.maximum(signal, 0) * blur / pixels).sum())
    anisotropy = float(np.clip(signal.sum() / everything, 0, 1))
    rounding = 1e-20 * (stack**2).sum()
    if signal.sum() <= 3 * error + rounding or anisotropy < _ISOTROPIC:
        return Symmetry(1, 0.0, dict.fromkeys(ORDERS, float("nan")), anisotropy)
    score = shared.sum(0) / signal.sum()
    sd = np.hypot(error / signal.sum(), _jackknife(shared, signal))
    holds = ndtr((score - THRESHOLD) / np.hypot(sd, _TOLERANCE))
    holds[0] = 1.0  # a full turn
    fails = np.cumprod(1 - holds[::-1])[::-1]  # this order and all larger ones
    probability = holds * np.append(fails[1:], 1.0)
    best = int(np.argmax(probability))
    scores = {n: float(np.clip(s, -1, 1)) for n, s in zip(ORDERS, score, strict=True)}
    return Symmetry(ORDERS[best], float(probability[best]), scores, anisotropy)


def model_symmetry(model: "Model", latents: pd.DataFrame, *, n_images: int = 48) -> Symmetry:
    """Find the symmetry that most atoms of a model have.

    The motif is drawn at angle 0 and no shift for atoms evenly spaced along the largest spread of
    their contents, and each picture is judged by itself: a bright dopant in the window of a few
    atoms must not speak for all.

    Parameters
    ----------
    model
        A trained model of one channel.
    latents
        Its table from `encode`.
    n_images
        How many atoms.

    Returns
    -------
    Symmetry
        The commonest order; its confidence is the mean probability of that order over the atoms,
        scores and anisotropy are medians.

    Raises
    ------
    InputError
        If the table is empty.

    Examples
    --------
    >>> from atomvae.model import encode, zoo
    >>> model = zoo.rvae((12, 12))
    >>> table = encode.encode(model, np.zeros((3, 12, 12)))
    >>> model_symmetry(model, table).n in ORDERS
    True
    """
    from atomvae.model.decode import decode  # torch is loaded only by who has a model

    if not len(latents):
        raise InputError("the latent table is empty; encode patches with this model first")
    names = [
        f"{f.name}_{i}" for f in model.content for i in range(f.size) if f"{f.name}_{i}" in latents
    ]
    z = latents[names].to_numpy(dtype=np.float64)  # (n, d)
    along = np.zeros(len(z))
    if z.shape[1]:
        along = (z - z.mean(0)) @ np.linalg.svd(z - z.mean(0), full_matrices=False)[2][0]
    ranks = np.linspace(0, len(z) - 1, min(n_images, len(z)) + 2).round().astype(int)
    rows = np.argsort(along, kind="stable")[ranks[1:-1] if len(z) > 2 else ranks[:1]]
    label = latents["class"].to_numpy()[rows] if "class" in latents else 0
    found = [symmetry_order(image) for image in decode(model, z[rows], label=label)]
    share = [sum(s.confidence * (s.n == n) for s in found) / len(found) for n in ORDERS]
    best = int(np.argmax(share))
    scores = {n: float(np.median([s.scores[n] for s in found])) for n in ORDERS}
    anisotropy = float(np.median([s.anisotropy for s in found]))
    return Symmetry(ORDERS[best], share[best], scores, anisotropy)


def _resultant(angle: ArrayLike, n: int, weight: ArrayLike | None) -> complex:
    """Mean of exp(i n angle) over the angles that are known."""
    values = np.asarray(angle, dtype=np.float64).ravel()
    weights = np.ones(len(values)) if weight is None else np.asarray(weight, float).ravel()
    known = np.isfinite(values)
    if not known.any() or not weights[known].sum():
        return complex("nan")
    return complex(np.average(np.exp(1j * n * values[known]), weights=weights[known]))


def _moments(
    images: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each image: variance, variance over directions, covariance with its turned self."""
    _, h, w = images.shape
    reach = (min(h, w) - 1) / 2
    radius = np.linspace(0, reach, 2 * int(np.ceil(reach)) + 1)[1:]
    theta = np.arange(_DIRECTIONS) * 2 * np.pi / _DIRECTIONS
    at = np.array(
        [
            (h - 1) / 2 + radius[:, None] * np.sin(theta),
            (w - 1) / 2 + radius[:, None] * np.cos(theta),
        ]
    )  # (2, r, theta)
    polar = np.stack(
        [ndimage.map_coordinates(image, at, order=3, mode="mirror") for image in images]
    )  # (m, r, theta)
    # Area of a ring, times a taper: the nearest neighbours say most about the centre.
    weight = radius * np.clip(1 - (radius / reach) ** 2, 0, None)
    weight = weight / weight.sum()
    ring = polar.mean(2, keepdims=True)
    angular = polar - ring
    middle = (weight * ring[:, :, 0]).sum(1)
    total = np.einsum("r,mrt->m", weight, (polar - middle[:, None, None]) ** 2) / _DIRECTIONS
    similar = [
        np.einsum("r,mrt,mrt->m", weight, angular, np.roll(angular, _DIRECTIONS // n, axis=2))
        for n in ORDERS
    ]
    covariance = np.stack(similar, 1) / _DIRECTIONS  # (m, orders)
    return total, covariance[:, 0], covariance


def _noise_variance(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of white noise of each image; smooth structure has no mixed second difference.

    Immerkaer, Computer Vision and Image Understanding 64 (1996) 300, with a median for the mean.
    """
    second = np.diff(np.diff(images, n=2, axis=1), n=2, axis=2)
    spread: NDArray[Any] = np.median(np.abs(second), axis=(1, 2)) / 0.6745
    variance: NDArray[np.float64] = spread**2 / 36
    return variance


def _jackknife(shared: NDArray[np.float64], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the standard error of the pooled ratio over the images, 0 for a single one."""
    m = len(signal)
    if m == 1:
        return np.zeros(shared.shape[1])
    left_out = (shared.sum(0) - shared) / (signal.sum() - signal)[:, None]
    result: NDArray[np.float64] = np.sqrt((m - 1) * left_out.var(axis=0))
    return result
