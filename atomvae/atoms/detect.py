"""Atoms of a frame, atoms of a movie."""

from typing import Literal, Protocol

import dask
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from atomvae.atoms.candidates import local_peaks
from atomvae.atoms.complete import complete_lattice, is_complete, label_sites, site_distance
from atomvae.atoms.config import DetectConfig
from atomvae.atoms.joint import fit_joint
from atomvae.atoms.lattice import Lattice, find_lattice
from atomvae.atoms.mask import clean_frame
from atomvae.atoms.refine import (
    ColumnFit,
    Floats,
    WidthPrior,
    fit_columns,
    gather_windows,
    neighbour_light,
    start_values,
)
from atomvae.atoms.table import Flag, empty_atoms, make_atoms
from atomvae.errors import InputError
from atomvae.movie.movie import Movie

_MISFIT = 1.5  # typical chi2 of a frame above which its noise is taken from the residual
_OVERLAP = 3.6  # widths of spacing below which columns are fitted jointly
_TOUCH = 4.6  # the same in a lattice, where the joint fit also holds the atoms to their sites
_SPARSE = 0.8  # of the columns of a lattice: with fewer found the threshold was too high
_KNOWN = 2.0  # threshold where a lattice tells columns from noise
_TRUSTED = 3.0  # signal to noise ratio of a neighbour worth subtracting, and of a clean atom
_WIDEST = 1.6  # of the width found in the autocorrelation, which is low under overlap
_LEAST_SPREAD = 0.03  # of the width: the prior is never narrower
_FRAMES_PER_TASK = 16


class Detector(Protocol):
    """Anything that proposes where columns are: the built-in filter, or a trained network."""

    def __call__(
        self, image: NDArray[np.float64], valid: NDArray[np.bool_], config: DetectConfig
    ) -> pd.DataFrame:
        """Return candidates with the columns ``y, x`` (px) and ``score``.

        Parameters
        ----------
        image
            (y, x) float64, finite.
        valid
            bool (y, x), False where pixels are missing or contaminated.
        config
            Resolved settings.
        """
        ...


def columns_detector(
    image: NDArray[np.float64], valid: NDArray[np.bool_], config: DetectConfig
) -> pd.DataFrame:
    """Propose the maxima of the matched filter above the threshold.

    Parameters
    ----------
    image
        (y, x) float64, finite.
    valid
        bool (y, x).
    config
        Resolved settings.

    Returns
    -------
    pandas.DataFrame
        ``y, x`` (px), ``score`` (signal to noise ratio in the filter).

    Examples
    --------
    >>> image = np.zeros((32, 32)); image[20, 11] = 100.0
    >>> config = DetectConfig(width_px=1.5).resolve(image)
    >>> columns_detector(image, image >= 0, config)[["y", "x"]].to_numpy().tolist()
    [[20.0, 11.0]]
    """
    assert config.width_px is not None and config.threshold is not None
    peaks = local_peaks(config.scores(image, valid), valid, config.width_px)
    table = pd.DataFrame(peaks._asdict())
    return table[table["score"] >= config.threshold].reset_index(drop=True)


DETECTORS: dict[str, Detector] = {"columns": columns_detector}
"""Detectors by the name that `DetectConfig.detector` takes; add your own."""


def detect_frame(frame: ArrayLike, config: DetectConfig | None = None) -> pd.DataFrame:
    """Find the atoms of one frame and fit each by maximum likelihood.

    Parameters
    ----------
    frame
        Image (y, x), any real dtype; NaN and infinity mark missing pixels.
    config
        Settings; what they leave open is taken from this frame.

    Returns
    -------
    pandas.DataFrame
        Atom table, see `atomvae.atoms.table.COLUMNS`, with frame 0, in raster order. Empty for a
        frame without columns: constant, all missing, or noise only.

    Raises
    ------
    InputError
        If the frame is not two-dimensional or not real numbers, or the detector is unknown.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40]
    >>> expected = 5 + 80 * np.exp(-((y - 20.3) ** 2 + (x - 11.6) ** 2) / (2 * 2.0**2))
    >>> atoms = detect_frame(np.random.default_rng(0).poisson(expected))
    >>> errors = np.abs(atoms[["y", "x"]].to_numpy() - [20.3, 11.6])
    >>> len(atoms), bool((errors < 4 * atoms[["y_sd", "x_sd"]].to_numpy()).all())
    (1, True)
    """
    config = config or DetectConfig()
    if config.detector not in DETECTORS:
        raise InputError(f"detector {config.detector!r} is unknown, expected {_names()}")
    image, valid = clean_frame(frame)
    if not valid.any() or np.ptp(image[valid]) == 0:
        return empty_atoms()
    config = config.resolve(np.where(valid, image, np.nan))
    valid = config.usable(image, valid)
    lattice, plain = _lattice(image, valid, config), config
    if lattice is not None:
        known = {"crystal": True, "spacing_px": site_distance(lattice)}
        config = config.model_copy(update=known)
    found = DETECTORS[config.detector](image, valid, config)
    if lattice is not None and len(found) < _SPARSE * lattice.sites()["intensity"].sum():
        config = config.model_copy(update={"threshold": min(_KNOWN, config.threshold or _KNOWN)})
        found = DETECTORS[config.detector](image, valid, config)
    if found.empty:
        return empty_atoms()
    atoms = _refined(image, valid, found, config)
    if lattice is not None:
        whole = _completed(image, valid, atoms, lattice, config)
        if whole is None:  # a wrong guess: as if there had been none
            return detect_frame(frame, plain.model_copy(update={"lattice": "off"}))
        atoms = whole
    elif _overlapping(atoms, config):
        start = _settled(atoms, image.shape, config)
        atoms = _jointly(image, valid, start, float(start["sigma"].median()), config)
    return _settled(atoms, image.shape, config)


def detect_atoms(movie: Movie, config: DetectConfig | None = None) -> pd.DataFrame:
    """Find the atoms of every frame of a movie, blocks of frames in parallel.

    Parameters
    ----------
    movie
        Its frames are loaded block by block.
    config
        Settings; what they leave open is taken from the movie once, so that all frames are
        treated alike.

    Returns
    -------
    pandas.DataFrame
        Atom table sorted by frame, ``atom_id`` 0 to N-1.

    Raises
    ------
    InputError
        If the detector is unknown or a frame is not real numbers.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40]
    >>> expected = 5 + 80 * np.exp(-((y - 20) ** 2 + (x - 11) ** 2) / (2 * 2.0**2))
    >>> counts = np.random.default_rng(0).poisson(expected, (3, 40, 40))
    >>> atoms = detect_atoms(Movie.from_array(counts))
    >>> atoms["frame"].tolist(), atoms["atom_id"].tolist()
    ([0, 1, 2], [0, 1, 2])
    """
    resolved = (config or DetectConfig()).resolve(movie)
    if resolved.detector not in DETECTORS:
        raise InputError(f"detector {resolved.detector!r} is unknown, expected {_names()}")
    starts = range(0, movie.n_frames, _FRAMES_PER_TASK)
    blocks = [
        dask.delayed(_detect_block)(movie.frames[i : i + _FRAMES_PER_TASK], i, resolved)
        for i in starts
    ]
    # Frames are the unit of parallelism: threads within small matrices only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        tables = [table for table in dask.compute(*blocks) if len(table)]
    if not tables:
        return empty_atoms()
    atoms = pd.concat(tables, ignore_index=True)
    return make_atoms({name: atoms[name].to_numpy() for name in atoms if name != "atom_id"})


def _detect_block(frames: NDArray[np.float32], first: int, config: DetectConfig) -> pd.DataFrame:
    """Atoms of consecutive frames (t, y, x) of which the first has the number given."""
    tables = [detect_frame(frame, config).assign(frame=first + i) for i, frame in enumerate(frames)]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else empty_atoms()


def _names() -> str:
    return " or ".join(repr(name) for name in DETECTORS)


def _refined(
    image: Floats, valid: NDArray[np.bool_], found: pd.DataFrame, config: DetectConfig
) -> pd.DataFrame:
    """Atom table of the candidates, each fitted in its window with its neighbours' light."""
    noise = config.noise_model()
    unit, zero = (noise.gain, noise.offset) if noise.kind == "poisson" else (noise.sd, 0.0)
    fit, start = _passes((image - zero) / unit, valid, found, config)
    misfit = float(np.median(fit.chi2))
    if noise.kind == "gaussian" and misfit > _MISFIT:
        # The pixels are smoother than the columns are Gaussian: weigh them by the residual.
        unit *= np.sqrt(misfit)
        fit, start = _passes((image - zero) / unit, valid, found, config)
    return _table(fit, start, unit, zero)


def _overlapping(atoms: pd.DataFrame, config: DetectConfig) -> bool:
    """Whether columns share so much light that only a joint fit tells them apart."""
    assert config.spacing_px is not None
    if config.joint == "auto":
        return len(atoms) > 1 and config.spacing_px < _OVERLAP * float(atoms["sigma"].median())
    return config.joint == "on"


def _jointly(
    image: Floats, valid: NDArray[np.bool_], start: pd.DataFrame, width: float, config: DetectConfig
) -> pd.DataFrame:
    """Table `start` with all its atoms fitted at once."""
    noise = config.noise_model()
    counted = noise.kind == "poisson" and config.sign > 0  # the joint fit wants bright columns
    unit, zero = (noise.gain, noise.offset) if counted else (config.sign * noise.sd, 0.0)
    kind: Literal["poisson", "gaussian"] = "poisson" if counted else "gaussian"
    scaled = start.assign(amplitude=start["amplitude"] / unit)
    fit = fit_joint((image - zero) / unit, scaled, width, noise=kind, valid=valid)
    fit["amplitude"] *= unit
    fit["amplitude_sd"] *= abs(unit)
    fit["background"] = fit["background"] * unit + zero
    return start.assign(**{str(name): fit[name].to_numpy() for name in fit})


def _lattice(image: Floats, valid: NDArray[np.bool_], config: DetectConfig) -> Lattice | None:
    """Lattice of the frame, if it has one and may be used."""
    assert config.width_px is not None
    if config.lattice == "off":
        return None
    lattice = find_lattice(config.sign * image, width_px=config.width_px, valid=valid)
    if lattice is None and config.lattice == "on":
        raise InputError("lattice is 'on' but the frame shows none; use 'auto' or 'off'")
    return lattice


def _completed(
    image: Floats,
    valid: NDArray[np.bool_],
    atoms: pd.DataFrame,
    lattice: Lattice,
    config: DetectConfig,
) -> pd.DataFrame | None:
    """Atom table with every site of the lattice tried, labelled; None if the lattice is wrong."""
    atoms = _settled(atoms, image.shape, config)
    assert config.width_px is not None
    width = float(atoms["sigma"].median())
    close = site_distance(lattice) < _TOUCH * max(width, config.width_px)
    together = config.joint == "on" or (config.joint == "auto" and close)
    labelled = label_sites(atoms, lattice)
    if not together and is_complete(labelled, lattice, valid):
        return labelled

    def fit(start: pd.DataFrame) -> pd.DataFrame:
        signed = start.assign(amplitude=start["amplitude"] * config.sign)
        if together:
            fitted = _jointly(image, valid, signed, width, config)
        else:
            fitted = _refined(image, valid, signed.assign(score=1.0), config)
        return fitted.assign(amplitude=fitted["amplitude"] * config.sign)

    upright = atoms.assign(amplitude=atoms["amplitude"] * config.sign)
    whole = complete_lattice(upright, lattice, fit, valid=valid, margin_px=1.5 * width * together)
    return None if whole is None else whole.assign(amplitude=whole["amplitude"] * config.sign)


def _passes(
    counts: Floats, valid: NDArray[np.bool_], found: pd.DataFrame, config: DetectConfig
) -> tuple[ColumnFit, Floats]:
    """Fit with free widths, then with a prior of the width and the light of the neighbours."""
    assert config.width_px is not None and config.spacing_px is not None and config.noise
    y, x, score = (found[name].to_numpy(float) for name in ("y", "x", "score"))
    half = window_radius(config.width_px, config.spacing_px)
    windows = gather_windows(counts, valid, y, x, half)
    start = start_values(windows, y, x, config.width_px, config.sign)
    fit = fit_columns(windows, start, config.noise)
    prior = width_prior(fit, score, config.width_px)
    if config.crystal:  # its neighbours are known: the window may reach between them
        half = window_radius(prior.mean, config.spacing_px, widths=3.0, spacings=0.6)
        windows = gather_windows(counts, valid, y, x, half)
    for _ in range(config.neighbour_passes):
        light = neighbour_light(fit.theta, _score(fit) > _TRUSTED, windows, half)
        fit = fit_columns(windows, _restart(fit, start, prior), config.noise, light, prior)
        prior = updated_prior(fit, prior)
        # Saturated or unresolved columns widen without end: the autocorrelation has a say.
        mean = float(np.clip(prior.mean, 0.6 * config.width_px, _WIDEST * config.width_px))
        prior = prior._replace(mean=mean)
    return fit, start


def window_radius(
    width_px: float, spacing_px: float, *, widths: float = 2.3, spacings: float = 0.45
) -> int:
    """Radius of the fit window, px: some widths, at most a share of the spacing, at least 2.

    Examples
    --------
    >>> window_radius(2.2, 11.4), window_radius(4.0, 12.1)
    (5, 5)
    """
    return max(2, round(min(widths * width_px, spacings * spacing_px)))


def width_prior(fit: ColumnFit, score: Floats, width_px: float) -> WidthPrior:
    """Prior of the width from the better half of a fit with free widths.

    Parameters
    ----------
    fit
        First pass.
    score
        (n,) by which the better half is chosen. Not that of the fit: at low dose the narrow fits
        are the tall ones, so it would choose narrow columns.
    width_px
        Expected width, taken loosely when fewer than 8 columns can be used.

    Returns
    -------
    WidthPrior
        Median width and the spread that is not explained by the errors, at least 3 %.

    Examples
    --------
    >>> y, x = (9.0 + 18 * i for i in np.divmod(np.arange(16), 4))
    >>> image = np.random.default_rng(0).poisson(2 + 300 * sum(
    ...     np.exp(-((np.arange(72)[:, None] - a) ** 2 + (np.arange(72) - b) ** 2) / 18)
    ...     for a, b in zip(y, x))).astype(float)
    >>> windows = gather_windows(image, image >= 0, y, x, 7)
    >>> fit = fit_columns(windows, start_values(windows, y, x, 2.5, 1), "poisson")
    >>> prior = width_prior(fit, np.ones(16), 2.5)
    >>> round(prior.mean, 1), round(prior.sd, 2)
    (3.0, 0.09)
    """
    usable = fit.converged & ~fit.at_bound & ~fit.cut
    if usable.sum() < 8:
        return WidthPrior(width_px, 0.3 * width_px)
    better = usable & np.asarray(score >= np.median(score[usable]))
    sigma, sd = fit.theta[better, 3], fit.sd[better, 3]
    mean = float(np.median(sigma))
    robust = (1.4826 * float(np.median(np.abs(sigma - mean)))) ** 2
    spread = max(robust - float(np.median(sd)) ** 2, (_LEAST_SPREAD * mean) ** 2)
    return WidthPrior(mean, float(np.sqrt(spread)))


def updated_prior(fit: ColumnFit, prior: WidthPrior) -> WidthPrior:
    """Prior of the same spread, moved to where the pixels alone put the widths.

    What the prior contributed to each fit is taken out again (empirical Bayes), so the median no
    longer leans to the old mean.

    Parameters
    ----------
    fit
        A pass that used `prior`.
    prior
        That prior.

    Returns
    -------
    WidthPrior
        The same when fewer than 8 columns say anything about their width.

    Examples
    --------
    >>> covariance = np.tile(np.eye(5) * 0.02, (9, 1, 1))  # pixels and prior say as much
    >>> theta = np.tile([5.0, 5.0, 50.0, 2.1, 1.0], (9, 1))
    >>> yes, no = np.full(9, True), np.full(9, False)
    >>> fit = ColumnFit(theta, covariance, np.ones(9), yes, no, no)
    >>> updated_prior(fit, WidthPrior(2.0, 0.2)).mean.__round__(3)
    2.2
    """
    variance = fit.covariance[:, 3, 3]
    told = variance < 0.98 * prior.sd**2
    usable = fit.converged & ~fit.at_bound & ~fit.cut & told
    if usable.sum() < 8:
        return prior
    share = 1 - variance[usable] / prior.sd**2  # of the information that comes from the pixels
    alone = prior.mean + (fit.theta[usable, 3] - prior.mean) / share
    return WidthPrior(float(np.median(alone)), prior.sd)


def _score(fit: ColumnFit) -> Floats:
    """Amplitude over its standard deviation."""
    score: Floats = np.nan_to_num(np.abs(fit.theta[:, 2]) / fit.sd[:, 2])
    return score


def _restart(fit: ColumnFit, start: Floats, prior: WidthPrior) -> Floats:
    """Where the next pass begins: at the last fit, or anew if that one failed."""
    anew = start.copy()
    anew[:, 3] = prior.mean
    return np.where((fit.converged & ~fit.at_bound)[:, None], fit.theta, anew)


def _table(fit: ColumnFit, start: Floats, unit: float, zero: float) -> pd.DataFrame:
    """Atom table of a fit, in file units, flagged."""
    sd, theta = fit.sd, fit.theta
    # A typical chi2 above 1 tells how far the noise model falls short, and the errors with it.
    scale = float(np.sqrt(max(1.0, np.median(fit.chi2))))
    moved = np.hypot(theta[:, 0] - start[:, 0], theta[:, 1] - start[:, 1])
    score = _score(fit) / scale
    flag = (
        Flag.NOT_CONVERGED * ~fit.converged
        | Flag.AT_BOUND * fit.at_bound
        | Flag.BORDER * fit.cut
        | Flag.FAINT * (score < _TRUSTED)
        | Flag.MISFIT * ((fit.chi2 / scale**2 < 0.5) | (fit.chi2 / scale**2 > 2))
        | Flag.MOVED * (moved > 1.5)
    )
    return make_atoms(
        {
            "y": theta[:, 0],
            "x": theta[:, 1],
            "y_sd": sd[:, 0] * scale,
            "x_sd": sd[:, 1] * scale,
            "amplitude": theta[:, 2] * unit,
            "amplitude_sd": sd[:, 2] * unit * scale,
            "sigma": theta[:, 3],
            "background": theta[:, 4] * unit + zero,
            "score": score,
            "chi2": fit.chi2,
            "flag": flag,
        }
    )


def _settled(atoms: pd.DataFrame, shape: tuple[int, int], config: DetectConfig) -> pd.DataFrame:
    """Atoms inside the frame, each once; crowded ones flagged."""
    assert config.spacing_px is not None and config.width_px is not None
    position = atoms[["y", "x"]].to_numpy()
    inside = np.all((position > -0.5) & (position < np.array(shape) - 0.5), axis=1)
    height = np.abs(atoms["amplitude"].to_numpy())
    double, crowded = np.zeros(len(atoms), bool), np.zeros(len(atoms), bool)
    pairs = cKDTree(position).query_pairs(0.4 * config.spacing_px, output_type="ndarray")
    if len(pairs):
        distance = np.hypot(*(position[pairs[:, 0]] - position[pairs[:, 1]]).T)
        fainter = np.where(height[pairs[:, 0]] < height[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
        crowded[fainter] = True
        double[fainter[distance < 0.5 * config.width_px]] = True
    flag = atoms["flag"].to_numpy() | np.where(crowded, int(Flag.CROWDED), 0)
    kept = atoms.assign(flag=flag)[inside & ~double]
    return make_atoms({name: kept[name].to_numpy() for name in kept if name != "atom_id"})
