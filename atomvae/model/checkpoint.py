"""The state of a training run, in memory and in one file."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atomvae.errors import InputError


@dataclass
class Progress:
    """Where a run is: everything that isn't a weight.

    Random numbers need no entry: they are a function of the seed and the step.

    Examples
    --------
    >>> Progress().step
    0
    """

    step: int = 0  # optimizer steps done
    rate: float = 1.0  # factor on the learning rate, lowered when a run diverges
    retreats: int = 0  # how often it diverged
    best: float = -float("inf")  # minus the held-out objective of the best weights, nats
    best_step: int = 0  # when these were met
    sums: dict[str, float] = field(default_factory=dict)  # of the terms since the epoch began
    history: list[dict[str, float]] = field(default_factory=list)  # a row per epoch

    def entries(self) -> dict[str, Any]:
        """Copy of all entries by name; the rows of the history, which never change, are shared."""
        return {**vars(self), "sums": dict(self.sums), "history": list(self.history)}


def _cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy to the CPU, whole and apart from each other."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy weights and optimizer state to the CPU.

    Examples
    --------
    >>> net = nn.Linear(1, 1)
    >>> sorted(snapshot(net, torch.optim.Adam(net.parameters())))
    ['model.bias', 'model.weight']
    """
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for i, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": t for key, t in entries.items()}
    return _cpu(tensors)


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a snapshot back.

    Examples
    --------
    >>> net = nn.Linear(1, 1)
    >>> adam = torch.optim.Adam(net.parameters())
    >>> restore(snapshot(net, adam), net, adam)
    """
    model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = t.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write tensors and metadata as one safetensors file that is there whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "a.safetensors"
    ...     save_tensors({"x": torch.ones(1)}, file, {"step": 3})
    ...     load_tensors(file)
    ({'x': tensor([1.])}, {'step': 3})
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    save_file(_cpu(tensors), part, {"json": json.dumps(metadata)})
    os.replace(part, path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Raises
    ------
    InputError
        If the file isn't a safetensors file of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["json"])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} can't be read as a file of atomvae weights ({error}); it may be truncated or "
            "of another program"
        ) from error
