import numpy as np
import pandas as pd
import pytest

from atomvae.atoms.table import COLUMNS, Flag, check_atoms, empty_atoms, make_atoms
from atomvae.errors import InputError


def test_flags_are_distinct_bits():
    assert sorted(flag.value for flag in Flag) == [2**i for i in range(len(Flag))]


def test_empty_and_made_tables_have_all_columns_typed():
    made = make_atoms({"y": np.arange(3), "x": np.arange(3), "extra": np.ones(3)})
    for table in (empty_atoms(), made):
        assert {name: str(table[name].dtype) for name in COLUMNS} == {
            name: column.dtype for name, column in COLUMNS.items()
        }
        check_atoms(table)
    assert list(made.columns) == [*COLUMNS, "extra"]


def test_check_converts_what_loses_nothing():
    table = make_atoms({"y": np.arange(3.0), "x": np.arange(3.0)})
    loose = table.astype({"frame": "float64", "y": "float32", "flag": "int16"})
    pd.testing.assert_frame_equal(check_atoms(loose), table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": [1, 0, 2]}, "not sorted by frame"),
        ({"frame": [-1, 0, 2]}, "negative"),
        ({"frame": [0.5, 1, 2]}, "broken numbers"),
        ({"frame": [0, 1, np.nan]}, "broken numbers"),
        ({"atom_id": [0, 0, 1]}, "atom_id repeats"),
        ({"y": [0, np.nan, 1]}, "NaN or infinity"),
        ({"x": ["a", "b", "c"]}, "expected float64"),
        ({"frame": [0, 1, 9]}, "the movie has 3 frames"),
    ],
)
def test_check_refuses(change, message):
    table = make_atoms({"y": np.arange(3.0), "x": np.arange(3.0)}).assign(**change)
    with pytest.raises(InputError, match=message):
        check_atoms(table, shape=(3, 8, 8))
