"""Open a run in napari, dressed for a microscopist; or draw its picture without a screen."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from atomvae.errors import InputError
from atomvae.viewer.plugin.legend import legend_pieces
from atomvae.viewer.plugin.reader import get_reader, run_layers
from atomvae.viewer.plugin.still import hold_still
from atomvae.viewer.plugin.turns import Turns
from atomvae.viewer.video import check_video, write_video

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import napari
    import numpy as np
    from numpy.typing import NDArray

XVFB = 'xvfb-run -a -s "-screen 0 1600x1000x24"'
HIDDEN = ("offscreen", "minimal", "vnc")  # Qt's platforms that draw no OpenGL
MARGIN = 130  # px at the sides of a picture, for the colour bar
LETTER = 13  # px that a letter of the caption takes, about
FLAT = 5.0  # standard deviation of grey levels below which a picture shows nothing
TRIES = 3  # frames of a film that may show nothing before it is given up
SAID = ("inserted", "removed", "reordered", "visible", "metadata", "name", "scale", "units")
MOVED = ("inserted", "removed", "visible")
EMPTY = (
    "the canvas stayed empty: OpenGL does not draw here (or the frame is blank, then choose another"
    f" one); start the command with {XVFB}"
)


def view(
    run_path: str | Path,
    *,
    screenshot: str | Path | None = None,
    movie: str | Path | None = None,
    frame: int | None = None,
    color_by: str | None = None,
    size: tuple[int, int] = (1600, 1000),
    fps: float = 5.0,
) -> None:
    """Open a run folder in napari; with ``screenshot`` or ``movie``, draw it to a file and close.

    Parameters
    ----------
    run_path : path-like
        ``NAME.atomvae.zarr``.
    screenshot : path-like, optional
        PNG to write instead of waiting for the user.
    movie : path-like, optional
        MP4 or GIF of all frames to write instead of waiting for the user.
    frame : int, optional
        Frame to show first; default the middle one.
    color_by : str, optional
        Column that colours the atoms.
    size : (int, int)
        Width and height of the picture in pixels.
    fps : float
        Frames per second of the movie.

    Raises
    ------
    InputError
        If the folder is no run, if napari is not installed, or if nothing can be drawn here.
    """
    if movie is not None:
        check_video(movie)  # before a window opens
    if get_reader(str(run_path)) is None:
        raise InputError(f"{run_path} is no run folder; expected NAME.atomvae.zarr made by a run")
    layers = run_layers(run_path, color_by=color_by)
    viewer = open_viewer(f"atomvae: {Path(run_path).name}")
    try:
        for data, options, kind in layers:
            getattr(viewer, f"add_{kind}")(data, **options)
        dress(viewer, frame=frame)
        if screenshot is not None:
            draw(viewer, Path(screenshot), size)
        if movie is not None:
            fit(viewer, size)
            write_video(movie, not_empty(pictures(viewer, size)), fps=fps)
    except BaseException:
        viewer.close()
        raise
    if screenshot is not None or movie is not None:
        viewer.close()
        return
    import napari

    napari.run()


def open_viewer(title: str) -> "napari.Viewer":
    """Open an empty window, or say in a sentence why that is not possible.

    Parameters
    ----------
    title : str
        Of the window.

    Returns
    -------
    napari.Viewer
    """
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    if platform in HIDDEN:
        raise InputError(
            f"QT_QPA_PLATFORM is {platform!r}, where Qt draws no OpenGL; unset it and use a "
            f"screen, or start the command with {XVFB}"
        )
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        raise InputError(
            f"there is no screen here (DISPLAY is not set); start the command with {XVFB}"
        )
    try:
        import napari
    except ImportError as error:
        raise InputError(f"napari is missing ({error}); pip install 'atomvae[napari]'") from error
    try:
        return napari.Viewer(title=title)
    except ImportError as error:  # napari without a Qt binding
        raise InputError(
            f"napari found no Qt ({str(error).splitlines()[0]}); pip install pyside6"
        ) from error


def dress(viewer: "napari.Viewer", *, frame: int | None = None) -> None:
    """Dark theme, scale bar, colour bar, and a caption with the frame and its time.

    Parameters
    ----------
    viewer : napari.Viewer
        With our layers.
    frame : int, optional
        Frame to show; default the middle one.

    Raises
    ------
    InputError
        If there is no such frame.
    """
    count = int(viewer.dims.nsteps[0])
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"there is no frame {frame}; the run has frames 0 to {count - 1}")
    viewer.theme = "dark"
    viewer.dims.set_current_step(0, count // 2 if frame is None else frame)
    annotate(viewer)
    viewer.reset_view()


def annotate(viewer: "napari.Viewer") -> None:
    """Switch on the scale bar, and a caption that follows the slider and the layers.

    Parameters
    ----------
    viewer : napari.Viewer
        With our layers; calling it twice does no harm.
    """
    for _ in annotate_pieces(viewer):
        pass


def annotate_pieces(viewer: "napari.Viewer") -> "Iterator[None]":
    """Do what `annotate` does, with a rest after each piece that takes long.

    Parameters
    ----------
    viewer : napari.Viewer
        With our layers.

    Yields
    ------
    None
    """
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.canvas.overlays.scale_bar.font_size = 14
    yield
    if not viewer.canvas.overlays.text.visible:
        turns = Turns(viewer.window.main_menu)
        viewer.dims.events.current_step.connect(lambda: caption(viewer))
        viewer.dims.events.current_step.connect(lambda: hold_still(viewer))
        viewer.layers.events.connect(
            lambda event: turns.begin(caption_pieces(viewer)) if event.type in SAID else None
        )
        viewer.layers.events.connect(
            lambda event: hold_still(viewer) if event.type in MOVED else None
        )
    viewer.canvas.overlays.text.font_size = 14
    viewer.canvas.overlays.text.position = "top_left"
    viewer.canvas.overlays.text.visible = True
    yield from caption_pieces(viewer)


def caption(viewer: "napari.ViewerModel") -> None:
    """Say which frame and time is shown and what the colours stand for.

    Parameters
    ----------
    viewer : napari viewer
        Its text overlay is written, the colour bars of its points are shown or hidden.
    """
    for _ in caption_pieces(viewer):
        pass


def caption_pieces(viewer: "napari.ViewerModel") -> "Iterator[None]":
    """Do what `caption` does, with a rest after each piece that takes long.

    Parameters
    ----------
    viewer : napari viewer
        As for `caption`.

    Yields
    ------
    None
    """
    step, count = int(viewer.dims.current_step[0]), int(viewer.dims.nsteps[0])
    lines = [f"frame {step} / {count - 1}"]
    for layer in viewer.layers:
        about = layer.metadata.get("atomvae", {})
        if layer.name == "movie" and str(layer.units[0]) == "second":
            lines[0] += f"   {step * layer.scale[0]:.4g} s"
        if layer.visible and about.get("shows"):
            lines.append(f"{layer.name}: {about['shows'].partition(chr(10))[0]}")
    viewer.canvas.overlays.text.text = "\n".join(lines)
    yield from legend_pieces(viewer)
    for layer in list(viewer.layers):
        bar = getattr(layer, "face_colorbar", None)
        colors = layer.metadata.get("atomvae", {}).get("colors")
        shown = layer.visible and colors in ("continuous", "cyclic")
        if bar is not None and bar.visible != shown:
            yield
            bar.font_size, bar.size = 12, (22, 220)
            bar.visible = shown


def draw(viewer: "napari.Viewer", path: Path, size: tuple[int, int]) -> None:
    """Write what the canvas shows, fitted to the picture, and make sure that it shows something.

    Parameters
    ----------
    viewer : napari.Viewer
        Dressed.
    path : Path
        PNG to write.
    size : (int, int)
        Width and height, px.

    Raises
    ------
    InputError
        If the canvas stayed empty.
    """
    fit(viewer, size)
    picture = shoot(viewer, size)
    if is_empty(picture):
        raise InputError(EMPTY)
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, picture)


def pictures(
    viewer: "napari.Viewer", size: tuple[int, int] | None = None
) -> "Iterator[NDArray[np.uint8]]":
    """Draw what the canvas shows at each frame, one after the other; all in one size.

    The frame that was shown before is shown again at the end, also if it is given up.

    Parameters
    ----------
    viewer : napari.Viewer
        Any.
    size : (int, int), optional
        Width and height, px; default those of the canvas when the first frame is drawn.

    Yields
    ------
    ndarray (height, width, 4) uint8
    """
    axis, before = viewer.dims.ndim - 3, viewer.dims.current_step
    shape: tuple[int, ...] = ()
    try:
        for step in range(int(viewer.dims.nsteps[axis]) if axis >= 0 else 1):
            if axis >= 0:
                viewer.dims.set_current_step(axis, step)
            picture = shoot(viewer, size)
            height, width = shape = shape or picture.shape[:2]
            if picture.shape[:2] != shape:  # the window has another size now
                picture = shoot(viewer, (width, height))
            yield picture
    finally:
        viewer.dims.current_step = before


def fit(viewer: "napari.Viewer", size: tuple[int, int]) -> None:
    """Zoom so that the layers fill a picture, with room for caption and colour bar at the sides.

    Parameters
    ----------
    viewer : napari.Viewer
        Dressed.
    size : (int, int)
        Width and height, px.
    """
    width, height = size
    low, high = viewer.layers.extent.world[:, -2:]
    extent = high - low
    viewer.scene.camera.center = tuple((low + high) / 2)
    longest = max(map(len, viewer.canvas.overlays.text.text.splitlines()), default=0)
    margin = min(max(MARGIN, LETTER * longest), width // 3)
    zoom = min(height / extent[0], (width - 2 * margin) / extent[1])
    viewer.scene.camera.zoom = 0.96 * zoom


def shoot(viewer: "napari.Viewer", size: tuple[int, int] | None = None) -> "NDArray[np.uint8]":
    """Take a picture of the canvas: (height, width, 4) uint8; of another width and height."""
    picture: NDArray[np.uint8] = viewer.screenshot(
        size=size and (size[1], size[0]), canvas_only=True, flash=False
    )
    return picture


def not_empty(film: "Iterable[NDArray[np.uint8]]") -> "Iterator[NDArray[np.uint8]]":
    """Yield the pictures of a film; an error if its first ones show nothing."""
    empty = 0
    for number, picture in enumerate(film, 1):
        empty += is_empty(picture)
        if empty == number == TRIES:
            raise InputError(EMPTY)
        yield picture
    if empty and empty == number:
        raise InputError(EMPTY)


def is_empty(picture: "NDArray[np.uint8]") -> bool:
    """Whether nothing is seen in the middle; captions and colour bars are drawn in any case."""
    height, width = picture.shape[:2]
    middle = picture[height // 4 : -height // 4, width // 4 : -width // 4, :3]
    return bool(middle.std() < FLAT)
