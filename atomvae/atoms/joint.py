"""Overlapping columns fitted together: one width, a smooth background, all positions at once.

When columns overlap, the fit of one window trades its amplitude against those of its neighbours
and its error bars come out too small. Here the maximum of the likelihood of all columns of a tile
is found at once, so the errors are those of the joint Fisher matrix.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from atomvae.atoms.table import Flag
from atomvae.errors import InputError

Noise = Literal["poisson", "gaussian"]
Floats = NDArray[np.float64]

SUPPORT = 3.2  # of the width: where a column is taken to end
MARGIN = 4.5  # of the width: how far a tile looks beyond its own atoms
REACH = 1.2  # of the width: how far an atom may move from its start
WIDTH_SD = 0.2  # relative prior of the width, loose: a tile holds some hundred columns
TOLERANCE = 2e-2  # of the deviance: every parameter within a tenth or so of its error
MAX_STEPS = 40


@dataclass
class _Tile:
    """Pixels and atoms of one fit. Windows are index lists into the flattened pixels."""

    data: Floats  # (p,)
    weight: Floats  # (p,) 0 where not valid
    window: NDArray[np.int32]  # (n, k)
    index: NDArray[np.int32]  # (3 n k,) columns of the sparse Jacobian: the windows three times
    ends: NDArray[np.int32]  # (3 n + 1,) its rows
    dy: Floats  # (n, k) pixel row minus start row
    dx: Floats  # (n, k)
    tether: Floats  # (n,) 1 / variance of the prior about the start; 0 is free
    fixed: Floats  # (p,) light of the columns that are not fitted here
    nodes: Floats  # (p, b) bilinear weights of the background
    width: float
    noise: Noise


@dataclass
class _State:
    """Parameters of a tile. ``shift`` is relative to the start."""

    shift: Floats  # (n, 2)
    amplitude: Floats  # (n,)
    width: float
    background: Floats  # (b,)


def fit_joint(
    counts: NDArray[Any],
    start: pd.DataFrame,
    width_px: float,
    *,
    noise: Noise = "poisson",
    valid: NDArray[np.bool_] | None = None,
    background_px: float | None = None,
    tile_atoms: int = 200,
) -> pd.DataFrame:
    """Fit all columns of a frame together by sparse Fisher scoring.

    Every column is a Gaussian with its own ``y, x, amplitude``; the width and a bilinear
    background are shared within a tile. A step is taken only if the deviance does not rise.

    Parameters
    ----------
    counts
        Frame ``(y, x)``; expected electrons for ``noise="poisson"``, any unit for ``"gaussian"``.
        Columns must be bright: turn a dark field of columns over first.
    start
        One row per column: ``y, x`` (px), ``amplitude``. With a column ``tether_px`` each position
        has a Gaussian prior of that standard deviation about its start (infinity: none). A column
        may start up to 3 widths outside the frame, whose light still shines in.
    width_px
        Expected width (Gaussian standard deviation) of a column.
    noise
        ``"poisson"``, or ``"gaussian"`` with one variance, taken from the residual.
    valid
        Pixels to use, ``(y, x)``; default: the finite ones.
    background_px
        Distance between the nodes of the background; default 12 widths.
    tile_atoms
        Largest number of atoms fitted in one go; neighbours beyond are added as a margin.

    Returns
    -------
    pandas.DataFrame
        One row per row of `start`: ``y, x, y_sd, x_sd`` (px), ``amplitude, amplitude_sd``,
        ``sigma`` (px), ``background``, ``score``, ``chi2`` (of the window), ``flag`` (see `Flag`).

    Raises
    ------
    InputError
        If the frame is not two-dimensional, the width is not positive or a start lies far outside.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40]
    >>> spots = [(18.2, 15.0), (18.2, 24.5)]
    >>> frame = 5 + sum(50 * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in spots)
    >>> start = pd.DataFrame({"y": [18.0, 19.0], "x": [16.0, 24.0], "amplitude": [40.0, 40.0]})
    >>> fit = fit_joint(frame, start, 3.3)
    >>> fit["x"].round(2).tolist(), fit["amplitude"].round(0).tolist()
    ([15.0, 24.5], [50.0, 50.0])
    """
    image, usable = _check(counts, start, width_px, valid)
    position = start[["y", "x"]].to_numpy(float)
    # A column table of nothing has an answer too.
    parts = [_empty(0)]
    for core in _split(np.arange(len(start)), position, tile_atoms):
        box = _box(position[core], MARGIN * width_px, image.shape)
        tile, members = _cut(image, usable, start, box, width_px, (noise, background_px))
        state, converged = _solve(tile, start["amplitude"].to_numpy(float)[members])
        rows = _describe(tile, state, position[members], converged, image.shape)
        parts.append(rows.set_index(members).loc[core])
    return pd.concat(parts[1:] or parts).sort_index().reset_index(drop=True)


def _check(
    counts: NDArray[Any], start: pd.DataFrame, width_px: float, valid: NDArray[np.bool_] | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Frame as floats with its usable pixels; refuses what cannot be fitted."""
    image = np.asarray(counts, dtype=float)
    if image.ndim != 2:
        raise InputError(f"the frame is {image.ndim}-D, expected (y, x); pass one frame at a time")
    if not width_px > 0:
        raise InputError(f"width_px is {width_px}, expected a positive width in pixels")
    position = start[["y", "x"]].to_numpy(float)
    beyond = np.maximum(-position, position - np.array(image.shape) + 1)
    if not (beyond <= SUPPORT * width_px).all():
        raise InputError("a start position lies far outside the frame; drop it before the fit")
    usable = np.isfinite(image) if valid is None else np.isfinite(image) & valid
    return np.where(usable, image, 0.0), usable


def _empty(n: int) -> pd.DataFrame:
    """Make a result table of n rows, not filled."""
    names = ["y", "x", "y_sd", "x_sd", "amplitude", "amplitude_sd", "sigma", "background"]
    table = pd.DataFrame({k: np.full(n, np.nan) for k in [*names, "score", "chi2"]})
    return table.assign(flag=np.zeros(n, dtype=np.int64))


def _split(rows: NDArray[np.int64], position: Floats, most: int) -> list[NDArray[np.int64]]:
    """Rows halved along the longer side until each group is small enough."""
    if len(rows) == 0:
        return []
    if len(rows) <= most:
        return [rows]
    axis = int(np.argmax(np.ptp(position[rows], axis=0)))
    order = rows[np.argsort(position[rows, axis], kind="stable")]
    half = len(rows) // 2
    return _split(order[:half], position, most) + _split(order[half:], position, most)


def _box(position: Floats, margin: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Pixel box ``[[y0, y1], [x0, x1]]`` around positions, clipped to the frame."""
    low = np.maximum(np.floor(position.min(0) - margin), 0)
    high = np.minimum(np.ceil(position.max(0) + margin) + 1, shape)
    return np.stack([low, high], axis=1).astype(np.int64)


def _cut(
    image: Floats,
    usable: NDArray[np.bool_],
    start: pd.DataFrame,
    box: NDArray[np.int64],
    width: float,
    how: tuple[Noise, float | None],
) -> tuple[_Tile, NDArray[np.int64]]:
    """Tile of a box and the rows of `start` that are free in it.

    The box gets a frame of weight 0, wide enough for the window of every column in it.
    """
    pad = int(np.ceil(SUPPORT * width)) * 2 + 2
    shape = (int(np.ptp(box[0])) + 2 * pad, int(np.ptp(box[1])) + 2 * pad)
    cut = (slice(*box[0].tolist()), slice(*box[1].tolist()))
    position = start[["y", "x"]].to_numpy(float) - (box[:, 0] - pad)
    beyond = np.maximum(pad - position, position - np.array(shape) + pad + 1).max(1)
    # Where the box ends with the frame, columns just outside still shine in.
    out = _outside(start, image.shape)
    free = beyond <= np.where(out, SUPPORT * width, 0.5)
    near = (beyond <= SUPPORT * width) & ~free
    amplitude = start["amplitude"].to_numpy(float)
    window, dy, dx = _windows(position[near], width, shape[1])
    light = amplitude[near, None] * np.exp(-(dy**2 + dx**2) / (2 * width**2))
    fixed = np.bincount(window.ravel(), light.ravel(), minlength=shape[0] * shape[1])
    window, dy, dx = _windows(position[free], width, shape[1])
    # Half seen, columns outside the frame would wander.
    tether = np.where(out[free], (0.3 * width) ** -2, 0.0)
    if "tether_px" in start:
        tether = np.maximum(tether, 1 / start["tether_px"].to_numpy(float)[free] ** 2)
    tile = _Tile(
        data=np.pad(image[cut], pad).ravel(),
        weight=np.pad(usable[cut].astype(float), pad).ravel(),
        window=window,
        ends=np.arange(0, 3 * window.size + 1, window.shape[1], dtype=np.int32),
        index=np.tile(window, (3, 1)).ravel(),
        dy=dy,
        dx=dx,
        tether=tether,
        fixed=fixed.astype(float),
        nodes=_nodes(box, pad, how[1] or 12 * width),
        width=width,
        noise=how[0],
    )
    return tile, np.flatnonzero(free)


def _outside(start: pd.DataFrame, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which starts lie outside the frame."""
    y, x = start["y"].to_numpy(float), start["x"].to_numpy(float)
    return (y < -0.5) | (x < -0.5) | (y > shape[0] - 0.5) | (x > shape[1] - 0.5)


def _windows(
    position: Floats, width: float, columns: int
) -> tuple[NDArray[np.int32], Floats, Floats]:
    """Discs of pixels around positions: flat index, offsets from the position."""
    h = int(np.ceil(SUPPORT * width))
    oy, ox = (o.ravel() for o in np.mgrid[-h : h + 1, -h : h + 1])
    disc = oy**2 + ox**2 <= (SUPPORT * width + 0.5) ** 2
    anchor = np.rint(position).astype(np.int32)
    yy = anchor[:, :1] + oy[disc]  # (n, k)
    xx = anchor[:, 1:] + ox[disc]
    return (yy * columns + xx).astype(np.int32), yy - position[:, :1], xx - position[:, 1:]


def _nodes(box: NDArray[np.int64], pad: int, spacing: float) -> Floats:
    """Bilinear weights ``(p, b)`` of background nodes at most about `spacing` apart in the box."""
    axes = []
    for size in np.ptp(box, axis=1).tolist():
        n = max(1, round(size / spacing)) + 1 if size > 1.5 * spacing else 1
        place = np.clip(np.arange(-pad, size + pad) / max(size - 1, 1), 0, 1) * (n - 1)
        axes.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n))))  # (size, n)
    grid = np.einsum("yi,xj->yxij", *axes)
    nodes: Floats = grid.reshape(grid.shape[0] * grid.shape[1], -1)
    return nodes


def _model(tile: _Tile, state: _State) -> tuple[Floats, Floats, Floats, Floats]:
    """Compute expected value ``(p,)``, unit columns ``(n, k)``, offsets ``(n, k)`` from centres."""
    dy = tile.dy - state.shift[:, :1]
    dx = tile.dx - state.shift[:, 1:]
    unit = np.exp(-(dy**2 + dx**2) / (2 * state.width**2))
    light = state.amplitude[:, None] * unit
    columns = np.bincount(tile.window.ravel(), light.ravel(), minlength=len(tile.data))
    mu = tile.fixed + columns + tile.nodes @ state.background
    if tile.noise == "poisson":
        mu = np.maximum(mu, 0.02 * float(np.median(state.amplitude, keepdims=True)[0]) + 0.01)
    return mu, unit, dy, dx


def _deviance(tile: _Tile, state: _State, mu: Floats, variance: float) -> float:
    """Twice the negative log likelihood plus priors, up to a constant.

    Written so that slightly negative counts, left by a detector offset, are allowed.
    """
    if tile.noise == "poisson":
        misfit = 2 * (tile.weight * (mu - tile.data * np.log(mu))).sum()
    else:
        misfit = (tile.weight * (tile.data - mu) ** 2).sum() / variance
    prior = (tile.tether[:, None] * state.shift**2).sum()
    return float(misfit + prior + ((state.width / tile.width - 1) / WIDTH_SD) ** 2)


def _fisher(tile: _Tile, state: _State, variance: float) -> tuple[Floats, Floats]:
    """Fisher matrix and gradient; order: all y, all x, all amplitudes, width, background."""
    mu, unit, dy, dx = _model(tile, state)
    n = len(unit)
    weight = tile.weight / (mu if tile.noise == "poisson" else variance)
    light = state.amplitude[:, None] * unit / state.width**2
    slopes = np.concatenate([light * dy, light * dx, unit])  # (3n, k)
    shape = (3 * n, len(mu))
    jacobian = csr_matrix((slopes.ravel(), tile.index, tile.ends), shape)
    slopes = slopes.reshape(3, n, -1) * weight[tile.window]
    weighted = csr_matrix((slopes.ravel(), tile.index, tile.ends), shape)
    widen = light * (dy**2 + dx**2) / state.width
    wide = np.bincount(tile.window.ravel(), widen.ravel(), minlength=len(mu))
    shared = np.column_stack([wide, tile.nodes])  # (p, 1 + b)
    cross = weighted @ shared
    matrix = np.block(
        [
            [(weighted @ jacobian.T).toarray(), cross],
            [cross.T, shared.T @ (weight[:, None] * shared)],
        ]
    )
    residual = tile.data - mu
    gradient = np.concatenate([weighted @ residual, shared.T @ (weight * residual)])
    pull = np.arange(2 * n)
    matrix[pull, pull] += np.tile(tile.tether, 2)
    gradient[: 2 * n] -= np.tile(tile.tether, 2) * state.shift.T.ravel()
    matrix[3 * n, 3 * n] += 1 / (WIDTH_SD * tile.width) ** 2
    gradient[3 * n] += (tile.width - state.width) / (WIDTH_SD * tile.width) ** 2
    return matrix, gradient


def _moved(tile: _Tile, state: _State, step: Floats) -> _State:
    """State after a step, kept within bounds."""
    n = len(state.amplitude)
    most = 0.5 * state.width
    shift = state.shift + np.clip(step[: 2 * n].reshape(2, n).T, -most, most)
    length = np.hypot(*shift.T)[:, None]
    shift *= np.minimum(1, REACH * tile.width / np.maximum(length, 1e-12))
    floor = 1e-3 * np.median(state.amplitude) if n else 0.0
    return _State(
        shift=shift,
        amplitude=np.maximum(state.amplitude + step[2 * n : 3 * n], floor),
        width=float(np.clip(state.width + step[3 * n], 0.6 * tile.width, 1.6 * tile.width)),
        background=state.background + step[3 * n + 1 :],
    )


def _solve(tile: _Tile, amplitude: Floats) -> tuple[_State, bool]:
    """Damped Fisher scoring; returns the state and whether it converged."""
    level = float(np.percentile(tile.data[tile.weight > 0], 20)) if tile.weight.any() else 0.0
    floor = 1e-6 + 0.05 * float(np.median(np.abs(amplitude)))
    state = _State(
        shift=np.zeros((len(amplitude), 2)),
        amplitude=np.maximum(amplitude, floor),
        width=tile.width,
        background=np.full(tile.nodes.shape[1], level),
    )
    damping = 1e-2
    variance = _variance(tile, state)
    best = _deviance(tile, state, _model(tile, state)[0], variance)
    matrix, gradient = _fisher(tile, state, variance)
    for _ in range(MAX_STEPS):
        damped = matrix.copy()
        diagonal = np.diagonal(matrix)
        damped[np.diag_indices_from(damped)] += damping * diagonal + 1e-9 * diagonal.max()
        step = cho_solve(cho_factor(damped, check_finite=False), gradient, check_finite=False)
        trial = _moved(tile, state, step)
        value = _deviance(tile, trial, _model(tile, trial)[0], variance)
        if not value <= best:
            damping *= 10
            if damping > 1e6:  # no step helps: as low as rounding and bounds let it go
                return state, bool(gradient @ step < TOLERANCE)
            continue
        gain, state, damping = best - value, trial, max(damping / 5, 1e-6)
        if gain < TOLERANCE and damping <= 1e-2:
            return state, True
        variance = _variance(tile, state)
        best = _deviance(tile, state, _model(tile, state)[0], variance)
        matrix, gradient = _fisher(tile, state, variance)
    return state, False


def _variance(tile: _Tile, state: _State) -> float:
    """Noise variance of one pixel for the Gaussian model; 1 for Poisson."""
    if tile.noise == "poisson":
        return 1.0
    rest = (tile.weight * (tile.data - _model(tile, state)[0]) ** 2).sum()
    return float(rest / max(tile.weight.sum() - 3 * len(state.amplitude), 1)) + 1e-12


def _describe(
    tile: _Tile, state: _State, position: Floats, converged: bool, shape: tuple[int, ...]
) -> pd.DataFrame:
    """Tabulate the fit with the errors of the joint, undamped Fisher matrix."""
    n = len(position)
    variance = _variance(tile, state)
    matrix, _ = _fisher(tile, state, variance)
    matrix[np.diag_indices_from(matrix)] += 1e-9 * np.diagonal(matrix).max()
    inverse = cho_solve(cho_factor(matrix), np.eye(len(matrix)))
    sd = np.sqrt(np.maximum(np.diagonal(inverse), 0))
    mu, _, _, _ = _model(tile, state)
    square = tile.weight * (tile.data - mu) ** 2 / (mu if tile.noise == "poisson" else variance)
    used = tile.weight[tile.window].sum(1)
    chi2 = square[tile.window].sum(1) / np.maximum(used - 3, 1)
    rows = _empty(n)
    rows["y"], rows["x"] = (position + state.shift).T
    rows["y_sd"], rows["x_sd"], rows["amplitude_sd"] = sd[: 3 * n].reshape(3, n)
    rows["amplitude"], rows["sigma"] = state.amplitude, state.width
    spot = np.argmin(tile.dy**2 + tile.dx**2, axis=1)
    centre = tile.window[np.arange(n), spot]
    rows["background"] = (tile.nodes @ state.background)[centre]
    rows["score"] = rows["amplitude"] / rows["amplitude_sd"]
    rows["chi2"] = chi2
    moved = np.hypot(*state.shift.T)
    edge = np.minimum(position, np.array(shape) - 1 - position).min(axis=1, initial=np.inf)
    flags = {
        Flag.NOT_CONVERGED: np.full(n, not converged),
        Flag.AT_BOUND: (moved > 0.99 * REACH * tile.width) | (rows["amplitude"] <= 0),
        Flag.BORDER: (edge < 2 * tile.width) | (used < 0.9 * used.max(initial=1)),
        Flag.FAINT: rows["score"] < 3,
        Flag.MISFIT: (chi2 < 0.5) | (chi2 > 2),
    }
    rows["flag"] = sum(int(bit) * np.asarray(on, dtype=np.int64) for bit, on in flags.items())
    return rows
