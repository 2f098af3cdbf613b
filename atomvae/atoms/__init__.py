"""The table of atoms: found, refined, linked, with their neighbours and lattice."""
