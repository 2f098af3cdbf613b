"""The command that writes the report of a run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="NAME.atomvae.zarr")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="NAME.html; by default .atomvae/report.html in the run."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for every figure as PNG, too.")
    ] = None,
) -> None:
    """Write one HTML file that shows what was done and what came out."""
    from atomvae.run.report import report as write_report

    print(write_report(run, out, pictures=pictures))
