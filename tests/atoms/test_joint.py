"""Joint fit of overlapping columns against the bound that theory sets."""

import numpy as np
import pandas as pd
import pytest

from atomvae.atoms.joint import fit_joint
from atomvae.errors import InputError


def honeycomb(bond, size, rng):
    """Slightly displaced graphene sites (n, 2) over a frame and two bonds around it."""
    steps = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 2), -1).reshape(-1, 2)
    cell = bond * np.array([[0, np.sqrt(3)], [1.5, np.sqrt(3) / 2]])
    sites = np.concatenate([steps @ cell, steps @ cell + [bond, 0]])
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    sites = sites @ turn + size / 2
    sites = sites[((sites > -2 * bond) & (sites < size + 2 * bond)).all(1)]
    return sites + rng.normal(0, 0.3, sites.shape)


def columns(sites, width, size):
    """Unit columns (n, size, size)."""
    row = np.exp(-((np.arange(size) - sites[:, :1]) ** 2) / (2 * width**2))
    column = np.exp(-((np.arange(size) - sites[:, 1:]) ** 2) / (2 * width**2))
    return row[:, :, None] * column[:, None, :]


def joint_bound(sites, unit, amplitude, width, mu):
    """Standard deviations (n, 2) from the dense Fisher matrix of all parameters."""
    size = mu.shape[0]
    dy = np.arange(size)[:, None] - sites[:, 0, None, None]
    dx = np.arange(size) - sites[:, 1, None, None]
    light = amplitude * unit / width**2
    slopes = [*(light * dy), *(light * dx), *unit]
    slopes += [(light * (dy**2 + dx**2) / width).sum(0), np.ones_like(mu)]
    jacobian = np.stack(slopes).reshape(len(slopes), -1)
    inverse = np.linalg.inv((jacobian / mu.ravel()) @ jacobian.T + 1e-9 * np.eye(len(slopes)))
    return np.sqrt(np.diag(inverse)[: 2 * len(sites)]).reshape(2, -1).T


@pytest.mark.parametrize("dose", [2.8, 28.0])
@pytest.mark.parametrize(("bond", "size"), [(12.1, 128), (18.2, 160)])
def test_reaches_the_joint_bound(bond, size, dose):
    width, square, pulls, bound = 0.35 * bond, [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sites = honeycomb(bond, size, rng)
        unit = columns(sites, width, size)
        amplitude = 0.7 * dose / unit.sum(0).mean()
        mu = amplitude * unit.sum(0) + 0.3 * dose
        seen = ((sites > -1.5 * width) & (sites < size + 1.5 * width)).all(1)
        guess = sites[seen] + rng.normal(0, 0.5, (seen.sum(), 2))
        start = pd.DataFrame({"y": guess[:, 0], "x": guess[:, 1], "amplitude": amplitude})
        fit = fit_joint(rng.poisson(mu), start, 1.05 * width)
        core = ((sites[seen] > 1.5 * bond) & (sites[seen] < size - 1.5 * bond)).all(1)
        error = fit[["y", "x"]].to_numpy()[core] - sites[seen][core]
        square.append(error**2)
        pulls.append(error / fit[["y_sd", "x_sd"]].to_numpy()[core])
        sd = joint_bound(sites[seen], unit[seen], amplitude, width, mu)
        bound.append(sd[core] ** 2)
        assert not (fit["flag"] & 1).any()
    rms, least = (np.sqrt(np.concatenate(part).mean()) for part in (square, bound))
    spread = np.concatenate(pulls).std()
    print(
        f"{bond} px, {dose} e: rms/bound {rms / least:.3f}, pulls {spread:.3f}, bound {least:.3f}"
    )
    assert rms < 1.10 * least
    assert 0.9 < spread < 1.1


def test_tiles_agree_with_one_fit():
    rng = np.random.default_rng(0)
    sites = honeycomb(12.1, 128, rng)
    sites = sites[((sites > 2) & (sites < 125)).all(1)]
    counts = rng.poisson(8 * columns(sites, 4.2, 128).sum(0) + 2)
    start = pd.DataFrame({"y": sites[:, 0], "x": sites[:, 1], "amplitude": 8.0})
    whole = fit_joint(counts, start, 4.2)
    tiled = fit_joint(counts, start, 4.2, tile_atoms=30)
    off = (
        np.abs(whole[["y", "x"]] - tiled[["y", "x"]]).to_numpy() / whole["y_sd"].to_numpy()[:, None]
    )
    assert np.median(off) < 0.1 and np.percentile(off, 95) < 0.5
    np.testing.assert_allclose(tiled["y_sd"], whole["y_sd"], rtol=0.1)


def test_gaussian_noise_and_uneven_background():
    rng = np.random.default_rng(1)
    sites = honeycomb(12.1, 128, rng)
    slope = np.linspace(100, 300, 128)[:, None] * np.ones(128)
    image = 50 * columns(sites, 4.2, 128).sum(0) + slope + rng.normal(0, 20, (128, 128))
    seen = ((sites > -6) & (sites < 134)).all(1)
    start = pd.DataFrame({"y": sites[seen, 0], "x": sites[seen, 1], "amplitude": 40.0})
    fit = fit_joint(image, start, 4.0, noise="gaussian")
    core = ((sites[seen] > 20) & (sites[seen] < 108)).all(1)
    pull = ((fit[["y", "x"]] - sites[seen]).to_numpy() / fit[["y_sd", "x_sd"]].to_numpy())[core]
    assert 0.88 < pull.std() < 1.12
    assert fit["amplitude"][core].mean() == pytest.approx(50, rel=0.05)
    assert fit["sigma"].iloc[0] == pytest.approx(4.2, rel=0.03)


def test_masked_pixels_say_nothing():
    rng = np.random.default_rng(2)
    sites = honeycomb(12.1, 96, rng)
    counts = rng.poisson(20 * columns(sites, 4.2, 96).sum(0) + 2).astype(float)
    seen = ((sites > -4) & (sites < 100)).all(1)
    start = pd.DataFrame({"y": sites[seen, 0], "x": sites[seen, 1], "amplitude": 20.0})
    valid = np.ones((96, 96), bool)
    valid[:, 60:] = False
    spoilt = counts.copy()
    spoilt[:, 60:] = np.nan
    one = fit_joint(spoilt, start, 4.2)
    other = fit_joint(np.where(valid, counts, 1e6), start, 4.2, valid=valid)
    pd.testing.assert_frame_equal(one, other)
    outside = start["x"].to_numpy() > 75
    assert np.isfinite(one.to_numpy()).all()
    assert (one["score"].to_numpy()[outside] < 3).all()


def test_tether_holds_a_faint_column():
    rng = np.random.default_rng(3)
    counts = rng.poisson(3.0, (64, 64))
    start = pd.DataFrame({"y": [30.0], "x": [31.0], "amplitude": [2.0]})
    held = fit_joint(counts, start.assign(tether_px=0.2), 4.0)
    assert np.hypot(held["y"][0] - 30, held["x"][0] - 31) < 0.6
    assert held["y_sd"][0] <= 0.2


def test_nothing_to_fit_and_bad_input():
    none = pd.DataFrame({"y": [], "x": [], "amplitude": []}, dtype=float)
    assert len(fit_joint(np.ones((8, 8)), none, 2.0)) == 0
    one = pd.DataFrame({"y": [4.0], "x": [4.0], "amplitude": [1.0]})
    with pytest.raises(InputError, match="3-D"):
        fit_joint(np.ones((2, 8, 8)), one, 2.0)
    with pytest.raises(InputError, match="positive width"):
        fit_joint(np.ones((8, 8)), one, 0.0)
    with pytest.raises(InputError, match="outside"):
        fit_joint(np.ones((8, 8)), one.assign(x=99.0), 2.0)
