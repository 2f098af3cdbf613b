"""Patches compared at all turns at once, by their angular harmonics."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

HIGHEST = 16  # angular harmonic
TURNS = 64  # at which two patches are compared; between them a parabola is fitted
BLOCK = 128  # patches compared with all others at a time

Harmonics = Sequence[NDArray[np.complex64]]  # coefficients (n, k_m) of harmonic m = 0, 1, ...


def polar_grid(height: int, width: int) -> sparse.csr_matrix:
    """Bilinear sampling of a patch on rings around its centre.

    Returns
    -------
    csr_matrix
        (rings * TURNS, height * width) float32, rings in the inscribed circle, counter-clockwise
        on screen, weighted by the root of the area that a sample stands for.

    Examples
    --------
    >>> polar_grid(8, 10).shape
    (256, 80)
    """
    side = min(height, width)
    radius = (np.arange(side // 2) + 0.5) * (side - 1) / (2 * (side // 2) - 1)
    phi = 2 * np.pi * np.arange(TURNS) / TURNS
    y = (height - 1) / 2 - radius[:, None] * np.sin(phi)
    x = (width - 1) / 2 + radius[:, None] * np.cos(phi)
    y0 = np.clip(np.floor(y).astype(int), 0, height - 2)
    x0 = np.clip(np.floor(x).astype(int), 0, width - 2)
    fy, fx = y - y0, x - x0
    area = np.sqrt(2 * np.pi * radius[:, None] / TURNS)
    value, column = [], []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
        value.append((share * area).ravel())
        column.append(((y0 + dy) * width + x0 + dx).ravel())
    place = np.tile(np.arange(y.size), 4), np.concatenate(column)
    return sparse.csr_matrix(
        (np.concatenate(value).astype(np.float32), place), (y.size, height * width)
    )


def harmonics(image: NDArray[np.floating], *, turned: bool = True) -> list[NDArray[np.complex64]]:
    """Angular harmonics of patches, without what is noise.

    Parameters
    ----------
    image
        (n, c, h, w).
    turned
        Whether patches are to be compared at all turns; if not, only the zeroth harmonic is made,
        of the pixels themselves.

    Returns
    -------
    list of ndarray
        (n, k_m) complex64 for m = 0, 1, ...: the principal components of each harmonic (steerable
        principal components; Zhao & Singer, J. Opt. Soc. Am. A 30, 871, 2013) that stand out from
        the noise (Marchenko-Pastur). A turn by an angle multiplies them by exp(-i m angle).

    Examples
    --------
    >>> [a.shape for a in harmonics(np.random.default_rng(0).normal(size=(50, 1, 8, 8)))][0][0]
    50
    """
    n, c, h, w = image.shape
    image = image - image.mean((0, 2, 3), keepdims=True)
    if not turned:
        parts = [image.reshape(n, -1).astype(np.complex64)]
    else:
        grid = polar_grid(h, w)
        rings = (grid @ image.reshape(n * c, -1).T.astype(np.float32)).T.reshape(n, -1, TURNS)
        spectrum = np.fft.rfft(rings, axis=2)[:, :, : HIGHEST + 1] / np.sqrt(TURNS)
        spectrum[:, :, 1:] *= np.sqrt(2)  # those of -m are the conjugates
        parts = [spectrum[:, :, m].astype(np.complex64) for m in range(spectrum.shape[2])]
    parts[0] = parts[0] - parts[0].mean(0)
    solved = [np.linalg.eigh(part.conj().T @ part / n) for part in parts]
    noise = np.median(np.concatenate([value for value, _ in solved]))
    edge = noise * (1 + np.sqrt(parts[0].shape[1] / n)) ** 2
    return [
        (part @ vector[:, value > 2 * edge]).astype(np.complex64)
        for part, (value, vector) in zip(parts, solved, strict=True)
    ]


def align(
    patches: Harmonics, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Overlap of patches at all turns.

    Returns
    -------
    ndarray
        (len(first), len(second), turns) float32: inner product of the first, turned by
        2 pi t / turns counter-clockwise, with the second.
    """
    if len(patches) == 1:
        return (patches[0][first].conj() @ patches[0][second].T).real[..., None].astype(np.float32)
    product = np.zeros((len(first), len(second), TURNS // 2 + 1), np.complex64)
    for m, part in enumerate(patches):
        if part.shape[1]:
            product[..., m] = part[first].conj() @ part[second].T / (1 if m == 0 else 2)
    return np.asarray(np.fft.irfft(product, TURNS, axis=2) * TURNS, np.float32)


def nearest(
    patches: Harmonics, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Find the most similar patches of each, at the turn at which they are most similar.

    Returns
    -------
    index, turn, distance
        (n, k): which, the angle by which the patch must be turned to lie as that one does
        (radians, counter-clockwise), and the squared distance that is left.

    Examples
    --------
    >>> image = np.zeros((1, 1, 16, 16))
    >>> image[0, 0, 3, 8] = image[0, 0, 5, 3] = 1
    >>> image = np.concatenate([image, np.rot90(image, axes=(2, 3))])
    >>> _, turn, _ = nearest(harmonics(image), 1)
    >>> np.degrees(turn).round().ravel().tolist()
    [90.0, -90.0]
    """
    n = len(patches[0])
    everything = np.arange(n)
    norm = sum((np.abs(part) ** 2).sum(1) for part in patches)
    index, turn, distance = (np.empty((n, k), t) for t in (np.int64, float, float))
    for start in range(0, n, BLOCK):
        rows = everything[start : start + BLOCK]
        overlap = align(patches, rows, everything)  # (b, n, turns)
        best = overlap.argmax(2)
        left = norm[rows, None] + norm - 2 * overlap.max(2)
        left[np.arange(len(rows)), rows] = np.inf
        chosen = np.argpartition(left, k - 1, axis=1)[:, :k]
        index[rows] = chosen
        distance[rows] = np.maximum(np.take_along_axis(left, chosen, 1), 0)
        turn[rows] = _peak(overlap, np.take_along_axis(best, chosen, 1), chosen)
    return index, turn, distance


def _peak(
    overlap: NDArray[np.float32], best: NDArray[np.int64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Angle of the largest overlap, between the turns by a parabola, in [-pi, pi)."""
    turns = overlap.shape[2]
    rows = np.arange(len(overlap))[:, None]
    before, here, after = (overlap[rows, chosen, (best + d) % turns] for d in (-1, 0, 1))
    curvature = np.minimum(before - 2 * here + after, -1e-12)
    angle = 2 * np.pi * (best + 0.5 * (before - after) / curvature) / turns
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi, float)
