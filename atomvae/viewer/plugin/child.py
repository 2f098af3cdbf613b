"""A pipeline in a process of its own, so that the viewer neither waits for it nor dies with it.

Run as a module it is the child: it runs the pipeline and prints one JSON object per line.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atomvae.errors import InputError


class Child:
    """A running pipeline.

    Parameters
    ----------
    settings : path-like
        The YAML file of the pipeline.
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
            ``stage``, ``done`` (0..1 of the whole run) and ``figures`` while it runs; last
            ``run``, the path of the run folder. Nothing more after `cancel`.

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
        """Stop the child and its workers; the run folder stays and can be continued."""
        self.cancelled = True
        for number in (signal.SIGTERM, signal.SIGTERM if os.name == "nt" else signal.SIGKILL):
            if self._process.poll() is not None:
                return
            if os.name == "nt":
                self._process.terminate()
            else:
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue


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
        The YAML file.
    out : str
        Where the run folder goes.

    Returns
    -------
    int
        Exit status: 0, or 2 for what the user can mend.
    """
    from atomvae.run.pipeline import run_pipeline
    from atomvae.run.stages import STAGES

    names = [stage.name for stage in STAGES]

    def tell(stage: str, done: float, total: float, figures: str) -> None:
        """Report the share of the whole run, every stage counting the same."""
        share = (names.index(stage) + done / max(total, 1e-9)) / len(names)
        say({"stage": stage, "done": share, "figures": figures})

    try:
        run = run_pipeline(settings, out=out, progress=tell)
    except InputError as error:
        say({"error": str(error)})
        return 2
    say({"run": str(run.path)})
    return 0


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
