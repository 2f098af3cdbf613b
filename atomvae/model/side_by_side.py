"""Independent trainings side by side, each in a process of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from atomvae.errors import InputError


def side_by_side(
    task: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], processes: int
) -> list[Any]:
    """Do `task(*job)` for every job, so many at a time, and give the results in order.

    A small model leaves most of a machine idle, and several threads on its small matrices gain
    little; several models, each on its own core, gain all.

    Parameters
    ----------
    task
        A function of a module; it, the jobs and the results travel by pickle between processes of
        this machine. With one process it is called here.
    jobs
        Its arguments.
    processes
        How many jobs are done at the same time. They share the threads of this process.

    Raises
    ------
    InputError
        If there are no processes, or the task raises it.

    Examples
    --------
    >>> side_by_side(max, [(1, 2), (4, 3)], processes=1)
    [2, 4]
    """
    if processes < 1:
        raise InputError(f"processes is {processes}, expected at least 1")
    number = min(processes, len(jobs))
    if number <= 1:
        return [task(*job) for job in jobs]
    threads = max(1, torch.get_num_threads() // number)
    context = get_context("spawn")
    with ProcessPoolExecutor(number, context, torch.set_num_threads, (threads,)) as pool:
        done = [pool.submit(task, *job) for job in jobs]
        try:
            return [each.result() for each in done]
        finally:  # after an error, those that have not begun are not begun
            pool.shutdown(wait=False, cancel_futures=True)
