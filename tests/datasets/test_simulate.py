"""Simulated movies: truth, events, drift, and the same bytes again."""

import pickle

import dask
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

from atomvae.datasets.lattices import PEROVSKITE_CELL_NM
from atomvae.datasets.presets import PRESETS, Preset
from atomvae.datasets.simulate import simulate
from atomvae.errors import InputError

SMALL = {"frames": 4, "shape": (128, 112)}


@pytest.fixture(scope="module")
def busy():
    """Much happens, but only between frames, and nothing moves out of sight."""
    preset = PRESETS["si_graphene"].replace(
        {
            "defects": {"Si3": 0.5, "Si4": 0.2, "vacancy": 0.2, "N": 0.2},
            "events": {"exchange": 0.3, "loss": 0.1, "capture": 0.3, "hop": 0.3, "knock": 5.0},
            "probe_nm": 0.035,
            "tail": 0.1,
            "background": 0.1,
        }
    )
    return simulate(preset, frames=15, shape=(300, 280), seed=5, difficulty="poisson")


@pytest.fixture(scope="module")
def sulfur():
    preset = PRESETS["mos2_vacancies"].replace({"events": {"sulfur_loss": 9, "sulfur_hop": 0.3}})
    return simulate(preset, frames=10, shape=(300, 300), seed=2, difficulty="poisson")


def by_frame(simulation):
    return {t: table.set_index("id") for t, table in simulation.truth.groupby("frame")}


def test_graphene_has_its_density_and_bonds():
    simulation = simulate("graphene", frames=2, difficulty="poisson")
    truth, preset = simulation.truth, simulation.preset
    area = preset.shape[0] * preset.shape[1] * preset.pixel_nm**2
    counts = truth.groupby("frame").size()
    assert (counts / area).to_numpy() == pytest.approx(38.2, rel=0.01)
    frame = truth[truth["frame"] == 0].set_index("id")
    for k in range(3):
        pairs = frame[frame[f"bond_{k}"].isin(frame.index)]
        other = frame.loc[pairs[f"bond_{k}"]]
        length = np.hypot(
            other["y"].to_numpy() - pairs["y"].to_numpy(),
            other["x"].to_numpy() - pairs["x"].to_numpy(),
        )
        assert length * preset.pixel_nm == pytest.approx(0.142, abs=1e-6)
        assert (other["sublattice"].to_numpy() != pairs["sublattice"].to_numpy()).all()
    assert (truth["defect"] == -1).all() and truth["defect_kind"].isna().all()


def test_columns_and_types(busy):
    truth = busy.truth
    for name in ("frame", "id", "site", "sublattice", "defect", "n_bonds", "bond_0"):
        assert truth[name].dtype == np.int64, name
    assert truth["frame"].is_monotonic_increasing
    assert not truth.duplicated(["frame", "id"]).any()
    assert not truth.duplicated(["frame", "site"]).any()
    height, width = busy.preset.shape
    assert (
        truth["y"].between(-0.5, height - 0.5).all() and truth["x"].between(-0.5, width - 0.5).all()
    )
    none = truth["defect"] == -1
    assert truth["defect_angle"].isna().equals(none)
    assert (truth["defect_order"] > 0).equals(~none)


def test_bonds_are_mutual(busy, sulfur):
    for simulation in (busy, sulfur):
        frame = by_frame(simulation)[simulation.preset.frames - 1]
        bonds = {i: {b for b in row if b >= 0} for i, *row in
                 frame[[f"bond_{k}" for k in range(4)]].itertuples()}  # fmt: skip
        for atom, others in bonds.items():
            assert all(atom in bonds[o] for o in others if o in bonds)
        assert frame["n_bonds"].tolist() == [len(b) for b in bonds.values()]


def lone_si(simulation, distance_nm=0.45):
    """Rows of Si that no other defect pulls at."""
    si, defects = simulation.truth.query("species == 'Si'"), simulation.defects
    for row in si.itertuples():
        others = defects[(defects["frame"] == row.frame) & (defects["defect"] != row.defect)]
        apart = np.hypot(others["y"] - row.y, others["x"] - row.x) * simulation.preset.pixel_nm
        if (apart > distance_nm).all():
            yield row


def test_a_si_has_the_neighbours_of_its_kind(busy):
    si = busy.truth[busy.truth["species"] == "Si"]
    assert set(si["defect_kind"]) == {"Si3", "Si4"}
    assert (si["n_bonds"] == si["defect_kind"].map({"Si3": 3, "Si4": 4}).astype(int)).all()
    frames = by_frame(busy)
    lengths = {"Si3": [], "Si4": []}
    for row in lone_si(busy):
        frame = frames[row.frame]
        for k in range(row.n_bonds):
            if (other := getattr(row, f"bond_{k}")) in frame.index:
                d = np.hypot(frame.at[other, "y"] - row.y, frame.at[other, "x"] - row.x)
                lengths[row.defect_kind].append(d * busy.preset.pixel_nm)
    assert min(len(found) for found in lengths.values()) > 10
    assert np.array(lengths["Si3"]) == pytest.approx(0.166, abs=1e-3)
    assert np.array(lengths["Si4"]) == pytest.approx(0.188, abs=1e-3)


def test_defect_angles_point_along_bonds(busy):
    """Si3: a bond at the angle; Si4: the bonds lie symmetric to the axis; both modulo the order."""
    frames = by_frame(busy)
    checked = set()
    for row in lone_si(busy):
        frame = frames[row.frame]
        bonds = [getattr(row, f"bond_{k}") for k in range(row.n_bonds)]
        if not set(bonds) <= set(frame.index):
            continue
        dy = frame.loc[bonds, "y"].to_numpy() - row.y
        dx = frame.loc[bonds, "x"].to_numpy() - row.x
        direction = np.arctan2(-dy, dx) - row.defect_angle
        if row.defect_kind == "Si3":
            np.testing.assert_allclose(np.exp(3j * direction), 1, atol=1e-6)
        else:  # four bonds at +-40.9 degrees around both ends of the axis
            away = np.degrees(np.abs(np.angle(np.exp(2j * direction))) / 2)
            np.testing.assert_allclose(away, 40.89, atol=0.1)
        checked.add(row.defect_kind)
    assert checked == {"Si3", "Si4"}


def test_events_change_what_they_say(busy):
    frames, seen = by_frame(busy), set()
    for event in busy.events.itertuples():
        assert event.time == event.frame
        before, after = frames[event.frame - 1], frames[event.frame]
        same = busy.events[busy.events["frame"] == event.frame]
        if (same[["atom", "other"]].isin([event.atom]).sum().sum()) > 1:
            continue  # something else happened to it in this frame
        if event.atom not in before.index and event.atom not in after.index:
            continue  # out of sight
        seen.add(event.kind)
        if event.kind in ("exchange", "hop"):
            assert before.at[event.atom, "site"] == event.site_from
            assert after.at[event.atom, "site"] == event.site_to
            assert before.at[event.atom, "species"] == after.at[event.atom, "species"]
        if event.kind == "exchange":
            assert after.at[event.other, "site"] == event.site_from
            assert after.at[event.atom, "species"] == "Si" != after.at[event.other, "species"]
        if event.kind in ("loss", "knock"):
            assert event.atom in before.index and event.atom not in after.index
        if event.kind == "capture":
            assert event.atom not in before.index
            assert after.at[event.atom, "site"] == event.site_to
    assert seen == {"exchange", "hop", "loss", "knock", "capture"}


@pytest.mark.parametrize("which", ["busy", "sulfur"])
def test_nothing_changes_without_an_event(which, request):
    simulation = request.getfixturevalue(which)
    frames = by_frame(simulation)
    for t in range(1, simulation.preset.frames):
        before, after = frames[t - 1], frames[t]
        log = simulation.events[simulation.events["frame"] == t]
        named = set(log["atom"]) | set(log["other"])
        both = before.index.intersection(after.index)
        moved = before.loc[both, "site"] != after.loc[both, "site"]
        turned = before.loc[both, "species"].astype(str) != after.loc[both, "species"].astype(str)
        assert set(both[moved | turned]) <= named
        # an atom at the edge may be pushed across it by the relaxation next to it
        shape = simulation.preset.shape
        for gone, table in ((before.index.difference(after.index), before),
                            (after.index.difference(before.index), after)):  # fmt: skip
            rows = table.loc[gone]
            deep = rows["y"].between(5, shape[0] - 6) & rows["x"].between(5, shape[1] - 6)
            assert set(gone[deep]) <= named
    assert len(simulation.events) > 10


def test_sulfur_goes_and_moves(sulfur):
    frames, seen = by_frame(sulfur), set()
    for event in sulfur.events.itertuples():
        before, after = frames[event.frame - 1], frames[event.frame]
        log = sulfur.events[sulfur.events["frame"] == event.frame]
        if (
            log[["atom", "other"]].isin([event.atom]).sum().sum() > 1
            or event.atom not in after.index
        ):
            continue
        seen.add(event.kind)
        assert before.at[event.atom, "species"] == "S2" and after.at[event.atom, "species"] == "S"
        assert after.at[event.atom, "defect_kind"] == "S vacancy"
    assert seen == {"sulfur_loss", "sulfur_hop"}


def test_events_show_in_the_image(busy):
    frames = by_frame(busy)
    shown = 0
    for event in busy.events[busy.events["kind"] == "exchange"].itertuples():
        before, after = frames[event.frame - 1], frames[event.frame]
        if not {event.atom} <= set(before.index) & set(after.index):
            continue
        if after.at[event.atom, "site"] != event.site_to:
            continue
        old, new = (t.loc[event.atom, ["y", "x"]].astype(float).round().astype(int)
                    for t in (before, after))  # fmt: skip
        then, now = busy.expected(event.frame - 1), busy.expected(event.frame)
        assert now[tuple(new)] > 2 * then[tuple(new)] and then[tuple(old)] > 2 * now[tuple(old)]
        shown += 1
    assert shown >= 3


def test_events_within_frames():
    preset = PRESETS["si_graphene"].replace({"events": {"exchange": 1.0}, "defects": {"Si3": 1.0}})
    simulation = simulate(preset, frames=3, shape=(192, 192), seed=1, difficulty="scan")
    events = simulation.events
    assert ((events["time"] % 1) > 0).all() and (events["frame"] == events["time"] // 1).all()
    assert events["time"].is_monotonic_increasing
    truth = simulation.truth
    assert not truth.duplicated(["frame", "id"]).any()
    changed = truth[truth["changed"]]
    assert set(changed.loc[changed["species"] == "Si", "id"]) <= set(events["atom"])
    for event in events.itertuples():
        row = truth[(truth["frame"] == event.frame) & (truth["id"] == event.atom)]
        if len(row):
            assert row["changed"].item()


def test_a_si_that_moves_is_scanned_where_the_truth_says():
    preset = PRESETS["si_graphene"].replace(
        {"events": {"exchange": 1.0}, "defects": {"Si3": 1.0}, "tail": 0.0, "background": 0.0}
    )
    simulation = simulate(preset, frames=3, shape=(192, 192), seed=1, difficulty="scan")
    moment = simulation.preset.shape[0]
    seen = 0
    for event in simulation.events.itertuples():
        row = simulation.truth.query("frame == @event.frame and id == @event.atom")
        alone = (simulation.events.query("frame == @event.frame")["atom"] == event.atom).sum() == 1
        if not alone or not len(row) or not row["y"].between(10, moment - 11).item():
            continue
        line = (event.time - event.frame) * moment
        y = row["y"].item()
        site = event.site_from if y < line else event.site_to
        if abs(y - line) > 15:  # clearly before or after the event
            assert row["site"].item() == site
            bright = simulation.expected(event.frame)[round(y), round(row["x"].item())]
            assert bright > 2 * simulation.preset.dose
            seen += 1
    assert seen >= 3


def test_drift_table_is_the_drift_of_the_truth():
    simulation = simulate("graphene", frames=6, shape=(256, 256), seed=3, difficulty="scan")
    drift, truth = simulation.drift, simulation.truth
    assert drift.loc[0, ["dy", "dx"]].tolist() == [0, 0]
    assert np.abs(drift[["dy", "dx"]].to_numpy()[1:]).min() > 0.01
    first = truth[truth["frame"] == 0].set_index("id")
    for t in range(1, 6):
        now = truth[truth["frame"] == t].set_index("id")
        # in the middle rows, away from the bend at the left, averaged over the jitter
        both = now[now["y"].between(88, 168) & (now["x"] > 80)].index.intersection(first.index)
        moved = (now.loc[both, ["y", "x"]] - first.loc[both, ["y", "x"]]).mean().to_numpy()
        np.testing.assert_allclose(moved, drift.loc[t, ["dy", "dx"]].to_numpy(float), atol=0.06)


def test_drift_shows_in_the_images():
    preset = PRESETS["graphene"].replace({"drift_px": (0.7, -0.5), "drift_walk_px": 0.3})
    simulation = simulate(preset, frames=5, shape=(256, 256), dose=30, seed=3, difficulty="scan")
    window = np.outer(np.hanning(256), np.hanning(256))
    noisy = [gaussian_filter(simulation.movie.frame(t), 3) for t in range(5)]
    for frames, tolerance in (([simulation.expected(t) for t in range(5)], 0.04), (noisy, 0.12)):
        frames = [window * (frame - frame.mean()) for frame in frames]
        for t in range(1, 5):
            shift, _, _ = phase_cross_correlation(
                frames[0], frames[t], upsample_factor=50, normalization=None
            )
            wanted = simulation.drift.loc[t, ["dy", "dx"]].to_numpy(float)
            np.testing.assert_allclose(-shift, wanted, atol=tolerance)


def test_polar_columns_point_along_their_angle_and_the_wall_moves():
    simulation = simulate(
        PRESETS["perovskite"].replace({"wall_nm_per_frame": 0.4}),
        frames=6, shape=(400, 400), seed=1, difficulty="poisson",
    )  # fmt: skip
    preset = simulation.preset
    share = []
    for t in (0, 5):
        table = simulation.truth[simulation.truth["frame"] == t]
        a = table[table["species"] == "Ba"][["y", "x"]].to_numpy() * preset.pixel_nm
        b = table[table["species"] == "TiO"]
        position = b[["y", "x"]].to_numpy() * preset.pixel_nm
        distance = np.hypot(*(a[None] - position[:, None]).transpose(2, 0, 1))
        near = np.argsort(distance, axis=1)[:, :4]
        framed = np.take_along_axis(distance, near, 1).max(axis=1) < 0.9 * PEROVSKITE_CELL_NM
        offset = (position - a[near].mean(axis=1))[framed]
        angle = b["angle"].to_numpy()[framed]
        length = np.hypot(*offset.T)
        assert length.max() == pytest.approx(preset.polar_nm, rel=0.01)
        np.testing.assert_allclose(
            offset / length[:, None], np.c_[-np.sin(angle), np.cos(angle)], atol=1e-6
        )
        if t == 0:  # deep in the domains it points along one or the other axis
            at = np.degrees(angle[length > 0.97 * preset.polar_nm] - preset.rotation)
            assert set(np.round(at / 5).astype(int) % 72 * 5) == {0, 90}
        share.append((np.abs(np.angle(np.exp(1j * (angle - preset.rotation)))) < np.pi / 4).mean())
    assert share[1] > share[0] + 0.1  # the growing domain
    switched = simulation.events
    assert set(switched["kind"]) == {"switch"} and len(switched) > 20


def test_same_seed_same_bytes_whatever_the_order():
    one, two = (simulate("si_graphene", **SMALL, seed=9) for _ in range(2))
    whole = one.movie.frames.compute()
    pd.testing.assert_frame_equal(one.truth, two.truth)
    pd.testing.assert_frame_equal(one.events, two.events)
    pd.testing.assert_frame_equal(one.defects, two.defects)
    for t in (3, 0, 2):
        np.testing.assert_array_equal(two.movie.frames[t].compute(), whole[t])
    with dask.config.set(scheduler="synchronous"):
        again = two.movie.frames.rechunk((3, 50, 7)).compute()
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(two.movie[2:].frames.compute(), whole[2:])
    there = pickle.loads(pickle.dumps(two.movie))
    np.testing.assert_array_equal(there.frames.compute(), whole)


def test_seeds_differ_and_frames_differ():
    one, two = (simulate("si_graphene", **SMALL, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one.movie.frame(0), two.movie.frame(0))
    assert not np.array_equal(one.movie.frame(0), one.movie.frame(1))
    assert len(one.truth) != len(two.truth) or not np.allclose(one.truth["y"], two.truth["y"])


def test_global_random_numbers_are_left_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    simulate("si_graphene", **SMALL).movie.frame(1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_movie_is_lazy_and_calibrated():
    simulation = simulate("si_graphene", frames=5000, shape=(64, 64))
    movie = simulation.movie
    assert movie.frames.chunksize == (1, 64, 64)
    assert movie.pixel_size == (0.0117, 0.0117)
    assert movie.frame_time == pytest.approx(64 * (64 * 8e-6 + 200e-6))
    assert (movie.metadata["gain"], movie.metadata["offset"]) == (6.0, 10.0)
    assert len(pickle.dumps(movie)) < 20e6
    assert movie.frame(4999).mean() > 10


def test_difficulty():
    poisson, scan, full = (
        simulate("si_graphene", **SMALL, difficulty=d) for d in ("poisson", "scan", "full")
    )
    assert (poisson.drift[["dy", "dx"]] == 0).all().all() and poisson.row_shift(1).max() == 0
    np.testing.assert_array_equal(poisson.truth["x"], poisson.truth["x_sample"])
    assert np.std(scan.row_shift(1)) > 0.1 and scan.preset.contamination == 0
    assert full.preset == PRESETS["si_graphene"].replace(SMALL)
    assert not (scan.lost_rows(1).any() or poisson.lost_rows(1).any())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"preset": "gold"}, "gold.*si_graphene"),
        ({"difficulty": "hard"}, "hard.*poisson"),
        ({"seed": -1}, "seed is -1"),
        ({"dose": 0}, "dose = 0"),
        ({"frames": 0}, "frames = 0"),
        ({"shape": (4, 64)}, "shape.0 = 4"),
        ({"preset": Preset(defects={"Si5": 1.0})}, "Si5.*Si3"),
        ({"preset": Preset(defects={"V": 1.0})}, "V.*vacancy"),
        ({"preset": Preset(events={"sulfur_loss": 1.0})}, "sulfur_loss.*exchange"),
    ],
)
def test_errors_are_one_sentence(arguments, words):
    with pytest.raises(InputError, match=words):
        simulate(**arguments)


def test_preset_refuses_unknown_fields():
    with pytest.raises(InputError, match="gian"):
        PRESETS["graphene"].replace({"gian": 2})
