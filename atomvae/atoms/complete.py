"""Completion: the lattice says where columns should be, the pixels decide whether they are.

At a few electrons per pixel a filter misses one column in four and finds maxima that are noise.
Every site of the lattice is therefore put into the fit, near a candidate or not. A site stays if
its fitted amplitude is nearer to that of its sublattice than to nothing, so vacancies and holes
stay empty. Off the lattice only what is clearly there is kept: a dopant, an adatom.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from atomvae.atoms.lattice import Lattice

Floats = NDArray[np.float64]
Fit = Callable[[pd.DataFrame], pd.DataFrame]

FOUND = 0.35  # of the site distance: a candidate this near is that of the site
TETHER = 0.1  # of the site distance: prior of a position that only the lattice suggests
STIFF = 0.02  # of the site distance: least spread of the atoms about their sites
ELSEWHERE = 3.5  # standard deviations from its site: an atom that has left it
BRIGHT = 1.8  # of the typical amplitude: no noise, no column of this lattice
CLEAR = 5.0  # signal to noise ratio of an atom off the lattice
APART = 0.72  # of the site distance: two atoms are never closer, whatever they are
VACANT = 0.005  # share of sites expected to be empty
LEAST = 0.2  # of the expected amplitude: below it a site is empty however sure one is
WEAK = 0.3  # coherence below which the lattice may not suggest anything
BORNE_OUT = 0.6  # of the sites must hold a column, or the lattice is a wrong guess
ASTRAY = 0.002  # of the atoms: so few off the lattice are no reason to fit everything again
LOCAL = 15  # sites that tell what amplitude to expect


def complete_lattice(
    atoms: pd.DataFrame,
    lattice: Lattice,
    fit: Fit,
    *,
    valid: NDArray[np.bool_] | None = None,
    margin_px: float = 0.0,
) -> pd.DataFrame | None:
    """Complete the atoms of a frame by its lattice.

    Parameters
    ----------
    atoms
        Candidates: ``y, x`` (px), ``amplitude`` (positive for a column), ``score``.
    lattice
        Lattice of the frame.
    fit
        Function from start rows (``y, x, amplitude, tether_px``) to fitted rows of the same order
        with at least ``y, x, y_sd, x_sd, amplitude, amplitude_sd, score``. Amplitudes in the unit
        of `atoms`.
    valid
        Pixels in which an atom may be, ``(y, x)``.
    margin_px
        How far outside the frame sites are put into the fit for the light they shed; they are not
        returned.

    Returns
    -------
    pandas.DataFrame or None
        The rows of the last fit that stay, with ``origin`` (0 found in the pixels, 1 suggested by
        the lattice) and ``sublattice`` (-1 off the lattice). None if the pixels do not bear the
        lattice out: less than 0.6 of its sites hold a column.

    Examples
    --------
    >>> from atomvae.atoms.joint import fit_joint
    >>> from atomvae.atoms.lattice import find_lattice
    >>> at = np.stack(np.divmod(np.arange(64), 8), 1) * 12.0 + 6
    >>> y, x = np.mgrid[:96, :96]
    >>> spots = [9 * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in np.delete(at, 27, 0)]
    >>> frame = np.random.default_rng(0).poisson(1 + sum(spots))
    >>> table = pd.DataFrame({"y": at[:20, 0], "x": at[:20, 1], "amplitude": 9.0, "score": 9.0})
    >>> whole = complete_lattice(table, find_lattice(frame, width_px=3),
    ...                          lambda start: fit_joint(frame, start, 3.0))
    >>> len(whole), int(whole["origin"].sum())  # 20 were given, one of 64 is a vacancy
    (63, 43)
    """
    spacing = site_distance(lattice)
    sites = lattice.sites(max(margin_px, FOUND * spacing))
    start = _proposed(atoms, sites, spacing, lattice.shape, valid)
    if margin_px == 0:
        start = start[~start["outside"]].reset_index(drop=True)
    fitted = fit(start[["y", "x", "amplitude", "tether_px"]])
    tried = int((~start["outside"]).sum())
    for turn in range(4):  # what goes sheds no more light on what stays
        kept = _supported(start, fitted, spacing)
        start, fitted = start[kept].reset_index(drop=True), fitted[kept].reset_index(drop=True)
        if turn == 3 or (turn and kept.all()):
            break
        start = _tethered(start, fitted, spacing)
        fitted = fit(start[["y", "x", "amplitude", "tether_px"]])
    if (~start["outside"]).sum() < BORNE_OUT * tried:
        return None
    labels = _labels(start, fitted, atoms, FOUND * spacing)
    whole = fitted.drop(columns=labels.columns, errors="ignore").join(labels)
    seen = _inside(whole, lattice.shape) & ~start["outside"].to_numpy()
    rows: pd.DataFrame = whole[seen].reset_index(drop=True)
    return rows


def _labels(
    start: pd.DataFrame, fitted: pd.DataFrame, atoms: pd.DataFrame, near_px: float
) -> pd.DataFrame:
    """Label fitted rows by origin and sublattice; one that left its site found another atom."""
    position = fitted[["y", "x"]].to_numpy(float)
    offset = position - start[["site_y", "site_x"]].to_numpy(float)
    gone = (np.hypot(*offset.T) > near_px) & (start["sublattice"] >= 0).to_numpy()
    distance, _ = cKDTree(atoms[["y", "x"]].to_numpy(float)).query(position)
    return pd.DataFrame(
        {
            "origin": np.where(gone & (distance < near_px), 0, start["origin"]),
            "sublattice": np.where(gone, -1, start["sublattice"]),
        }
    )


def label_sites(atoms: pd.DataFrame, lattice: Lattice) -> pd.DataFrame:
    """Label atoms by the sublattice of the site they belong to.

    Parameters
    ----------
    atoms
        Columns ``y, x`` (px).
    lattice
        Lattice of their frame.

    Returns
    -------
    pandas.DataFrame
        The same rows with ``sublattice`` (int64), -1 off the lattice.

    Examples
    --------
    >>> from atomvae.atoms.lattice import find_lattice
    >>> y, x = np.mgrid[:96, :96]
    >>> wave = (1 + np.cos(2 * np.pi * y / 12)) * (1 + np.cos(2 * np.pi * x / 12))
    >>> wave += np.random.default_rng(0).normal(size=(96, 96))
    >>> atoms = pd.DataFrame({"y": [24.0, 30.0], "x": [36.0, 42.0]})
    >>> label_sites(atoms, find_lattice(wave))["sublattice"].tolist()
    [0, -1]
    """
    sites = lattice.sites(margin_px=FOUND * site_distance(lattice))
    at = assign_sites(
        atoms[["y", "x"]].to_numpy(float),
        sites[["y", "x"]].to_numpy(float),
        FOUND * site_distance(lattice),
    )
    sublattice = np.full(len(atoms), -1, dtype=np.int64)
    sublattice[at[at >= 0]] = sites["sublattice"].to_numpy()[at >= 0]
    return atoms.assign(sublattice=sublattice)


def is_complete(
    labelled: pd.DataFrame, lattice: Lattice, valid: NDArray[np.bool_] | None = None
) -> bool:
    """Tell whether every site has its atom and nearly every atom its site.

    Parameters
    ----------
    labelled
        Atoms with ``y, x, sublattice`` from `label_sites`.
    lattice
        Lattice of the frame.
    valid
        Pixels in which an atom may be, ``(y, x)``.

    Returns
    -------
    bool
        Sites within 0.35 of the site distance of the border may be empty.

    Examples
    --------
    >>> from atomvae.atoms.lattice import find_lattice
    >>> y, x = np.mgrid[:96, :96]
    >>> wave = (1 + np.cos(2 * np.pi * y / 12)) * (1 + np.cos(2 * np.pi * x / 12))
    >>> lattice = find_lattice(wave + np.random.default_rng(0).normal(size=(96, 96)))
    >>> sites = label_sites(lattice.sites(), lattice)
    >>> is_complete(sites, lattice), is_complete(sites.drop(index=30), lattice)
    (True, False)
    """
    if (labelled["sublattice"] < 0).mean() > ASTRAY:
        return False
    near = FOUND * site_distance(lattice)
    sites = lattice.sites(margin_px=-near)
    if valid is not None:
        row, column = (np.rint(sites[axis]).astype(int) for axis in ("y", "x"))
        sites = sites[valid[row, column]]
    if sites.empty or labelled.empty:
        return bool(sites.empty)
    distance, _ = cKDTree(labelled[["y", "x"]].to_numpy(float)).query(
        sites[["y", "x"]].to_numpy(float)
    )
    return bool((distance < 1.5 * near).all())


def site_distance(lattice: Lattice) -> float:
    """Return the shortest distance between two sites, px.

    Examples
    --------
    >>> from atomvae.atoms.lattice import find_lattice
    >>> y, x = np.mgrid[:96, :96]
    >>> wave = (1 + np.cos(2 * np.pi * y / 12)) * (1 + np.cos(2 * np.pi * x / 12))
    >>> round(site_distance(find_lattice(wave + np.random.default_rng(0).normal(size=(96, 96)))))
    12
    """
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    between = lattice.motif[:, None, None] - lattice.motif[:, None] - steps  # (k, k, 9, 2)
    away = between @ lattice.vectors
    length = np.hypot(away[..., 0], away[..., 1])
    return float(length[length > 1e-6].min())


def assign_sites(points: Floats, sites: Floats, gate_px: float) -> NDArray[np.int64]:
    """Assign points to sites one to one, nearest pairs first.

    Parameters
    ----------
    points, sites
        Positions ``(n, 2)`` and ``(m, 2)``, px.
    gate_px
        Largest distance of a pair.

    Returns
    -------
    numpy.ndarray
        ``(m,)`` int64, row of the point at each site, -1 where there is none.

    Examples
    --------
    >>> assign_sites(np.array([[0.0, 3.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [9.0, 9.0]]), 4.0)
    array([ 1, -1])
    """
    at_site = np.full(len(sites), -1, dtype=np.int64)
    if len(points) == 0 or len(sites) == 0:
        return at_site
    pairs = cKDTree(points).sparse_distance_matrix(
        cKDTree(sites), gate_px, output_type="coo_matrix"
    )
    taken = np.zeros(len(points), dtype=bool)
    for k in np.lexsort((pairs.col, pairs.row, pairs.data)):
        i, j = int(pairs.row[k]), int(pairs.col[k])
        if not taken[i] and at_site[j] < 0:
            at_site[j], taken[i] = i, True
    return at_site


def _inside(table: pd.DataFrame, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which rows lie on a pixel of the frame."""
    y, x = table["y"].to_numpy(float), table["x"].to_numpy(float)
    return (y >= -0.5) & (x >= -0.5) & (y < shape[0] - 0.5) & (x < shape[1] - 0.5)


def _proposed(
    atoms: pd.DataFrame,
    sites: pd.DataFrame,
    spacing: float,
    shape: tuple[int, int],
    valid: NDArray[np.bool_] | None,
) -> pd.DataFrame:
    """Start of the fit: every site that may hold a column, and the clear atoms between them."""
    points, height = atoms[["y", "x"]].to_numpy(float), atoms["amplitude"].to_numpy(float)
    at = assign_sites(points, sites[["y", "x"]].to_numpy(float), FOUND * spacing)
    found = at >= 0
    typical = float(np.median(height[at[found]])) if found.any() else float(np.median(height))
    start = sites.assign(
        amplitude=np.where(found, height[at], typical * sites["intensity"]),
        origin=np.where(found, 0, 1),
        tether_px=np.where(found, np.inf, TETHER * spacing),
        outside=~_inside(sites, shape) & ~found,
        site_y=sites["y"],
        site_x=sites["x"],
    )
    start.loc[found, ["y", "x"]] = points[at[found]]
    allowed = found | (sites["coherence"].to_numpy() > WEAK)
    if valid is not None:
        row = np.clip(np.rint(sites["y"]), 0, shape[0] - 1).astype(int)
        column = np.clip(np.rint(sites["x"]), 0, shape[1] - 1).astype(int)
        allowed &= found | valid[row, column]
    free = np.setdiff1d(np.arange(len(atoms)), at[found])
    clear = free[atoms["score"].to_numpy()[free] > CLEAR]
    bright = clear[height[clear] > BRIGHT * typical]
    if len(bright):  # a large atom between sites takes their place
        near, _ = cKDTree(points[bright]).query(start[["y", "x"]].to_numpy(float))
        allowed &= near > APART * spacing
    start = start[allowed]
    if len(clear):  # a fainter one has to find its own
        near, _ = cKDTree(start[["y", "x"]].to_numpy(float)).query(points[clear])
        clear = clear[np.isin(clear, bright) | (near > APART * spacing)]
    extra = atoms.iloc[clear][["y", "x", "amplitude"]].assign(
        origin=0, tether_px=np.inf, outside=False, sublattice=-1, site_y=0.0, site_x=0.0
    )
    names = ["y", "x", "amplitude", "origin", "tether_px", "outside", "sublattice"]
    names += ["site_y", "site_x"]
    return pd.concat([start[names], extra[names]], ignore_index=True)


def _tethered(start: pd.DataFrame, fitted: pd.DataFrame, spacing: float) -> pd.DataFrame:
    """Start of the next fit: every site holds its atom as firmly as the atoms themselves show.

    The spread of the displacements beyond their errors is that of the crystal (empirical Bayes).
    Where the dose is high it says nothing; an atom that is clearly elsewhere is left alone.
    """
    offset = fitted[["y", "x"]].to_numpy(float) - start[["site_y", "site_x"]].to_numpy(float)
    sd = fitted[["y_sd", "x_sd"]].to_numpy(float)
    told = ((start["origin"] == 0) & (start["sublattice"] >= 0) & ~start["outside"]).to_numpy()
    spread = np.full(2, TETHER * spacing)
    if told.sum() >= LOCAL:
        robust = 1.4826 * np.median(np.abs(offset[told]), axis=0)
        excess = robust**2 - np.median(sd[told] ** 2, axis=0)
        spread = np.sqrt(np.maximum(excess, (STIFF * spacing) ** 2))
    tether = float(np.hypot(*spread) / np.sqrt(2))
    away = np.hypot(*(offset / np.sqrt(sd**2 + tether**2)).T) > ELSEWHERE
    loose = away | (start["sublattice"] < 0).to_numpy()
    return start.assign(
        y=np.where(loose, fitted["y"], start["site_y"]),
        x=np.where(loose, fitted["x"], start["site_x"]),
        amplitude=fitted["amplitude"],
        tether_px=np.where(loose, np.inf, tether),
    )


def _supported(start: pd.DataFrame, fitted: pd.DataFrame, spacing: float) -> NDArray[np.bool_]:
    """Which rows the pixels bear out."""
    expected = _expected(start, fitted)
    height = fitted["amplitude"].to_numpy(float)
    variance = fitted["amplitude_sd"].to_numpy(float) ** 2
    # Log likelihood of the expected amplitude against none, and what was known before.
    gain = expected * (2 * height - expected) / (2 * np.maximum(variance, 1e-300))
    likely = gain + np.log(1 / VACANT - 1) > 0
    likely &= height > LEAST * expected
    off = start["sublattice"].to_numpy() < 0
    likely[off] &= (fitted["score"].to_numpy(float)[off] > CLEAR) & (
        height[off] > 0.6 * np.median(expected)
    )
    outside = start["outside"].to_numpy()
    position = fitted[["y", "x"]].to_numpy(float)
    for i, j in cKDTree(position).query_pairs(0.5 * spacing):
        likely[i if height[i] < height[j] else j] = False  # one column was fitted twice
    return np.asarray(likely | outside)


def _expected(start: pd.DataFrame, fitted: pd.DataFrame) -> Floats:
    """Amplitude that a column of the same sublattice would have at each row."""
    expected = np.full(len(start), float(np.median(fitted["amplitude"])))
    for number in np.unique(start["sublattice"]):
        rows = np.flatnonzero(((start["sublattice"] == number) & ~start["outside"]).to_numpy())
        if number < 0 or len(rows) == 0:
            continue
        height = fitted["amplitude"].to_numpy(float)[rows]
        position = fitted[["y", "x"]].to_numpy(float)
        _, near = cKDTree(position[rows]).query(position, k=min(LOCAL, len(rows)))
        local = np.median(height[near.reshape(len(position), -1)], axis=1)
        same = (start["sublattice"] == number).to_numpy()
        # Inside a hole all neighbours are missing: what the whole frame shows counts there.
        expected[same] = np.clip(local, 0.7 * np.median(height), 1.5 * np.median(height))[same]
    return expected
