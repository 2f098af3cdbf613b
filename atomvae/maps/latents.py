"""Latents on the lattice: one table of where the atoms are and what they look like."""

import pandas as pd

from atomvae.errors import InputError
from atomvae.maps.symmetry import Symmetry, fold


def map_latents(
    atoms: pd.DataFrame, latents: pd.DataFrame, *, symmetry: int | Symmetry | None = None
) -> pd.DataFrame:
    """Join atoms and latents by ``atom_id``.

    Parameters
    ----------
    atoms
        Atom table.
    latents
        Table of `encode`, in any order.
    symmetry
        Order n of the motif (see `symmetry_order`). An angle is then known modulo ``2 pi / n``
        only.

    Returns
    -------
    DataFrame
        One row per atom, in the order of ``atoms``: its columns, then those of ``latents``. With
        a symmetry also ``angle_folded`` (radians in [0, 2 pi / n)) and ``angle_n`` (int64).

    Raises
    ------
    InputError
        If the two tables do not speak of the same atoms, or share a column with other values.

    Examples
    --------
    >>> atoms = pd.DataFrame({"atom_id": [4, 5], "y": [1.0, 2.0]})
    >>> latents = pd.DataFrame({"atom_id": [5, 4], "angle": [2.5, -0.1]})
    >>> map_latents(atoms, latents, symmetry=3).round(3)
       atom_id    y  angle  angle_folded  angle_n
    0        4  1.0   -0.1         1.994        3
    1        5  2.0    2.5         0.406        3
    """
    for name, table in (("atom", atoms), ("latent", latents)):
        if "atom_id" not in table:
            raise InputError(f"the {name} table has no column 'atom_id', by which they are joined")
        if (repeated := int(table["atom_id"].duplicated().sum())) > 0:
            raise InputError(f"atom_id repeats {repeated} times in the {name} table")
    lacking = int((~atoms["atom_id"].isin(latents["atom_id"])).sum())
    unknown = int((~latents["atom_id"].isin(atoms["atom_id"])).sum())
    if lacking or unknown:
        raise InputError(
            f"the tables do not match: {lacking} of {len(atoms)} atoms have no latents and "
            f"{unknown} of {len(latents)} latents have no atom; encode the patches of these atoms"
        )
    found = latents.set_index("atom_id").loc[atoms["atom_id"]]
    for name in found.columns.intersection(atoms.columns):
        if not (found[name].to_numpy() == atoms[name].to_numpy()).all():
            raise InputError(
                f"both tables have a column {name!r}, with different values; rename one of them"
            )
    added = found[found.columns.difference(atoms.columns, sort=False)]
    table = pd.concat([atoms, added.set_index(atoms.index)], axis=1)
    if symmetry is None:
        return table
    if "angle" not in table:
        raise InputError(
            "a symmetry was given, but the latents have no column 'angle'; leave it out, or "
            "use a model with an angle (rvae)"
        )
    n = symmetry.n if isinstance(symmetry, Symmetry) else int(symmetry)
    return table.assign(angle_folded=fold(table["angle"], n), angle_n=n)
