"""Movies as the settings name them: opened, simulated, and told apart by their bytes."""

import glob
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from atomvae.errors import InputError
from atomvae.movie.movie import Movie, check_pixel_size
from atomvae.movie.read import read_movie
from atomvae.run.config import MovieSource, Pipeline

WHOLE_BYTES = 2**30  # files up to this size are hashed whole
SAMPLES = 64  # blocks of a megabyte, evenly spread, of larger ones


def fingerprints(pipeline: Pipeline, run: Path) -> list[str]:
    """Identify the input of a pipeline: a hash per movie file, nothing for a simulation.

    Parameters
    ----------
    pipeline : Pipeline
        With absolute paths.
    run : Path
        The run folder, which may not exist. The hash of a file that has since gone is taken from
        there, so that a finished run stays finished.

    Returns
    -------
    list of str
        One per movie.

    Raises
    ------
    InputError
        When a file does not exist and never was imported.
    """
    try:
        marker = json.loads((run / ".atomvae" / "stages" / "import.json").read_text())
        known = dict(marker["figures"]["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    return [
        "simulated" if source.path is None else _fingerprint(source.path, known)
        for source in pipeline.movie
    ]


def _fingerprint(path: str, known: dict[str, str]) -> str:
    """Hash of the bytes of a file, or of all files of a folder or pattern."""
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.is_file())
    elif place.is_file():
        files = [place]
    else:
        files = [Path(p) for p in sorted(glob.glob(path)) if Path(p).is_file()]
    if not files:
        if path in known:
            return known[path]
        raise InputError(f"the movie {path} does not exist; give an existing file or folder")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(_digest(file))
    return digest.hexdigest()


def _digest(file: Path) -> bytes:
    """Hash of a file; of a very large one its size, its date and a sample of its bytes."""
    about = file.stat()
    if about.st_size <= WHOLE_BYTES:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    digest = hashlib.sha256(f"{about.st_size} {about.st_mtime_ns}".encode())
    with file.open("rb") as stream:
        for i in range(SAMPLES):
            stream.seek(i * (about.st_size - 2**20) // (SAMPLES - 1))
            digest.update(stream.read(2**20))
    return digest.digest()


def open_source(
    source: MovieSource, pipeline: Pipeline
) -> tuple[Movie, dict[str, Any] | None, pd.DataFrame | None]:
    """Open one movie of a pipeline.

    Parameters
    ----------
    source : MovieSource
        One of ``pipeline.movie``.
    pipeline : Pipeline
        Its calibration and seed hold where the source has none.

    Returns
    -------
    movie : Movie
        Named as in the run folder.
    how : dict or None
        How to read it again; None for a simulation.
    truth : DataFrame or None
        The true atoms of a simulation.
    """
    if source.simulate is not None:
        return _simulated(source, pipeline)
    dataset = source.dataset or pipeline.dataset
    pixel_size = source.pixel_size_nm or pipeline.pixel_size_nm
    frame_time = source.frame_time_s or pipeline.frame_time_s
    how: dict[str, Any] = {
        "path": source.path,
        "dataset": dataset,
        "pixel_size": pixel_size,
        "frame_time": frame_time,
    }
    movie = read_movie(
        str(source.path), pixel_size=pixel_size, frame_time=frame_time, dataset=dataset
    )
    if source.frames is not None:
        movie = movie[: source.frames]
        how["frames"] = source.frames
    return replace(movie, name=source.name or movie.name), how, None


def _simulated(source: MovieSource, pipeline: Pipeline) -> tuple[Movie, None, pd.DataFrame]:
    """A simulated movie and its truth."""
    from atomvae.datasets.simulate import simulate

    simulation = simulate(
        str(source.simulate),
        frames=source.frames,
        shape=source.shape,
        dose=source.dose,
        seed=pipeline.seed,
        difficulty=source.difficulty or "full",
    )
    movie = replace(
        simulation.movie,
        name=source.name or str(source.simulate),
        pixel_size=check_pixel_size(source.pixel_size_nm) or simulation.movie.pixel_size,
        frame_time=source.frame_time_s or simulation.movie.frame_time,
    )
    return movie, None, simulation.truth
