"""From possible shifts between frames to one path: dynamic programming, then least squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import linalg

Array = npt.NDArray[np.float64]

SUREST = 8.0  # no single kind of evidence may cost more: a landmark may hop
# A frame that jumps and returns is three changes of velocity, so together these cost about as much.
JUMP = SUREST / 3


@dataclass(frozen=True)
class Step:
    """Possible shifts from one frame to the next.

    Parameters
    ----------
    shift : ndarray, shape (n, 2)
        ``(dy, dx)``, n >= 1.
    cost : ndarray, shape (n,)
        Negative log likelihood, up to a constant.
    time : float
        Time between the frames, in units of the usual time.
    """

    shift: Array
    cost: Array
    time: float = 1.0


def choose_path(
    steps: Sequence[Step], spread: float, apart: float
) -> tuple[npt.NDArray[np.intp], Array]:
    """Choose one shift for each step, so that costs and changes of velocity are least.

    Parameters
    ----------
    steps : sequence of Step
        In the order of time.
    spread : float
        Usual change of the shift from step to step, px.
    apart : float
        Shifts that differ by more are different answers, px.

    Returns
    -------
    index : ndarray, shape (n,)
        The chosen shift of each step.
    margin : ndarray, shape (n,)
        By how much the best path with a different answer there costs more; inf without one.

    Examples
    --------
    >>> both = np.array([[0.0, 6.0], [0.0, -4.0]])  # a lattice of 10 px moves by 6 px
    >>> steps = [Step(both, np.array([0.0, 3.0])), Step(both, np.array([0.2, 0.0]))]
    >>> choose_path(steps, spread=2.0, apart=5.0)[0].tolist()
    [0, 0]
    """
    forward = [steps[0].cost]
    for before, step in pairwise(steps):
        forward.append(step.cost + (forward[-1][:, None] + _turn(before, step, spread)).min(axis=0))
    backward = [np.zeros(len(steps[-1].cost))]
    for step, after in zip(steps[-2::-1], steps[:0:-1], strict=True):
        onward = backward[0] + after.cost
        backward.insert(0, (_turn(step, after, spread) + onward).min(axis=1))
    totals = [f + b for f, b in zip(forward, backward, strict=True)]
    chosen = [int(np.argmin(forward[-1]))]
    for i in range(len(steps) - 2, -1, -1):
        turn = _turn(steps[i], steps[i + 1], spread)[:, chosen[0]]
        chosen.insert(0, int(np.argmin(forward[i] + turn)))
    margin = np.empty(len(steps))
    for i, (step, total, k) in enumerate(zip(steps, totals, chosen, strict=True)):
        other = np.hypot(*(step.shift - step.shift[k]).T) > apart
        margin[i] = (total[other].min() if other.any() else np.inf) - total[k]
    return np.array(chosen), margin


def _turn(before: Step, after: Step, spread: float) -> Array:
    """Cost of each change of velocity, (before, after)."""
    change = after.shift[None] / after.time - before.shift[:, None] / before.time
    cost: Array = np.minimum((change**2).sum(axis=-1) / (2 * spread**2), JUMP)
    return cost


def solve_positions(
    pairs: npt.NDArray[np.intp], shifts: Array, sds: Array, n_frames: int
) -> tuple[Array, Array]:
    """Positions of all frames from shifts between pairs of them, by robust least squares.

    Parameters
    ----------
    pairs : ndarray, shape (m, 2)
        Earlier and later frame; neighbours are all connected.
    shifts : ndarray, shape (m, 2)
        ``(dy, dx)`` from the earlier to the later, px.
    sds : ndarray, shape (m,)
        Expected error of each, px.
    n_frames : int
        Frame 0 stays at the origin.

    Returns
    -------
    position : ndarray, shape (n_frames, 2)
        Relative to frame 0, px.
    sd : ndarray, shape (n_frames,)
        Standard deviation per axis, enlarged where the shifts disagree more than expected, px.

    Examples
    --------
    >>> pairs = np.array([[0, 1], [1, 2], [0, 2]])
    >>> shifts = np.array([[1.0, 0], [1.0, 0], [2.3, 0]])
    >>> solve_positions(pairs, shifts, np.ones(3), 3)[0][2].round(3).tolist()
    [2.2, 0.0]
    """
    weight = 1 / sds**2
    position = np.zeros((n_frames, 2))
    stretch = 1.0
    for _ in range(6):
        banded = _normal_matrix(pairs, weight, n_frames)
        right = np.zeros((n_frames, 2))
        for end, sign in ((0, -1), (1, 1)):
            np.add.at(right, pairs[:, end], sign * weight[:, None] * shifts)
        position[1:] = linalg.solveh_banded(banded, right[1:], lower=True)
        off = np.hypot(*(position[pairs[:, 1]] - position[pairs[:, 0]] - shifts).T) / sds
        # Rayleigh: the median of the length of two unit normals is 1.18.
        free = max(1.0, np.sqrt(len(pairs) / max(len(pairs) - n_frames + 1, 1)))
        redundant = len(pairs) > n_frames - 1
        stretch = max(1.0, float(np.median(off)) / 1.18 * free) if redundant else 1.0
        weight = 1 / sds**2 * np.minimum(1, 3 * stretch / np.maximum(off, 1e-12))
    sd = np.concatenate([[0.0], stretch * np.sqrt(_inverse_diagonal(banded))])
    return position, sd


def _normal_matrix(pairs: npt.NDArray[np.intp], weight: Array, n_frames: int) -> Array:
    """Lower band of the normal matrix of all frames but the first."""
    width = int((pairs[:, 1] - pairs[:, 0]).max())
    banded = np.zeros((width + 1, n_frames))
    for end in (0, 1):
        np.add.at(banded[0], pairs[:, end], weight)
    np.add.at(banded, (pairs[:, 1] - pairs[:, 0], pairs[:, 0]), -weight)
    return banded[: n_frames - 1, 1:]  # two frames leave one unknown and no off-diagonal


def _inverse_diagonal(banded: Array) -> Array:
    """Diagonal of the inverse of a banded matrix, some columns at a time."""
    n = banded.shape[1]
    diagonal = np.empty(n)
    for start in range(0, n, 256):
        columns = np.arange(start, min(start + 256, n))
        unit = np.zeros((n, len(columns)))
        unit[columns, columns - start] = 1
        solved = linalg.solveh_banded(banded, unit, lower=True)
        diagonal[columns] = solved[columns, columns - start]
    return diagonal
