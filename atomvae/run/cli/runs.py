"""The commands that compute: the whole pipeline, one stage of it, and where a run stands."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

STAGE_HELP = {
    "import": "Bring the movies into a run folder.",
    "drift": "Measure the drift of the sample.",
    "detect": "Find the atoms of every frame.",
    "link": "Link atoms from frame to frame.",
    "patches": "Cut a patch around every atom.",
    "train": "Train the model on the patches.",
    "encode": "Encode every patch with the trained model.",
    "map": "Join atoms and latents on the lattice.",
}
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. detect.threshold=6."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="NAME.atomvae.zarr")]


def run(
    pipeline: Annotated[
        Path, typer.Argument(metavar="PIPELINE", help="A YAML file, or a run folder to continue.")
    ],
    movie: Annotated[
        list[Path] | None, typer.Option("--movie", help="Analyse these movies instead.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder in which NAME.atomvae.zarr is made.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Run a pipeline, or continue it: only what is not done yet is computed."""
    _execute(pipeline, movie, out, settings or [], None)


def stage_command(stage: str) -> Callable[..., None]:
    """Make the command of one stage.

    Parameters
    ----------
    stage : str
        Its name.

    Returns
    -------
    callable
        For typer.
    """

    def command(run: RunArgument, settings: Settings = None) -> None:
        _execute(run, None, None, settings or [], stage)

    return command


def _execute(
    config: Path,
    movies: list[Path] | None,
    out: Path | None,
    settings: list[str],
    until: str | None,
) -> None:
    """Run the pipeline with bars; an interruption ends in a sentence."""
    from atomvae.run.cli.show import StageBars
    from atomvae.run.pipeline import run_pipeline

    try:
        with StageBars() as show:
            folder = run_pipeline(
                config, out=out, movies=movies, overrides=settings, progress=show, until=until
            )
    except KeyboardInterrupt:
        print(
            "\natomvae: interrupted; what is done is kept, the same command continues from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(folder.path)
    if until is None:
        for command in ("view", "report"):
            print(f"next: atomvae {command} {shlex.quote(str(folder.path))}", file=sys.stderr)


def status(run: RunArgument) -> None:
    """Show which stages of a run are done, with their figures, and why others are not."""
    from rich.console import Console
    from rich.table import Table

    from atomvae.run.folder import RunFolder
    from atomvae.run.pipeline import pipeline_states

    folder = RunFolder(run)
    table = Table("stage", "state", "seconds", "figures", box=None, pad_edge=False)
    for state in pipeline_states(folder):
        figures = state.marker.get("figures", {}).get("summary", "") if state.done else state.reason
        table.add_row(
            state.stage.name,
            "[green]done[/]" if state.done else "[yellow]to do[/]",
            f"{state.marker.get('seconds', 0):.1f}" if state.done else "",
            figures.replace("[", r"\["),
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
