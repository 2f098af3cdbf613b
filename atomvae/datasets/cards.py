"""Playing-card suits that are turned, sheared and shifted by known amounts.

A small test of invariant models. Of the four classes the heart is nearly the spade upside down, the
diamond looks the same after half a turn and the club, but for its stem, after a third of a turn.
The shapes are formulas, so a card is an exact function of its suit, angle, shear and shift.

The motif has its centre of mass at the origin. Lengths within it are in half sides of the patch,
points are (dy, dx) with y down. A point m of the motif lies in the patch at

    shift + R(angle) H(shear) m,   R = [[cos, -sin], [sin, cos]],   H = [[1, tan(shear)], [0, 1]].

R turns counter-clockwise as seen on screen: +90 degrees takes right, (0, 1), to up, (-1, 0). H
moves a point along the y axis of the motif in proportion to its dx: a positive shear moves the
right half down and the left half up, columns stay columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError

Floats = NDArray[np.float32]
Plane = NDArray[np.floating[Any]]  # float32 when it runs

SUITS = ("club", "diamond", "heart", "spade")

ROUND = 0.03  # radius of rounded corners and notches, half sides
EDGE_PX = 1.6  # full width of an edge; from 10 to 90 % it is one pixel
CHUNK = 32  # cards drawn at once: few enough to stay in the cache
MAX_SHEAR_DEG = 45.0


@dataclass(frozen=True)
class Cards:
    """Images of cards and how they were made.

    Attributes
    ----------
    images : ndarray (n, size, size) float32
        0 outside of the suit, 1 inside, before noise.
    truth : DataFrame
        A row per image: `suit` (int64, index in `SUITS`), `angle`, `shear` (radians), `shift_y`,
        `shift_x` (pixels).
    """

    images: Floats
    truth: pd.DataFrame


def cards(
    rotation_deg: float,
    shear_deg: float,
    n: int,
    *,
    size: int = 48,
    noise: float = 0.0,
    shift_px: float = 1.0,
    seed: int = 0,
) -> Cards:
    """Draw cards of all four suits with random angle, shear and shift.

    Published settings of (rotation_deg, shear_deg) are (12, 1), (12, 20), (120, 1) and (120, 20).
    Shears of up to 20 degrees stay inside the circle inscribed in the patch at any angle.

    Parameters
    ----------
    rotation_deg : float
        Angles are uniform between -rotation_deg and rotation_deg, at most 180.
    shear_deg : float
        Shears are uniform between -shear_deg and shear_deg, at most 45.
    n : int
        Number of cards. Each suit is as frequent as the others, give or take one.
    size : int
        Rows and columns of an image, at least 8.
    noise : float
        Standard deviation of normal noise that is added to the images, without clipping.
    shift_px : float
        Shifts along y and x are uniform between -shift_px and shift_px, pixels.
    seed : int
        The same arguments give the same cards; the noise does not change the truth.

    Returns
    -------
    Cards
        Images (n, size, size) and the table of the truth.

    Raises
    ------
    InputError
        A number is out of its range.

    References
    ----------
    Ziatdinov, Kalinin, "Robust feature disentanglement in imaging data via joint invariant
    variational autoencoders: from cards to atoms" (2021), arXiv:2104.10180. The shapes are our own.

    Examples
    --------
    >>> sample = cards(12, 1, n=8)
    >>> sample.images.shape, sorted(sample.truth["suit"])
    ((8, 48, 48), [0, 0, 1, 1, 2, 2, 3, 3])
    """
    _check("size", size, 8, np.inf)
    _check("rotation_deg", rotation_deg, 0, 180)
    _check("shear_deg", shear_deg, 0, MAX_SHEAR_DEG)
    _check("n", n, 1, np.inf)
    _check("noise", noise, 0, np.inf)
    _check("shift_px", shift_px, 0, size / 2)
    if seed < 0:
        raise InputError(f"seed is {seed}; give a whole number of at least 0")
    rng = np.random.default_rng(seed)
    suit = rng.permutation(np.arange(n, dtype=np.int64) % len(SUITS))
    angle = np.radians(rotation_deg) * rng.uniform(-1, 1, n)
    shear = np.radians(shear_deg) * rng.uniform(-1, 1, n)
    shift = shift_px * rng.uniform(-1, 1, (n, 2))
    images = draw_card(suit, angle, shear, shift, size)
    if noise > 0:
        images += np.float32(noise) * rng.standard_normal(images.shape, dtype=np.float32)
    truth = pd.DataFrame(
        {"suit": suit, "angle": angle, "shear": shear, "shift_y": shift[:, 0],
         "shift_x": shift[:, 1]}
    )  # fmt: skip
    return Cards(images, truth)


def draw_card(
    suit: ArrayLike,
    angle: ArrayLike = 0.0,
    shear: ArrayLike = 0.0,
    shift: ArrayLike = (0.0, 0.0),
    size: int = 48,
) -> Floats:
    """Draw cards from their truth; see the module for the meaning of the parameters.

    The image is once continuously differentiable in angle, shear and shift.

    Parameters
    ----------
    suit : array_like (...) of int
        Index in `SUITS`.
    angle, shear : array_like (...)
        Radians.
    shift : array_like (..., 2)
        (y, x), pixels.
    size : int
        Rows and columns of an image, at least 8.

    Returns
    -------
    ndarray (..., size, size) float32
        Between 0 and 1.

    Raises
    ------
    InputError
        An unknown suit, a size below 8, or a shift that is no pair.

    Examples
    --------
    >>> draw_card([0, 3], angle=0.1).shape
    (2, 48, 48)
    >>> heart = draw_card(SUITS.index("heart"))
    >>> float(heart[24, 24]), float(heart[0, 0])
    (1.0, 0.0)
    """
    _check("size", size, 8, np.inf)
    moves = np.asarray(shift, np.float64)
    if moves.shape[-1:] != (2,):
        raise InputError(f"shift has shape {moves.shape}; its last axis must be (y, x)")
    kinds, angles, shears, down, right = np.broadcast_arrays(
        np.asarray(suit), np.asarray(angle, np.float64), np.asarray(shear, np.float64),
        moves[..., 0], moves[..., 1],
    )  # fmt: skip
    if not np.isin(kinds, range(len(SUITS))).all():
        raise InputError(f"unknown suit among {np.unique(kinds)}; give 0 to 3, an index in {SUITS}")
    size = int(size)  # a numpy integer would turn the arithmetic to float64
    images = np.empty((kinds.size, size, size), np.float32)
    pose = np.stack([v.ravel() for v in (angles, shears, down, right)])  # (4, n)
    for kind, shape in enumerate(SHAPES):
        rows = np.flatnonzero(kinds.ravel() == kind)
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            images[part] = _ink(shape(*_motif_points(pose[:, part], size)), size)
    return images.reshape(*kinds.shape, size, size)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and np.isfinite(value)):
        upper = f" and at most {high:g}" if np.isfinite(high) else ""
        raise InputError(f"{name} is {value}; give a number of at least {low:g}{upper}")


def _motif_points(pose: NDArray[np.float64], size: int) -> tuple[Plane, Plane]:
    """Points of the motif that lie on the pixels, (n, size, size) each, of a pose (4, n)."""
    angle, shear, down, right = pose[:, :, None]
    grid = np.arange(size) - (size - 1) / 2
    y, x = (grid - down) * (2 / size), (grid - right) * (2 / size)  # (n, size)
    c, s, t = np.cos(angle), np.sin(angle), np.tan(shear)
    # H^-1 R^-1 is [[c + t s, s - t c], [-s, c]]. A sum of a column and a row: one pass a point.
    my = _outer_sum((c + t * s) * y, (s - t * c) * x)
    mx = _outer_sum(-s * y, c * x)
    return my, mx


def _outer_sum(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Plane:
    """(n, size) and (n, size) -> (n, size, size)."""
    return rows.astype(np.float32)[:, :, None] + columns.astype(np.float32)[:, None, :]


def _ink(distance: Plane, size: int) -> Plane:
    """1 where the signed distance to the outline is negative, a cubic step across the edge."""
    t: Plane = np.clip(0.5 - distance * (size / (2 * EDGE_PX)), 0, 1)
    return t * t * (3 - 2 * t)


def _fold(x: Plane) -> Plane:
    """|x| with a rounded corner: makes a shape symmetric and its tips and notches smooth."""
    return np.sqrt(x * x + ROUND**2)


def _union(a: Plane, b: Plane) -> Plane:
    """Minimum of two distances with a rounded corner."""
    return 0.5 * (a + b - _fold(a - b))


def _intersection(a: Plane, b: Plane) -> Plane:
    return 0.5 * (a + b + _fold(a - b))


def _disc(y: Plane, x: Plane, radius: float) -> Plane:
    return np.sqrt(y * y + x * x) - radius


def _cone(y: Plane, x: Plane, centre: tuple[float, float], radius: float, tip: float) -> Plane:
    """Distance to the hull of a disc and a tip at (tip, 0)."""
    length = hypot(tip - centre[0], centre[1])
    uy, ux = (tip - centre[0]) / length, -centre[1] / length
    y, x = y - centre[0], x - centre[1]
    along, across = y * uy + x * ux, np.abs(x * uy - y * ux)
    b = radius / length
    a = sqrt(1 - b * b)
    side = a * across + b * along - radius
    return np.where(a * along < b * across, _disc(along, across, radius), side)


def _stem(y: Plane, x: Plane, top: float, bottom: float, waist: float, foot: float) -> Plane:
    """Distance to a stem whose half width grows from waist to foot as a parabola; x is folded."""
    t = np.maximum(y - top, 0) / (bottom - top)
    slope = 2 * (foot - waist) / (bottom - top) * t
    side = (x - waist - (foot - waist) * t * t) / np.sqrt(1 + slope * slope)
    return _intersection(_intersection(side, y - bottom), top - y)


# The first line of each shape moves the centre of mass to the origin.


def _club(y: Plane, x: Plane) -> Plane:
    y = y + 0.0715
    x = _fold(x)
    lobes = _union(_disc(y + 0.31, x, 0.25), _disc(y - 0.155, x - 0.27, 0.25))
    return _union(_union(lobes, _disc(y, x, 0.17)), _stem(y, x, 0.0, 0.66, 0.045, 0.22))


def _diamond(y: Plane, x: Plane) -> Plane:
    half_height, half_width = 0.66, 0.46
    side = hypot(half_height, half_width)
    a, b = half_width / side, half_height / side
    return _fold(y) * a + _fold(x) * b - half_height * a


def _heart(y: Plane, x: Plane) -> Plane:
    y = y - 0.0977
    return _cone(y, _fold(x), (-0.26, 0.29), 0.32, 0.68)


def _spade(y: Plane, x: Plane) -> Plane:
    y = y + 0.0595
    x = _fold(x)
    return _union(_cone(-y, x, (-0.15, 0.26), 0.27, 0.66), _stem(y, x, 0.15, 0.64, 0.045, 0.22))


SHAPES: tuple[Callable[[Plane, Plane], Plane], ...] = (_club, _diamond, _heart, _spade)
