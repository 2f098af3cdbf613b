"""A pretended second device: tensors on it may not meet tensors that were made on the CPU."""

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map


def is_there(value: Tensor) -> bool:
    """Whether a tensor lies on the pretended device."""
    return getattr(value, "elsewhere", False)


def send(value: Any) -> Any:
    """Put all tensors of a nested structure, or the weights of a module, on the device."""
    if isinstance(value, nn.Module):
        for t in (*value.parameters(), *value.buffers()):
            t.elsewhere = True
        return value
    return tree_map(_mark, value)


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        value.elsewhere = True
    return value


class Elsewhere(TorchFunctionMode):
    """Refuse what torch refuses with two devices.

    What is computed from tensors on the device lies there too, and what is made with a device
    given: `device=x.device`. Numbers without dimensions may come from the CPU.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check where the tensors are, call the function, mark the result."""
        kwargs = kwargs or {}
        given = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, Tensor)]
        there = [is_there(v) for v in given]
        moves = getattr(func, "__name__", "") in ("to", "type_as", "copy_")
        if any(there) and not moves:
            strays = [v for v, t in zip(given, there, strict=True) if not t and v.ndim]
            assert not strays, f"{func} mixes devices: {[tuple(v.shape) for v in strays]}"
        result = func(*args, **kwargs)
        if any(there) or kwargs.get("device") is not None:
            tree_map(_mark, result)
        return result
