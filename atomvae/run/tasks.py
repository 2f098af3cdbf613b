"""What worker processes do: one block of frames, one shard of patches. Torch is not loaded here."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from atomvae.atoms.config import DetectConfig
from atomvae.atoms.detect import detect_atoms
from atomvae.errors import InputError
from atomvae.patches.cut import cut_rows
from atomvae.patches.store import Patches, PatchStore, write_shard
from atomvae.run.atomic import replacing, write_text
from atomvae.run.folder import RunFolder
from atomvae.run.tables import read_table

Block = tuple[int, int, int]  # number of the movie, first frame, one past the last


def settings_file(parts: Path, movie: int) -> Path:
    """Where the detection settings resolved on a movie are kept."""
    return parts / f"resolved-{movie}.json"


def block_file(parts: Path, block: Block) -> Path:
    """Where the atoms of a block of frames are kept until all blocks are done."""
    movie, start, _ = block
    return parts / f"{movie:03d}-{start:06d}.parquet"


def shard_mark(parts: Path, shard: int) -> Path:
    """The file that says that a shard is written."""
    return parts / f"{shard:06d}.done"


def detect_block(run: str, parts: str, block: Block) -> int:
    """Find the atoms of a block of frames and write them to their own file.

    Parameters
    ----------
    run : str
        The run folder.
    parts : str
        Folder of the finished blocks and of the resolved settings.
    block : (int, int, int)
        Number of the movie, first frame, one past the last frame.

    Returns
    -------
    int
        Number of atoms.
    """
    number, start, stop = block
    folder = RunFolder(run)
    movie = folder.movie(folder.movies[number])
    text = settings_file(Path(parts), number).read_text()
    config = DetectConfig.model_validate_json(text)
    try:
        atoms = detect_atoms(movie[start:stop], config)
    except OSError:
        raise
    except Exception:
        # Which frame was it? Those before are fine, so the first that fails is the one.
        for frame in range(start, stop):
            try:
                detect_atoms(movie[frame : frame + 1], config)
            except Exception as error:
                raise InputError(
                    f"frame {frame} of movie {movie.name} cannot be searched for atoms "
                    f"({type(error).__name__}: {error}); leave it out or report it"
                ) from error
        raise
    with replacing(block_file(Path(parts), block)) as temporary:
        atoms.assign(frame=atoms["frame"] + start).to_parquet(temporary, index=False)
    return len(atoms)


def cut_shard(run: str, parts: str, shard: int) -> int:
    """Cut the patches of the rows that a shard owns, and write the shard.

    Parameters
    ----------
    run : str
        The run folder.
    parts : str
        Folder of the store being filled and of the marks of finished shards.
    shard : int
        Number of the shard.

    Returns
    -------
    int
        Number of patches.
    """
    folder = RunFolder(run)
    store = PatchStore.open(Path(parts) / "store")
    rows = read_table(folder.path / "atoms", store.layout.rows(shard))
    number = rows["movie"] if "movie" in rows else rows["frame"] * 0
    pieces = [
        cut_rows(folder.movie(folder.movies[m]), rows[number == m], store.layout)
        for m in np.unique(number)
    ]
    joined = {
        item.name: np.concatenate([getattr(piece, item.name) for piece in pieces])
        for item in fields(Patches)
    }
    write_shard(store, shard, Patches(**joined))
    write_text(shard_mark(Path(parts), shard), str(len(rows)))
    return len(rows)
