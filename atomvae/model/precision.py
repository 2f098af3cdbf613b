"""How exactly float32 matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Multiply float32 matrices with a given precision inside the block.

    Parameters
    ----------
    precision
        highest (float32), high or medium, see `torch.set_float32_matmul_precision`. With medium,
        processors that have matrix units for bfloat16 round the factors to 8 bits of mantissa and
        sum in float32; GPUs take TensorFloat32. Others multiply as before.

    Examples
    --------
    >>> with products("medium"):
    ...     torch.get_float32_matmul_precision()
    'medium'
    >>> torch.get_float32_matmul_precision()
    'highest'
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
