"""Running what is stale and nothing else.

A stage is done when its marker holds the key of this moment: a hash of its settings, of its
version and of the keys of the stages it needs, down to the bytes of the movie files.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from atomvae.errors import InputError
from atomvae.run.compute import one_thread
from atomvae.run.config import Pipeline
from atomvae.run.folder import RunFolder, software_versions

if TYPE_CHECKING:
    from atomvae.model.model import Model

LOG = logging.getLogger("atomvae.run")
Figures = dict[str, Any]
Watch = Callable[["Model", dict[str, float]], None]
"""Shown the model and the figures of each step while it is trained; it must not change it."""


class Progress(Protocol):
    """What is told of a run while it goes on."""

    def __call__(self, stage: str, done: float, total: float, figures: str) -> None:
        """Report ``done`` of ``total`` tasks of a stage; ``figures`` when it has ended."""


@dataclass(frozen=True)
class Work:
    """What a stage gets to work with.

    Parameters
    ----------
    folder : RunFolder
        Where its input lies and its output goes.
    pipeline : Pipeline
        All settings.
    stage : str
        Its name.
    key : str
        Hash of its settings and inputs.
    progress : callable
        Called with the number of tasks that are done, and how many there are.
    watch : callable, optional
        Shown a model while it is trained.
    """

    folder: RunFolder
    pipeline: Pipeline
    stage: str
    key: str
    progress: Callable[[float, float], None]
    watch: Watch | None = None

    @property
    def parts(self) -> Path:
        """Folder for what is done so far; a stage with other settings gets another one."""
        path = self.folder.private / "parts" / self.stage / self.key[:16]
        path.mkdir(parents=True, exist_ok=True)
        return path


def _reads_nothing(folder: RunFolder, pipeline: Pipeline) -> dict[str, Any]:
    """Most stages know all from their settings and from other stages."""
    return {}


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Parameters
    ----------
    name : str
        Its name, also that of its marker and of its command.
    work : callable
        Does it; returns its figures (plain numbers and words), of which ``"summary"``, if there,
        is the line shown to people.
    settings : callable
        The part of the settings that the result depends on, as plain values.
    needs : tuple of str
        Stages whose results it reads.
    product : str
        A path in the run folder that exists when it is done; ``{model}`` is the model's name.
    version : int
        Raised when the same settings come to mean another result.
    reads : callable
        What it reads in the run folder besides the results of other stages, as plain values by
        name; added to its settings.
    """

    name: str
    work: Callable[[Work], Figures]
    settings: Callable[[Pipeline], Any]
    needs: tuple[str, ...] = ()
    product: str = "zarr.json"
    version: int = 1
    reads: Callable[[RunFolder, Pipeline], dict[str, Any]] = _reads_nothing


@dataclass(frozen=True)
class State:
    """Whether a stage is done.

    Parameters
    ----------
    stage : Stage
        Which.
    key : str
        What its marker must hold.
    done : bool
        Whether it does.
    reason : str
        Why it is not done; empty when it is.
    marker : dict
        What is known of the last time it ran.
    settings : dict
        What its result depends on, besides other stages.
    """

    stage: Stage
    key: str
    done: bool
    reason: str
    marker: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def stage_states(
    stages: Sequence[Stage], folder: RunFolder, pipeline: Pipeline, inputs: Any
) -> list[State]:
    """Find out which stages are done.

    Parameters
    ----------
    stages : sequence of Stage
        In their order.
    folder : RunFolder
        The run.
    pipeline : Pipeline
        The settings that are asked for.
    inputs : object
        Plain values that identify the input files.

    Returns
    -------
    list of State
        One per stage.
    """
    keys: dict[str, str] = {}
    states: list[State] = []
    for stage in stages:
        plain = stage.settings(pipeline) | stage.reads(folder, pipeline)
        settings = json.loads(json.dumps(plain))
        needed = [keys[name] for name in stage.needs] or [inputs]
        text = json.dumps([stage.name, stage.version, settings, needed], sort_keys=True)
        keys[stage.name] = hashlib.sha256(text.encode()).hexdigest()
        marker = folder.marker(stage.name) or {}
        before = marker.get("needs", {})
        other = [name for name in stage.needs if before.get(name) != keys[name]]
        reason = ""
        if not marker:
            reason = "not run yet"
        elif marker.get("key") != keys[stage.name]:
            changed = _changes(marker.get("settings"), settings)
            reason = "; ".join(changed) or f"{', '.join(other) or 'input'} changed"
        elif not (folder.path / stage.product.format(model=pipeline.model.label)).exists():
            reason = f"{stage.product.format(model=pipeline.model.label)} is missing"
        states.append(State(stage, keys[stage.name], not reason, reason, marker, plain))
    return states


def _changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Settings that differ, in words; at most three."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        found = [
            change
            for name in names
            for change in _changes(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
        ]
        return found[:3]
    return [] if old == new else [f"{path or 'settings'} was {old}, is {new}"]


def run_stages(
    states: Sequence[State],
    folder: RunFolder,
    pipeline: Pipeline,
    progress: Progress,
    watch: Watch | None = None,
) -> None:
    """Run the stages that are not done, in order.

    Parameters
    ----------
    states : sequence of State
        From `stage_states`.
    folder : RunFolder
        The run, locked by the caller.
    pipeline : Pipeline
        The settings.
    progress : callable
        Told what goes on.
    watch : callable, optional
        Shown a model while it is trained.
    """
    for state in states:
        name = state.stage.name
        if state.done:
            progress(name, 1, 1, f"up to date: {_line(state.marker.get('figures', {}))}")
            continue
        LOG.info("%s: starts (%s)", name, state.reason)
        folder.remove_marker(name)
        start = time.time()

        def told(done: float, total: float, name: str = name) -> None:
            progress(name, done, total, "")

        work = Work(folder, pipeline, name, state.key, told, watch)
        _remove_other_parts(work)
        try:
            with one_thread():
                figures = state.stage.work(work)
        except Exception as error:
            LOG.error("%s: %s", name, error, exc_info=not isinstance(error, InputError))
            raise
        seconds = time.time() - start
        folder.write_marker(
            name,
            {
                "stage": name,
                "key": state.key,
                "settings": state.settings,
                "needs": {s.stage.name: s.key for s in states if s.stage.name in state.stage.needs},
                "seed": pipeline.seed,
                "versions": software_versions(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(start)),
                "seconds": round(seconds, 3),
                **({"model": pipeline.model.label} if name in ("train", "encode", "map") else {}),
                "figures": figures,
            },
        )
        shutil.rmtree(folder.private / "parts" / name, ignore_errors=True)
        line = f"{_line(figures)} ({seconds:.1f} s)"
        LOG.info("%s: %s", name, line)
        progress(name, 1, 1, line)


def _line(figures: Mapping[str, Any]) -> str:
    """Figures in one line for people."""
    return str(figures.get("summary") or ", ".join(f"{k} {v}" for k, v in figures.items()))


def _remove_other_parts(work: Work) -> None:
    """Drop what was begun with other settings."""
    for other in work.parts.parent.iterdir():
        if other != work.parts:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def logged(folder: RunFolder) -> Iterator[None]:
    """Write what our loggers say to ``.atomvae/run.log`` while the block runs."""
    handler = logging.FileHandler(folder.private / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = LOG.level
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        handler.close()
