"""A movie whose atoms are known: bright dots that move right by 3 px from frame to frame."""

import numpy as np
import pandas as pd
import pytest

from atomvae.movie.movie import Movie

SHAPE = (4, 96, 128)
SPACING = 16
PIXEL_NM, FRAME_S = 0.02, 0.5


@pytest.fixture
def table() -> pd.DataFrame:
    """Atoms on a square lattice; z_0 is 0 at the left, 1 at the right, angles at will."""
    rows = []
    for frame in range(SHAPE[0]):
        grid = np.mgrid[16 : SHAPE[1] - 8 : SPACING, 16 : SHAPE[2] - 16 : SPACING]
        y, x = grid.reshape(2, -1).astype(float)
        rows.append(pd.DataFrame({"frame": frame, "y": y, "x": x + 3 * frame, "left": x < 60}))
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "atom_id", np.arange(len(table)))
    table["z_0"] = np.where(table["left"], 0.0, 1.0)
    table["amplitude"] = 100.0
    return table


@pytest.fixture
def movie(table) -> Movie:
    """The frames: a Gaussian dot at every atom, on a background that grows with the frame."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    frames = np.empty(SHAPE, np.float32)
    for frame, atoms in table.groupby("frame"):
        square = (y - atoms["y"].to_numpy()[:, None, None]) ** 2
        square = square + (x - atoms["x"].to_numpy()[:, None, None]) ** 2
        frames[frame] = 100 * np.exp(-square / 8).sum(0) + 20 * frame
    return Movie.from_array(frames, pixel_size=PIXEL_NM, frame_time=FRAME_S)


@pytest.fixture
def run_path(movie, table, tmp_path):
    """A run folder with this movie and table, as a finished run leaves it."""
    from atomvae.run.folder import RunFolder

    run = RunFolder.create(tmp_path / "dots.atomvae.zarr")
    run.write_movie(movie)
    run.set_movies([movie.name])
    run.write_atoms(table[["atom_id", "frame", "y", "x", "amplitude"]], [SHAPE[0]])
    run.write_parquet("atoms", table.assign(angle=0.3, angle_n=3))
    run.write_marker("map", {})
    return run.path
