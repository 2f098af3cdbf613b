"""The same patches, trained on with several models or settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError
from atomvae.model.config import TrainConfig
from atomvae.model.model import Model
from atomvae.model.side_by_side import side_by_side
from atomvae.model.train import train

Known = Mapping[str, ArrayLike]


def train_sweep(
    models: Sequence[Model],
    patches: Any,
    configs: Sequence[TrainConfig],
    *,
    targets: Any = None,
    known: Known | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Train models in place, each with settings of its own, several at a time.

    Parameters
    ----------
    models
        As many as settings, each another object.
    patches, targets, known
        As for `train`, the same for all.
    configs
        Settings of each training.
    folder
        Where checkpoints are kept, so that a call that was stopped goes on.
    processes
        Trainings at the same time; with more than one, a script must begin its work under
        ``if __name__ == "__main__":``.

    Returns
    -------
    DataFrame
        All histories, see `train`, one after the other; the column run is the number of the model.

    Raises
    ------
    InputError
        If there are not as many settings as models, or a training raises it.

    Examples
    --------
    >>> import numpy as np
    >>> from atomvae.model import zoo
    >>> images = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> settings = [TrainConfig(epochs=1, learning_rate=rate) for rate in (1e-3, 3e-3)]
    >>> table = train_sweep([zoo.vae((8, 8)) for _ in settings], images, settings)
    >>> table["run"].tolist()
    [0, 1]
    """
    if len(models) != len(configs) or len({id(model) for model in models}) != len(models):
        raise InputError(
            f"{len({id(m) for m in models})} different models and {len(configs)} settings were "
            "given, expected as many models as settings, none twice"
        )
    place = Path(folder) if folder is not None else None
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    jobs = [
        (model, patches, config, targets, known, place and place / f"run_{i:02d}.safetensors")
        for i, (model, config) in enumerate(zip(models, configs, strict=True))
    ]
    histories: list[pd.DataFrame] = []
    for i, (state, history) in enumerate(side_by_side(_run, jobs, processes)):
        models[i].load_state_dict({name: torch.from_numpy(v) for name, v in state.items()})
        models[i].eval()
        histories.append(history.assign(run=i))
    table: pd.DataFrame = pd.concat(histories, ignore_index=True)
    return table


def _run(
    model: Model,
    patches: Any,
    config: TrainConfig,
    targets: Any,
    known: Known | None,
    checkpoint: Path | None,
) -> tuple[dict[str, NDArray[Any]], pd.DataFrame]:
    """Train one model; gives its weights and its history."""
    history = train(model, patches, config, targets=targets, known=known, checkpoint=checkpoint)
    return {name: v.cpu().numpy() for name, v in model.state_dict().items()}, history
