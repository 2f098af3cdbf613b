"""All stages in a row: from a YAML file to a run folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from atomvae.errors import InputError
from atomvae.run.atomic import write_text
from atomvae.run.config import Pipeline, load_pipeline
from atomvae.run.folder import SUFFIX, RunFolder
from atomvae.run.model_stages import check_variant
from atomvae.run.runner import LOG, Progress, State, Watch, logged, run_stages, stage_states
from atomvae.run.sources import fingerprints
from atomvae.run.stages import STAGES


def run_pipeline(
    config: Pipeline | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    movies: Iterable[str | os.PathLike[str]] | None = None,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
    watch: Watch | None = None,
    until: str | None = None,
) -> RunFolder:
    """Run a pipeline, or continue it: only what is not done yet, or no longer fits, is run.

    Parameters
    ----------
    config : Pipeline or path-like
        Settings, a YAML file, or a run folder (its own settings are used).
    out : path-like, optional
        Folder in which NAME.atomvae.zarr is made, or that path itself. Default: the current
        folder.
    movies : iterable of path-like, optional
        Files to analyse instead of those in the settings.
    overrides : iterable of str
        ``section.key=value``, applied on top of the settings.
    progress : callable, optional
        Called with stage, tasks done, tasks in all, and the line of figures when a stage ends.
    watch : callable, optional
        Called with the model and the figures of the step after each step of the training.
    until : str, optional
        Name of the last stage to run. Default: all.

    Returns
    -------
    RunFolder
        With the results.

    Raises
    ------
    InputError
        When a setting or a movie cannot be used. What was computed before stays.

    Notes
    -----
    Killed at any moment, the next call with the same settings continues where it was. In a
    script, call it under ``if __name__ == "__main__"``, since worker processes import the script.

    Examples
    --------
    >>> import tempfile
    >>> pipeline = Pipeline(name="demo", movie={
    ...     "simulate": "si_graphene", "frames": 1, "shape": (64, 64), "difficulty": "poisson"})
    >>> folder = run_pipeline(pipeline, out=tempfile.mkdtemp(), until="import")
    >>> folder.movie().shape
    (1, 64, 64)
    """
    names = [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise InputError(f"no stage {until!r}; the stages are {', '.join(names)}")
    pipeline, folder_path = open_settings(config, out=out, movies=movies, overrides=overrides)
    check_variant(pipeline.model)
    inputs = fingerprints(pipeline, folder_path)
    folder = RunFolder.create(folder_path)
    with folder.locked(), logged(folder):
        write_text(folder.private / "config.yaml", pipeline.to_yaml())
        LOG.info("run of %s with seed %d", pipeline.name, pipeline.seed)
        stages = STAGES if until is None else STAGES[: names.index(until) + 1]
        states = _wanted(stage_states(stages, folder, pipeline, inputs), until)
        stale = not all(state.done for state in states)
        if stale:
            folder.forget_listing()
        run_stages(states, folder, pipeline, progress or _silent, watch)
        if stale:
            folder.write_listing()
    return folder


def open_settings(
    config: Pipeline | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    movies: Iterable[str | os.PathLike[str]] | None = None,
    overrides: Iterable[str] = (),
) -> tuple[Pipeline, Path]:
    """Read settings and find the run folder they belong to; parameters as in `run_pipeline`.

    Returns
    -------
    Pipeline
        The settings.
    Path
        The run folder, which need not exist yet.
    """
    if isinstance(config, Pipeline):
        if movies is not None or list(overrides):
            raise InputError(
                "movies and overrides go with a YAML file; change the Pipeline instead"
            )
        return config, _folder_path(config, out)
    path = Path(config).expanduser()
    if path.is_dir():
        folder = RunFolder(path)
        settings = folder.private / "config.yaml"
        if not settings.exists():
            raise InputError(
                f"{folder.path} has no settings (.atomvae/config.yaml is missing); "
                "run it from its YAML file with --out"
            )
        return load_pipeline(settings, overrides, movies=movies), folder.path
    pipeline = load_pipeline(path, overrides, movies=movies)
    return pipeline, _folder_path(pipeline, out)


def pipeline_states(folder: RunFolder) -> list[State]:
    """Find out which stages of a run folder are done.

    Parameters
    ----------
    folder : RunFolder
        With its settings in ``.atomvae/config.yaml``.

    Returns
    -------
    list of State
        One per stage.
    """
    pipeline, path = open_settings(folder.path)
    return stage_states(STAGES, folder, pipeline, fingerprints(pipeline, path))


def _wanted(states: list[State], until: str | None) -> list[State]:
    """The stages that the last one needs, and itself: `detect` does not wait for the drift."""
    if until is None:
        return states
    wanted = {until}
    for state in reversed(states):
        if state.stage.name in wanted:
            wanted |= set(state.stage.needs)
    return [state for state in states if state.stage.name in wanted]


def _folder_path(pipeline: Pipeline, out: str | os.PathLike[str] | None) -> Path:
    """Where the run folder of a pipeline lies."""
    place = Path.cwd() if out is None else Path(out).expanduser().absolute()
    return place if place.name.endswith(SUFFIX) else place / f"{pipeline.name}{SUFFIX}"


def _silent(stage: str, done: float, total: float, figures: str) -> None:
    """Tell nobody."""
