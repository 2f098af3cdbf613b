"""Cutting: patches equal the truth at the sub-pixel centre, and are the atoms they say."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.patches.cut import cut_frame, cut_patches, cut_rows, frame_norm, plan_patches
from atomvae.patches.store import ARRAYS, PatchStore, write_shard


def gaussians(shape, y, x, sigma, amplitude=1.0):
    """Sum of Gaussians; sigma in px, a number or (y, x)."""
    sy, sx = np.broadcast_to(sigma, 2)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    return sum(
        a * np.exp(-((rows - v) ** 2) / (2 * sy**2) - (columns - u) ** 2 / (2 * sx**2))
        for v, u, a in zip(y, x, np.broadcast_to(amplitude, len(y)), strict=True)
    )


def table(frame, y, x, first_id=0):
    n = len(y)
    return pd.DataFrame(
        {
            "atom_id": np.arange(n) + first_id,
            "frame": np.broadcast_to(frame, n),
            "y": np.asarray(y, float),
            "x": np.asarray(x, float),
        }
    )


@pytest.fixture(scope="module")
def scene():
    """Three frames of 100 x 200, 40 atoms each of their own width, ids not in row order."""
    rng = np.random.default_rng(1)
    y, x = rng.uniform(0, 99, (3, 40)), rng.uniform(0, 199, (3, 40))
    frames = np.stack([50 + gaussians((100, 200), y[t], x[t], 3.0) * (t + 1) for t in range(3)])
    atoms = table(np.repeat([0, 1, 2], 40), y.ravel(), x.ravel())
    atoms["atom_id"] = rng.permutation(120) + 7
    return Movie.from_array(frames, pixel_size=0.05), atoms


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, 0.0), (0.3, -0.45), (-0.5, 0.5)])
@pytest.mark.parametrize("sigma", [2.0, 3.5])
def test_sub_pixel_centre(shift, sigma):
    y, x = 31 + shift[0], 40 + shift[1]
    frame = gaussians((64, 80), [y], [x], sigma)
    image, mask = cut_frame(frame, np.array([y]), np.array([x]), window_px=(25.0, 25.0), size=25)
    truth = gaussians((25, 25), [12.0], [12.0], sigma)
    assert mask.all()
    assert abs(image[0] - truth).max() < 1e-4


def test_even_size_has_the_atom_between_pixels():
    frame = gaussians((64, 64), [30.3], [31.6], 3.0)
    image, _ = cut_frame(frame, np.array([30.3]), np.array([31.6]), window_px=(24, 24), size=24)
    assert abs(image[0] - gaussians((24, 24), [11.5], [11.5], 3.0)).max() < 1e-4


def test_finer_and_coarser_than_the_frame():
    y, x = np.array([48.2]), np.array([50.9])
    frame = gaussians((100, 100), y, x, 6.0)
    fine, _ = cut_frame(frame, y, x, window_px=(30, 30), size=60)
    assert abs(fine[0] - gaussians((60, 60), [29.5], [29.5], 12.0)).max() < 1e-4
    coarse, _ = cut_frame(frame, y, x, window_px=(60, 60), size=30)
    # Smoothed by (2 - 1) / 2 px: variances of Gaussians add, their integrals stay.
    width = np.hypot(6.0, 0.5)
    truth = gaussians((30, 30), [14.5], [14.5], width / 2) * (6.0 / width) ** 2
    assert abs(coarse[0] - truth).max() < 1e-3


def test_downsampling_does_not_alias():
    stripes = np.tile([1.0, -1.0], (60, 30))  # at the Nyquist frequency of the frame
    at = np.array([30.0])
    coarse, _ = cut_frame(stripes, at, at, window_px=(48, 48), size=16)
    assert abs(coarse).max() < 0.02  # without smoothing it would be 1


def test_anisotropic_pixels_give_isotropic_patches():
    pixel = (0.02, 0.03)
    sigma = 0.08  # nm
    frame = gaussians((150, 100), [70.4], [50.7], (sigma / pixel[0], sigma / pixel[1]))
    movie = Movie.from_array(frame, pixel_size=pixel)
    store = cut_patches(movie, table(0, [70.4], [50.7]), window_nm=0.8, size=40, normalise="none")
    image = store.load()[0][0, 0]
    assert store.pixel_nm == pytest.approx(0.02)
    assert abs(image - gaussians((40, 40), [19.5], [19.5], sigma / 0.02)).max() < 5e-3
    assert abs(image - image.T).max() < 5e-3  # round


def test_row_i_is_atom_i(scene):
    movie, atoms = scene
    store = cut_patches(movie, atoms, window_nm=1.0, size=20, normalise="none")
    np.testing.assert_array_equal(store.atom_id[:], atoms["atom_id"])
    np.testing.assert_array_equal(store.frame[:], atoms["frame"])
    yx = atoms[["y", "x"]].to_numpy()
    np.testing.assert_array_equal(store.remainder[:], yx - np.round(yx))
    for row in (0, 50, 119):
        atom = atoms.iloc[row]
        frame = movie.frame(int(atom["frame"]))
        image, mask = cut_frame(
            frame, yx[row : row + 1, 0], yx[row : row + 1, 1], window_px=(20, 20), size=20
        )
        np.testing.assert_allclose(store.image[row, 0], image[0], atol=1e-5)
        np.testing.assert_array_equal(store.mask[row], mask[0])


def test_edge_atoms_are_kept_with_a_mask():
    movie = Movie.from_array(np.random.default_rng(0).random((100, 200)), pixel_size=0.1)
    atoms = table(0, [0.0, 99.0, 50.0, 50.25], [100.0, 199.0, 100.0, -30.0])
    store = cut_patches(movie, atoms, window_nm=2.1, size=21)
    image, mask = store.load()
    assert mask[0, 10:].all() and not mask[0, :10].any()  # rows above the frame are missing
    assert mask[1, :11, :11].all() and mask[1].sum() == 121
    assert mask[2].all() and not mask[3].any()
    assert abs(image[:, 0][~mask]).max() < 1e-12  # the median, to rounding
    unscaled = cut_patches(movie, atoms, window_nm=2.1, size=21, normalise="none").load()[0]
    assert unscaled[:, 0][~mask] == pytest.approx(np.median(movie.frame(0)), rel=1e-6)


def test_missing_pixels_are_masked_and_do_not_ring():
    frame = gaussians((60, 60), [30.0], [30.0], 4.0)
    frame[28, 33] = np.nan
    frame[32, 27] = np.inf
    movie = Movie.from_array(frame, pixel_size=0.1)
    store = cut_patches(movie, table(0, [30.0], [30.0]), window_nm=2.1, size=21, normalise="none")
    image, mask = (a[0] for a in store.load())
    missing = np.argwhere(~mask).tolist()
    assert missing == [[8, 13], [12, 7]]
    truth = gaussians((21, 21), [10.0], [10.0], 4.0)
    assert abs(image[0] - truth)[mask].max() < 1e-6  # samples on pixels are those pixels
    between = cut_patches(movie, table(0, [30.5], [30.5]), window_nm=2.1, size=21, normalise="none")
    image, mask = (a[0] for a in between.load())
    assert (~mask).sum() == 8  # four samples next to each missing pixel
    truth = gaussians((21, 21), [9.5], [9.5], 4.0)
    assert abs(image[0] - truth)[mask].max() < 0.05  # of an amplitude of 1


def test_frame_of_nothing_and_constant_frame():
    frames = np.full((2, 40, 40), np.nan)
    frames[1] = 12.0
    movie = Movie.from_array(frames, pixel_size=0.1)
    store = cut_patches(movie, table([0, 1], [20, 20], [20, 20]), window_nm=1.0, size=10)
    image, mask = store.load()
    assert (image == 0).all() and not mask[0].any() and mask[1].all()
    np.testing.assert_array_equal(store.norm[:], [[0, 1], [12, 1]])


def test_robust_norm_ignores_a_hot_pixel_and_units():
    frame = np.random.default_rng(0).normal(size=(80, 80))
    hot = frame.copy()
    hot[3, 4] = 1e9
    assert frame_norm(hot) == pytest.approx(frame_norm(frame), rel=1e-2, abs=1e-3)
    offset, scale = frame_norm(frame * 37 + 1000)
    o, s = frame_norm(frame)
    assert (offset, scale) == pytest.approx((o * 37 + 1000, s * 37))
    flat = np.zeros((50, 50))
    flat[2, 2] = 5.0  # 1st and 99th percentile coincide
    assert frame_norm(flat) == (0.0, 5.0)


def test_normalisation_keeps_contrast_and_is_undone():
    frame = 100 + gaussians((60, 60), [20, 40], [20, 40], 3.0, [10.0, 40.0])
    movie = Movie.from_array(np.stack([frame, frame * 5]).astype("float32"), pixel_size=0.1)
    atoms = table([0, 0, 1, 1], [20, 40, 20, 40], [20, 40, 20, 40])
    store = cut_patches(movie, atoms, window_nm=1.5, size=15)
    image, _ = store.load()
    peaks = image[:, 0, 7, 7]
    assert peaks[1] / peaks[0] == pytest.approx(4.0, rel=0.01)
    assert peaks[2:] == pytest.approx(peaks[:2], rel=1e-4)  # another gain, the same picture
    raw = store.denormalise(image)
    assert raw[:, 0, 7, 7] == pytest.approx([110, 140, 550, 700], rel=1e-5)


def test_large_offsets_lose_no_contrast():
    frame = gaussians((60, 60), [30.0], [30.0], 3.0) * 10 + 4e9
    movie = Movie.from_array(np.round(frame).astype("uint32"), pixel_size=0.1)
    store = cut_patches(movie, table(0, [30.0], [30.0]), window_nm=1.5, size=15)
    raw = store.denormalise(store.load()[0])[0, 0]
    assert raw[7, 7] - raw[0, 0] == pytest.approx(10, abs=0.6)


def test_frames_left_out_are_not_read():
    read = []

    def block(info):
        read.append(info[None]["chunk-location"][0])
        return np.random.default_rng(read[-1]).random((1, 40, 40))

    frames = da.map_blocks(
        lambda block_info: block(block_info), chunks=((1,) * 5, (40,), (40,)), dtype=float,
        meta=np.empty((0, 0, 0)),
    )  # fmt: skip
    movie = Movie.from_array(frames, pixel_size=0.1)
    atoms = table([0, 2], [20, 20], [20, 20])
    store = cut_patches(movie, atoms, window_nm=1.0, size=10, normalise="none")
    assert sorted(read) == [0, 2]
    expected = np.random.default_rng(2).random((1, 40, 40))[0]
    centre = cut_frame(expected, np.array([20.0]), np.array([20.0]), window_px=(10, 10), size=10)
    np.testing.assert_allclose(store.image[1, 0], centre[0][0], atol=1e-6)


@pytest.fixture(scope="module")
def crowd():
    """20,000 atoms, three shards: 7 frames whose boundaries are not those of the shards."""
    rng = np.random.default_rng(2)
    frame = np.sort(rng.integers(0, 7, 20_000))
    atoms = table(frame, *rng.uniform(-1, 40, (2, 20_000)))
    return rng.random((7, 40, 40)), atoms


@pytest.fixture(scope="module")
def plain(crowd):
    """The same without dask: shard by shard, last shard first."""
    frames, atoms = crowd
    movie = Movie.from_array(frames, pixel_size=0.1)
    layout = plan_patches(movie, atoms, window_nm=0.7, size=5)
    store = PatchStore.create(None, layout)
    for k in reversed(range(layout.n_shards)):
        write_shard(store, k, cut_rows(movie, atoms.iloc[layout.rows(k)], layout))
    return store


@pytest.mark.parametrize("chunk", [1, 3, 5])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_dask_equals_the_plain_loop(crowd, plain, chunk, scheduler, tmp_path):
    frames, atoms = crowd
    movie = Movie.from_array(da.from_array(frames, chunks=(chunk, -1, -1)), 0.1)
    with dask.config.set(scheduler=scheduler):
        found = cut_patches(movie, atoms, window_nm=0.7, size=5, path=tmp_path / "p")
    assert found.layout.n_shards == 3
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name)[:], getattr(plain, name)[:])


def test_a_store_in_memory_ignores_the_scheduler(crowd, plain):
    frames, atoms = crowd
    movie = Movie.from_array(frames, 0.1)
    with dask.config.set(scheduler="processes"):  # they could not reach this memory
        found = cut_patches(movie, atoms, window_nm=0.7, size=5)
    np.testing.assert_array_equal(found.image[:], plain.image[:])


def test_inside_a_distributed_worker(scene, tmp_path):
    from distributed import Client

    movie, atoms = scene
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as c:
        path = tmp_path / "p"
        n = c.submit(lambda: len(cut_patches(movie, atoms, path=path)), pure=False).result(60)
    assert n == len(atoms)
    expected = cut_patches(movie, atoms)
    np.testing.assert_array_equal(PatchStore.open(path).image[:], expected.image[:])


def test_no_atoms_and_one_atom():
    movie = Movie.from_array(np.random.default_rng(0).random((2, 50, 60)), pixel_size=0.1)
    store = cut_patches(movie, table(0, [], []).astype({"frame": int}))
    assert len(store) == 0 and store.window_nm == pytest.approx(3.2)
    one = cut_patches(movie, table(1, [25.0], [30.0]))
    assert len(one) == 1 and one.window_nm == pytest.approx(3.2) and one.layout.size == 32


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"window_nm": 5.1}, "at most 5, the smaller side of the frame"),
        ({}, {"window_nm": 0.0}, "more than 0"),
        ({}, {"window_nm": float("nan")}, "more than 0"),
        ({}, {"size": 1}, "at least 2 pixels"),
        ({}, {"normalise": "max"}, "expected 'robust' or 'none'"),
        ({"frame": [2]}, {}, "frame 2"),
        ({"y": [np.nan]}, {}, "'y' holds NaN"),
        ({"x": None}, {}, "no column 'x'"),
    ],
)
def test_refused_at_the_door(change, options, message, tmp_path):
    movie = Movie.from_array(np.zeros((2, 50, 60)), pixel_size=0.1)
    atoms = table(0, [25.0], [30.0])
    for name, value in change.items():
        atoms = atoms.drop(columns=name) if value is None else atoms.assign(**{name: value})
    with pytest.raises(InputError, match=message):
        cut_patches(movie, atoms, path=tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_a_movie_without_pixel_size_is_refused():
    movie = Movie.from_array(np.zeros((2, 50, 60)))
    with pytest.raises(InputError, match="pixel size"):
        cut_patches(movie, table(0, [25.0], [30.0]))


def test_key_tells_positions_and_window(scene):
    movie, atoms = scene
    key = plan_patches(movie, atoms).key
    assert plan_patches(movie, atoms.copy()).key == key
    moved = atoms.assign(y=atoms["y"] + 1e-9)
    assert len({key, plan_patches(movie, moved).key, plan_patches(movie, atoms, size=20).key}) == 3
