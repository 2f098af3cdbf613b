"""Summaries per frame against numpy and against the definition of a confidence interval."""

import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.maps.dynamics import summarise_frames, wilson_interval


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    frame = np.sort(rng.choice([0, 2, 5], 300))
    return pd.DataFrame(
        {
            "frame": frame, "z_0": rng.normal(size=300), "shift_y": rng.normal(size=300),
            "class": rng.integers(0, 3, 300),
            "angle": rng.normal(scale=0.1, size=300) + rng.integers(0, 3, 300) * 2 * np.pi / 3,
        }
    )  # fmt: skip


def test_figures_of_each_frame(table):
    summary = summarise_frames(table).set_index("frame")
    assert list(summary.index) == [0, 2, 5]
    for frame, rows in table.groupby("frame"):
        found = summary.loc[frame]
        assert found["n_atoms"] == len(rows)
        assert found["z_0_mean"] == pytest.approx(rows["z_0"].mean())
        assert found["z_0_sem"] == pytest.approx(rows["z_0"].std(ddof=1) / len(rows) ** 0.5)
        assert found["shift_y_q95"] == pytest.approx(np.quantile(rows["shift_y"], 0.95))
        assert found["class_1_fraction"] == pytest.approx((rows["class"] == 1).mean())
        assert found["class_1_low"] < found["class_1_fraction"] < found["class_1_high"]
    assert summary.filter(regex="class_._fraction").sum(axis=1).to_numpy() == pytest.approx(1)


def test_angles_know_their_symmetry(table):
    folded = table.assign(angle_folded=table["angle"] % (2 * np.pi / 3), angle_n=3)
    summary = summarise_frames(folded)
    assert np.cos(3 * summary["angle_mean"]).min() > 0.95
    assert summary["angle_sd"].to_numpy() == pytest.approx(0.1, rel=0.3)
    assert summarise_frames(table)["angle_sd"].min() > 1


def test_columns_can_be_chosen(table):
    summary = summarise_frames(table[["frame", "z_0", "shift_y"]], columns=["shift_y"])
    assert "z_0_mean" not in summary and "shift_y_mean" in summary
    with pytest.raises(InputError, match="no column 'z_7'"):
        summarise_frames(table, columns=["z_7"])


def test_no_atoms(table):
    assert summarise_frames(table.iloc[:0]).empty


def test_wilson_interval_covers():
    """Exact coverage over the binomial distribution is near 95 %, also for rare classes."""
    from scipy.stats import binom

    n, k = 40, np.arange(41)
    low, high = wilson_interval(k, n)
    for p in (0.03, 0.1, 0.5, 0.9):
        covered = binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum()
        assert 0.88 < covered < 0.995
    assert (low >= 0).all() and (high <= 1).all() and low[0] == 0 and high[-1] == 1
    assert np.isnan(wilson_interval(0, 0)[0])
    # The published example of Newcombe (1998): 81 of 263.
    assert np.round(wilson_interval(81, 263), 4).tolist() == [0.2553, 0.3662]
