"""The command that opens napari."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="NAME.atomvae.zarr")],
    screenshot: Annotated[
        Path | None, typer.Option("--screenshot", help="Write a picture and close.")
    ] = None,
    movie: Annotated[
        Path | None,
        typer.Option("--movie", help="Write all frames as NAME.mp4 or NAME.gif and close."),
    ] = None,
    frame: Annotated[int | None, typer.Option("--frame", help="Frame to show first.")] = None,
    color_by: Annotated[
        str | None, typer.Option("--color-by", help="Column that colours the atoms.")
    ] = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames of the movie per second.")] = 5.0,
) -> None:
    """Open a run in napari, or draw a picture or a film of it."""
    from atomvae.run.folder import RunFolder
    from atomvae.viewer.plugin.open import view as open_view

    RunFolder(run)  # says what is wrong with a damaged folder before a window opens
    open_view(run, screenshot=screenshot, movie=movie, frame=frame, color_by=color_by, fps=fps)
    for file in (screenshot, movie):
        if file is not None:
            print(file)
