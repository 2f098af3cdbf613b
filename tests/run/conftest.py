"""A pipeline so small that a test can run it, and what a run folder holds, to compare two runs."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
import zarr

SMALL = {
    "name": "small",
    "seed": 3,
    "movie": {
        "simulate": "si_graphene", "frames": 5, "shape": [128, 128], "dose": 25,
        "difficulty": "poisson",
    },
    "patches": {"size": 12, "window_nm": 0.5},
    "train": {"epochs": 2, "batch_size": 64, "pixels": 40},
    "compute": {"where": "here"},
}  # fmt: skip


def contents(path: Path) -> dict[str, str]:
    """Hashes of everything that a run computed: arrays, tables, weights."""
    found = {}
    for metadata in sorted(path.rglob("zarr.json")):
        node = zarr.open(metadata.parent, mode="r", use_consolidated=False)
        if isinstance(node, zarr.Array):
            values = np.ascontiguousarray(node[...])
            name = str(metadata.parent.relative_to(path))
            found[name] = hashlib.sha256(values.tobytes()).hexdigest() + str(values.shape)
    for table in sorted((path / ".atomvae/tables").glob("*.parquet")):
        rows = pd.util.hash_pandas_object(pd.read_parquet(table)).to_numpy()
        found[table.name] = hashlib.sha256(rows.tobytes()).hexdigest()
    for weights in sorted((path / ".atomvae/models").rglob("*.safetensors")):
        name = str(weights.relative_to(path))
        found[name] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


@pytest.fixture
def small_yaml(tmp_path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A finished run; tests that change it work on a copy."""
    from atomvae.run.config import Pipeline
    from atomvae.run.pipeline import run_pipeline

    return run_pipeline(Pipeline(**SMALL), out=tmp_path_factory.mktemp("runs")).path


@pytest.fixture(scope="session")
def run_contents():
    return contents
