"""The pipelines that come with the package run as they are."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from atomvae.run.folder import RunFolder
from atomvae.run.pipeline import run_pipeline


def quickstart(repository, out, *overrides) -> RunFolder:
    file = repository / "pipelines/quickstart.yaml"
    return run_pipeline(file, out=out, overrides=["compute.where=here", *overrides])


def check_against_truth(folder: RunFolder, repository) -> None:
    """Nearly every true atom is found, and little else, in every frame."""
    truth = pd.read_csv(repository / "sample_data/si_graphene_truth.csv.gz")
    movie = folder.movie()
    inside = truth["y"].between(0, movie.shape[1] - 1) & truth["x"].between(0, movie.shape[2] - 1)
    truth = truth[inside & truth["visible"]]
    for frame in range(movie.n_frames):
        found = folder.atoms(frame=frame)[["y", "x"]]
        real = truth.loc[truth["frame"] == frame, ["y", "x"]]
        near, _ = cKDTree(found).query(real)
        back, _ = cKDTree(real).query(found)
        assert (near < 4).mean() > 0.9, frame
        assert (back < 4).mean() > 0.95, frame


def test_quickstart(tmp_path, repository):
    folder = quickstart(repository, tmp_path, "train.epochs=1")
    check_against_truth(folder, repository)
    figures = folder.marker("detect")["figures"]
    assert figures["spacing_nm"] == pytest.approx(0.142, rel=0.05)
    drift = folder.read_parquet("drift")
    truth = pd.read_csv(repository / "sample_data/si_graphene_drift.csv.gz")
    np.testing.assert_allclose(drift[["dy", "dx"]], truth[["dy", "dx"]], atol=0.5)
    tracks = folder.atoms()["track"].value_counts()
    assert tracks.median() >= 8  # of 12 frames
    assert len(folder.table()) == len(folder.latents()) > 3500


@pytest.mark.slow
def test_quickstart_as_it_is(tmp_path, repository):
    """In graphene every site has three neighbours; the model finds out."""
    folder = quickstart(repository, tmp_path)
    assert folder.marker("map")["figures"]["symmetry"] == 3
    from atomvae.maps.symmetry import sublattice_from_angle

    _, agreement = sublattice_from_angle(folder.table()["angle"], 3)
    assert agreement > 0.8


REAL = {
    # pipeline: overrides, least atoms, spacing in nm between nearest columns
    "si_trimer": (["movie.0.frames=10"], 1200, None),
    "srtio3": (["movie.0.frames=2"], 1000, None),
    "mos2": ([], 3000, None),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_movies_end_to_end(name, tmp_path, repository, real_data):
    overrides, least, _ = REAL[name]
    short = ["train.epochs=1", "compute.where=here", *overrides]
    folder = run_pipeline(repository / f"pipelines/{name}.yaml", out=tmp_path, overrides=short)
    table = folder.table()
    assert len(table) == len(folder.patches()) > least
    assert np.isfinite(table[["y", "x", "z_0", "z_1", "reconstruction_error"]]).all().all()
    if name == "mos2":
        assert table["movie"].nunique() == 3
        sizes = [folder.movie(m).pixel_size[0] * 512 for m in folder.movies]
        assert sizes == pytest.approx([9, 7, 7])
    if name == "srtio3":
        assert (table["amplitude"] < 0).all()  # columns are dark


def test_every_pipeline_is_read(repository, monkeypatch):
    """Also without the real data: their settings are valid."""
    from atomvae.run.config import load_pipeline

    monkeypatch.setenv("ATOMVAE_REAL_DATA", "/data")
    files = sorted((repository / "pipelines").glob("*.yaml"))
    assert [f.stem for f in files] == ["mos2", "quickstart", "si_trimer", "srtio3"]
    for file in files:
        assert load_pipeline(file).name == file.stem
