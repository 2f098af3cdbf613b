"""How a training went."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from atomvae.errors import InputError
from atomvae.maps.style import BLUE, need, panels

NOT_LOSSES = ("epoch", "step", "learning_rate", "guessed", "gate", "noise")
# Phases of a training: colour, its strength, and from where it reaches to the top of a panel, so
# that phases which overlap in time are both seen.
PHASES = {
    "first guess taken for known": ("#56b4e9", 0.2, 0.0),
    "content shut": ("#e69f00", 0.9, 0.93),
    "content opens": ("#e69f00", 0.4, 0.93),
}


def training_phases(history: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Say in which epochs a training held something back.

    Parameters
    ----------
    history
        Table of `train`.

    Returns
    -------
    dict
        (epochs,) bool by name, those phases that occur:

        - "first guess taken for known": angles and classes that a comparison of the patches
          suggested were told to the model;
        - "content shut", "content opens": the content was held back so that poses are found first.

    Examples
    --------
    >>> history = pd.DataFrame({"epoch": [1, 2, 3], "gate": [0.0, 0.5, 1.0]})
    >>> {name: rows.tolist() for name, rows in training_phases(history).items()}
    {'content shut': [True, False, False], 'content opens': [False, True, False]}
    """
    gate = history.get("gate", pd.Series(1.0, history.index)).to_numpy(np.float64)
    guessed = history.get("guessed", pd.Series(False, history.index)).to_numpy(bool)
    rows = dict(zip(PHASES, (guessed, gate == 0, (gate > 0) & (gate < 1)), strict=True))
    return {name: where for name, where in rows.items() if where.any()}


def draw_losses(history: pd.DataFrame) -> Figure:
    """Draw the terms of the loss against the epoch, one panel each.

    Grounds of another colour are phases in which something is held back, see `training_phases`:
    over their ends a loss may jump, for the objective changes. A ring marks the best bound of the
    held-out patches.

    Parameters
    ----------
    history
        Table of `train`: ``epoch`` and a column per term (nats per patch).

    Examples
    --------
    >>> history = pd.DataFrame({"epoch": [1, 2], "z": [0.1, 0.5], "held_out": [-9.0, -5.0]})
    >>> [axis.get_title() for axis in draw_losses(history).axes]
    ['z', 'held_out']
    """
    need(history, "epoch")
    names = [c for c in history.select_dtypes("number") if c not in NOT_LOSSES]
    if not names:
        raise InputError("the history holds no loss terms, only " + ", ".join(map(str, history)))
    figure, axes = panels(len(names), 0.75, width=2.6, across=4)
    phases = training_phases(history)
    epoch = history["epoch"].to_numpy(np.float64)
    for axis, name in zip(axes, names, strict=True):
        for phase, rows in phases.items():
            colour, strength, low = PHASES[phase]
            ends = epoch[rows].min() - 0.5, epoch[rows].max() + 0.5
            axis.axvspan(*ends, ymin=low, color=colour, alpha=strength, linewidth=0)
        axis.plot(epoch, history[name], color=BLUE, marker=".", markersize=3, linewidth=1)
        axis.set(title=name, xlim=(epoch.min() - 0.5, epoch.max() + 0.5))
        axis.locator_params(axis="x", integer=True)
        axis.margins(y=0.1)
    for k, axis in enumerate(axes):
        if k + 4 >= len(axes):
            axis.set_xlabel("epoch")
        if k % 4 == 0:
            axis.set_ylabel("nats per patch")
    if "held_out" in names and history["held_out"].notna().any():
        best = int(np.nanargmax(history["held_out"].to_numpy(np.float64)))
        axes[names.index("held_out")].plot(
            epoch[best], history["held_out"].iloc[best], "o", color="#d55e00", fillstyle="none"
        )
    if phases:
        patches = [Patch(color=PHASES[p][0], alpha=PHASES[p][1], label=p) for p in phases]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    return figure
