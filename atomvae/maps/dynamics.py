"""What changes with time: one row of figures per frame."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError
from atomvae.maps.symmetry import circular_mean, circular_sd

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LATENT = r"(z_\d+|shift_[yx]|scale|shear|rotation|reconstruction_error)"


def summarise_frames(table: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Summarise latents frame by frame.

    Parameters
    ----------
    table
        With ``frame``, e.g. of `map_latents`.
    columns
        Numeric columns to summarise; default: contents, shifts and the reconstruction error.

    Returns
    -------
    DataFrame
        A row per frame that has atoms: ``frame``, ``n_atoms``; NAME_mean, NAME_sem (standard
        error of the mean) and NAME_q05 ... NAME_q95 of each column; ``angle_mean`` and
        ``angle_sd`` (radians, on the circle, of ``angle_folded`` if there is one); for each class
        k ``class_k_fraction`` with ``class_k_low``, ``class_k_high`` (95 % Wilson interval).

    Raises
    ------
    InputError
        If a column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 3], "z_0": [1.0, 3.0, 5.0], "class": [0, 1, 1]})
    >>> summary = summarise_frames(table)
    >>> summary[["frame", "n_atoms", "z_0_mean", "class_1_fraction"]]
       frame  n_atoms  z_0_mean  class_1_fraction
    0      0        2       2.0               0.5
    1      3        1       5.0               1.0
    """
    if columns is None:
        columns = [str(c) for c in table.columns[table.columns.str.fullmatch(_LATENT)]]
    for name in ("frame", *columns):
        if name not in table:
            raise InputError(
                f"the table has no column {name!r}; it has {', '.join(map(str, table))}"
            )
    groups = table.groupby("frame")
    parts: dict[str, pd.Series] = {"n_atoms": groups.size()}
    for name in columns:
        parts[f"{name}_mean"] = groups[name].mean()
        parts[f"{name}_sem"] = groups[name].sem()
        for q in QUANTILES:
            parts[f"{name}_q{round(100 * q):02d}"] = groups[name].quantile(q)
    if angle := next((name for name in ("angle_folded", "angle") if name in table), None):
        n = int(table["angle_n"].iloc[0]) if "angle_n" in table and len(table) else 1
        parts["angle_mean"] = groups[angle].agg(lambda values: circular_mean(values, n))
        parts["angle_sd"] = groups[angle].agg(lambda values: circular_sd(values, n))
    if "class" in table:
        for k, count in pd.crosstab(table["frame"], table["class"]).items():
            low, high = wilson_interval(count, parts["n_atoms"])
            parts[f"class_{k}_fraction"] = count / parts["n_atoms"]
            parts[f"class_{k}_low"] = pd.Series(low, count.index)
            parts[f"class_{k}_high"] = pd.Series(high, count.index)
    return pd.DataFrame(parts).reset_index(names="frame")


def wilson_interval(
    count: ArrayLike, total: ArrayLike, z: float = 1.959963984540054
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidence interval of a fraction; sensible for few atoms and for fractions of 0 and 1.

    Wilson, Journal of the American Statistical Association 22 (1927) 209.

    Parameters
    ----------
    count, total
        Successes and trials.
    z
        Normal quantile; default for 95 %.

    Returns
    -------
    low, high : ndarray
        In 0 to 1; NaN where total is 0.

    Examples
    --------
    >>> low, high = wilson_interval(0, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.0, 0.278)
    """
    k, n = np.asarray(count, dtype=np.float64), np.asarray(total, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
