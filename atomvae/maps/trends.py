"""Distributions of columns, and shares of kinds in time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from atomvae.errors import InputError
from atomvae.maps.dynamics import wilson_interval
from atomvae.maps.style import BLUE, is_kind, label, need, numbers, panels, robust_limits, scale


def draw_distributions(table: pd.DataFrame, columns: Sequence[str], *, bins: int = 60) -> Figure:
    """Draw a histogram of each column over the whole table.

    Parameters
    ----------
    table
        Latents, or a table of `map_latents`.
    columns
        One panel each; numbers, angles in degrees.
    bins
        Number of bars.

    Examples
    --------
    >>> table = pd.DataFrame({"z_0": [0.0, 1.0], "z_1": [1.0, 2.0]})
    >>> [axis.get_xlabel() for axis in draw_distributions(table, ["z_0", "z_1"]).axes]
    ['z_0', 'z_1']
    """
    need(table, *columns)
    figure, axes = panels(len(columns), 0.66, across=3)
    for axis, name in zip(axes, columns, strict=True):
        values = numbers(table, name, table)
        axis.hist(
            values[np.isfinite(values)], bins=bins, range=robust_limits(values, 0.1), color=BLUE
        )
        axis.set(xlabel=label(name))
    axes[0].set_ylabel("atoms")
    return figure


def draw_fractions(table: pd.DataFrame, column: str = "class") -> Figure:
    """Draw the share of the atoms of each kind against the frame, with 95 % Wilson intervals.

    Parameters
    ----------
    table
        With ``frame`` and ``column``.
    column
        Names kinds: a class, a sublattice, a species.

    Raises
    ------
    InputError
        If a column is missing or measures something.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 1], "class": [0, 1, 1]})
    >>> [line.get_label() for line in draw_fractions(table).axes[0].lines]
    ['0', '1']
    """
    need(table, "frame", column)
    if not is_kind(table, column):
        raise InputError(f"{column} measures something, expected a column that names kinds")
    count = pd.crosstab(table["frame"], table[column])
    if len(table):
        count = count.reindex(range(count.index.min(), count.index.max() + 1), fill_value=0)
    total = count.sum(axis=1).to_numpy(np.float64)
    norm, colours, _ = scale(table, column)
    shades = ScalarMappable(norm, colours).to_rgba(np.arange(len(count.columns)))
    figure, (axis,) = panels(1, 0.66, width=4.5)
    for k, (kind, shade) in enumerate(zip(count.columns, shades, strict=True)):
        own = count[kind].to_numpy(np.float64)
        with np.errstate(invalid="ignore"):
            share = own / total
        low, high = wilson_interval(own, total)
        axis.plot(
            count.index, share, ("-", "--", "-.", ":")[k % 4], color=shade, label=str(kind),
            marker="." if len(count) < 60 else "", linewidth=1.4,
        )  # fmt: skip
        axis.fill_between(count.index, low, high, color=shade, alpha=0.2, linewidth=0)
    axis.set(xlabel="frame", ylabel=f"share of the atoms, by {column}", ylim=(0, None))
    axis.locator_params(axis="x", integer=True)
    axis.margins(x=0.02)
    figure.legend(loc="outside right center", frameon=False, title=column)
    return figure
