"""Random numbers that depend on a seed and a position, and leave the global state alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Draw from a stream of its own inside the block; the global stream is put back after it.

    torch's distributions and layers know only the global generator. Keyed by position (seed,
    epoch, step, ...), a run that was stopped goes on with the very numbers it would have drawn.

    Parameters
    ----------
    device
        Where the numbers are drawn.
    *key
        Non-negative integers; another key is another, independent stream.

    Examples
    --------
    >>> before = torch.get_rng_state()
    >>> with seeded(torch.device("cpu"), 0, 7):
    ...     a = torch.rand(2)
    >>> bool((torch.get_rng_state() == before).all()), a.shape
    (True, torch.Size([2]))
    """
    cuda = device.type == "cuda"
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(number)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield
