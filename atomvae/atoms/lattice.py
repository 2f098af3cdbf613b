"""The lattice of a frame: vectors, motif and the slow distortion that the scan laid over it.

The vectors come from the Fourier peaks of the whole frame. Around every node of a coarse grid the
phases of the same waves then tell how far the lattice is displaced there (geometric phase
analysis), followed from node to node so that a displacement may grow beyond a cell.
"""

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from atomvae.atoms.unit_cell import flattened, fourier_peaks, reciprocal_basis, reduced

Floats = NDArray[np.float64]

WINDOW = 1.3  # longer cell vectors: width of the window that sees the phase at a node
MOST_NODES = 16  # along the shorter side of the frame
GRID = 48  # points of the mean unit cell along each vector
LEAST_COLUMN = 0.25  # of the tallest column of the cell, above its lowest point
SHARPEN = 0.8  # of the width: taken out of the mean cell, where fainter columns are shoulders
MOST_GAIN = 4.0
PASSED = 0.6  # over the width: faster waves a Gaussian column lowers to less than 0.1 %
LEAST_WAVES = 12
ORDERS = 4  # highest Fourier index of the mean cell


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice over a frame; see `find_lattice`.

    Lattice point ``n`` with motif column ``m`` lies at ``r = (n + m) @ vectors + u(r)``.
    """

    vectors: Floats
    """(2, 2) px; rows are the two reduced lattice vectors in (y, x)."""
    motif: Floats
    """(k, 2) positions of the columns in the cell, fractions of the vectors; tallest first."""
    intensity: Floats
    """(k,) height of the motif columns in the mean cell, 1 for the tallest."""
    displacement: Floats
    """(2, gy, gx) px; u at the nodes."""
    coherence: Floats
    """(gy, gx) local strength of the lattice; 1 is that of the best half of the frame."""
    nodes: tuple[Floats, Floats]
    """Rows and columns of the nodes, px."""
    cell: Floats
    """(48, 48) mean unit cell along the two vectors, in units of the image."""
    quality: float
    """Power of the weaker of the two main Fourier peaks over the noise; above 12 or no lattice."""
    shape: tuple[int, int]
    """Shape of the frame."""

    def displacement_at(self, points: Floats) -> Floats:
        """Return the displacement u (n, 2) in px at points (n, 2)."""
        place = self._place(points)
        parts = [map_coordinates(u, place, order=1, mode="nearest") for u in self.displacement]
        return np.stack(parts, axis=1)

    def coherence_at(self, points: Floats) -> Floats:
        """Return the local strength (n,) of the lattice at points (n, 2)."""
        values: Floats = map_coordinates(
            self.coherence, self._place(points), order=1, mode="nearest"
        )
        return values

    def indices(self, points: Floats) -> Floats:
        """Return the place (n, 2) of points (n, 2) in units of the vectors."""
        points = np.asarray(points, dtype=float)
        place: Floats = (points - self.displacement_at(points)) @ np.linalg.inv(self.vectors)
        return place

    def sites(self, margin_px: float = 0.0) -> pd.DataFrame:
        """Return every site of the frame.

        Parameters
        ----------
        margin_px
            How far beyond the frame sites are wanted.

        Returns
        -------
        pandas.DataFrame
            ``y, x`` (px), ``h, k`` (cell), ``sublattice``, ``intensity`` (1: tallest column of
            the motif), ``coherence``; in raster order of the cells.
        """
        height, width = self.shape
        corners = np.array([[0, 0], [0, width], [height, 0], [height, width]], dtype=float)
        place = self.indices(corners)
        spare = 3 + margin_px / np.hypot(*self.vectors.T).min()
        low, high = np.floor(place.min(0) - spare), np.ceil(place.max(0) + spare)
        h, k = (a.ravel() for a in np.mgrid[low[0] : high[0] + 1, low[1] : high[1] + 1])
        tables = []
        for number, (at, tall) in enumerate(zip(self.motif, self.intensity, strict=True)):
            regular = (np.stack([h, k], axis=1) + at) @ self.vectors
            r = regular
            for _ in range(8):  # u is slow: the fixed point is reached quickly
                r = regular + self.displacement_at(r)
            tables.append(
                pd.DataFrame({"y": r[:, 0], "x": r[:, 1], "h": h.astype(int), "k": k.astype(int)})
                .assign(sublattice=number, intensity=tall, coherence=self.coherence_at(r))
            )  # fmt: skip
        sites = pd.concat(tables, ignore_index=True)
        inside = sites["y"].between(-margin_px, height - 1 + margin_px)
        inside &= sites["x"].between(-margin_px, width - 1 + margin_px)
        kept = sites[inside].sort_values(["h", "k", "sublattice"], kind="stable")
        return kept.reset_index(drop=True)

    def _place(self, points: Floats) -> list[Floats]:
        """Points in units of the node grid."""
        y, x = np.asarray(points, dtype=float).T
        return [
            (at - axis[0]) / (axis[1] - axis[0])
            for at, axis in zip((y, x), self.nodes, strict=True)
        ]


def find_lattice(
    image: NDArray[Any], *, width_px: float = 2.0, valid: NDArray[np.bool_] | None = None
) -> Lattice | None:
    """Find the lattice of a frame whose columns are bright.

    Parameters
    ----------
    image
        Frame ``(y, x)``; turn dark columns over first.
    width_px
        Width (Gaussian standard deviation) of a column.
    valid
        Pixels to use; default: the finite ones.

    Returns
    -------
    Lattice or None
        None when the spectrum shows no two-dimensional lattice: amorphous films, single atoms,
        noise.

    Examples
    --------
    >>> y, x = np.mgrid[:96, :96]
    >>> image = (1 + np.cos(2 * np.pi * y / 12)) * (1 + np.cos(2 * np.pi * x / 12))
    >>> image += np.random.default_rng(0).normal(size=image.shape)
    >>> lattice = find_lattice(image)
    >>> np.hypot(*lattice.vectors.T).round(1).tolist(), len(lattice.motif)
    ([12.0, 12.0], 1)
    """
    blur = 0.5 * width_px
    if min(np.shape(image)) < 16:
        return None
    flat = flattened(image, valid, blur)
    peaks = fourier_peaks(flat, blur)
    found = reciprocal_basis(peaks, min(flat.shape))
    if found is None:
        return None
    basis, quality = found
    vectors = _oriented(reduced(_dual(basis)))
    waves = _Waves(flat, vectors, _dual(vectors), PASSED / width_px)
    displacement, strength = waves.follow()
    factor = waves.factors(displacement)
    displacement, strength = waves.refine(displacement, factor, strength)
    factor = waves.factors(displacement)
    cell = waves.cell(factor, SHARPEN * width_px)
    motif, height = _columns(cell, vectors)
    best = np.median(strength[strength >= np.median(strength)])
    lattice = Lattice(
        vectors=vectors,
        motif=motif,
        intensity=height,
        displacement=displacement,
        coherence=strength / max(float(best), 1e-300),
        nodes=waves.nodes,
        cell=cell,
        quality=quality,
        shape=(flat.shape[0], flat.shape[1]),
    )
    return _in_order(lattice)


def _dual(vectors: Floats) -> Floats:
    """Vectors of the reciprocal lattice, as rows."""
    return np.asarray(np.linalg.inv(vectors).T, dtype=np.float64)


def _oriented(vectors: Floats) -> Floats:
    """Make the choice of vectors the same in like frames: acute, first one most upright."""
    a, b = vectors
    a, b = (v if (v[1], v[0]) > (0, 0) else -v for v in (a, b))
    if a @ b < 0 and abs(a @ b) > 1e-9:
        b = -b
    return np.stack([a, b])


class _Waves:
    """Local phases of the waves of a lattice in one image."""

    def __init__(self, flat: Floats, vectors: Floats, basis: Floats, most: float) -> None:
        self.flat, self.basis = flat, basis
        self.sigma = max(WINDOW * float(np.hypot(*vectors.T).max()), min(flat.shape) / MOST_NODES)
        self.nodes = (self._spread(flat.shape[0]), self._spread(flat.shape[1]))
        steps = np.arange(-ORDERS, ORDERS + 1)
        index = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
        length = np.hypot(*(index @ basis).T)
        half = (index[:, 0] > 0) | ((index[:, 0] == 0) & (index[:, 1] > 0))
        least = np.sort(length[half])[LEAST_WAVES - 1]
        self.index = index[half & (length < max(min(0.5, most), least + 1e-9))]
        self.waves = self.index @ basis  # (w, 2)
        self.windows = tuple(  # (gy, y), (gx, x); normalised so that the edge counts less
            np.exp(-((np.arange(n) - node[:, None]) ** 2) / (2 * self.sigma**2))
            for n, node in zip(flat.shape, self.nodes, strict=True)
        )
        self.local = np.stack([self._demodulated(g) for g in self.waves])  # (w, gy, gx)
        shifted = np.stack(
            [self._demodulated(g) for g in (self.index[:12] + 0.5) @ basis]
        )  # between the peaks there is only noise
        self.noise = float(np.sqrt(np.median(np.abs(shifted) ** 2) / np.log(2)))

    def _spread(self, size: int) -> Floats:
        """Nodes along a side of the frame, at most one window width apart."""
        nodes: Floats = np.linspace(0, size - 1, max(2, int(np.ceil((size - 1) / self.sigma)) + 1))
        return nodes

    def _demodulated(self, g: Floats) -> NDArray[np.complex128]:
        """Wave g of the image around each node (gy, gx)."""
        wy, wx = (
            window * np.exp(-2j * np.pi * f * np.arange(window.shape[1]))
            for window, f in zip(self.windows, g, strict=True)
        )
        local: NDArray[np.complex128] = wy @ self.flat @ wx.T
        return local

    def follow(self) -> tuple[Floats, Floats]:
        """Displacement (2, gy, gx) from the strongest waves, grown from the best node."""
        power = np.median(np.abs(self.local), axis=(1, 2))
        main = _main_waves(self.index, power)
        strength = np.sqrt((np.abs(self.local[main]) ** 2).sum(0))
        seed = np.unravel_index(int(np.argmax(gaussian_filter(strength, 1.0))), strength.shape)
        factor = self.local[main][:, seed[0], seed[1]]
        u = np.full((2, *strength.shape), np.nan)
        u[:, seed[0], seed[1]] = 0.0
        edge = [(-strength[seed], int(seed[0]), int(seed[1]))]
        while edge:  # always on from the strongest node that touches a known one
            _, i, j = heappop(edge)
            for at in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = min(at) >= 0 and at[0] < strength.shape[0] and at[1] < strength.shape[1]
                if inside and np.isnan(u[0, at[0], at[1]]):
                    here = self.local[main, at[0], at[1]][:, None]
                    start = _around(u, at)[:, None]
                    found = _solve_phase(here, factor, self.waves[main], start)
                    u[:, at[0], at[1]] = found[:, 0]
                    heappush(edge, (-strength[at], *at))
        return u, strength

    def factors(self, u: Floats) -> NDArray[np.complex128]:
        """Structure factors (w,) with the displacement taken out."""
        turn = np.exp(2j * np.pi * np.einsum("wc,cyx->wyx", self.waves, u))
        mean: NDArray[np.complex128] = (self.local * turn).mean(axis=(1, 2))
        return mean

    def refine(
        self, u: Floats, factor: NDArray[np.complex128], strength: Floats
    ) -> tuple[Floats, Floats]:
        """Displacement from all waves that carry signal, smoothed where they are weak."""
        scale = np.abs(factor)
        kept = scale > max(3 * self.noise / np.sqrt(strength.size), 0.1 * scale.max())
        waves, f = self.waves[kept], factor[kept]
        local = self.local[kept].reshape(len(f), -1)  # (w, nodes)
        better = _solve_phase(local, f, waves, u.reshape(2, -1)).reshape(u.shape)
        turn = np.exp(2j * np.pi * np.einsum("wc,cyx->wyx", waves, better))
        agree = np.real(self.local[kept] * turn * (f.conj() / np.abs(f))[:, None, None]).sum(0)
        agree = np.maximum(agree, 0) / self._seen()
        weight = agree**2 * self._seen() + 1e-12 * agree.max() ** 2
        share = gaussian_filter(weight, 0.6, mode="constant")
        smooth = np.stack([gaussian_filter(c * weight, 0.6, mode="constant") for c in better])
        return smooth / share, agree

    def _seen(self) -> Floats:
        """Share of each node's window that lies in the frame (gy, gx)."""
        sides = [w.sum(1) / w.sum(1).max() for w in self.windows]
        return np.outer(*sides)

    def cell(self, factor: NDArray[np.complex128], sharpen_px: float) -> Floats:
        """Mean unit cell (GRID, GRID) from the structure factors that stand out."""
        count = np.sqrt(self.local[0].size)
        kept = np.abs(factor) > 2.5 * self.noise / count
        f = np.arange(GRID) / GRID
        phase = self.index[kept, 0, None, None] * f[:, None] + self.index[kept, 1, None, None] * f
        gain = np.exp(2 * (np.pi * sharpen_px) ** 2 * (self.waves[kept] ** 2).sum(1))
        gain = np.minimum(gain, MOST_GAIN)  # Wiener: no more than the noise allows
        gain /= 1 + (gain * 2.5 * self.noise / count / np.abs(factor[kept])) ** 2
        waves = (gain * factor[kept])[:, None, None] * np.exp(2j * np.pi * phase)
        area = 2 * np.pi * self.sigma**2 * float(self._seen().mean())
        cell: Floats = 2 * np.real(waves).sum(0) / area
        return cell


def _main_waves(index: NDArray[np.int64], power: Floats) -> NDArray[np.int64]:
    """Up to six strong waves, not all in one line."""
    order = np.argsort(-power, kind="stable")
    main = list(order[:6][power[order[:6]] > 0.35 * power[order[0]]])
    first = index[order[0]]
    across = [w for w in order if first[0] * index[w][1] != first[1] * index[w][0]]
    if across[0] not in main:
        main.append(across[0])
    return np.array(main)


def _around(u: Floats, at: tuple[int, int]) -> Floats:
    """Mean displacement of the known neighbours of a node."""
    i, j = at
    block = u[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].reshape(2, -1)
    mean: Floats = block[:, np.isfinite(block[0])].mean(1)
    return mean


def _solve_phase(
    here: NDArray[np.complex128], factor: NDArray[np.complex128], waves: Floats, start: Floats
) -> Floats:
    """Displacement (2, m) of m nodes that brings the phases (w, m) to those of the mean (w,)."""
    weight = np.abs(here) * np.abs(factor)[:, None]  # (w, m)
    pull = 2 * np.pi * waves  # (w, 2)
    matrix = np.einsum("wa,wm,wb->mab", pull, weight, pull)
    matrix += 1e-6 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(2)
    u = start.copy()
    for _ in range(4):
        lag = np.angle(here * factor.conj()[:, None] * np.exp(1j * pull @ u))
        step = np.einsum("wa,wm->ma", pull, weight * lag)
        u = u - np.linalg.solve(matrix, step[..., None])[..., 0].T
    return u


def _columns(cell: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Motif: maxima of the mean cell (k, 2) as fractions, and their heights (k,)."""
    top = cell == maximum_filter(cell, 3, mode="wrap")
    low, high = cell.min(), cell.max()
    i, j = np.nonzero(top & (cell - low > LEAST_COLUMN * (high - low)))
    offsets = []
    for dy, dx in ((1, 0), (0, 1)):
        before, after = (
            cell[(i - dy) % GRID, (j - dx) % GRID],
            cell[(i + dy) % GRID, (j + dx) % GRID],
        )
        bend = np.minimum(before - 2 * cell[i, j] + after, -1e-12)
        offsets.append(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))
    place = (np.stack([i, j], axis=1) + np.stack(offsets, axis=1)) / GRID
    height = (cell[i, j] - low) / (high - low)
    order = np.argsort(-height, kind="stable")
    return place[order], height[order]


def _in_order(lattice: Lattice) -> Lattice:
    """Sort like columns of the motif by where their neighbours are, not by noise.

    The two carbons of graphene are as bright as each other; one has a neighbour further up.
    """
    sites = lattice.motif
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    up = []
    for at in sites:
        away = ((sites - at)[:, None] + steps).reshape(-1, 2) @ lattice.vectors
        length = np.hypot(*away.T)
        near = away[(length > 1e-6) & (length < 1.3 * length[length > 1e-6].min())]
        up.append((-near[:, 0] + 0.1 * near[:, 1]).max())
    level = np.cumsum(np.diff(-lattice.intensity, prepend=-lattice.intensity[0]) > 0.15)
    order = np.lexsort((-np.array(up), level))
    return replace(lattice, motif=sites[order], intensity=lattice.intensity[order])
