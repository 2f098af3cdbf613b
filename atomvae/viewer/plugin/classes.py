"""Classes that the user gives to atoms: kept in the run folder, with undo; and their training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from atomvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

DEEP = 50  # steps that can be undone


class Classes:
    """The classes given to the atoms of a run, on disk after every step.

    Parameters
    ----------
    source : Path or None
        The run folder.

    Attributes
    ----------
    changed : Signal
        Classes were given, taken away, or given back by `undo`.

    Raises
    ------
    InputError
        If there is no run folder, or it is damaged.
    """

    changed = Signal()

    def __init__(self, source: Path | None) -> None:
        from atomvae.run.folder import SUFFIX, RunFolder
        from atomvae.run.labels import read_labels

        if source is None or not source.name.endswith(SUFFIX):
            raise InputError(
                "classes are kept in a run folder, and these atoms come from none; run the "
                "pipeline on the movie, or open NAME.atomvae.zarr"
            )
        self.folder = RunFolder(source)
        self.labels = read_labels(self.folder)
        self._before: list[pd.DataFrame] = []

    def give(self, atoms: "pd.DataFrame", name: str) -> None:
        """Give a class to atoms, and write it.

        Parameters
        ----------
        atoms : DataFrame
            Rows of the table: ``atom_id``, ``frame``, ``y``, ``x``.
        name : str
            The class; empty takes it away.
        """
        from atomvae.run.labels import give_label

        if atoms.empty:
            raise InputError("no atoms are chosen; draw a lasso around some first")
        self._write(give_label(self.labels, atoms, name))

    def forget(self, name: str) -> None:
        """Take a class away from all its atoms."""
        self._write(self.labels[self.labels["label"] != name].reset_index(drop=True))

    def undo(self) -> bool:
        """Take back the last step; False if there is none."""
        from atomvae.run.labels import write_labels

        if not self._before:
            return False
        write_labels(self.folder, self._before[-1])
        self.labels = self._before.pop()
        self.changed.emit()
        return True

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._before)

    def _write(self, labels: "pd.DataFrame") -> None:
        """Write the labels; only then they count."""
        from atomvae.run.labels import write_labels

        write_labels(self.folder, labels)
        self._before = [*self._before[-DEEP + 1 :], self.labels]
        self.labels = labels
        self.changed.emit()

    def counts(self) -> dict[str, int]:
        """How many atoms each class has, by name."""
        count = self.labels["label"].value_counts()
        return {str(name): int(count[name]) for name in sorted(count.index)}

    def rows(self, table: "pd.DataFrame", name: str) -> NDArray[np.bool_]:
        """Which rows of a table have a class, (n,)."""
        chosen = self.labels.loc[self.labels["label"] == name, "atom_id"]
        return table["atom_id"].isin(chosen).to_numpy()


def training_settings(source: Path, labels: "pd.DataFrame") -> dict[str, Any]:
    """Settings of a run that trains on classes given to its atoms: its own, but for the model.

    Parameters
    ----------
    source : Path
        The run folder.
    labels : DataFrame
        The classes.

    Returns
    -------
    dict
        Plain values as in a YAML file.

    Raises
    ------
    InputError
        If there are fewer than two classes, or the run has no settings.
    """
    from atomvae.run.pipeline import open_settings

    names = sorted(set(labels["label"]))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise InputError(
            f"a model of classes needs at least two, found {found}; choose other atoms and give "
            "them another class"
        )
    pipeline, _ = open_settings(source)
    model = pipeline.model
    plain_vae = model.variant in ("vae", "conv_vae", "jvae", "ssvae")
    chosen = {"variant": "ssvae" if plain_vae else "ssrvae", "labels": True}
    if model.latent_dim is not None:
        chosen["latent_dim"] = model.latent_dim
    changed = pipeline.model_copy(update={"model": type(model)(**chosen)})
    import yaml

    plain: dict[str, Any] = yaml.safe_load(changed.to_yaml())
    return plain


def training_file(source: Path) -> Path:
    """Where the settings of that training are written: beside the run folder."""
    return source.with_name(source.name.split(".")[0] + "-classes.yaml")
