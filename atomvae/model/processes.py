"""Several processes that train one model: each does its parts of every batch.

All hold the same weights and come to the same decisions, because what they decide by, the means of
the terms and the gradients, are those of the whole batch.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn


def rank_and_number() -> tuple[int, int]:
    """Which process this is, from 0, and of how many.

    Examples
    --------
    >>> rank_and_number()
    (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def device_of(device: torch.device) -> torch.device:
    """Give each process a GPU of its own, where they are on GPUs."""
    rank, number = rank_and_number()
    if device.type != "cuda" or number == 1:
        return device
    return torch.device("cuda", rank % torch.cuda.device_count())


def share_means(means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add up the shares that all processes have of some means.

    Parameters
    ----------
    means
        Scalars by name: sums over the patches of this process over the number of all.

    Returns
    -------
    dict
        Their sums over the processes. The gradient is that of the own share, so the gradients of
        the processes add up to that of the whole batch, whatever is made of the means.
    """
    if rank_and_number()[1] == 1:
        return dict(means)
    own = torch.stack(list(means.values()))
    whole = own.detach().clone()
    distributed.all_reduce(whole)
    return dict(zip(means, own + (whole - own.detach()), strict=True))


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their sums over the processes, in one message."""
    if rank_and_number()[1] == 1:
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    for p, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


@contextmanager
def processes(number: int, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Be the first of several processes inside the block; the others do `task(*arguments)`.

    Processes that were started as a group (torchrun) are taken as they are.

    Parameters
    ----------
    number
        Of processes in all.
    task, arguments
        What the others do, in the same order of messages as this one; passed by pickle to
        processes of our own on this machine.
    """
    if number == 1 or distributed.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder, "group"))
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_other, args=(place, rank, number, task, arguments), daemon=True)
            for rank in range(1, number)
        ]
        for process in others:
            process.start()
        try:
            _join(place, 0, number)
            yield
            for process in others:
                process.join()
        finally:  # after an error here, the others wait for messages that will not come
            for process in others:
                process.kill()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _other(
    place: str, rank: int, number: int, task: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Be one of the other processes."""
    torch.set_num_threads(max(1, torch.get_num_threads() // number))
    arguments = copy.deepcopy(arguments)  # tensors that are passed on share their memory
    _join(place, rank, number)
    try:
        task(*arguments)
    finally:
        distributed.destroy_process_group()


def _join(place: str, rank: int, number: int) -> None:
    """Form the group; nobody goes on, or away, before all have come."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{place}", rank=rank, world_size=number
    )
    distributed.barrier()
