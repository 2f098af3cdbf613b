"""Memory, streaming, members: `python -m tests.model.bench_scale`.

- Memory: peak resident set of a training that reads patches from disk, of so many patches and of
  ten times as many, each in a process of its own that does nothing else.
- Throughput: patches per CPU second of the steps, from disk and from memory, in turn.
- Members: seconds of an ensemble over those of one training, one after the other and two at a time.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from atomvae.datasets.cards import cards
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.ensemble import train_ensemble
from atomvae.model.train import train
from atomvae.patches.store import PatchStore
from tests.model.bench_train import machine
from tests.model.peer import ROOT

SIDE, PATCHES, TIMES = 32, 10_000, 10
ROOM = 0.05  # GB: what patches may take in memory, an eighth of the larger store
REPEATS = 3
MEMBERS = 8


def write_store(path, n):
    """Patches of noise, which cost the same as others, a part at a time."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(n, SIDE, SIDE)).astype(np.float32)
    PatchStore.from_arrays(image, frame=np.arange(n) // 500, pixel_nm=0.02, path=path)


def work(path, memory_gb, steps):
    """Train for so many steps; gives patches per CPU second and the peak resident set in MB."""
    store = PatchStore.open(path)
    clock = []

    class Enough(Exception):
        pass

    def tick(_):
        clock.append(time.process_time())
        if len(clock) == steps:
            raise Enough

    config = TrainConfig(
        epochs=1, batch_size=128, memory_gb=memory_gb, device="cpu", first_guess=False
    )
    with contextlib.suppress(Enough):
        train(zoo.skip_rvae((SIDE, SIDE)), store, config, progress=tick)
    seconds = (clock[-1] - clock[4]) / (len(clock) - 5)
    # Of this program alone: ru_maxrss begins with that of the process that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"patches per CPU s": 128 / seconds, "peak MB": peak / 1024}


def elsewhere(path, memory_gb, steps=60):
    """Do the same in a process of its own."""
    call = [sys.executable, "-m", "tests.model.bench_scale", "--work", str(path)]
    call += ["--room", str(memory_gb), "--steps", str(steps)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=env, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def streaming():
    """Print memory and throughput."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: Path(folder) / f"{n}.zarr" for n in (PATCHES, TIMES * PATCHES)}
        for n, path in paths.items():
            write_store(path, n)
        small, large = ([elsewhere(p, ROOM) for _ in range(REPEATS)] for p in paths.values())
        pairs = [
            (elsewhere(paths[PATCHES], ROOM), elsewhere(paths[PATCHES], 8)) for _ in range(REPEATS)
        ]
    peaks = [statistics.median(row["peak MB"] for row in rows) for rows in (small, large)]
    rates = [statistics.median(pair[i]["patches per CPU s"] for pair in pairs) for i in (0, 1)]
    print(f"| peak resident set, {PATCHES} and {TIMES * PATCHES} patches | "
          f"{peaks[0]:.0f}, {peaks[1]:.0f} MB | {peaks[1] / peaks[0]:.2f} |")  # fmt: skip
    print(f"| patches per CPU s, from disk and from memory | "
          f"{rates[0]:.0f}, {rates[1]:.0f} | {rates[0] / rates[1]:.2f} |", flush=True)  # fmt: skip


def cost(call):
    """CPU seconds of this process, and wall seconds, of a call."""
    start, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - start, time.perf_counter() - wall


def members(side=24, n=1000):
    """Print what members cost over one training, the same settings and number of epochs."""
    images = cards(120, 20, n, size=side, noise=0.1, seed=0).images

    def ensemble(processes):
        config = TrainConfig(device="cpu", processes=processes)
        train_ensemble(zoo.skip_rvae((side, side)), images, config, members=MEMBERS)

    one = cost(lambda: train(zoo.skip_rvae((side, side)), images, TrainConfig(device="cpu")))
    many, apart = cost(lambda: ensemble(1)), cost(lambda: ensemble(2))
    for name, seconds, single in (
        ("one after the other, CPU s", many[0], one[0]),
        ("one after the other, wall s", many[1], one[1]),
        ("two at a time, wall s", apart[1], one[1]),
    ):
        print(f"| {MEMBERS} members and one training, {name} | {seconds:.1f}, {single:.1f} | "
              f"{seconds / single:.1f} |", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", help="a store to train on, for a process of its own")
    parser.add_argument("--room", type=float)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.work:
        print(json.dumps(work(arguments.work, arguments.room, arguments.steps)))
        return
    print(f"Memory, streaming and members: {machine()}\n")
    print("| what | figures | ratio |\n|---|---|---|")
    streaming()
    members()


if __name__ == "__main__":
    main()
