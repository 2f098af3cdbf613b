"""The stages of the pipeline: each reads the run folder, calls one verb, writes the run folder."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from atomvae.atoms.link import link_atoms
from atomvae.atoms.neighbours import nearest_distance
from atomvae.atoms.table import empty_atoms
from atomvae.errors import InputError
from atomvae.movie.drift import estimate_drift
from atomvae.movie.movie import Movie
from atomvae.patches.cut import plan_patches
from atomvae.patches.store import PatchLayout, PatchStore
from atomvae.run.atomic import move, replacing, write_text
from atomvae.run.compute import map_tasks
from atomvae.run.config import Pipeline
from atomvae.run.labels import labels_key
from atomvae.run.model_stages import encode_stage, map_stage, train_stage
from atomvae.run.runner import Figures, Stage, Work
from atomvae.run.sources import fingerprints, open_source
from atomvae.run.tasks import block_file, cut_shard, detect_block, settings_file, shard_mark

PIXELS_PER_TASK = 2**17  # of frames in one detection task: seconds are lost by a kill, not minutes


def import_stage(work: Work) -> Figures:
    """Bring the movies into the folder: copied, or as a reference to their file."""
    pipeline, folder = work.pipeline, work.folder
    movies: list[Movie] = []
    truths: list[pd.DataFrame] = []
    copies = 0
    for m, source in enumerate(pipeline.movie):
        movie, how, truth = open_source(source, pipeline)
        if movie.name in [other.name for other in movies]:
            movie = replace(movie, name=f"{movie.name}-{m}")
        small = movie.frames.nbytes <= pipeline.copy_limit_gb * 1e9
        copy = how is None or {"auto": small, "always": True, "never": False}[pipeline.copy_movie]
        folder.write_movie(movie, source=how, copy=copy)
        movies.append(movie)
        copies += copy
        if truth is not None:
            truths.append(truth.assign(movie=m))
        work.progress(m + 1, len(pipeline.movie))
    folder.set_movies([movie.name for movie in movies])
    if truths:
        folder.write_parquet("truth", pd.concat(truths, ignore_index=True))
    first = movies[0]
    size = "pixel size unknown"
    if first.pixel_size is not None:
        size = " x ".join(f"{p:.4g}" for p in dict.fromkeys(first.pixel_size)) + " nm/px"
    n_frames = sum(movie.n_frames for movie in movies)
    paths = [source.path for source in pipeline.movie]
    hashes = fingerprints(pipeline, folder.path)
    return {
        "movies": len(movies),
        "frames": n_frames,
        "sources": {p: h for p, h in zip(paths, hashes, strict=True) if p},
        "warnings": [w for movie in movies for w in movie.metadata.get("warnings", [])],
        "summary": f"{len(movies)} movie{'s'[: len(movies) > 1]}, {n_frames} frames of "
        f"{first.shape[1]} x {first.shape[2]}, {size}, {copies} copied",
    }


def drift_stage(work: Work) -> Figures:
    """Measure the drift of every movie."""
    tables = []
    for m, name in enumerate(work.folder.movies):
        movie = work.folder.movie(name)
        tables.append(estimate_drift(movie, work.pipeline.drift).assign(movie=m))
        work.progress(m + 1, len(work.folder.movies))
    drift = pd.concat(tables, ignore_index=True)
    work.folder.write_parquet("drift", drift)
    largest = float(np.hypot(drift["dy"], drift["dx"]).max())
    ambiguous = int(drift["ambiguous"].sum())
    return {
        "largest_px": round(largest, 3),
        "ambiguous": ambiguous,
        "summary": f"up to {largest:.1f} px, {ambiguous} of {len(drift)} frames ambiguous",
    }


def detect_stage(work: Work) -> Figures:
    """Find the atoms, block by block of frames; finished blocks are kept over a kill."""
    folder, parts = work.folder, work.parts
    blocks, frames = [], []
    for m, name in enumerate(folder.movies):
        movie = folder.movie(name)
        if not settings_file(parts, m).exists():
            resolved = work.pipeline.detect.resolve(movie)
            write_text(settings_file(parts, m), resolved.model_dump_json())
        step = min(16, max(1, PIXELS_PER_TASK // (movie.shape[1] * movie.shape[2])))
        stops = range(step, movie.n_frames + step, step)
        blocks += [(m, stop - step, min(stop, movie.n_frames)) for stop in stops]
        frames.append(movie.n_frames)
    todo = [block for block in blocks if not block_file(parts, block).exists()]
    task = partial(detect_block, str(folder.path), str(parts))
    done = len(blocks) - len(todo)
    for _ in map_tasks(task, todo, work.pipeline.compute):
        done += 1
        work.progress(done, len(blocks))
    tables = [pd.read_parquet(block_file(parts, block)).assign(movie=block[0]) for block in blocks]
    atoms = pd.concat([t for t in tables if len(t)] or [empty_atoms().assign(movie=0)])
    atoms = atoms.assign(atom_id=np.arange(len(atoms), dtype=np.int64)).reset_index(drop=True)
    found = atoms
    if len(frames) == 1:
        atoms = atoms.drop(columns="movie")
    folder.write_atoms(atoms, frames)
    return _detect_figures(work, found, frames)


def _detect_figures(work: Work, atoms: pd.DataFrame, frames: list[int]) -> Figures:
    """What was found, in a line; against the truth if there is one."""
    resolved = [
        work.pipeline.detect.model_validate_json(settings_file(work.parts, m).read_text())
        for m in range(len(frames))
    ]
    pixel = work.folder.movie().pixel_size
    figures: Figures = {
        "atoms": len(atoms),
        "frames": sum(frames),
        "resolved": [config.model_dump(mode="json") for config in resolved],
    }
    unit, scale = ("px", 1.0) if pixel is None else ("nm", float(np.mean(pixel)))
    line = f"{len(atoms)} atoms in {sum(frames)} frames"
    first = atoms[atoms["movie"] == atoms["movie"].min()]  # pixels of one size
    spacing = nearest_distance(first) if len(atoms) else np.nan
    if len(atoms):
        for name, value in (("spacing", spacing), ("width", float(first["sigma"].median()))):
            figures[f"{name}_{unit}"] = round(value * scale, 5)
            line += f", {name} {value * scale:.3g} {unit}"
    truth = work.folder.tables / "truth.parquet"
    if truth.exists() and len(atoms):
        recall, precision = _against_truth(atoms, pd.read_parquet(truth), spacing / 3)
        figures |= {"recall": round(recall, 4), "precision": round(precision, 4)}
        line += f", recall {recall:.3f} and precision {precision:.3f} against the truth"
    return figures | {"summary": line}


def _against_truth(atoms: pd.DataFrame, truth: pd.DataFrame, radius: float) -> tuple[float, float]:
    """Recall and precision: pairs that are each other's nearest, closer than a radius in px."""
    from scipy.spatial import cKDTree

    # A coordinate per movie and frame, larger than any radius, keeps the frames apart.
    far = 1e6
    found, real = (
        np.column_stack([t["y"], t["x"], far * t["frame"], far * 1e3 * t["movie"]])
        for t in (atoms, truth[truth["visible"]])
    )
    distance, nearest = cKDTree(real).query(found)
    _, back = cKDTree(found).query(real)
    pairs = (distance < radius) & (back[nearest] == np.arange(len(found)))
    return float(pairs.sum() / len(real)), float(pairs.mean())


def link_stage(work: Work) -> Figures:
    """Number the atoms that are the same from frame to frame."""
    folder = work.folder
    atoms, drift = folder.atoms(), folder.read_parquet("drift")
    movie = atoms["movie"] if "movie" in atoms else pd.Series(0, index=atoms.index)
    track = np.full(len(atoms), -1, dtype=np.int64)
    lengths: list[int] = []
    for m in range(len(folder.movies)):
        rows = np.flatnonzero(movie == m)
        own = drift[drift["movie"] == m].drop(columns="movie").reset_index(drop=True)
        part = atoms.iloc[rows].drop(columns="movie", errors="ignore").reset_index(drop=True)
        linked = link_atoms(part, own, work.pipeline.link)["track"].to_numpy()
        track[rows] = np.where(linked >= 0, linked + track.max() + 1, -1) if len(rows) else []
        lengths += np.unique(linked[linked >= 0], return_counts=True)[1].tolist()
        work.progress(m + 1, len(folder.movies))
    frames = [folder.movie(name).n_frames for name in folder.movies]
    folder.write_atoms(atoms.assign(track=track), frames)
    median = float(np.median(lengths)) if lengths else 0.0
    return {
        "tracks": len(lengths),
        "median_frames": median,
        "unlinked": int((track < 0).sum()),
        "summary": f"{len(lengths)} tracks, median {median:g} frames, "
        f"{int((track < 0).sum())} atoms alone",
    }


def patches_stage(work: Work) -> Figures:
    """Cut a patch around every atom, shard by shard; finished shards are kept over a kill."""
    folder, parts = work.folder, work.parts
    atoms = folder.atoms()
    if atoms.empty:
        raise InputError(
            "no atoms were found, so there are no patches to cut; look at the movie, then try "
            "detect.polarity, detect.width_px or a lower detect.threshold"
        )
    layout = _plan(work, atoms)
    if not _is_written(folder.patches_path, layout):
        if not _is_written(parts / "store", layout):
            with replacing(parts / "store") as temporary:
                PatchStore.create(temporary, layout)
        todo = [k for k in range(layout.n_shards) if not shard_mark(parts, k).exists()]
        task = partial(cut_shard, str(folder.path), str(parts))
        done = layout.n_shards - len(todo)
        for _ in map_tasks(task, todo, work.pipeline.compute):
            done += 1
            work.progress(done, layout.n_shards)
        for rubbish in (parts / "store").rglob("*.partial"):  # of a killed writer
            rubbish.unlink()
        move(parts / "store", folder.patches_path)
    window = layout.window_nm or 0.0
    return {
        "patches": layout.n,
        "size": layout.size,
        "window_nm": round(window, 6),
        "summary": f"{layout.n} patches of {layout.size} x {layout.size} px, {window:.3g} nm wide",
    }


def _is_written(path: Path, layout: PatchLayout) -> bool:
    """Whether a store for just these patches is there."""
    return path.exists() and PatchStore.open(path).layout == layout


def _plan(work: Work, atoms: pd.DataFrame) -> PatchLayout:
    """One layout for all movies: window and size of the first hold for the others."""
    config, folder = work.pipeline.patches, work.folder
    window, size = config.window_nm, config.size
    layout: PatchLayout | None = None
    for m, name in enumerate(folder.movies):
        own = atoms[atoms["movie"] == m] if "movie" in atoms else atoms
        if own.empty:
            continue
        layout = plan_patches(
            folder.movie(name), own, window_nm=window, size=size, normalise=config.normalise
        )
        window, size = layout.window_nm, layout.size
    assert layout is not None
    return replace(layout, n=len(atoms), key=work.key[:16])


def _settings(*names: str) -> Any:
    """A function that picks sections of the settings, as plain values."""

    def pick(pipeline: Pipeline) -> dict[str, Any]:
        return pipeline.model_dump(mode="json", include=set(names))

    return pick


def _train_settings(pipeline: Pipeline) -> dict[str, Any]:
    """What a training depends on; labels only if there are any."""
    plain: dict[str, Any] = _settings("model", "train", "seed")(pipeline)
    if not pipeline.model.labels:
        del plain["model"]["labels"]
    return plain


def _import_settings(pipeline: Pipeline) -> dict[str, Any]:
    """What the import depends on: the names of files matter, their folders do not."""
    names = ("pixel_size_nm", "frame_time_s", "dataset", "copy_movie", "copy_limit_gb", "movie")
    plain: dict[str, Any] = _settings(*names)(pipeline)
    for movie in plain["movie"]:
        if movie["path"] is not None:
            movie["path"] = Path(movie["path"]).name
        else:
            movie["seed"] = pipeline.seed
    return plain


STAGES = (
    Stage("import", import_stage, _import_settings),
    Stage(
        "drift", drift_stage, _settings("drift"), ("import",), ".atomvae/tables/drift.parquet"
    ),
    Stage("detect", detect_stage, _settings("detect"), ("import",), "atoms/zarr.json"),
    Stage("link", link_stage, _settings("link"), ("drift", "detect"), "atoms/track"),
    Stage("patches", patches_stage, _settings("patches"), ("detect",), "patches/zarr.json"),
    Stage(
        "train", train_stage, _train_settings, ("patches",),
        ".atomvae/models/{model}/model.yaml", reads=labels_key,
    ),
    Stage("encode", encode_stage, _settings(), ("train",), "latents/{model}/zarr.json"),
    Stage(
        "map", map_stage, _settings("map"), ("encode", "link"), ".atomvae/tables/atoms.parquet"
    ),
)  # fmt: skip
"""All stages, in their order."""
