"""Probe, scan and detector: every pixel is where and what the truth says."""

import numpy as np
import pytest

from atomvae.datasets.detector import detect
from atomvae.datasets.presets import PRESETS, Preset
from atomvae.datasets.probe import Spots, draw, probe_shape
from atomvae.datasets.simulate import simulate

# Atoms that do not overlap: sigma 1.5 px at bonds of 14.2 px, no tail.
SHARP = {
    "probe_nm": 0.015, "pixel_nm": 0.01, "background": 0.0, "tail": 0.0, "shape": (160, 144),
    "contamination": 0.0, "lost_frames": 0.0, "lost_rows": 0.0, "frames": 3,
}  # fmt: skip


def inside(truth, shape, margin=12):
    ok = truth["y"].between(margin, shape[0] - 1 - margin)
    return truth[ok & truth["x"].between(margin, shape[1] - 1 - margin)]


def centroids(image, truth, half=6):
    """Centres of mass (n, 2) and sums (n,) of windows around the true positions."""
    y, x = truth["y"].to_numpy(), truth["x"].to_numpy()
    iy, ix = np.round(y).astype(int), np.round(x).astype(int)
    step = np.arange(-half, half + 1)
    rows, columns = iy[:, None] + step, ix[:, None] + step
    window = image[rows[:, :, None], columns[:, None, :]]
    total = window.sum(axis=(1, 2))
    cy = iy + (window * step[:, None]).sum(axis=(1, 2)) / total
    cx = ix + (window * step).sum(axis=(1, 2)) / total
    return np.column_stack([cy, cx]), total


@pytest.mark.parametrize("difficulty, tolerance", [("poisson", 0.005), ("scan", 0.05)])
def test_atoms_are_where_the_truth_says(difficulty, tolerance):
    # At "scan" the window sees jitter and drift; the truth has their mean over the atom's rows.
    preset = PRESETS["graphene"].replace({**SHARP, "drift_px": (2.5, -1.5)})
    simulation = simulate(preset, seed=4, difficulty=difficulty)
    for t in range(3):
        truth = simulation.truth[simulation.truth["frame"] == t]
        truth = inside(truth, preset.shape)
        assert len(truth) > 50
        found, _ = centroids(simulation.expected(t), truth)
        error = found - truth[["y", "x"]].to_numpy()
        assert np.sqrt((error**2).mean()) < tolerance
        assert np.abs(error.mean(axis=0)).max() < tolerance / 5


def test_noisy_centroids_reach_the_poisson_limit():
    # Without background a centroid's variance is sigma^2 / electrons (and the windows cut little).
    preset = PRESETS["graphene"].replace({**SHARP, "frames": 30, "gain": 1, "offset": 0})
    simulation = simulate(preset, dose=4, seed=1, difficulty="poisson")
    errors, electrons = [], []
    for t in range(30):
        truth = inside(simulation.truth[simulation.truth["frame"] == t], preset.shape)
        found, total = centroids(simulation.movie.frame(t), truth, half=5)
        errors.append(found - truth[["y", "x"]].to_numpy())
        electrons.append(total)
    rms = np.sqrt((np.concatenate(errors) ** 2).mean())
    limit = 1.5 / np.sqrt(np.concatenate(electrons).mean())
    # windows of 3.3 sigma lose little; 2,000 atoms know the rms to 1.5 %
    assert 0.95 < rms / limit < 1.05


def test_tail_defocus_and_astigmatism_keep_position_and_electrons():
    preset = Preset(shape=(128, 128), probe_nm=0.04, pixel_nm=0.0117, tail=0.3, defocus=0.1,
                    astigmatism=0.2)  # fmt: skip
    spot = Spots(*(np.array([v]) for v in (60.3, 65.7, 50.0, -np.inf, np.inf)))
    for frame in range(5):
        image = draw(preset, spot, np.zeros(128), probe_shape(preset, frame, 0))
        assert image.sum() == pytest.approx(50, rel=2e-3)
        assert (image.sum(1) @ np.arange(128)) / image.sum() == pytest.approx(60.3, abs=0.02)
        assert (image.sum(0) @ np.arange(128)) / image.sum() == pytest.approx(65.7, abs=0.02)


def test_astigmatism_is_what_the_inverse_covariance_says():
    preset = Preset(shape=(96, 96), probe_nm=0.04, pixel_nm=0.01, tail=0.0, astigmatism=0.3)
    inverse = probe_shape(preset, 3, 5)
    spot = Spots(*(np.array([v]) for v in (48.0, 48.0, 1.0, -np.inf, np.inf)))
    image = draw(preset, spot, np.zeros(96), inverse)
    d = np.arange(96) - 48.0
    measured = np.array(
        [[image.sum(1) @ d**2, d @ image @ d], [d @ image @ d, image.sum(0) @ d**2]]
    )
    wanted = np.linalg.inv([[inverse[0], inverse[1]], [inverse[1], inverse[2]]])
    np.testing.assert_allclose(measured, wanted, rtol=0.01, atol=0.02)
    assert abs(wanted[0, 0] / wanted[1, 1] - 1) > 0.01 or abs(wanted[0, 1]) > 0.1


def test_an_atom_that_comes_in_the_middle_of_a_frame_is_seen_by_half():
    preset = Preset(shape=(64, 64), tail=0.2)
    whole = Spots(*(np.array([v]) for v in (30.0, 30.0, 9.0, -np.inf, np.inf)))
    late = Spots(*(np.array([v]) for v in (30.0, 30.0, 9.0, 31.5, np.inf)))
    inverse = probe_shape(preset, 0, 0)
    full, half = (draw(preset, s, np.zeros(64), inverse) for s in (whole, late))
    assert half[:32].max() == 0
    np.testing.assert_allclose(half[32:], full[32:])


def test_row_shift_moves_rows_exactly():
    preset = Preset(shape=(64, 64), tail=0.0)
    shift = np.zeros(64)
    shift[29:32] = [0.5, -0.25, 0.8]
    spot = Spots(*(np.array([v]) for v in (30.0, 30.2, 9.0, -np.inf, np.inf)))
    image = draw(preset, spot, shift, probe_shape(preset, 0, 0))
    center = (image @ np.arange(64)) / np.maximum(image.sum(1), 1e-9)
    np.testing.assert_allclose(center[28:33] - 30.2, shift[28:33], atol=0.01)


@pytest.mark.parametrize("preset", ["graphene", "mos2_vacancies", "perovskite"])
def test_mean_dose_is_as_set(preset):
    change = {"defects": {}, "events": {}, "polar_nm": 0.0}
    settings = PRESETS[preset].replace(change)
    simulation = simulate(settings, frames=1, shape=(300, 300), difficulty="poisson")
    electrons = (simulation.movie.frame(0) - settings.offset) / settings.gain
    assert electrons.mean() == pytest.approx(settings.dose, rel=0.02)
    assert simulation.expected(0).mean() == pytest.approx(settings.dose, rel=0.02)


def test_variance_equals_mean_in_electrons():
    simulation = simulate("graphene", frames=40, shape=(96, 96), dose=5, difficulty="poisson")
    preset = simulation.preset
    counts = (simulation.movie.frames.compute() - preset.offset) / preset.gain
    assert np.array_equal(counts, np.round(counts))
    mean = simulation.expected(0)
    assert ((counts - mean) ** 2 / mean).mean() == pytest.approx(1, abs=0.01)
    assert (counts.mean(axis=0) - mean).std() == pytest.approx(np.sqrt(5 / 40), rel=0.03)
    assert np.corrcoef(counts[0].ravel(), mean.ravel())[0, 1] > 0.3


def test_contrast_of_si_and_carbon():
    change = {**SHARP, "defects": {"Si3": 3.0}, "frames": 1}
    simulation = simulate(PRESETS["graphene"].replace(change), seed=2, difficulty="poisson")
    truth = inside(simulation.truth, simulation.preset.shape)
    _, total = centroids(simulation.expected(0), truth, half=5)
    si = total[(truth["species"] == "Si").to_numpy()]
    carbon = total[(truth["defect"] < 0).to_numpy()]
    assert len(si) >= 2
    assert si.mean() / carbon.mean() == pytest.approx((14 / 6) ** 1.7, rel=0.02)


def test_detector_gain_offset_and_spread():
    rng = np.random.default_rng(0)
    preset = Preset(gain=3.0, offset=50.0, pulse_spread=0.5, dtype="float32")
    value = detect(np.full((400, 400), 8.0), preset, rng).astype(float)
    assert value.mean() == pytest.approx(50 + 3 * 8, rel=0.002)
    assert value.var() == pytest.approx(9 * 8 * (1 + 0.5**2), rel=0.02)


def test_detector_noise_of_rows_and_afterglow():
    rng = np.random.default_rng(0)
    c = 0.1
    preset = Preset(gain=1.0, offset=0.0, row_noise=0.5, dtype="float32")
    value = detect(np.full((500, 400), 4.0), preset, rng).astype(float)
    assert value.mean(axis=1).var() == pytest.approx(0.25 + 4 / 400, rel=0.15)
    preset = Preset(gain=1.0, offset=0.0, afterglow=c, dtype="float32")
    value = detect(np.full((500, 400), 4.0), preset, rng).astype(float) - 4

    def correlation(a, b):
        return (a * b).mean() / (value**2).mean()

    wanted = c * (1 - c) / (c**2 + (1 - c) ** 2)
    assert correlation(value[:, 1:], value[:, :-1]) == pytest.approx(wanted, abs=0.01)
    assert correlation(value[1:], value[:-1]) == pytest.approx(0, abs=0.01)


def test_integers_are_clipped():
    rng = np.random.default_rng(0)
    value = detect(np.full((16, 16), 100.0), Preset(gain=6.0, dtype="uint8"), rng)
    assert value.dtype == np.uint8 and value.min() == 255


def test_lost_rows_are_dark_and_their_atoms_invisible():
    preset = PRESETS["graphene"].replace(
        {"lost_rows": 0.2, "row_noise": 0.0, "afterglow": 0.0, "frames": 2, "shape": (96, 96)}
    )
    simulation = simulate(preset, dose=40, seed=3)
    for t in range(2):
        lost = simulation.lost_rows(t)
        assert 5 < lost.sum() < 40
        rows = simulation.movie.frame(t).max(axis=1)
        np.testing.assert_array_equal(rows == preset.offset, lost)
        truth = simulation.truth[simulation.truth["frame"] == t]
        row = np.clip(np.round(truth["y"]).astype(int), 0, 95)
        np.testing.assert_array_equal(truth["visible"], ~lost[row])


def test_contamination_grows_and_drifts_with_the_sample():
    change = {"contamination": 2.0, "contamination_growth": 0.3, "frames": 4, "jitter_px": 0.0}
    full = simulate(PRESETS["graphene"].replace(change), shape=(256, 256), seed=0)
    clean = simulate(
        PRESETS["graphene"].replace({**change, "contamination": 0.0}), shape=(256, 256), seed=0
    )
    added = [full.expected(t) - clean.expected(t) for t in range(4)]
    assert all(a.min() > -1e-9 for a in added)
    area = [(a > 0).mean() for a in added]
    assert area == sorted(area) and area[-1] > area[0] > 0
