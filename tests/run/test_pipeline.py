import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atomvae.datasets.simulate import simulate
from atomvae.errors import InputError
from atomvae.run.config import Pipeline
from atomvae.run.folder import RunFolder
from atomvae.run.pipeline import pipeline_states, run_pipeline
from atomvae.run.stages import STAGES

SMALL = {
    "name": "small",
    "patches": {"size": 12, "window_nm": 0.5},
    "train": {"epochs": 1, "batch_size": 64, "pixels": 40},
    "compute": {"where": "here"},
}


@pytest.fixture
def run(tmp_path, small_run) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "small.atomvae.zarr"))


def again(run, *overrides, **options) -> list[str]:
    """Names of the stages that are run."""
    told = []
    run_pipeline(
        run,
        overrides=overrides,
        progress=lambda stage, done, total, line: told.append((stage, line)),
        **options,
    )
    return [
        stage for stage, line in told if line and not line.startswith(("up to date", "warning"))
    ]


def test_a_run_holds_everything(small_run):
    folder = RunFolder(small_run)
    atoms, table, latents = folder.atoms(), folder.table(), folder.latents()
    assert folder.movies == ["si_graphene"]
    assert len(atoms) == len(table) == len(latents) == len(folder.patches()) > 300
    assert (table["atom_id"] == atoms["atom_id"]).all()
    assert (folder.patches().atom_id[:] == atoms["atom_id"]).all()
    assert {"track", "angle", "z_0", "reconstruction_error"} <= set(table.columns)
    assert (atoms["track"] >= 0).all()
    assert folder.models == ["rvae"]
    assert folder.model().shape == (1, 12, 12)
    for stage in STAGES:
        marker = folder.marker(stage.name)
        assert marker["seed"] == 3 and marker["versions"]["numpy"] == np.__version__
        assert marker["figures"]["summary"] and marker["seconds"] >= 0
    figures = folder.marker("detect")["figures"]
    assert figures["atoms"] == len(atoms)
    assert figures["recall"] > 0.9 and figures["precision"] > 0.95
    assert figures["spacing_nm"] == pytest.approx(0.142, rel=0.05)
    log = (small_run / ".atomvae/run.log").read_text()
    assert all(f"{stage.name}: " in log for stage in STAGES)


def test_an_encoded_table_is_what_the_public_verbs_give(small_run):
    """The run adds nothing of its own: the same functions called by hand."""
    from atomvae import DetectConfig, cut_patches, detect_atoms, encode

    folder = RunFolder(small_run)
    movie = folder.movie()
    atoms = detect_atoms(movie, DetectConfig())
    same = ["frame", "y", "x", "amplitude", "sigma"]
    pd.testing.assert_frame_equal(atoms[same], folder.atoms()[same])
    store = cut_patches(movie, atoms, window_nm=0.5, size=12)
    np.testing.assert_array_equal(store.image[:], folder.patches().image[:])
    latents = encode(folder.model(), store)
    pd.testing.assert_frame_equal(latents, folder.latents())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("compute.workers=3", []),
        ("map.symmetry=3", ["map"]),
        ("link.max_gap=1", ["link", "map"]),
        ("train.epochs=1", ["train", "encode", "map"]),
        ("model.latent_dim=1", ["train", "encode", "map"]),
        ("patches.size=10", ["patches", "train", "encode", "map"]),
        ("drift.ambiguous_margin=1", ["drift", "link", "map"]),
        ("detect.threshold=6", ["detect", "link", "patches", "train", "encode", "map"]),
    ],
)
def test_only_what_is_stale_is_run(run, override, expected):
    assert again(run, override) == expected
    assert again(run) == []


def test_a_missing_product_is_made_again(run):
    shutil.rmtree(run / "latents/rvae")
    assert again(run) == ["encode"]
    (run / ".atomvae/tables/atoms.parquet").unlink()
    assert again(run) == ["map"]


def test_one_stage_and_what_it_needs(tmp_path, small_yaml):
    told = []
    run_pipeline(
        small_yaml, out=tmp_path, until="detect",
        progress=lambda stage, done, total, line: told.append(stage),
    )  # fmt: skip
    assert list(dict.fromkeys(told)) == ["import", "detect"]
    states = pipeline_states(RunFolder(tmp_path / "small.atomvae.zarr"))
    assert [s.done for s in states] == [True, False, True, *[False] * 5]
    assert states[1].reason == "not run yet"


def test_status_says_which_setting_changed(run):
    folder = RunFolder(run)
    text = (folder.private / "config.yaml").read_text()
    (folder.private / "config.yaml").write_text(text.replace("max_gap: 3", "max_gap: 2"))
    reasons = {s.stage.name: s.reason for s in pipeline_states(folder)}
    assert reasons["link"] == "link.max_gap was 3, is 2"
    assert reasons["map"] == "link changed"
    assert reasons["train"] == ""


def test_another_model_lies_beside_the_first(run):
    assert again(run, "model.name=second", "model.variant=vae") == ["train", "encode", "map"]
    folder = RunFolder(run)
    assert folder.models == ["rvae", "second"]
    assert "angle" not in folder.latents() and "angle" in folder.latents("rvae")
    assert "angle" not in folder.table()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_arrays(
    tmp_path, small_run, small_yaml, run_contents, monkeypatch, workers
):
    monkeypatch.setattr("atomvae.run.stages.PIXELS_PER_TASK", 1)  # a task per frame
    where = ["compute.where=local", f"compute.workers={workers}"]
    run = run_pipeline(small_yaml, out=tmp_path, overrides=where, until="patches").path
    expected, found = run_contents(small_run), run_contents(run)
    shared = [name for name in expected if name.startswith(("atoms/", "patches/"))]
    assert len(shared) > 15
    for name in shared:
        assert name == "atoms/track" or found[name] == expected[name], name


def test_another_seed_gives_another_run(tmp_path, small_run, small_yaml, run_contents):
    twice = [
        run_contents(run_pipeline(small_yaml, out=tmp_path / seed, overrides=[f"seed={seed}"]).path)
        for seed in ("3", "4")
    ]
    assert twice[0] == run_contents(small_run)
    for name in ("atoms/y", "latents/rvae/z_0", "images/si_graphene/0/data"):
        assert twice[1][name] != twice[0][name]


def test_several_movies(tmp_path):
    movies = []
    for seed, pixel_nm in ((1, 0.0117), (2, 0.013)):
        made = simulate("graphene", frames=2, shape=(128, 128), dose=25, seed=seed)
        path = tmp_path / f"m{seed}.npy"
        np.save(path, made.movie.frames.compute())
        movies.append({"path": str(path), "pixel_size_nm": pixel_nm})
    folder = run_pipeline(Pipeline(movie=movies, **SMALL), out=tmp_path)
    assert folder.movies == ["m1", "m2"]
    atoms, table = folder.atoms(), folder.table()
    assert atoms["movie"].dtype == np.int64 and set(atoms["movie"]) == {0, 1}
    assert atoms["atom_id"].is_unique
    assert atoms[["movie", "frame"]].apply(tuple, axis=1).is_monotonic_increasing
    assert not set(atoms.loc[atoms["movie"] == 0, "track"]) & set(
        atoms.loc[atoms["movie"] == 1, "track"]
    )
    pd.testing.assert_series_equal(table["movie"], atoms["movie"])
    assert folder.models == ["rvae"]
    # Row by row the patches are those of the movie that the atom lies in.
    from atomvae import cut_patches

    for m, name in enumerate(folder.movies):
        rows = np.flatnonzero(atoms["movie"] == m)
        own = atoms.iloc[rows].reset_index(drop=True)
        store = cut_patches(folder.movie(name), own, window_nm=0.5, size=12)
        np.testing.assert_array_equal(folder.patches().image[:][rows], store.image[:])
        assert folder.movie(name).pixel_size[0] == movies[m]["pixel_size_nm"]
    frame = folder.atoms(movie=1, frame=0)
    assert set(frame["movie"]) == {1} and set(frame["frame"]) == {0}


def test_the_file_may_go_after_the_import(tmp_path):
    made = simulate("graphene", frames=2, shape=(128, 128), dose=25)
    path = tmp_path / "m.npy"
    np.save(path, made.movie.frames.compute())
    pipeline = Pipeline(movie={"path": str(path), "pixel_size_nm": 0.0117}, **SMALL)
    run = run_pipeline(pipeline, out=tmp_path, until="patches").path
    path.unlink()
    moved = shutil.move(run, tmp_path / "moved.atomvae.zarr")
    assert again(moved) == ["drift", "link", "train", "encode", "map"]


def test_a_file_with_other_bytes_is_another_input(tmp_path):
    path = tmp_path / "m.npy"
    frames = simulate("graphene", frames=1, shape=(128, 128), dose=25).movie.frames.compute()
    np.save(path, frames)
    pipeline = Pipeline(movie={"path": str(path), "pixel_size_nm": 0.0117}, **SMALL)
    run = run_pipeline(pipeline, out=tmp_path, until="detect").path
    assert again(run, until="detect") == []
    frames[0, 0, 0] += 1
    np.save(path, frames)
    assert again(run, until="detect") == ["import", "detect"]


def test_a_reference_instead_of_a_copy(tmp_path, run_contents):
    path = tmp_path / "m.npy"
    np.save(path, simulate("graphene", frames=2, shape=(128, 128), dose=25).movie.frames.compute())
    source = {"path": str(path), "pixel_size_nm": 0.0117, "frames": 1}
    runs = [
        run_pipeline(
            Pipeline(movie=source, copy_movie=copy, **SMALL), out=tmp_path / copy, until="patches"
        ).path
        for copy in ("always", "never")
    ]
    assert (runs[0] / "images/m/0/data").exists() and not (runs[1] / "images/m/0").exists()
    copied, referred = (run_contents(run) for run in runs)
    del copied["images/m/0/data"]
    assert copied == referred


def test_nothing_computed_is_lost_when_a_stage_fails(tmp_path, small_yaml):
    with pytest.raises(InputError, match="window_nm"):
        run_pipeline(small_yaml, out=tmp_path, overrides=["patches.window_nm=50"])
    folder = RunFolder(tmp_path / "small.atomvae.zarr")
    assert len(folder.atoms()) > 300
    assert "window_nm is 50" in (folder.private / "run.log").read_text()
    assert again(folder.path, "patches.window_nm=0.5") == ["patches", "train", "encode", "map"]


def test_markers_are_json_that_others_can_read(small_run):
    for file in (small_run / ".atomvae/stages").glob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)  # no NaN
