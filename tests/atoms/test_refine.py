import numpy as np
import pytest

from atomvae.atoms.detect import updated_prior, width_prior
from atomvae.atoms.refine import (
    WidthPrior,
    fit_columns,
    gather_windows,
    neighbour_light,
    start_values,
)


def columns(n, height, background, width, seed, pitch=24):
    """Isolated columns on a grid: expected image and truth (n * n, 5)."""
    rng = np.random.default_rng(seed)
    line = pitch / 2 + pitch * np.arange(n)
    y, x = (p.ravel() + rng.uniform(-0.5, 0.5, n * n) for p in np.meshgrid(line, line))
    pixel = np.arange(n * pitch)
    rows = np.exp(-((pixel - y[:, None]) ** 2) / (2 * width**2))
    image = background + height * rows.T @ np.exp(-((pixel - x[:, None]) ** 2) / (2 * width**2))
    same = np.ones(n * n)
    return image, np.stack([y, x, height * same, width * same, background * same], axis=1)


def fitted(image, truth, noise, prior=None, sign=1, half=7):
    y, x = np.rint(truth[:, 0]), np.rint(truth[:, 1])
    windows = gather_windows(image.astype(float), np.full(image.shape, True), y, x, half)
    start = start_values(windows, y, x, 2.0, sign)
    return fit_columns(windows, start, noise, None, prior)


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_noise_the_truth_comes_back(noise, sign):
    image, truth = columns(4, sign * 40.0, 50.0, 2.6, 0)
    fit = fitted(image, truth, noise, sign=sign)
    assert fit.converged.all() and not fit.at_bound.any() and not fit.cut.any()
    np.testing.assert_allclose(fit.theta, truth, atol=0.02)
    assert fit.chi2.max() < 1e-3


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_parameter_has_honest_errors(noise, sign):
    image, truth = columns(20, sign * 60.0, 80.0 if sign < 0 else 8.0, 2.2, 1)
    rng = np.random.default_rng(2)
    noisy = rng.poisson(image) if noise == "poisson" else image + rng.normal(0, 1, image.shape)
    fit = fitted(noisy, truth, noise, sign=sign)
    pulls = (fit.theta - truth)[fit.converged] / fit.sd[fit.converged]
    assert fit.converged.mean() > 0.99
    # 400 columns: the sd of a pull is known to 3.5 %, its mean to 0.05.
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.12)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.25)
    assert np.mean(fit.chi2) == pytest.approx(1, abs=0.05)


def test_the_batch_agrees_with_one_column_at_a_time():
    image, truth = columns(18, 30.0, 4.0, 2.2, 3)  # more than one block
    noisy = np.random.default_rng(3).poisson(image)
    together = fitted(noisy, truth, "poisson")
    for i in (0, 17, 200, 323):
        alone = fitted(noisy, truth[i : i + 1], "poisson")
        np.testing.assert_allclose(alone.theta[0], together.theta[i], rtol=1e-9)
        np.testing.assert_allclose(alone.covariance[0], together.covariance[i], rtol=1e-6)


def test_bounds_hold_where_there_is_no_column():
    noise = np.random.default_rng(4).poisson(2.0, (200, 200))
    at = np.stack(np.meshgrid(np.arange(10.0, 190, 12), np.arange(10.0, 190, 12)), -1)
    truth = np.c_[at.reshape(-1, 2), np.zeros((225, 3))]
    fit = fitted(noise, truth, "poisson", WidthPrior(2.2, 0.1))
    assert np.isfinite(fit.theta).all()
    assert (np.abs(fit.theta[:, :2] - truth[:, :2]) <= 2 + 1e-9).all()
    assert (fit.theta[:, 2] > 0).all() and (fit.theta[:, 4] >= 0).all()
    assert (np.abs(fit.theta[:, 3] - 2.2) < 1).all()


def test_neighbours_are_known_to_each_other():
    truth = np.array([[20.0, 20.0, 50, 2.0, 3], [20.0, 27.0, 30, 2.0, 3], [26.0, 23.0, 40, 2.0, 3]])
    pixel = np.arange(48)
    rows = np.exp(-((pixel - truth[:, :1]) ** 2) / 8)
    parts = (
        truth[:, 2, None, None]
        * rows[:, :, None]
        * np.exp(-((pixel - truth[:, 1:2]) ** 2) / 8)[:, None, :]
    )
    image = 3 + parts.sum(axis=0)
    valid = np.full(image.shape, True)
    windows = gather_windows(image, valid, truth[:, 0], truth[:, 1], 5)
    light = neighbour_light(truth, np.full(3, True), windows, 5)
    for i in range(3):
        others = gather_windows(parts.sum(axis=0) - parts[i], valid, *truth[[i], :2].T, 5)
        np.testing.assert_allclose(light[i], others.counts[0], atol=1e-9)
    start = start_values(windows, truth[:, 0], truth[:, 1], 2.0, 1)
    fit = fit_columns(windows, start, "poisson", light)
    np.testing.assert_allclose(fit.theta, truth, atol=1e-3)
    assert not neighbour_light(truth, np.full(3, False), windows, 5).any()


def test_the_prior_of_the_width_is_not_biased_at_low_dose():
    image, truth = columns(30, 8.0, 2.0, 2.2, 5, pitch=16)
    noisy = np.random.default_rng(5).poisson(image)
    free = fitted(noisy, truth, "poisson")
    prior = width_prior(free, np.ones(len(truth)), 2.0)
    assert prior.mean == pytest.approx(2.2, rel=0.1)
    wrong = WidthPrior(1.9, 0.1)
    for _ in range(3):
        wrong = updated_prior(fitted(noisy, truth, "poisson", wrong), wrong)
    assert wrong.mean == pytest.approx(2.2, rel=0.03)


def test_windows_at_the_border_and_over_missing_pixels():
    image, truth = columns(2, 50.0, 5.0, 2.0, 6)
    valid = np.full(image.shape, True)
    valid[:, 13] = False
    windows = gather_windows(np.where(valid, image, 1e6), valid, truth[:, 0], truth[:, 1], 6)
    start = start_values(windows, truth[:, 0], truth[:, 1], 2.0, 1)
    fit = fit_columns(windows, start, "poisson")
    # Converged to 1e-3 px; height and background lag behind by as much of their own errors.
    np.testing.assert_allclose(fit.theta[:, :2], truth[:, :2], atol=2e-3)
    np.testing.assert_allclose(fit.theta[:, 2:], truth[:, 2:], rtol=1e-2)
    np.testing.assert_array_equal(fit.cut, [True, True, False, False])
    corner = gather_windows(image, np.full(image.shape, True), np.zeros(1), np.zeros(1), 3)
    assert corner.weight.sum() == 11  # a quarter of the disc of 29 px, its axes included


def test_no_columns_at_all():
    windows = gather_windows(np.ones((9, 9)), np.full((9, 9), True), np.empty(0), np.empty(0), 3)
    fit = fit_columns(windows, np.empty((0, 5)), "poisson")
    assert fit.theta.shape == (0, 5) and fit.covariance.shape == (0, 5, 5)
