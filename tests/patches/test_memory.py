"""Peak memory does not grow with the length of the movie."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CUT = """
import sys
import dask, dask.array as da, numpy as np, pandas as pd
from atomvae.movie.movie import Movie
from atomvae.patches.cut import cut_patches

def frames(block_info):
    (start, stop), *_ = block_info[None]["array-location"]
    rng = np.random.default_rng(start)
    return rng.random((stop - start, 512, 512), dtype=np.float32)

n, each = int(sys.argv[1]), 250
movie = Movie.from_array(
    da.map_blocks(frames, chunks=((4,) * (n // 4), (512,), (512,)), dtype=np.float32,
                  meta=np.empty((0, 0, 0), np.float32)),
    pixel_size=0.01,
)
place = np.random.default_rng(0).uniform(0, 511, (2, n * each))
atoms = pd.DataFrame({
    "atom_id": np.arange(n * each), "frame": np.arange(n * each) // each,
    "y": place[0], "x": place[1],
})
with dask.config.set(scheduler="synchronous"):  # one shard at a time, on any machine
    store = cut_patches(movie, atoms, window_nm=0.24, size=24, path=sys.argv[2])
# Not getrusage: its peak is inherited from the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]), store.layout.n_shards, movie.frames.nbytes // 1024)
"""


def peak(n_frames, path) -> tuple[int, int, int]:
    """Peak resident set in KiB, number of shards, size of the movie in KiB."""
    out = subprocess.run(
        [sys.executable, "-c", CUT, str(n_frames), str(path)],
        capture_output=True, text=True, check=True,
        # Freed arrays go back to the system at once: the peak is that of what is in use.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    ).stdout  # fmt: skip
    memory, shards, movie = out.split()
    return int(memory), int(shards), int(movie)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory_of_ten_times_the_frames(tmp_path):
    short, few, _ = peak(40, tmp_path / "short")
    long, many, movie = peak(400, tmp_path / "long")
    # Whole shards in both; holding the longer movie, or its patches, would show.
    assert few >= 2 and many >= 10
    assert movie > short
    assert long <= 1.1 * short, f"{long} KiB for ten times the frames, {short} KiB before"
