"""Tables joined by atom_id."""

import numpy as np
import pandas as pd
import pytest

from atomvae.errors import InputError
from atomvae.maps.latents import map_latents
from atomvae.maps.symmetry import Symmetry


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)[:50]
    atoms = pd.DataFrame(
        {"atom_id": ids, "frame": np.arange(50) // 10, "y": ids * 0.5, "x": ids * 2.0},
        index=np.arange(50) + 7,
    )
    latents = pd.DataFrame({"atom_id": ids, "z_0": -ids * 1.0, "angle": ids * 0.1})
    return atoms, latents.sample(frac=1, random_state=1).reset_index(drop=True)


def test_each_atom_gets_its_own_latents(tables):
    atoms, latents = tables
    table = map_latents(atoms, latents)
    pd.testing.assert_frame_equal(table[atoms.columns], atoms)
    np.testing.assert_array_equal(table["z_0"], -atoms["atom_id"])
    assert list(table) == ["atom_id", "frame", "y", "x", "z_0", "angle"]


@pytest.mark.parametrize("symmetry", [3, Symmetry(3, 1.0, {}, 0.5)])
def test_folded_angle(tables, symmetry):
    table = map_latents(*tables, symmetry=symmetry)
    assert (table["angle_n"] == 3).all() and table["angle_n"].dtype == np.int64
    turns = (table["angle"] - table["angle_folded"]) / (2 * np.pi / 3)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)
    assert table["angle_folded"].between(0, 2 * np.pi / 3, inclusive="left").all()


def test_tables_that_do_not_match_are_refused(tables):
    atoms, latents = tables
    with pytest.raises(InputError, match="3 of 50 atoms have no latents and 0 of 47"):
        map_latents(atoms, latents.iloc[3:])
    with pytest.raises(InputError, match="0 of 45 atoms have no latents and 5 of 50"):
        map_latents(atoms.iloc[5:], latents)
    with pytest.raises(InputError, match="repeats 50 times in the latent"):
        map_latents(atoms, pd.concat([latents, latents]))
    with pytest.raises(InputError, match="no column 'atom_id'"):
        map_latents(atoms.drop(columns="atom_id"), latents)
    with pytest.raises(InputError, match="no column 'angle'"):
        map_latents(atoms, latents.drop(columns="angle"), symmetry=3)


def test_a_shared_column_must_agree(tables):
    atoms, latents = tables
    frame = atoms.set_index("atom_id")["frame"]
    latents["frame"] = latents["atom_id"].map(frame)
    assert list(map_latents(atoms, latents)).count("frame") == 1
    latents.loc[0, "frame"] += 1
    with pytest.raises(InputError, match="'frame', with different values"):
        map_latents(atoms, latents)


def test_no_atoms(tables):
    atoms, latents = tables
    table = map_latents(atoms.iloc[:0], latents.iloc[:0], symmetry=2)
    assert table.empty and "angle_folded" in table
