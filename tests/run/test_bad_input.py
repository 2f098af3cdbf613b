"""Everything a user can get wrong: one sentence and exit status 2, or a defined answer."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from atomvae.datasets.simulate import simulate
from atomvae.run.cli import main
from atomvae.run.folder import RunFolder

GOOD = {
    "name": "bad",
    "movie": "m.npy",
    "pixel_size_nm": 0.0117,
    "patches": {"size": 12, "window_nm": 0.5},
    "train": {"epochs": 1},
    "compute": {"where": "here"},
}


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    return simulate("graphene", frames=2, shape=(128, 128), dose=25).movie.frames.compute()


@pytest.fixture
def place(tmp_path, frames, monkeypatch) -> Path:
    np.save(tmp_path / "m.npy", frames)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)
    return tmp_path


def told(capsys, *arguments: str) -> str:
    """The sentence of a command that must fail with status 2."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    text = capsys.readouterr().err
    assert end.value.code == 2, text
    assert "Traceback" not in text
    assert text.startswith("atomvae: ") and text.count("\n") == 1, text
    return text


SETTINGS = {
    "unknown key": ({"drfit": {}}, "unknown key 'drfit'; did you mean 'drift'?"),
    "unknown key in detect": (
        {"detect": {"treshold": 5}}, "'detect.treshold'; did you mean 'detect.threshold'?",
    ),
    "key of another section": (
        {"window_nm": 1}, "'window_nm'; did you mean 'patches.window_nm'?",
    ),
    "unknown key of a movie": (
        {"movie": [{"path": "m.npy", "pixelsize": 1}]},
        "'movie.0.pixelsize'; did you mean 'movie.0.pixel_size_nm'?",
    ),
    "unknown key three levels down": (
        {"compute": {"slurm": {"que": "x"}}}, "did you mean 'compute.slurm.queue'?",
    ),
    "unknown key nothing like any": ({"zzzz": 1}, "known keys there: name, seed, movie"),
    "text for a number": ({"detect": {"threshold": "high"}}, "detect.threshold is 'high'"),
    "a list for a number": ({"seed": [1, 2]}, "seed is [1, 2], it should be a valid integer"),
    "half a seed": ({"seed": 1.5}, "seed is 1.5"),
    "a negative seed": ({"seed": -1}, "seed is -1, it should be greater than or equal to 0"),
    "a number for a section": ({"detect": 5}, "should be a section of 'key: value' lines"),
    "a name that is no folder": ({"name": "a/b"}, "name is 'a/b'"),
    "pixel size zero": ({"pixel_size_nm": 0}, "pixel_size_nm is 0, it should be greater than 0"),
    "pixel size negative": ({"pixel_size_nm": -0.1}, "pixel_size_nm is -0.1"),
    "pixel size NaN": ({"pixel_size_nm": float("nan")}, "pixel_size_nm is nan"),
    "pixel size infinite": ({"pixel_size_nm": float("inf")}, "pixel_size_nm is inf"),
    "frame time zero": ({"frame_time_s": 0}, "frame_time_s is 0"),
    "pixel size of one movie": (
        {"movie": {"path": "m.npy", "pixel_size_nm": -1}}, "movie.0.pixel_size_nm is -1",
    ),
    "no movie": ({"movie": None}, "movie"),
    "an empty list of movies": ({"movie": []}, "movie"),
    "file and simulation": (
        {"movie": {"path": "m.npy", "simulate": "graphene"}}, "not both",
    ),
    "neither file nor simulation": ({"movie": {"name": "a"}}, "either a path or a sample"),
    "a dose for a file": (
        {"movie": {"path": "m.npy", "dose": 3}}, "dose is for simulated movies",
    ),
    "an unknown sample": ({"movie": {"simulate": "goldd"}}, "preset is 'goldd'"),
    "two movies of one name": (
        {"movie": [{"path": "m.npy", "name": "a"}, {"path": "m.npy", "name": "a"}]},
        "two movies have the same name",
    ),
    "a variable that is not set": (
        {"movie": "${NOT_SET}/m.npy"}, "environment variable NOT_SET, which is not set",
    ),
    "a missing movie": ({"movie": "nowhere.tif"}, "nowhere.tif does not exist"),
    "a polarity that is none": ({"detect": {"polarity": "grey"}}, "detect.polarity is 'grey'"),
    "a width of zero": ({"detect": {"width_px": 0}}, "detect.width_px is 0"),
    "an unknown detector": ({"detect": {"detector": "magic"}}, "detector 'magic' is unknown"),
    "a window of zero": ({"patches": {"window_nm": 0}}, "patches.window_nm is 0"),
    "a window larger than the frame": (
        {"patches": {"window_nm": 9}}, "window_nm is 9; expected more than 0 and at most 1.498",
    ),
    "an unknown variant": ({"model": {"variant": "rvea"}}, "model.variant is 'rvea', expected one"),
    "classes for a model without": (
        {"model": {"variant": "rvae", "classes": 3}}, "rvae has no classes",
    ),
    "no epochs": ({"train": {"epochs": 0}}, "train.epochs is 0"),
    "a weight of no term": (
        {"train": {"epochs": 1, "weights": [{"term": "zz", "weight": 2}]}}, "weights name ['zz']",
    ),
    "a place that is none": ({"compute": {"where": "moon"}}, "'moon' is no place to compute"),
    "no workers": ({"compute": {"workers": 0}}, "compute.workers is 0"),
    "an array of a file without arrays": ({"dataset": "b"}, "m.npy"),
    "symmetry of zero": ({"map": {"symmetry": 0}}, "map.symmetry is 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings(case, place, capsys):
    change, words = SETTINGS[case]
    (place / "p.yaml").write_text(yaml.safe_dump(GOOD | change))
    assert words in told(capsys, "run", "p.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("movie: m.npy\nseed: 1\nseed: 2\n", "line 3: key 'seed' was already given in line 2"),
        ("detect:\n  threshold: 1\n  threshold: 2\n", "line 3: key 'threshold' was already"),
        ("movie: [m.npy", "p.yaml: line 1: not valid YAML"),
        ("movie:\n\t- m.npy", "p.yaml: line 2: not valid YAML"),
        ("- m.npy", "p.yaml holds a list"),
        ("", "'movie' is missing"),
        ("movie: !!python/name:os.system m", "not valid YAML"),
        ("a" * 20, "expected 'key: value' lines"),
        ("\x00", "not valid YAML"),
        ("x: " + "[" * 3000, "p.yaml"),
    ],
)
def test_bad_yaml(text, words, place, capsys):
    (place / "p.yaml").write_text(text)
    assert words in told(capsys, "run", "p.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml does not exist; `atomvae init nowhere.yaml`"),
        (["run", "m.npy"], "cannot be read as text"),
        (["run", "p.yaml", "--set", "detect.treshold=5"], "did you mean 'detect.threshold'?"),
        (["run", "p.yaml", "--set", "detect"], "'detect' is no setting; write section.key=value"),
        (["run", "p.yaml", "--set", "seed.x=1"], "seed is {'x': 1}, it should be a valid integer"),
        (["run", "p.yaml", "--set", "name.x=1"], "name is 'bad', which has no key 'x'"),
        (["run", "p.yaml", "--set", "movie.5.path=a"], "movie is a list of 1; count from 0"),
        (["run", "p.yaml", "--set", "seed=[1"], "--set seed: line 1: not valid YAML"),
        (["run", "p.yaml", "--movie", "gone.tif"], "gone.tif does not exist"),
        (["detect", "nowhere.atomvae.zarr"], "nowhere.atomvae.zarr"),
        (["status", "nowhere.atomvae.zarr"], "is no folder; expected a run folder"),
        (["status", "."], "is no run folder: zarr.json is missing"),
        (["view", "nowhere.atomvae.zarr"], "is no folder; expected a run folder"),
        (["export", "nowhere.atomvae.zarr", "a.csv"], "is no folder"),
        (["info", "nowhere.tif"], "does not exist"),
        (["info", "p.yaml"], "ends in '.yaml', which no reader knows"),
        (["info", "m.npy", "--pixel-size-nm", "0"], "the pixel size is 0"),
        (["simulate", "goldd", "a.tif"], "preset is 'goldd', expected one of"),
        (["init", "p.yaml"], "p.yaml exists already"),
    ],
)
def test_bad_commands(arguments, words, place, capsys):
    (place / "p.yaml").write_text(yaml.safe_dump(GOOD))
    assert words in told(capsys, *arguments)


def truncated(frames):
    np.save("m.npy", frames)
    size = os.path.getsize("m.npy")
    os.truncate("m.npy", size // 2)


def nothing(frames):
    Path("m.npy").write_bytes(b"")


def complex_numbers(frames):
    np.save("m.npy", frames.astype(complex))


def no_frames(frames):
    np.save("m.npy", frames[:0])


def four_dimensions(frames):
    np.save("m.npy", np.stack([frames, frames]))


def pickled(frames):
    np.save("m.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def constant(frames):
    np.save("m.npy", np.full_like(frames, 7))


def all_nan(frames):
    np.save("m.npy", np.full(frames.shape, np.nan))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "m.npy"),
        (nothing, "is empty (0 bytes)"),
        (complex_numbers, "complex"),
        (no_frames, "empty"),
        (four_dimensions, "4-D"),
        (pickled, "m.npy"),
        (constant, "no atoms were found"),
        (all_nan, "no atoms were found"),
    ],
)
def test_bad_movies(spoil, words, place, frames, capsys):
    spoil(frames)
    (place / "p.yaml").write_text(yaml.safe_dump(GOOD))
    assert words in told(capsys, "run", "p.yaml")


def test_no_calibration_is_asked_for_when_it_is_needed(place, capsys):
    (place / "p.yaml").write_text(yaml.safe_dump(GOOD | {"pixel_size_nm": None}))
    assert "pixel size of m is unknown" in told(capsys, "run", "p.yaml")
    assert len(RunFolder("bad.atomvae.zarr").atoms()) > 100  # what needs no nm is done


@pytest.mark.parametrize("constant", [1, 2])
def test_frames_of_nan_or_of_one_value_have_no_atoms(place, frames, constant):
    order = [0, 1, 2] if constant == 2 else [0, 2, 1]
    spoiled = np.stack([frames[0], frames[1], np.full_like(frames[0], 3)])[order].astype(float)
    spoiled = np.concatenate([spoiled, np.full((1, *frames.shape[1:]), np.nan)])
    spoiled[0, :20, :20] = np.inf
    np.save("m.npy", spoiled)
    (place / "p.yaml").write_text(yaml.safe_dump(GOOD))
    main_ok("run", "p.yaml")
    folder = RunFolder("bad.atomvae.zarr")
    counts = [len(folder.atoms(frame=t)) for t in range(4)]
    assert all(counts[t] > 50 for t in {0, 1, 2} - {constant})
    assert counts[constant] == counts[3] == 0
    assert np.isfinite(folder.latents().select_dtypes("number")).all().all()


def main_ok(*arguments: str) -> None:
    main_result = None
    try:
        main(list(arguments))
    except SystemExit as end:
        main_result = end.code
    assert not main_result


def test_one_atom_is_enough_for_a_run(place):
    y, x = np.indices((64, 64))
    blob = 10 + 400 * np.exp(-((y - 31.3) ** 2 + (x - 30.6) ** 2) / 18)
    np.save("m.npy", np.random.default_rng(0).poisson(blob).astype(np.uint16))
    settings = GOOD | {"detect": {"width_px": 3}}
    (place / "p.yaml").write_text(yaml.safe_dump(settings))
    main_ok("run", "p.yaml")
    table = RunFolder("bad.atomvae.zarr").table()
    assert len(table) == 1
    assert table["y"][0] == pytest.approx(31.3, abs=0.3)
    assert np.isfinite(table["z_0"][0])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("zarr.json", "zarr.json is missing"),
        (".atomvae/config.yaml", "has no settings"),
        ("atoms", "has no atom table (atoms is missing); run `atomvae detect"),
        ("atoms/y/c", "atoms/y is damaged"),
        ("latents/rvae", "has no latent table 'rvae'"),
        (".atomvae/tables/drift.parquet", "drift.parquet is missing"),
    ],
)
def test_a_damaged_run_folder(damage, words, tmp_path, small_run, capsys):
    run = Path(shutil.copytree(small_run, tmp_path / "small.atomvae.zarr"))
    target = run / damage
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    table = {"latents/rvae": "latents", ".atomvae/tables/drift.parquet": "drift"}
    if damage == ".atomvae/config.yaml":
        text = told(capsys, "status", str(run))
    else:
        name = table.get(damage, "atoms")
        text = told(capsys, "export", str(run), str(tmp_path / "a.csv"), "--table", name)
    assert words in text
