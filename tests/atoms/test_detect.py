import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvae.atoms.config import DetectConfig
from atomvae.atoms.detect import DETECTORS, detect_atoms, detect_frame
from atomvae.atoms.read import read_atoms
from atomvae.atoms.table import COLUMNS, Flag, check_atoms
from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from tests.atoms.bench_detect import DOSES, bound, make_scene, match, score


def spots(y, x, height, width, shape):
    rows = np.exp(-((np.arange(shape[0]) - np.asarray(y)[:, None]) ** 2) / (2 * width**2))
    columns = np.exp(-((np.arange(shape[1]) - np.asarray(x)[:, None]) ** 2) / (2 * width**2))
    return (np.broadcast_to(height, len(y))[:, None] * rows).T @ columns


def small_movie(frames=7, shape=(60, 70), seed=0):
    rng = np.random.default_rng(seed)
    y, x = (p.ravel() for p in np.meshgrid(np.arange(8, 56, 11), np.arange(9, 66, 11)))
    truth = [
        (y + rng.normal(0, 0.5, y.size), x + rng.normal(0, 0.5, y.size)) for _ in range(frames)
    ]
    return rng.poisson([3 + spots(*at, 60.0, 2.0, shape) for at in truth]), truth


@pytest.mark.parametrize("dose", DOSES, ids=["high", "mid", "low"])
@pytest.mark.parametrize("seed", [11, 12])
def test_as_good_as_the_bound_allows(dose, seed):
    scene = make_scene(*dose, seed)
    result = score(scene)
    assert result.recall >= 0.999
    assert result.false <= 2
    # Statistics of 3,700 errors: 1.2 % of the rms.
    assert result.rms <= (1.15 if dose[0] < 10 else 1.10) * bound(scene)
    assert 0.9 < result.pull < 1.1


def test_bound_agrees_with_the_published_one():
    for dose, published in zip(DOSES, (0.0456, 0.1104, 0.2790), strict=True):
        assert bound(make_scene(*dose, 0, per_side=20, size=228)) == pytest.approx(
            published, rel=0.01
        )


def test_gaussian_noise_gives_honest_errors():
    scene = make_scene(40.0, 6.0, 5, per_side=30, size=342)
    image = scene.expected + np.random.default_rng(5).normal(0, 4.0, scene.expected.shape)
    atoms = detect_frame(image)
    rows, columns = match(atoms["y"], atoms["x"], scene.y, scene.x)
    assert len(rows) == len(atoms) == 900
    clean = atoms["flag"].to_numpy()[rows] == 0
    errors = np.c_[
        atoms["y"].to_numpy()[rows] - scene.y[columns],
        atoms["x"].to_numpy()[rows] - scene.x[columns],
    ]
    pulls = (errors / atoms[["y_sd", "x_sd"]].to_numpy()[rows])[clean]
    assert 0.9 < pulls.std() < 1.1
    heights = (atoms["amplitude"].to_numpy()[rows] - scene.height[columns])[clean]
    assert 0.85 < (heights / atoms["amplitude_sd"].to_numpy()[rows][clean]).std() < 1.15


def test_units_are_those_of_the_file():
    scene = make_scene(200.0, 20.0, 6, per_side=20, size=228)
    plain = detect_frame(scene.counts, DetectConfig(gain=1, offset=0))
    scaled = detect_frame(50 + 3.0 * scene.counts, DetectConfig(gain=3, offset=50))
    np.testing.assert_allclose(scaled[["y", "x", "y_sd"]], plain[["y", "x", "y_sd"]], atol=2e-3)
    np.testing.assert_allclose(scaled["amplitude"], 3 * plain["amplitude"], rtol=1e-2)
    np.testing.assert_allclose(scaled["background"], 50 + 3 * plain["background"], atol=0.5)


def test_dark_columns_are_the_mirror_of_bright_ones():
    scene = make_scene(40.0, 6.0, 7, per_side=20, size=228)
    image = scene.expected + np.random.default_rng(7).normal(0, 3.0, scene.expected.shape)
    bright, dark = detect_frame(image), detect_frame(-image)
    np.testing.assert_allclose(dark[["y", "x", "y_sd"]], bright[["y", "x", "y_sd"]], atol=1e-6)
    np.testing.assert_allclose(dark["amplitude"], -bright["amplitude"], rtol=1e-6)
    counts = np.random.default_rng(8).poisson(60 - scene.expected.clip(0, 50))
    found = detect_frame(counts)
    assert len(found) == 400 and (found["amplitude"] < 0).all()


@settings(max_examples=10, deadline=None)
@given(turns=st.integers(0, 3), flip=st.booleans())
def test_turning_the_frame_turns_the_atoms(turns, flip):
    frame = small_movie(1)[0][0].astype(float)
    config = DetectConfig().resolve(frame)
    plain = detect_frame(frame, config)
    index = np.stack(np.mgrid[: frame.shape[0], : frame.shape[1]]).astype(float)
    moved = [np.rot90(i[:, ::-1] if flip else i, turns) for i in (frame, *index)]
    atoms = detect_frame(np.ascontiguousarray(moved[0]), config)
    at = np.rint(atoms[["y", "x"]].to_numpy()).astype(int)
    back = np.stack([m[at[:, 0].clip(0), at[:, 1].clip(0)] for m in moved[1:]], axis=1)
    rows, columns = match(back[:, 0], back[:, 1], plain["y"], plain["x"])
    assert len(atoms) == len(plain) == len(rows)
    np.testing.assert_allclose(
        atoms["amplitude"].to_numpy()[rows], plain["amplitude"].to_numpy()[columns], rtol=1e-3
    )


@pytest.mark.parametrize("chunks", [1, 3, (2, 5), 7])
def test_movie_agrees_with_the_plain_loop(chunks):
    counts, truth = small_movie()
    movie = Movie.from_array(counts)
    config = DetectConfig().resolve(movie)
    movie = Movie(movie.frames.rechunk({0: chunks}))
    atoms = check_atoms(detect_atoms(movie), shape=movie.shape)
    loop = [detect_frame(frame, config).assign(frame=t) for t, frame in enumerate(counts)]
    expected = pd.concat(loop, ignore_index=True)
    pd.testing.assert_frame_equal(atoms.drop(columns="atom_id"), expected.drop(columns="atom_id"))
    assert atoms["atom_id"].tolist() == list(range(len(atoms)))
    assert list(atoms.columns) == list(COLUMNS)
    for t, (y, x) in enumerate(truth):
        here = atoms[atoms["frame"] == t]
        assert len(match(here["y"], here["x"], y, x)[0]) == len(y) == len(here)


def test_part_of_a_movie_gives_the_same_rows():
    movie = Movie.from_array(small_movie()[0])
    config = DetectConfig().resolve(movie)
    whole = detect_atoms(movie, config)
    part = detect_atoms(movie[3:6], config)
    expected = whole[whole["frame"].between(3, 5)].reset_index(drop=True)
    drop = ["atom_id", "frame"]
    pd.testing.assert_frame_equal(part.drop(columns=drop), expected.drop(columns=drop))


def test_more_frames_than_a_task_holds():
    counts = small_movie(20, (40, 40))[0]
    atoms = detect_atoms(Movie.from_array(counts))
    assert atoms["frame"].unique().tolist() == list(range(20))


def test_resolved_is_complete_and_stays():
    frame = small_movie(1)[0][0]
    config = DetectConfig(threshold=4.5).resolve(frame)
    assert not [name for name, value in config.model_dump().items() if value is None]
    assert config.threshold == 4.5
    assert config.resolve(np.zeros((9, 9))) == config
    assert DetectConfig.model_validate_json(config.model_dump_json()) == config


def test_signal_name_decides_the_polarity():
    counts = small_movie(1)[0]
    movie = Movie.from_array(counts, metadata={"signal": "ABF"})
    assert DetectConfig().resolve(movie).polarity == "dark"
    assert DetectConfig().resolve(Movie.from_array(counts)).polarity == "bright"
    assert DetectConfig(polarity="bright").resolve(movie).polarity == "bright"


def test_noise_has_hardly_any_atoms():
    rng = np.random.default_rng(9)
    frames = [rng.poisson(5.0, (256, 256)), rng.normal(0, 1, (256, 256))]
    assert sum(len(detect_frame(frame)) for frame in frames) <= 4


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 32)),
        np.full((32, 32), 7, "uint16"),
        np.full((32, 32), np.nan),
        np.full((32, 32), np.inf),
        np.zeros((0, 5)),
        np.zeros((1, 1)),
        np.array([[np.nan, 1.0], [1.0, np.nan]]),
    ],
    ids=["zeros", "constant", "nan", "inf", "empty", "one pixel", "two values"],
)
def test_frames_without_columns(frame):
    atoms = detect_frame(frame)
    assert atoms.empty and list(atoms.columns) == list(COLUMNS)


@pytest.mark.parametrize("shape", [(3, 3), (1, 40), (2, 9), (5, 5)])
def test_frames_smaller_than_a_column(shape):
    check_atoms(detect_frame(np.random.default_rng(0).poisson(9, shape)))
    check_atoms(detect_frame(np.arange(np.prod(shape)).reshape(shape), DetectConfig(width_px=6)))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("noisy", [False, True])
def test_one_atom(dtype, noisy):
    expected = 4 + spots([20.3], [31.7], 90.0, 2.5, (50, 60))
    frame = np.random.default_rng(1).poisson(expected) if noisy else np.rint(expected)
    atoms = detect_frame(frame.astype(dtype))
    assert len(atoms) == 1
    assert atoms["y"][0] == pytest.approx(20.3, abs=0.3 if noisy else 0.05)
    assert atoms["x"][0] == pytest.approx(31.7, abs=0.3 if noisy else 0.05)


def test_negative_values():
    frame = spots([20.3], [31.7], 9.0, 2.5, (50, 60)) - 40
    frame += np.random.default_rng(2).normal(0, 0.3, frame.shape)
    atoms = detect_frame(frame)
    assert len(atoms) == 1
    assert atoms["y"][0] == pytest.approx(20.3, abs=4 * atoms["y_sd"][0])
    assert atoms["background"][0] == pytest.approx(-40, abs=3 * atoms["amplitude_sd"][0])


def test_missing_pixels_are_left_out():
    frame = small_movie(1)[0][0].astype(float)
    plain = detect_frame(frame)
    broken = frame.copy()
    broken[:, 36:46] = np.nan
    broken[3, 3] = -np.inf
    atoms = detect_frame(broken)
    assert not atoms["x"].between(37, 44).any()
    far = plain[~plain["x"].between(20, 55)]
    rows, _ = match(far["y"], far["x"], atoms["y"], atoms["x"])
    assert len(rows) == len(far)
    near = ((atoms["x"] - 37).abs() < 10).to_numpy()
    assert (atoms["flag"].to_numpy()[near] & int(Flag.BORDER) > 0).all()


def test_refused():
    with pytest.raises(InputError, match=r"shape \(2, 3, 4\), expected \(y, x\)"):
        detect_frame(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="detector 'magic' is unknown, expected 'columns'"):
        detect_frame(np.zeros((9, 9)), DetectConfig(detector="magic"))
    with pytest.raises(InputError, match="detector 'magic'"):
        detect_atoms(Movie.from_array(np.zeros((2, 9, 9))), DetectConfig(detector="magic"))
    with pytest.raises(ValueError, match="width"):
        DetectConfig(width=3)
    with pytest.raises(ValueError, match="width_px"):
        DetectConfig(width_px=float("nan"))


def test_a_detector_of_ones_own(monkeypatch):
    def corner(image, valid, config):
        return pd.DataFrame({"y": [20.0], "x": [20.0], "score": [9.0]})

    monkeypatch.setitem(DETECTORS, "corner", corner)
    frame = np.random.default_rng(3).poisson(3 + spots([20.4, 40], [20.1, 40], 50, 2, (60, 60)))
    atoms = detect_frame(frame, DetectConfig(detector="corner", lattice="off"))
    assert len(atoms) == 1 and atoms["y"][0] == pytest.approx(20.4, abs=0.2)


def test_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()
    detect_frame(small_movie(1)[0][0])
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "image", "labels", "least"),
    [
        ("re_on_carbon", "bpy_crop19.tif", "bpy_crop19.csv", 0.8),
        ("pt_on_carbon", "066_HAADF_15nm_Sample_PtNC_21Oct20.tif", "066_Results.csv", 0.78),
    ],
)
def test_single_atoms_on_carbon(real_data, folder, image, labels, least):
    movie = Movie.from_array(tifffile.imread(real_data / folder / image))
    truth = read_atoms(real_data / folder / labels, movie)
    atoms = detect_atoms(movie)
    rows, _ = match(atoms["y"], atoms["x"], truth["y"], truth["x"])
    assert len(rows) >= least * len(truth)
    assert len(atoms) <= 1.4 * len(truth)


@pytest.mark.real_data
def test_strontium_titanate_is_a_square_of_both_columns(real_data):
    with h5py.File(real_data / "srtio3_nsid/STO_test_image.hf5") as file:
        frame = file["Measurement_000/Channel_000/STO_test_image/STO_test_image"][()]
    atoms = detect_frame(frame)
    area = 470 * 453 * 14.559**2 / 390.5**2  # unit cells in the frame, two columns each
    assert len(atoms) == pytest.approx(2 * area, rel=0.06)


@pytest.mark.real_data
def test_abf_columns_are_dark(real_data):
    with h5py.File(real_data / "srtio3_abf/stem_abf_data_imagestack.hspy") as file:
        found = []
        file.visititems(lambda _, o: found.append(o) if getattr(o, "ndim", 0) == 3 else None)
        frame = found[0][0]
    assert DetectConfig().resolve(frame).polarity == "dark"
    atoms = detect_frame(frame)
    assert (atoms["amplitude"] < 0).all()
    # Along [110] a cell of a x a / sqrt 2 holds one Sr column, by far the darkest.
    cells = 512 * 512 * 9.2024**2 / (390.5**2 / np.sqrt(2))
    heavy = detect_frame(frame, DetectConfig(threshold=16, lattice="off"))
    assert len(heavy) == pytest.approx(cells, rel=0.08)
    assert len(atoms) > 2.5 * cells


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "field_nm"), [("000-2", 9.0), ("001-5", 7.0), ("002-5", 7.0)])
def test_molybdenum_columns(real_data, name, field_nm):
    frame = np.load(real_data / f"mos2_haadf/MoS2_stem_Exp-{name}.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms = detect_frame(frame, DetectConfig(lattice="off"))
    cells = field_nm**2 / (0.316**2 * np.sqrt(3) / 2)
    bright = atoms["amplitude"] > 0.4 * atoms["amplitude"].median()
    assert bright.sum() == pytest.approx(cells, rel=0.16)  # holes, contamination, 10 % distortion
