"""A pipeline in a process of its own, so that the viewer neither waits for it nor dies with it.

Run as a module it is the child: it runs the pipeline and prints one JSON object per line.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

from atomvae.errors import InputError

SHARES = {
    "import": 1, "drift": 2, "detect": 6, "link": 1, "patches": 2, "train": 20, "encode": 2,
    "map": 1,
}  # fmt: skip
"""Stages and their usual shares of the time: what the bar of progress counts."""
PATIENCE = 5.0  # seconds that a child has to end by itself
OFTEN, SELDOM = 0.2, 2.0  # seconds between reports, and between pictures of a manifold


class Child:
    """A running pipeline.

    Parameters
    ----------
    settings : path-like
        The YAML file of the pipeline, or a run folder to continue.
    out : path-like
        Folder in which the run folder is made.
    """

    def __init__(self, settings: str | Path, out: str | Path) -> None:
        self.cancelled = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "atomvae.viewer.plugin.child", str(settings), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that its workers can be stopped with it
        )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def reports(self) -> Iterator[dict[str, Any]]:
        """Yield what the child says, until it ends.

        Yields
        ------
        dict
            ``stage``, ``done`` (0..1 of the whole run), ``left`` (s, of the stage, once known) and
            ``figures`` while it runs; ``training`` (step, steps, epoch, loss, held_out) and
            ``manifold`` (base64 of grey bytes) with its ``shape`` while it trains; last ``run``,
            the path of the run folder. Nothing more after `cancel`.

        Raises
        ------
        InputError
            If the settings or the movie cannot be used.
        RuntimeError
            If the child failed otherwise, with the last lines it wrote.
        """
        other: deque[str] = deque(maxlen=15)
        error = ""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                report = _parse(line)
                if report is None:
                    other.append(line.rstrip())
                elif "error" in report:
                    error = report["error"]
                else:
                    yield report
        code = self._process.wait()
        if self.cancelled:
            return
        if error:
            raise InputError(error)
        if code:
            last = other[-1] if other else f"status {code}"
            raise RuntimeError("\n".join([f"the run failed: {last}", "", *other]))

    def cancel(self) -> None:
        """Stop the child and its workers; the run folder stays and can be continued.

        Returns at once; `reports` ends when the child has ended.
        """
        self.cancelled = True
        self._send(signal.SIGTERM)
        Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        """Kill what has not ended by itself."""
        try:
            self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Send a signal to the child and its workers, if it still lives."""
        if self._process.poll() is not None:
            return
        if os.name == "nt":
            self._process.terminate()
        else:
            os.killpg(self._process.pid, number)


def _parse(line: str) -> dict[str, Any] | None:
    """Read a report; None for other lines, such as warnings."""
    try:
        report = json.loads(line)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def main(settings: str, out: str) -> int:
    """Run the pipeline and say how it goes; the child's side.

    Parameters
    ----------
    settings : str
        The YAML file, or a run folder that is continued.
    out : str
        Where the run folder of a YAML file goes.

    Returns
    -------
    int
        Exit status: 0, or 2 for what the user can mend.
    """
    from atomvae.run.pipeline import run_pipeline

    try:
        run = run_pipeline(settings, out=out, progress=Teller(), watch=Watcher())
    except InputError as error:
        say({"error": str(error)})
        return 2
    say({"run": str(run.path)})
    return 0


class Teller:
    """Says how far the run is: its share of the whole, and the time left of its stage."""

    def __init__(self) -> None:
        self._stage, self._began, self._first, self._said = "", 0.0, 0.0, 0.0

    def __call__(self, stage: str, done: float, total: float, figures: str) -> None:
        """Report the work done of a stage; seldom enough for a reader to follow."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first, self._said = stage, now, done, 0.0
        if now - self._said < OFTEN and done < total:
            return
        self._said = now
        report: dict[str, Any] = {"stage": stage, "figures": figures}
        if done - self._first > 0 and done < total:
            report["left"] = (now - self._began) * (total - done) / (done - self._first)
        before = sum(SHARES[name] for name in list(SHARES)[: list(SHARES).index(stage)])
        share = before + SHARES[stage] * done / max(total, 1e-9)
        say(report | {"done": share / sum(SHARES.values())})


class Watcher:
    """Says how the losses go, and now and then shows what the model draws."""

    def __init__(self) -> None:
        self._sum, self._steps, self._said, self._next = 0.0, 0, time.monotonic(), 0.0

    def __call__(self, model: Any, state: dict[str, float]) -> None:
        """Look at a model that is being trained; it is not changed."""
        self._sum, self._steps, now = self._sum + state["loss"], self._steps + 1, time.monotonic()
        if now - self._said < OFTEN and state["step"] < state["steps"]:
            return
        known = {
            name: state[name] for name in ("step", "steps", "epoch", "held_out") if name in state
        }
        say({"training": known | {"loss": self._sum / self._steps}})
        self._sum, self._steps, self._said = 0.0, 0, now
        if now < self._next:
            return
        picture = draw_manifold(model)
        if picture is not None:
            rows, columns = picture.shape
            text = base64.b64encode(picture.tobytes()).decode()
            say({"manifold": text, "shape": [rows, columns], "step": state["step"]})
        spent = time.monotonic() - now
        self._next = now + max(SELDOM, 20 * spent)  # at most a twentieth of the time


def draw_manifold(model: Any, side: int = 8, most: int = 640) -> Any:
    """Draw what a model makes of its content; for a model with classes a row for each.

    Parameters
    ----------
    model : atomvae.model.model.Model
        Any; also one that is being trained.
    side : int
        Pictures along an edge.
    most : int
        Largest edge in px; above it pixels are left out.

    Returns
    -------
    ndarray (y, x) uint8 or None
        None if the model has no content to draw.
    """
    import numpy as np

    from atomvae.latent import Categorical
    from atomvae.model.decode import content_columns, manifold

    kinds = [f.size for f in model.content if isinstance(f, Categorical)]
    try:
        if len(kinds) == 1:
            rows = [
                manifold(model, side, axes=(0,), label=k)[:, 0] for k in range(min(kinds[0], side))
            ]
            grid = np.stack(rows)
        else:
            grid = manifold(model, side, axes=(0, 1)[: len(content_columns(model))])
    except InputError:  # a code without a prior, or conditions that nobody gave
        return None
    grid = grid[:, :, 0] if grid.ndim == 5 else grid
    n, m, h, w = grid.shape
    picture = grid.transpose(0, 2, 1, 3).reshape(n * h, m * w)
    step = -(-max(picture.shape) // most)
    picture = picture[::step, ::step]
    low, high = np.percentile(picture, [0.5, 99.5])
    return np.uint8(255 * np.clip((picture - low) / max(high - low, 1e-9), 0, 1))


def say(report: dict[str, Any]) -> None:
    """Print one report as a line of its own.

    Parameters
    ----------
    report : dict
        Plain values.
    """
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
