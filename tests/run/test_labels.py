"""Classes that a person gave to atoms, and a training that knows them."""

import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.run.config import ModelConfig, Pipeline
from atomvae.run.folder import RunFolder
from atomvae.run.labels import (
    give_label,
    label_numbers,
    labels_key,
    read_labels,
    with_labels,
    write_labels,
)
from atomvae.run.model_stages import check_variant
from atomvae.run.stages import STAGES


@pytest.fixture
def atoms():
    rng = np.random.default_rng(0)
    place = rng.random((6, 2)) * 50
    frame = np.repeat([0, 1], 3)
    columns = {"atom_id": np.arange(6) + 10, "frame": frame, "y": place[:, 0], "x": place[:, 1]}
    return pd.DataFrame(columns)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "a.atomvae.zarr")


def test_labels_survive_the_disk_and_replace_each_other(folder, atoms):
    assert read_labels(folder).empty
    labels = give_label(read_labels(folder), atoms.iloc[:4], " wall ")
    labels = give_label(labels, atoms.iloc[3:], "vacancy")
    write_labels(folder, labels)
    read = read_labels(folder)
    assert dict(zip(read["atom_id"], read["label"], strict=True)) == {
        10: "wall", 11: "wall", 12: "wall", 13: "vacancy", 14: "vacancy", 15: "vacancy",
    }  # fmt: skip
    assert [str(read[name].dtype) for name in ("atom_id", "frame", "y")] == [
        "int64", "int64", "float64",
    ]  # fmt: skip
    write_labels(folder, give_label(read, atoms.iloc[[0, 5]], ""))  # taken away
    assert read_labels(folder)["atom_id"].tolist() == [11, 12, 13, 14]
    write_labels(folder, read.iloc[:0])
    assert read_labels(folder).empty and not (folder.tables / "labels.parquet").exists()


def test_numbers_follow_the_patches_not_the_labels(atoms):
    labels = give_label(atoms.iloc[:0].assign(label=""), atoms.iloc[[4, 1]], "b")
    labels = give_label(labels, atoms.iloc[[2]], "a")
    numbers, names = label_numbers(labels, atoms, [15, 14, 11, 12])
    assert names == ["a", "b"] and numbers.tolist() == [-1, 1, 1, 0]
    with pytest.raises(InputError, match="2 of 3 labels belong to other atoms"):
        other = atoms.assign(y=atoms["y"] + (atoms["frame"] == 0))
        label_numbers(labels, other, other["atom_id"])
    with pytest.raises(InputError, match="no atoms were given a class"):
        label_numbers(labels.iloc[:0], atoms, atoms["atom_id"])
    with pytest.raises(InputError, match="no column 'y'"):
        give_label(labels, atoms.drop(columns="y"), "a")


def test_damaged_labels_are_told(folder):
    folder.write_parquet("labels", pd.DataFrame({"atom_id": [1]}))
    with pytest.raises(InputError, match="no column 'frame'"):
        read_labels(folder)


def test_a_training_depends_on_its_labels_alone(folder, atoms):
    train = next(stage for stage in STAGES if stage.name == "train")
    without = Pipeline(movie="a.tif", model={"variant": "ssrvae"})
    known = Pipeline(movie="a.tif", model={"variant": "ssrvae", "labels": True})
    assert "labels" not in train.settings(without)["model"]  # older runs stay up to date
    keys = []
    for rows in ([0, 1], [1, 0], [0, 2]):
        labels = give_label(read_labels(folder).iloc[:0], atoms.iloc[rows], "a")
        write_labels(folder, labels)
        assert labels_key(folder, without) == {}
        keys.append(labels_key(folder, known)["labels"])
    assert keys[0] == keys[1] != keys[2]


def test_classes_of_a_model_with_labels():
    assert with_labels(ModelConfig(variant="ssrvae"), ["a"]).classes == 2
    assert with_labels(ModelConfig(variant="ssrvae", classes=5), ["a", "b"]).classes == 5
    with pytest.raises(InputError, match="given 3 classes"):
        with_labels(ModelConfig(variant="ssrvae", classes=2), ["a", "b", "c"])
    with pytest.raises(InputError, match="rvae has no classes to be known"):
        check_variant(ModelConfig(variant="rvae", labels=True))
