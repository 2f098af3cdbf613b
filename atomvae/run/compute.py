"""Where tasks run: in this process, on this machine's cores, on a dask cluster, on SLURM.

A task is a function of one small item (a number, a path); it opens what it needs and writes what
it owns. So it does not matter where it runs, how many others do, or in which order they end.
"""

import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, field_validator

from atomvae.errors import InputError
from atomvae.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

LOG = logging.getLogger("atomvae.run")
Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH_SECONDS = 20.0  # below this, starting worker processes (2 to 5 s) gains little


class SlurmConfig(Settings):
    """Settings of SLURM jobs; used with ``where: slurm``."""

    queue: str | None = None
    """Partition to submit to; None: the cluster's default."""
    account: str | None = None
    """Account to charge; None: yours."""
    walltime: str = "04:00:00"
    """Time limit of one job, hours:minutes:seconds."""
    directives: tuple[str, ...] = ()
    """Further lines for sbatch, e.g. ``--constraint=cpu``."""


class ComputeConfig(Settings):
    """Where to compute. Results do not depend on it.

    Examples
    --------
    >>> ComputeConfig(where="tcp://10.0.0.5:8786").where
    'tcp://10.0.0.5:8786'
    """

    where: str = "auto"
    """``here`` (this process), ``local`` (this machine's cores), ``tcp://host:port`` (a
    dask.distributed scheduler), ``slurm``, or ``auto``: local as soon as it is worth it."""
    workers: int | None = Field(default=None, ge=1)
    """Number of worker processes; None: one per core, and 4 jobs on SLURM."""
    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of one worker; None: an equal share of this machine's, and 4 on SLURM."""
    slurm: SlurmConfig = SlurmConfig()
    """What SLURM needs to know."""

    @field_validator("where")
    @classmethod
    def _known(cls, where: str) -> str:
        if where in ("auto", "here", "local", "slurm") or "://" in where:
            return where
        raise ValueError(
            f"'{where}' is no place to compute; use auto, here, local, slurm or tcp://host:port"
        )


def cores() -> int:
    """Return how many cores this process may use.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread() -> AbstractContextManager[object]:
    """Keep linear algebra to one thread while a block runs.

    Our matrices are small: threads that wait for each other made the detection 18 times slower
    on a busy machine of two cores. Torch has threads of its own, which are left alone.

    Examples
    --------
    >>> with one_thread():
    ...     pass
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def map_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    compute: ComputeConfig | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item, wherever the settings say.

    Parameters
    ----------
    function : callable
        Picklable (a function of a module or a `functools.partial` of one) when other processes
        are involved; its argument and its result are small.
    items : sequence
        What to call it with.
    compute : ComputeConfig, optional
        Default: the defaults of `ComputeConfig`.

    Yields
    ------
    tuple
        The item and its result, as they become ready.

    Raises
    ------
    InputError
        What a task raised itself; or, naming the item, any other failure. Errors of the file
        system are tried again twice on a cluster, since they may pass.

    Notes
    -----
    Worker processes import the calling script: guard it with ``if __name__ == "__main__"``.

    Examples
    --------
    >>> sorted(map_tasks(abs, [-1, 2], ComputeConfig(where="here")))
    [(-1, 1), (2, 2)]
    """
    compute = ComputeConfig() if compute is None else compute
    where, left = compute.where, list(items)
    if where == "auto":
        # Two tasks are tried here: the first also pays for imports, the second tells the time.
        where, seconds = "here", 0.0
        for item in left[:2]:
            start = time.monotonic()
            outcome = _attempt(function, item)
            seconds = time.monotonic() - start
            yield item, _result(item, outcome)
        left = left[2:]
        if (compute.workers or cores()) > 1 and seconds * len(left) > WORTH_SECONDS:
            where = "local"
    if where == "here":
        for item in left:
            yield item, _result(item, _attempt(function, item))
    elif left:
        with _cluster(where, compute) as client:
            yield from _map_on_cluster(function, left, client)


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a task, as plain text: it travels between machines and versions."""

    message: str
    by_user: bool
    trace: str = ""


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | _Failure:
    """Run one task; failures that would only repeat themselves come back as a record."""
    import dask

    try:
        # A task is the unit of parallelism: inside it dask must not start threads of its own.
        with dask.config.set(scheduler="synchronous"), one_thread():
            return function(item)
    except InputError as error:
        trace = traceback.format_exc() if error.__cause__ else ""
        return _Failure(str(error), by_user=True, trace=trace)
    except OSError:
        raise  # may pass: tried again on a cluster
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return _Failure(message, by_user=False, trace=traceback.format_exc())


def _result(item: Item, outcome: Result | _Failure) -> Result:
    """The result, or the failure as an error of this process."""
    if not isinstance(outcome, _Failure):
        return outcome
    if outcome.trace:
        LOG.error("%s: %s", item, outcome.trace)  # for whoever mends it; the user gets a sentence
    if outcome.by_user:
        raise InputError(outcome.message)
    raise RuntimeError(f"{item}: {outcome.message}")


def _map_on_cluster(
    function: Callable[[Item], Result], items: list[Item], client: "Client"
) -> Iterator[tuple[Item, Result]]:
    """Send every task to the workers and hand out what comes back."""
    from distributed import KilledWorker, as_completed

    futures = client.map(partial(_attempt, function), items, retries=2, pure=False)
    item_of = dict(zip([future.key for future in futures], items, strict=True))
    for future in as_completed(futures, loop=client.loop):
        item = item_of[future.key]
        try:
            outcome = future.result()
        except KilledWorker:
            raise InputError(
                f"workers died again and again at {item}, probably out of memory; "
                "lower compute.workers or raise compute.memory_gb, then run again"
            ) from None
        except OSError as error:
            raise InputError(
                f"{item}: the file system failed three times ({error}); "
                "check that the workers see the same folders, then run again"
            ) from error
        yield item, _result(item, outcome)


@contextmanager
def _cluster(where: str, compute: ComputeConfig) -> Iterator["Client"]:
    """A client of the workers asked for; those started here end with it."""
    from distributed import Client

    if "://" in where:
        try:
            client = Client(where, timeout="20s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no dask scheduler answers at {where} ({str(error).splitlines()[0]}); "
                "start one with `dask scheduler`, or use compute.where: local"
            ) from None
        with client:
            yield client
        return
    with _workers(where, compute) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _workers(where: str, compute: ComputeConfig) -> Any:
    """Worker processes on this machine, or jobs of SLURM."""
    if where == "slurm":
        return _slurm_jobs(compute)
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=compute.workers or cores(),
            threads_per_worker=1,
            memory_limit="auto" if compute.memory_gb is None else f"{compute.memory_gb}GB",
            dashboard_address="127.0.0.1:0",  # any free port: None would insist on 8787
            silence_logs=logging.ERROR,
        )
    except RuntimeError as error:
        raise InputError(
            f"worker processes did not start ({error}); in a script, compute under "
            '`if __name__ == "__main__":`, since they import it, or use compute.where: here'
        ) from error


def _slurm_jobs(compute: ComputeConfig) -> Any:
    """One job per worker, submitted through dask-jobqueue."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "compute.where is slurm, which needs dask-jobqueue; "
            "install it with: pip install 'atomvae[slurm]'"
        ) from None
    if shutil.which("sbatch") is None:
        raise InputError(
            "compute.where is slurm, but there is no sbatch here; run on a node that submits jobs"
        )
    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=f"{compute.memory_gb or 4}GB",
        queue=compute.slurm.queue,
        account=compute.slurm.account,
        walltime=compute.slurm.walltime,
        job_extra_directives=list(compute.slurm.directives),
        job_script_prologue=["export OMP_NUM_THREADS=1"],
    )
    cluster.scale(jobs=compute.workers or 4)
    return cluster
