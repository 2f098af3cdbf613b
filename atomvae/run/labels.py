"""Classes that a person gave to atoms: a small table in the run folder."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from atomvae.errors import InputError
from atomvae.run.config import ModelConfig, Pipeline
from atomvae.run.folder import RunFolder

TABLE = "labels"  # .atomvae/tables/labels.parquet
PLACE = ["atom_id", "frame", "y", "x"]  # so that labels of other atoms are recognised
COLUMNS = [*PLACE, "label"]


def read_labels(folder: RunFolder) -> pd.DataFrame:
    """Read the classes that were given to atoms of a run.

    Parameters
    ----------
    folder : RunFolder
        The run.

    Returns
    -------
    DataFrame
        Columns ``atom_id`` (int64), ``frame`` (int64), ``y``, ``x`` (px) and ``label`` (text), a
        row for each atom that has a class; empty when nobody gave any.

    Examples
    --------
    >>> import tempfile
    >>> folder = RunFolder.create(tempfile.mkdtemp() + "/gold.atomvae.zarr")
    >>> atoms = pd.DataFrame({"atom_id": [0, 1], "frame": 0, "y": [3.0, 4], "x": [5.0, 6]})
    >>> write_labels(folder, give_label(read_labels(folder), atoms.iloc[1:], "vacancy"))
    >>> read_labels(folder)
       atom_id  frame    y    x    label
    0        1      0  4.0  6.0  vacancy
    """
    if not (folder.tables / f"{TABLE}.parquet").exists():
        return pd.DataFrame(
            {
                name: np.empty(0, dtype)
                for name, dtype in zip(COLUMNS, ("i8", "i8", "f8", "f8", object), strict=True)
            }
        )
    table = folder.read_parquet(TABLE)
    if missing := [name for name in COLUMNS if name not in table]:
        raise InputError(
            f"{folder.tables / TABLE}.parquet has no column {missing[0]!r}; remove it and give the "
            "classes again"
        )
    return table


def write_labels(folder: RunFolder, labels: pd.DataFrame) -> None:
    """Write the classes of atoms, whole or not at all; an empty table removes them.

    Parameters
    ----------
    folder : RunFolder
        The run.
    labels : DataFrame
        As `read_labels` gives it.
    """
    if labels.empty:
        (folder.tables / f"{TABLE}.parquet").unlink(missing_ok=True)
        return
    folder.write_parquet(TABLE, labels[COLUMNS].sort_values("atom_id", ignore_index=True))


def give_label(labels: pd.DataFrame, atoms: pd.DataFrame, name: str) -> pd.DataFrame:
    """Give a class to atoms; the one they had before is gone.

    Parameters
    ----------
    labels : DataFrame
        As `read_labels` gives it; not changed.
    atoms : DataFrame
        Rows of the atom table: ``atom_id``, ``frame``, ``y``, ``x``.
    name : str
        The class; empty takes it away.

    Returns
    -------
    DataFrame
        The new labels.

    Raises
    ------
    InputError
        If the atoms lack a column.
    """
    if missing := [column for column in PLACE if column not in atoms]:
        raise InputError(
            f"the atoms have no column {missing[0]!r}; classes need atoms of a run folder"
        )
    kept = labels[~labels["atom_id"].isin(atoms["atom_id"])]
    if not name.strip():
        return kept.reset_index(drop=True)
    new = atoms[PLACE].assign(label=name.strip())
    return pd.concat([kept, new], ignore_index=True) if len(kept) else new.reset_index(drop=True)


def label_numbers(
    labels: pd.DataFrame, atoms: pd.DataFrame, atom_id: ArrayLike
) -> tuple[NDArray[np.int64], list[str]]:
    """Number the classes for a training.

    Parameters
    ----------
    labels : DataFrame
        As `read_labels` gives it.
    atoms : DataFrame
        The atom table of now.
    atom_id : array-like (n,)
        Atoms of the patches, in their order.

    Returns
    -------
    numbers : ndarray (n,) int64
        Of the class of each patch, -1 where none was given.
    names : list of str
        What the numbers mean, in the order of the alphabet.

    Raises
    ------
    InputError
        If there are no labels, or they were given to other atoms than those of now.

    Examples
    --------
    >>> atoms = pd.DataFrame({"atom_id": [0, 1, 2], "frame": 0, "y": [3.0, 4, 5], "x": 1.0})
    >>> labels = give_label(atoms.iloc[:0].assign(label=""), atoms.iloc[2:], "vacancy")
    >>> label_numbers(labels, atoms, atoms["atom_id"])
    (array([-1, -1,  0]), ['vacancy'])
    """
    if labels.empty:
        raise InputError(
            "model.labels is true, but no atoms were given a class; choose atoms in the Explorer "
            "of the viewer and save them as classes, or remove model.labels"
        )
    found = atoms.set_index("atom_id")[["frame", "y", "x"]].reindex(labels["atom_id"])
    same = np.isclose(found.to_numpy(float), labels[["frame", "y", "x"]].to_numpy(float), atol=1e-6)
    if not same.all():
        raise InputError(
            f"{int((~same.all(1)).sum())} of {len(labels)} labels belong to other atoms than those "
            "of now: the detection was changed since; give the classes again"
        )
    names = sorted(set(labels["label"].astype(str)))
    code = pd.Series(labels["label"].astype(str).map(names.index).to_numpy(), labels["atom_id"])
    return code.reindex(np.asarray(atom_id)).fillna(-1).to_numpy(np.int64), names


def labels_key(folder: RunFolder, pipeline: Pipeline) -> dict[str, Any]:
    """Say which labels a training depends on: nothing, or a hash of the table.

    Parameters
    ----------
    folder : RunFolder
        The run.
    pipeline : Pipeline
        Its settings.

    Returns
    -------
    dict
        Plain values.
    """
    if not pipeline.model.labels:
        return {}
    table = read_labels(folder).sort_values("atom_id")
    text = table.to_csv(index=False, columns=["atom_id", "label"])
    return {"labels": hashlib.sha256(text.encode()).hexdigest()[:16]}


def with_labels(config: ModelConfig, names: list[str]) -> ModelConfig:
    """Settings of a model that has a class for each name.

    Parameters
    ----------
    config : ModelConfig
        Of a variant with classes.
    names : list of str
        Classes that were given to atoms.

    Returns
    -------
    ModelConfig
        With as many classes as names, at least two, unless a number is set.

    Raises
    ------
    InputError
        If fewer classes are asked for than were given.

    Examples
    --------
    >>> with_labels(ModelConfig(variant="ssrvae", labels=True), ["a", "b", "c"]).classes
    3
    """
    classes = max(2, len(names)) if config.classes is None else config.classes
    if classes < len(names):
        raise InputError(
            f"model.classes is {classes}, but atoms were given {len(names)} classes "
            f"({', '.join(names)}); raise it or remove it"
        )
    return config.model_copy(update={"classes": classes})
