"""Save what is seen, or what is behind it: pictures, films, tables, movies, layers."""

from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
)

from atomvae.errors import InputError
from atomvae.viewer.plugin.newest import Newest
from atomvae.viewer.plugin.open import pictures
from atomvae.viewer.plugin.panel import Panel
from atomvae.viewer.plugin.preferences import preference

if TYPE_CHECKING:
    import napari

KINDS = {
    "picture of this view": ".png",
    "film of all frames": ".mp4",
    "film of all frames, as GIF": ".gif",
    "table of the atoms": ".csv",
    "table of the atoms, as Parquet": ".parquet",
    "movie as OME-Zarr": ".ome.zarr",
    "layers as they are, with their run": ".atomvae.zarr",
}


class ExportWidget(Panel):
    """A list of what can be saved, and a button.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self.kind = QComboBox()
        self.kind.addItems(list(KINDS))
        self.scale_bar = QCheckBox("S&cale bar in pictures and films")
        self.scale_bar.setChecked(True)
        self.fps = QDoubleSpinBox()
        self.fps.setRange(0.5, 60)
        self.fps.setValue(preference("display", "frames_per_second", 5.0))
        self.save = QPushButton("&Save ...")
        self.cancel = QPushButton("C&ancel")
        self.bar = QProgressBar()
        self.status = QLabel("")
        self.status.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow("&What", self.kind)
        form.addRow(self.scale_bar)
        form.addRow("&Frames per second", self.fps)
        row = QHBoxLayout()
        row.addWidget(self.save)
        row.addWidget(self.cancel)
        form.addRow(row)
        form.addRow(self.bar)
        form.addRow(self.status)
        self._writer = Newest(_work, self)
        self._writer.ready.connect(self._done)
        self._writer.failed.connect(self._done)
        self._film: Film | None = None
        self.save.clicked.connect(self._ask)
        self.cancel.clicked.connect(self.stop)
        self.destroyed.connect(lambda: self.stop())
        self._busy(False)

    def _ask(self) -> None:
        """Ask where to, and save."""
        ending = KINDS[self.kind.currentText()]
        if ending == ".atomvae.zarr":
            self.write("")
            return
        place, _ = QFileDialog.getSaveFileName(self, "Save", f"atoms{ending}", f"*{ending}")
        if place:
            self.write(place)

    def write(self, place: str) -> None:
        """Save what is chosen; says in the form what came of it.

        Parameters
        ----------
        place : str
            Where to; of no meaning for layers, which go to the run they came from.
        """
        ending = KINDS[self.kind.currentText()]
        path = place if not ending or place.endswith(ending) else f"{place}{ending}"
        try:
            job = self._job(ending, Path(path))
        except InputError as error:
            self.status.setText(str(error))
            return
        if job is not None:
            self._busy(True)
            self._writer.ask(*job)

    def _job(self, ending: str, path: Path) -> tuple[Any, ...] | None:
        """What a thread shall do; pictures have to be taken here."""
        from atomvae.viewer.plugin import writer
        from atomvae.viewer.plugin.saved import save_view
        from atomvae.viewer.video import check_video, write_video

        if not len(self._viewer.layers):
            raise InputError("nothing is open that could be saved; open a movie or a run first")
        self._viewer.canvas.overlays.scale_bar.visible = self.scale_bar.isChecked()
        if ending == ".png":
            self._viewer.screenshot(str(path), canvas_only=True, flash=False)
            self._done(f"written: {path}")
            return None
        if ending in (".mp4", ".gif"):
            check_video(path)
            self._film = Film(self._viewer, self)
            self._film.taken.connect(self.bar.setValue)
            self.bar.setRange(0, self._film.count)
            self._film.start()
            return write_video, (path, self._film.frames()), {"fps": self.fps.value()}, path
        layer = self.atoms.layer
        if ending == ".ome.zarr":
            image = movie_layer(self._viewer)
            return writer.write_movie, (str(path), image.data, _about(image)), {}, path
        if layer is None:
            raise InputError("there are no atoms to save; run the pipeline or open a run first")
        if ending in (".csv", ".parquet"):
            about = {"features": layer.features}
            return writer.write_points, (str(path), layer.data.copy(), about), {}, path
        source = self.atoms.source
        if source is None or not source.is_dir():
            raise InputError("these atoms are not from a run; save them as a table instead")
        return save_view, (list(self._viewer.layers), source), {}, source

    def stop(self) -> None:
        """Give up a film that is being written."""
        if self._film is not None:
            self._film.stop()

    def _done(self, result: Any) -> None:
        """Say what came of it."""
        self.stop()  # a writer that failed takes no more pictures
        self._film = None
        self.status.setText(str(result))
        self._busy(False)

    def _busy(self, busy: bool) -> None:
        """Allow what is possible now."""
        self.save.setEnabled(not busy)
        self.cancel.setEnabled(busy and self._film is not None)
        self.bar.setVisible(busy and self._film is not None)


class Film(QObject):
    """Takes a picture of each frame between other events, for a thread that writes them."""

    taken = Signal(int)

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        axis = viewer.dims.ndim - 3
        self.count = int(viewer.dims.nsteps[axis]) if axis >= 0 else 1
        self._pictures, self._taken = pictures(viewer), 0
        self._queue: Queue[Any] = Queue(maxsize=4)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._take)

    def start(self) -> None:
        """Begin."""
        self._timer.start(1)

    def stop(self) -> None:
        """Give up; no harm if it has ended."""
        self._end(InputError("given up; no film was written"))

    def frames(self) -> Iterator[Any]:
        """Yield the pictures; in the thread that writes them."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _take(self) -> None:
        """Take the next picture, if the writer keeps up."""
        if self._queue.full():
            return
        try:
            self._queue.put(next(self._pictures))
        except StopIteration:
            self._end(None)
        except Exception as error:  # the film fails, the viewer does not
            self._end(error)
        else:
            self._taken += 1
            self.taken.emit(self._taken)

    def _end(self, last: Exception | None) -> None:
        """Tell the writer that nothing follows, or why."""
        if self._timer.isActive():
            self._timer.stop()
            self._pictures.close()  # the frame that was shown before is shown again
            while last is not None and not self._queue.empty():
                self._queue.get()
            self._queue.put(last)


def movie_layer(viewer: Any) -> Any:
    """Find the movie: the active image if it is one, else the lowest.

    Parameters
    ----------
    viewer : napari.Viewer
        Any.

    Returns
    -------
    napari.layers.Image

    Raises
    ------
    InputError
        If no image is open.
    """
    from atomvae.viewer.plugin.job import is_movie

    images = [layer for layer in viewer.layers if is_movie(layer)]
    active = viewer.layers.selection.active
    if not images:
        raise InputError("no movie is open")
    return active if active in images else images[0]


def _about(layer: Any) -> dict[str, Any]:
    """What a writer wants to know of an image."""
    return {"name": layer.name, "scale": layer.scale, "units": layer.units}


def _work(function: Any, arguments: Any, options: Any, path: Path) -> str:
    """Write; in a thread."""
    result = function(*arguments, **options)
    problems = result if isinstance(result, list) and Path(path).suffix == ".zarr" else []
    words = [p for p in problems if p != str(path)]
    return "\n".join([f"written: {path}", *words])
