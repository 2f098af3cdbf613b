"""The commands around files: describe, simulate, export, and a pipeline to start from."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Difficulty(StrEnum):
    """How much disturbs a simulated movie."""

    poisson = "poisson"
    scan = "scan"
    full = "full"


def info(
    file: Annotated[Path, typer.Argument(help="A movie, a folder of frames or a run folder.")],
    pixel_size_nm: Annotated[
        float | None, typer.Option("--pixel-size-nm", help="Pixel size in nm, if not in the file.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Which array of a file with several.")
    ] = None,
) -> None:
    """Say what was understood of a movie: shape, calibration, lattice, warnings."""
    from atomvae.movie.describe import describe
    from atomvae.movie.read import read_movie
    from atomvae.run.cli.runs import status
    from atomvae.run.folder import SUFFIX

    if file.name.endswith(SUFFIX):
        status(file)
    else:
        print(describe(read_movie(file, pixel_size=pixel_size_nm, dataset=dataset)))


def simulate(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="E.g. si_graphene.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.tif, NAME.npz or a folder.")],
    frames: Annotated[int | None, typer.Option("--frames", help="Number of frames.")] = None,
    edge: Annotated[int | None, typer.Option("--edge", help="Rows and columns of a frame.")] = None,
    dose: Annotated[float | None, typer.Option("--dose", help="Electrons per pixel.")] = None,
    difficulty: Annotated[
        Difficulty, typer.Option("--difficulty", help="Disturbances.")
    ] = Difficulty.full,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same bytes.")] = 0,
) -> None:
    """Simulate a movie and write it with its truth."""
    from atomvae.datasets.simulate import simulate as simulated

    shape = None if edge is None else (edge, edge)
    made = simulated(
        preset, frames=frames, shape=shape, dose=dose, seed=seed, difficulty=difficulty.value
    )
    print(made.save(out))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="NAME.atomvae.zarr")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="TABLE.csv or TABLE.parquet")],
    table: Annotated[
        str, typer.Option("--table", help="joined, atoms, latents, drift or truth.")
    ] = "joined",
) -> None:
    """Write a table of a run where you want it."""
    from atomvae.run.atomic import replacing
    from atomvae.run.folder import RunFolder

    folder = RunFolder(run)
    tables: dict[str, Callable[[], pd.DataFrame]] = {
        "joined": folder.table,
        "atoms": folder.atoms,
        "latents": folder.latents,
        "drift": lambda: folder.read_parquet("drift"),
        "truth": lambda: folder.read_parquet("truth"),
    }
    if table not in tables:
        raise InputError(f"there is no table {table!r}; expected one of {', '.join(tables)}")
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"{out.name} ends in {out.suffix!r}; expected .csv or .parquet")
    found = tables[table]()
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            found.to_csv(temporary, index=False)
        else:
            found.to_parquet(temporary, index=False)
    print(f"{out}: {len(found)} rows, {found.shape[1]} columns")


def init(
    file: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("pipeline.yaml"),
    movie: Annotated[
        str, typer.Option("--movie", help="Path of the movie, as it shall stand in the file.")
    ] = "movie.tif",
) -> None:
    """Write a commented pipeline to start from, and its schema for editors."""
    from atomvae.run.atomic import write_text
    from atomvae.run.template import template

    if file.exists():
        raise InputError(f"{file} exists already; choose another name or remove it")
    write_text(file, template(file.stem, movie))
    print(f"{file}: adapt it, then: atomvae run {file}")


def schema() -> None:
    """Print the JSON schema of a pipeline, for editors that check YAML."""
    from atomvae.run.config import json_schema

    print(json_schema())
