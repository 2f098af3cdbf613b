import contextlib
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from atomvae.errors import InputError
from atomvae.run.compute import ComputeConfig, SlurmConfig, map_tasks


def square_file(folder: str, item: int) -> int:
    np.save(Path(folder) / f"{item}.npy", np.random.default_rng(item).random(50) ** 2)
    return os.getpid()


def fails_at_three(item: int) -> int:
    if item == 3:
        raise InputError("frame 3 is empty; remove it")
    if item == 30:
        raise ZeroDivisionError("division by zero")
    if item == 300:
        raise OSError("disk gone")
    return item


def flaky(folder: str, item: int) -> int:
    """Fails at its first attempt, as a network file system may."""
    mark = Path(folder) / str(item)
    if not mark.exists():
        mark.touch()
        raise OSError("stale file handle")
    return item


def blas_threads(item: int) -> list[int]:
    found = threadpool_info()
    return [pool["num_threads"] for pool in found if pool["user_api"] == "blas"]


def dies(item: int) -> None:
    os._exit(1)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_files(tmp_path, workers):
    here = tmp_path / "here"
    there = tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for _, pid in map_tasks(partial(square_file, str(here)), range(9), ComputeConfig(where="here")):
        assert pid == os.getpid()
    compute = ComputeConfig(where="local", workers=workers)
    done = list(map_tasks(partial(square_file, str(there)), range(9), compute))
    assert sorted(item for item, _ in done) == list(range(9))
    pids = {pid for _, pid in done}
    assert os.getpid() not in pids and len(pids) <= workers
    for i in range(9):
        assert (here / f"{i}.npy").read_bytes() == (there / f"{i}.npy").read_bytes()


@pytest.mark.parametrize("where", ["here", "local"])
def test_failures_name_the_task(where, tmp_path, caplog):
    compute = ComputeConfig(where=where, workers=1)
    with pytest.raises(InputError, match=r"^frame 3 is empty; remove it$"):
        list(map_tasks(fails_at_three, [1, 3], compute))
    with pytest.raises(RuntimeError, match="30: ZeroDivisionError"):
        list(map_tasks(fails_at_three, [1, 30], compute))
    assert "in fails_at_three" in caplog.text  # where it was, for the log
    if where == "local":
        with pytest.raises(InputError, match="300: the file system failed three times"):
            list(map_tasks(fails_at_three, [300], compute))
        assert [r for _, r in map_tasks(partial(flaky, str(tmp_path)), [7], compute)] == [7]
        with pytest.raises(InputError, match="workers died again and again at 1"):
            list(map_tasks(dies, [1], compute))


def test_tasks_do_not_fight_for_cores():
    def pools() -> list[int]:
        ((_, found),) = map_tasks(blas_threads, [0], ComputeConfig(where="here"))
        return found

    with threadpool_limits(2, user_api="blas"):
        assert set(pools()) == {1}
        assert set(blas_threads(0)) == {2}  # what the caller had is given back


def test_auto_stays_here_for_little_work():
    assert {r for _, r in map_tasks(abs, range(5), ComputeConfig())} == set(range(5))


def test_a_script_without_its_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from atomvae.run.compute import ComputeConfig, SlurmConfig, map_tasks\n"
        "list(map_tasks(abs, [1], ComputeConfig(where='local', workers=1)))\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.returncode != 0
    assert 'compute under `if __name__ == "__main__":`' in result.stderr


def test_two_clusters_on_one_machine(tmp_path):
    """The port that dask likes best is taken: nobody is told, nothing fails."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken already, as it should be
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        compute = ComputeConfig(where="local", workers=1)
        assert dict(map_tasks(abs, [-1], compute)) == {-1: 1}


def test_auto_moves_to_processes_when_worth_it(monkeypatch, tmp_path):
    monkeypatch.setattr("atomvae.run.compute.WORTH_SECONDS", 0.0)
    compute = ComputeConfig(workers=2)
    done = dict(map_tasks(partial(square_file, str(tmp_path)), range(6), compute))
    assert [done[0], done[1]] == [os.getpid()] * 2
    assert os.getpid() not in {done[i] for i in range(2, 6)}


def test_a_cluster_by_address(tmp_path):
    code = "from distributed.cli.dask_scheduler import main; main()"
    port = 20000 + os.getpid() % 20000
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler = subprocess.Popen(
        [sys.executable, "-c", code, *options], stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    code = "from distributed.cli.dask_worker import main; main()"
    address = f"tcp://127.0.0.1:{port}"
    options = [address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    worker = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment,
    )  # fmt: skip
    try:
        time.sleep(1)
        compute = ComputeConfig(where=address)
        done = list(map_tasks(partial(square_file, str(tmp_path)), range(3), compute))
        assert {pid for _, pid in done} == {worker.pid}
    finally:
        worker.kill()
        scheduler.kill()
        worker.wait()
        scheduler.wait()


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr("distributed.client.Client.__init__", refused)
    with pytest.raises(InputError, match=r"no dask scheduler answers at tcp://127.0.0.1:1 "):
        list(map_tasks(abs, [1], ComputeConfig(where="tcp://127.0.0.1:1")))


def refused(self, address, **options):
    raise OSError(f"Timed out trying to connect to {address}")


def test_slurm_without_slurm(monkeypatch, tmp_path):
    module = type(sys)("dask_jobqueue")
    module.SLURMCluster = None
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no sbatch here"):
        list(map_tasks(abs, [1], ComputeConfig(where="slurm")))


def test_slurm_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match=r"pip install 'atomvae\[slurm\]'"):
        list(map_tasks(abs, [1], ComputeConfig(where="slurm")))


SBATCH = """#!/bin/sh
# A cluster of one machine: the job starts at once, as a process.
for script; do :; done
cp "$script" job.sh
sh "$script" >/dev/null 2>&1 &
echo "Submitted batch job $!"
"""


def test_slurm_jobs_compute(tmp_path, monkeypatch):
    """Through dask-jobqueue, with commands that stand in for those of SLURM."""
    pytest.importorskip("dask_jobqueue", reason="needs the extra slurm")
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    slurm = SlurmConfig(queue="short", directives=("--exclusive",))
    compute = ComputeConfig(where="slurm", workers=2, memory_gb=1, slurm=slurm)
    done = dict(map_tasks(partial(square_file, str(tmp_path)), range(4), compute))
    assert os.getpid() not in done.values() and len(done) == 4
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -p short" in script and "#SBATCH --exclusive" in script
    assert "OMP_NUM_THREADS=1" in script
