"""How large a window to cut: two coordination shells, read off the neighbour distances."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import find_peaks
from scipy.spatial import cKDTree

from atomvae.movie.movie import Movie

LONE_WINDOW_PX = 32
"""Window around atoms without any neighbour."""
SMALLEST, LARGEST = 16, 48
"""Range of the default patch size."""
_FRAMES = 16  # enough to measure a lattice
_REACH = 4.0  # how far to look for the second shell, in nearest distances


def default_window(movie: Movie, atoms: pd.DataFrame) -> float:
    """Side of the window in nm that reaches past the second coordination shell.

    The shells are the peaks of the radial distribution function of the atoms (of up to 16 frames
    spread over the movie). The half window is the radius of the second shell plus half the
    nearest distance. Never larger than the frame.

    Parameters
    ----------
    movie
        With a known pixel size.
    atoms
        Atom table.

    Returns
    -------
    float
        nm. If no frame holds two atoms, 32 pixels.

    Raises
    ------
    InputError
        If the movie has no pixel size.

    Examples
    --------
    A square lattice of 0.2 nm: shells at 0.2 and 0.28 nm.

    >>> movie = Movie.from_array(np.zeros((1, 100, 100)), pixel_size=(0.02, 0.02))
    >>> y, x = np.mgrid[10:100:10, 10:100:10].reshape(2, -1)
    >>> atoms = pd.DataFrame({"atom_id": range(81), "frame": 0, "y": y, "x": x})
    >>> round(default_window(movie, atoms), 2)
    0.77
    """
    py, px = movie.require_pixel_size()
    largest = min(movie.shape[1] * py, movie.shape[2] * px)
    occupied = np.unique(atoms["frame"])
    chosen = occupied[np.linspace(0, len(occupied) - 1, min(_FRAMES, len(occupied))).astype(int)]
    positions = [
        rows[["y", "x"]].to_numpy(dtype=np.float64) * (py, px)
        for _, rows in atoms[atoms["frame"].isin(chosen)].groupby("frame")
    ]
    shells = coordination_shells([p for p in positions if len(p) > 1])
    if shells is None:
        return float(min(LONE_WINDOW_PX * min(py, px), largest))
    first, second = shells
    return float(min(2 * (second + first / 2), largest))


def coordination_shells(frames: list[NDArray[np.float64]]) -> tuple[float, float] | None:
    """Radii of the first two coordination shells.

    Parameters
    ----------
    frames
        Positions ``(n, 2)`` of each frame, isotropic units, n at least 2.

    Returns
    -------
    tuple of float or None
        Median nearest distance and the second peak of the radial distribution function, in the
        units given; 1.8 times the nearest distance where there is no second peak. None without
        a frame.

    Examples
    --------
    >>> y, x = np.mgrid[:9, :9].reshape(2, -1)
    >>> first, second = coordination_shells([np.column_stack([y, x]).astype(float)])
    >>> round(first, 1), round(second, 1)
    (1.0, 1.4)
    """
    trees = [cKDTree(p) for p in frames]
    if not trees:
        return None
    nearest = float(np.median(np.concatenate([t.query(t.data, k=2)[0][:, 1] for t in trees])))
    if nearest == 0:
        return None
    pairs = []
    for tree in trees:
        i, j = tree.query_pairs(_REACH * nearest, output_type="ndarray").T
        pairs.append(np.linalg.norm(tree.data[i] - tree.data[j], axis=1) / nearest)
    # Counts per radius, smoothed by 6 % of the spacing: noise of positions is about that.
    edges = np.arange(0.0, _REACH + 0.01, 0.02)
    radius = (edges[:-1] + edges[1:]) / 2
    distance = np.concatenate(pairs)
    counts = np.histogram(distance, edges)[0] / radius
    kernel = np.exp(-((np.arange(-9, 10) * 0.02) ** 2) / (2 * 0.06**2))
    density = np.convolve(counts, kernel, "same")
    peaks, _ = find_peaks(density, prominence=0.15 * density.max(initial=0.0))
    beyond = [radius[p] for p in peaks if radius[p] > 1.25]
    if not beyond:
        return nearest, 1.8 * nearest
    return nearest, nearest * float(np.median(distance[abs(distance - beyond[0]) < 0.12]))


def default_size(window_px: tuple[float, float], width_px: float | None = None) -> int:
    """Patch size that samples the columns finely enough, and no finer than the frame.

    Two pixels per width (Gaussian standard deviation) of a column keep all that a Gaussian shows;
    more of them only cost time. Even, so that it halves well, and within 16 to 48. The middle of
    an even patch lies between its pixels, which a coordinate decoder does not mind.

    Parameters
    ----------
    window_px
        Height and width of the window in pixels of the frame.
    width_px
        Width of a column in pixels of the frame; None: as finely as the frame.

    Examples
    --------
    >>> default_size((25.3, 25.3)), default_size((6.0, 6.0)), default_size((81.0, 81.0))
    (26, 16, 48)
    >>> default_size((52.0, 52.0), width_px=4.0)
    26
    """
    coarser = max(1.0, width_px / 2) if width_px else 1.0
    return int(np.clip(2 * round(max(window_px) / coarser / 2), SMALLEST, LARGEST))
