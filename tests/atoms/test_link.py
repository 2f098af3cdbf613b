"""Tracks against a known history."""

import numpy as np
import pandas as pd
import pytest

from atomvae.atoms.link import LinkConfig, link_atoms
from atomvae.atoms.neighbours import nearest_distance, neighbour_table
from atomvae.atoms.table import empty_atoms, make_atoms
from atomvae.errors import InputError

PITCH = 12.0


def history(n=200, frames=50, missed=0.05, noise=0.4, drift=0.0, seed=0):
    """Table of a square lattice with known identity, and its drift."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    sites = PITCH * np.stack(np.divmod(np.arange(n), side), axis=1)
    rows, truth = [], []
    velocity = np.array([drift, -0.6 * drift])
    for t in range(frames):
        if t == frames // 2:  # one atom hops to a far place
            sites[7] += [0, 40 * PITCH]
        seen = rng.permutation(np.flatnonzero((rng.random(n) > missed) | (t in (0, frames - 1))))
        place = sites[seen] + rng.normal(0, noise, (len(seen), 2)) + t * velocity
        rows.append(pd.DataFrame({"frame": t, "y": place[:, 0], "x": place[:, 1]}))
        truth.append(seen)
    table = pd.concat(rows, ignore_index=True)
    moved = pd.DataFrame({"frame": np.arange(frames)})
    moved[["dy", "dx"]] = np.arange(frames)[:, None] * velocity
    return make_atoms({k: table[k].to_numpy() for k in table}), np.concatenate(truth), moved


def links(label, frame):
    """Set of (row, next row of the same label)."""
    order = np.lexsort([frame, label])
    same = label[order][1:] == label[order][:-1]
    return set(zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True))


@pytest.mark.parametrize("drift", [0.0, 2.0, 7.0])
def test_links_are_those_of_the_history(drift):
    atoms, truth, moved = history(drift=drift)
    linked = link_atoms(atoms, moved)
    frame = linked["frame"].to_numpy()
    true, found = links(truth, frame), links(linked["track"].to_numpy(), frame)
    assert len(true & found) / len(true) >= 0.99
    assert len(found - true) / len(found) <= 0.005
    last = linked[linked["frame"] == linked["frame"].max()]
    assert last["track"].nunique() == len(last) == 200  # no two atoms share an end


def test_small_drift_needs_no_table():
    atoms, truth, _ = history(drift=3.0)
    frame = atoms["frame"].to_numpy()
    found = links(link_atoms(atoms)["track"].to_numpy(), frame)
    assert len(links(truth, frame) & found) / len(links(truth, frame)) >= 0.99


def test_drift_beyond_half_a_spacing_needs_the_table():
    atoms, truth, moved = history(drift=7.0)
    frame = atoms["frame"].to_numpy()
    true = links(truth, frame)
    alone = links(link_atoms(atoms)["track"].to_numpy(), frame)
    assert len(true & alone) / len(true) < 0.5  # the neighbour's site is nearer
    told = links(link_atoms(atoms, moved)["track"].to_numpy(), frame)
    assert len(true & told) / len(true) >= 0.99


def test_tracks_are_one_to_one_and_begin_in_any_frame():
    atoms, _, _ = history(missed=0.3)
    linked = link_atoms(atoms)
    assert not linked.duplicated(["frame", "track"]).any()
    assert (linked["track"] >= 0).all()
    first = linked.drop_duplicates("track")
    assert (first["frame"] > 0).any()
    assert first["track"].is_monotonic_increasing


@pytest.mark.parametrize(("gap", "tracks"), [(1, 2), (2, 2), (3, 1)])
def test_gap_limit(gap, tracks):
    still = {"frame": [0, 4], "y": [5.0, 5.0], "x": [5.0, 5.0]}  # missed in three frames
    assert (
        link_atoms(make_atoms(still), config=LinkConfig(max_gap=gap))["track"].nunique() == tracks
    )


def test_crossing_is_resolved_by_least_cost():
    """Two atoms that both have the same nearest track: greedy linking would lose one."""
    atoms = make_atoms({"frame": [0, 0, 1, 1], "y": [0.0] * 4, "x": [0.0, 10.0, 4.0, 6.5]})
    linked = link_atoms(atoms, config=LinkConfig(max_step_px=9.0))
    assert linked["track"].tolist() == [0, 1, 0, 1]


def test_nothing_to_link():
    assert link_atoms(empty_atoms()).empty
    one = make_atoms({"frame": [3], "y": [1.0], "x": [2.0]})
    assert link_atoms(one)["track"].tolist() == [0]


def test_drift_must_cover_the_frames():
    atoms, _, moved = history(frames=5)
    with pytest.raises(InputError, match="no frame 4"):
        link_atoms(atoms, moved.iloc[:4])


def test_honeycomb_has_three_neighbours():
    i, j, k = (v.ravel() for v in np.mgrid[:12, :12, :2])
    y = 20 * (1.5 * j + k)
    x = 20 * np.sqrt(3) * (i + 0.5 * j)
    table = pd.DataFrame({"frame": 0, "y": y, "x": x})
    found = neighbour_table(table)
    assert nearest_distance(table) == pytest.approx(20)
    assert nearest_distance(empty_atoms()) > 0
    inner = (i > 1) & (i < 10) & (j > 1) & (j < 10)
    assert (found["n_neighbours"][inner] == 3).all()
    assert found["interior"][inner].all()
    assert np.allclose(found["mean_bond"][inner], 20)
    assert not found["interior"][found["n_neighbours"] < 3].any()
