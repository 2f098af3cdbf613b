"""Batched maximum likelihood fit of Gaussian columns, a window of pixels each.

Model of pixel k in a window: mu_k = b + A exp(-r_k^2 / (2 s^2)) + N_k, with N_k the fixed light
of the neighbours. Fisher scoring with damping; a step counts only where the deviance does not
rise. All columns advance together; those that have converged leave the batch.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

_STEPS = 30  # most converge in 4 to 7
_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-6, 1e6
_REACH_PX = 2.0  # a column stays within this distance of its start, per axis
_BLOCK = 256  # columns per batch: their Jacobian stays in the processor's cache
_LOW = 0.1  # of the pixels of a window: so many are taken as background
_NEIGHBOURS = 8


class WidthPrior(NamedTuple):
    """Normal prior of the width: mean and standard deviation, px."""

    mean: float
    sd: float


@dataclass(frozen=True)
class ColumnFit:
    """Result of `fit_columns`; arrays over the columns, in electrons and px."""

    theta: Floats  # (n, 5): y, x, amplitude, sigma, background
    covariance: Floats  # (n, 5, 5)
    chi2: Floats  # (n,) per degree of freedom
    converged: NDArray[np.bool_]  # (n,)
    at_bound: NDArray[np.bool_]  # (n,)
    cut: NDArray[np.bool_]  # (n,) window reaches beyond the valid pixels

    @property
    def sd(self) -> Floats:
        """Standard deviations of theta, (n, 5)."""
        diagonal = np.diagonal(self.covariance, axis1=1, axis2=2)
        return np.sqrt(np.where(diagonal > 0, diagonal, np.nan))


@dataclass(frozen=True)
class Windows:
    """The pixels of each column's window; discs around rounded centres."""

    centre: NDArray[np.intp]  # (n, 2)
    dy: Floats  # (K,)
    dx: Floats  # (K,)
    counts: Floats  # (n, K)
    weight: Floats  # (n, K): 0 outside the valid pixels

    def take(self, rows: NDArray[np.intp] | slice) -> "Windows":
        """Windows of some columns only."""
        return Windows(self.centre[rows], self.dy, self.dx, self.counts[rows], self.weight[rows])


def gather_windows(
    counts: Floats, valid: NDArray[np.bool_], y: Floats, x: Floats, half_px: int
) -> Windows:
    """Cut the disc of pixels around each position.

    Parameters
    ----------
    counts
        Image (y, x), electrons.
    valid
        bool (y, x).
    y, x
        Positions, px.
    half_px
        Radius of the disc, px.

    Returns
    -------
    Windows
        Pixels outside the frame have weight zero.

    Examples
    --------
    >>> image = np.arange(25.0).reshape(5, 5)
    >>> windows = gather_windows(image, image > -1, np.array([0.2]), np.array([1.9]), 1)
    >>> windows.counts.tolist(), windows.weight.tolist()
    ([[2.0, 1.0, 2.0, 3.0, 7.0]], [[0.0, 1.0, 1.0, 1.0, 1.0]])
    """
    span = np.arange(-half_px, half_px + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(span, span, indexing="ij"))
    disc = np.hypot(dy, dx) <= half_px
    dy, dx = dy[disc], dx[disc]
    height, width = counts.shape
    centre = np.rint(np.stack([y, x], axis=1)).astype(np.intp)  # (n, 2)
    rows, columns = centre[:, :1] + dy, centre[:, 1:] + dx  # (n, K)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    weight = (inside & valid[rows, columns]).astype(np.float64)
    return Windows(centre, dy.astype(float), dx.astype(float), counts[rows, columns], weight)


def start_values(windows: Windows, y: Floats, x: Floats, width_px: float, sign: int) -> Floats:
    """First guess of theta: background a low percentile of the window, amplitude what rises above.

    Parameters
    ----------
    windows
        Of the n columns.
    y, x
        Positions, px.
    width_px
        Expected width, px.
    sign
        1 for bright columns, -1 for dark ones.

    Returns
    -------
    numpy.ndarray
        (n, 5) y, x, amplitude, sigma, background.

    Examples
    --------
    >>> image = np.full((9, 9), 2.0); image[4, 4] = 12.0
    >>> at = np.array([4.0])
    >>> windows = gather_windows(image, image > 0, at, at, 2)
    >>> start_values(windows, at, at, 1.0, 1).tolist()
    [[4.0, 4.0, 10.0, 1.0, 2.0]]
    """
    seen = np.where(windows.weight > 0, sign * windows.counts, np.inf)
    seen[np.isinf(seen).all(axis=1)] = 0.0
    seen.sort(axis=1)  # pixels that are not used come last
    last = np.isfinite(seen).sum(axis=1) - 1
    rows = np.arange(len(seen))
    background = seen[rows, np.rint(_LOW * last).astype(int)]
    amplitude = np.maximum(seen[rows, last] - background, 1e-9)
    width = np.full(len(y), width_px)
    return np.stack([y, x, sign * amplitude, width, sign * background], axis=1)


def neighbour_light(theta: Floats, keep: NDArray[np.bool_], windows: Windows, half: int) -> Floats:
    """Light of the 8 nearest columns in each window.

    Parameters
    ----------
    theta
        (n, 5) current columns.
    keep
        (n,) which columns to trust: a missing neighbour is better than an invented one.
    windows
        Of the n columns.
    half
        Radius of the windows, px; neighbours within twice that and 6 px count.

    Returns
    -------
    numpy.ndarray
        (n, K).

    Examples
    --------
    >>> theta = np.array([[5.0, 5.0, 10.0, 1.0, 0.0], [5.0, 7.0, 4.0, 1.0, 0.0]])
    >>> image = np.zeros((11, 11))
    >>> windows = gather_windows(image, image == 0, theta[:, 0], theta[:, 1], 0)
    >>> neighbour_light(theta, np.array([True, True]), windows, 1).round(3).tolist()
    [[0.541], [1.353]]
    """
    light = np.zeros_like(windows.counts)
    trusted = np.flatnonzero(keep)
    if trusted.size == 0 or len(theta) < 2:
        return light
    count = min(_NEIGHBOURS + 1, trusted.size)
    distance, index = cKDTree(theta[trusted, :2]).query(
        theta[:, :2], k=[*range(1, count + 1)], distance_upper_bound=2 * half + 6
    )
    for near, column in zip(distance.T, index.T, strict=True):
        rows = np.flatnonzero(np.isfinite(near))
        other = trusted[column[rows]]
        rows, other = rows[other != rows], other[other != rows]
        y, x, amplitude, sigma, _ = theta[other].T[:, :, None]
        dy = windows.centre[rows, :1] + windows.dy - y
        dx = windows.centre[rows, 1:] + windows.dx - x
        light[rows] += amplitude * np.exp((dy**2 + dx**2) / (-2 * sigma**2))
    return light


def fit_columns(
    windows: Windows,
    start: Floats,
    noise: Literal["poisson", "gaussian"],
    light: Floats | None = None,
    prior: WidthPrior | None = None,
) -> ColumnFit:
    """Fit all columns by damped Fisher scoring.

    Parameters
    ----------
    windows
        Pixels of the n columns, in electrons (or in noise standard deviations).
    start
        (n, 5) first guess, see `start_values`; the sign of the amplitude is kept.
    noise
        Likelihood of a pixel: Poisson, or normal with variance 1.
    light
        (n, K) fixed light of the neighbours.
    prior
        Of the width; None leaves it free.

    Returns
    -------
    ColumnFit
        With the covariance from the inverse Fisher matrix at the solution, prior included.

    Examples
    --------
    >>> y, x = np.mgrid[:15, :15]
    >>> image = 3 + 50 * np.exp(-((y - 7.3) ** 2 + (x - 6.8) ** 2) / (2 * 1.8**2))
    >>> at = np.array([7.0])
    >>> windows = gather_windows(image, image > 0, at, at, 5)
    >>> fit = fit_columns(windows, start_values(windows, at, at, 2.0, 1), "poisson")
    >>> fit.theta.round(3).tolist(), fit.converged.tolist()
    ([[7.3, 6.8, 50.0, 1.8, 3.0]], [True])
    """
    light = np.zeros_like(windows.counts) if light is None else light
    width = float(np.median(start[:, 3])) if len(start) else 1.0
    limits = (0.45 * (prior.mean if prior else width), 2.3 * (prior.mean if prior else width))
    blocks = [
        _fit_block(_Batch(windows.take(part), light[part], noise, prior, limits), start[part])
        for part in (slice(i, i + _BLOCK) for i in range(0, max(len(start), 1), _BLOCK))
    ]
    return ColumnFit(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


@dataclass(frozen=True)
class _Batch:
    """What stays fixed while a block of columns is fitted."""

    windows: Windows
    light: Floats
    noise: Literal["poisson", "gaussian"]
    prior: WidthPrior | None
    limits: tuple[float, float]

    def take(self, rows: NDArray[np.intp]) -> "_Batch":
        return _Batch(
            self.windows.take(rows), self.light[rows], self.noise, self.prior, self.limits
        )


def _evaluate(batch: _Batch, theta: Floats) -> tuple[Floats, Floats, Floats]:
    """Cost (n,), Fisher matrix (n, 5, 5) and score (n, 5) at theta."""
    mu, jacobian, weight, cost = _model(batch, theta)
    weighted = jacobian * weight[:, None, :]  # (n, 5, K)
    fisher = weighted @ jacobian.transpose(0, 2, 1)  # (n, 5, 5)
    score = (weighted @ (batch.windows.counts - mu)[:, :, None])[:, :, 0]  # (n, 5)
    if batch.prior is not None:
        off = (batch.prior.mean - theta[:, 3]) / batch.prior.sd
        fisher[:, 3, 3] += 1 / batch.prior.sd**2
        score[:, 3] += off / batch.prior.sd
        cost = cost + off**2
    return cost, fisher, score


def _model(batch: _Batch, theta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return expected counts and weights (n, K), Jacobian (n, 5, K), deviance (n,) + constant."""
    windows = batch.windows
    y, x, amplitude, sigma, background = theta.T[:, :, None]
    dy = windows.dy + (windows.centre[:, :1] - y)  # (n, K)
    dx = windows.dx + (windows.centre[:, 1:] - x)
    r2 = dy * dy + dx * dx
    jacobian = np.empty((len(theta), 5, windows.dy.size))
    shape = np.exp(r2 * (-0.5 / sigma**2), out=jacobian[:, 2])
    bell = amplitude * shape
    mu = bell + background + batch.light
    bell /= sigma**2
    np.multiply(bell, dy, out=jacobian[:, 0])
    np.multiply(bell, dx, out=jacobian[:, 1])
    np.multiply(bell, r2 / sigma, out=jacobian[:, 3])
    jacobian[:, 4] = 1.0
    if batch.noise == "gaussian":
        weight = windows.weight
        cost = ((windows.counts - mu) ** 2 * weight).sum(axis=1)
    else:
        np.maximum(mu, 0.02 * np.abs(amplitude) + 0.01, out=mu)
        weight = windows.weight / mu
        cost = 2 * ((mu - windows.counts * np.log(mu)) * windows.weight).sum(axis=1)
    return mu, jacobian, weight, cost


def _bounded(batch: _Batch, start: Floats, theta: Floats) -> Floats:
    """Theta moved into its bounds."""
    bounded = theta.copy()
    bounded[:, :2] = np.clip(theta[:, :2], start[:, :2] - _REACH_PX, start[:, :2] + _REACH_PX)
    sign = np.sign(start[:, 2])
    bounded[:, 2] = sign * np.maximum(sign * theta[:, 2], 1e-6 * np.abs(start[:, 2]))
    bounded[:, 3] = np.clip(theta[:, 3], *batch.limits)
    if batch.noise == "poisson":
        bounded[:, 4] = np.maximum(theta[:, 4], 0.0)
    return bounded


def _fit_block(
    batch: _Batch, start: Floats
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Fit one block; returns the fields of `ColumnFit`."""
    theta = _bounded(batch, start, start)
    fisher = np.tile(np.eye(5), (len(start), 1, 1))
    converged = np.zeros(len(start), bool)
    rows = np.arange(len(start))
    part, here, first = batch, theta.copy(), start
    damping = np.full(len(start), _DAMPING)
    state = _evaluate(part, here)
    for _ in range(_STEPS):
        if not rows.size:
            break
        step = _step(state[1], state[2], damping)
        trial = _bounded(part, first, here + step)
        moved = np.abs(trial - here)
        proposed = _evaluate(part, trial)
        accepted = proposed[0] <= state[0] + 1e-9 * np.abs(state[0])
        here = np.where(accepted[:, None], trial, here)
        state = tuple(  # type: ignore[assignment]
            np.where(accepted.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
            for new, old in zip(proposed, state, strict=True)
        )
        small = (moved[:, :2] < 1e-3).all(axis=1) & (moved[:, 3] < 5e-3)
        done = small & (accepted | (damping <= _DAMPING))
        damping = np.clip(
            np.where(accepted, damping / 5, damping * 10), _LEAST_DAMPING, _MOST_DAMPING
        )
        theta[rows], fisher[rows], converged[rows] = here, state[1], done
        if done.any():
            left = np.flatnonzero(~done)
            rows, part, here, first = rows[left], part.take(left), here[left], first[left]
            damping = damping[left]
            state = tuple(field[left] for field in state)  # type: ignore[assignment]
    return (theta, _inverse(fisher), _chi2(batch, theta), converged, *_limits(batch, start, theta))


def _step(fisher: Floats, score: Floats, damping: Floats) -> Floats:
    """Damped Fisher scoring step, capped in position and width."""
    diagonal: Floats = np.diagonal(fisher, axis1=1, axis2=2)
    damped = fisher + np.eye(5) * (damping[:, None] * diagonal + 1e-12)[:, None, :]
    step: Floats = np.linalg.solve(damped, score[:, :, None])[:, :, 0].astype(np.float64)
    np.clip(step[:, :2], -0.7, 0.7, out=step[:, :2])
    np.clip(step[:, 3], -0.4, 0.4, out=step[:, 3])
    return step


def _inverse(fisher: Floats) -> Floats:
    """Covariances; a parameter that the pixels say nothing about gets a huge variance."""
    scale = np.sqrt(np.maximum(np.diagonal(fisher, axis1=1, axis2=2), 1e-12))
    correlation = fisher / (scale[:, :, None] * scale[:, None, :])
    inverse = np.linalg.inv(correlation + 1e-10 * np.eye(5))
    covariance: Floats = inverse / (scale[:, :, None] * scale[:, None, :])
    return covariance


def _chi2(batch: _Batch, theta: Floats) -> Floats:
    """Squared residual in units of its variance, per degree of freedom."""
    mu, _, weight, _ = _model(batch, theta)
    freedom = np.maximum((batch.windows.weight > 0).sum(axis=1) - 5, 1)
    chi2: Floats = ((batch.windows.counts - mu) ** 2 * weight).sum(axis=1) / freedom
    return chi2


def _limits(
    batch: _Batch, start: Floats, theta: Floats
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns stopped at a bound, and which windows are cut."""
    at_reach = (np.abs(theta[:, :2] - start[:, :2]) >= _REACH_PX - 1e-9).any(axis=1)
    at_width = (theta[:, 3] <= batch.limits[0]) | (theta[:, 3] >= batch.limits[1])
    gone = np.abs(theta[:, 2]) <= 2e-6 * np.abs(start[:, 2])
    return at_reach | at_width | gone, (batch.windows.weight == 0).any(axis=1)
