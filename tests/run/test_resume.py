"""Killed at any moment, a run continues where it was and ends with the same arrays."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from atomvae.run.folder import RunFolder
from atomvae.run.pipeline import run_pipeline

CHILD = Path(__file__).parent / "killed_run.py"


def start(settings: Path, out: Path) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(settings), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = child.stdout.readline()
    assert line == "ready\n", line + child.stderr.read()
    return child


def finish(child: subprocess.Popen) -> None:
    out, error = child.communicate(timeout=300)
    assert child.returncode == 0 and out == "done\n", error


def stages_done(run: Path) -> int:
    return len(list((run / ".atomvae/stages").glob("*.json")))


def wait_until_done(child: subprocess.Popen, run: Path, stage: str) -> None:
    """Wait until a stage has its marker, or the child has ended."""
    marker = run / f".atomvae/stages/{stage}.json"
    while not marker.exists() and child.poll() is None:
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(tmp_path, small_yaml, run_contents, kills):
    finish(start(small_yaml, tmp_path / "reference"))
    first = tmp_path / "reference/small.atomvae.zarr"
    reference = run_contents(first)
    assert {"atoms/y", "patches/image", "latents/rvae/angle", "atoms.parquet"} <= set(reference)
    stages = ["import", "detect", "patches", "train", "encode", "map"]
    seconds = {s: json.loads((first / f".atomvae/stages/{s}.json").read_text()) for s in stages}
    run = tmp_path / "killed/small.atomvae.zarr"
    rng = random.Random(kills)
    moments = Counter()
    attempt = 0
    while moments.total() < kills:
        # A random moment of one stage after the other, so that no part of the run is left out.
        before, stage = list(pairwise(stages))[attempt % (len(stages) - 1)]
        attempt += 1
        child = start(small_yaml, run.parent)
        wait_until_done(child, run, before)
        try:
            child.wait(timeout=rng.uniform(0, seconds[stage]["seconds"]))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == -signal.SIGKILL:
            moments[stages_done(run)] += 1
            continue
        assert child.returncode == 0
        assert run_contents(run) == reference  # it was through: the next one starts anew
        shutil.rmtree(run)
    finish(start(small_yaml, run.parent))
    assert run_contents(run) == reference
    assert len(moments) > 1, f"every kill fell into the same stage: {moments}"
    assert not [p for p in (run / ".atomvae/parts").rglob("*") if p.is_file()]
    assert not list(run.rglob("*.tmp")) and not list(run.rglob("*.partial"))
    assert not list((run / ".atomvae").glob("tmp/*"))


def test_what_was_done_before_the_kill_is_not_done_again(tmp_path, small_yaml):
    """Killed in the middle of the detection: the finished blocks stay as they are."""
    run = tmp_path / "small.atomvae.zarr"
    child = start(small_yaml, tmp_path)
    deadline = time.monotonic() + 120
    parts: list[Path] = []
    while len(parts) < 2 and time.monotonic() < deadline:
        parts = list((run / ".atomvae/parts/detect").glob("*/*.parquet"))
        time.sleep(0.002)
    child.kill()
    child.communicate()
    parts = sorted((run / ".atomvae/parts/detect").glob("*/[0-9]*.parquet"))
    assert 2 <= len(parts) < 5, "killed too late: nothing is left to be done"
    # A value that no detection gives, to see whether this block is taken as it is.
    first = pd.read_parquet(parts[0])
    first.assign(amplitude=-7.0).to_parquet(parts[0])
    finish(start(small_yaml, tmp_path))
    atoms = RunFolder(run).atoms()
    assert (atoms["amplitude"] == -7.0).sum() == len(first)


def test_a_run_that_is_done_is_left_alone(small_run, small_yaml):
    before = {p: p.stat().st_mtime_ns for p in small_run.rglob("*") if p.is_file()}
    finish(start(small_yaml, small_run))
    after = {p: p.stat().st_mtime_ns for p in small_run.rglob("*") if p.is_file()}
    changed = {str(p.relative_to(small_run)) for p in after if before.get(p) != after[p]}
    assert changed <= {".atomvae/run.log", ".atomvae/config.yaml", ".atomvae/lock"}


def test_a_damaged_marker_is_as_good_as_none(tmp_path, small_run, run_contents):
    run = Path(shutil.copytree(small_run, tmp_path / "small.atomvae.zarr"))
    (run / ".atomvae/stages/patches.json").write_text('{"key": "')
    told = []
    run_pipeline(run, progress=lambda stage, done, total, line: told.append((stage, line)))
    again = [stage for stage, line in told if line and not line.startswith("up to date")]
    assert again == ["patches"]  # its result is the same, so what follows still fits
    assert run_contents(run) == run_contents(small_run)
    json.loads((run / ".atomvae/stages/patches.json").read_text())
