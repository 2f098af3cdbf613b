"""From the movie that is open to its atoms, latents and maps, with one button."""

import re
from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QWidget,
)

from atomvae.errors import InputError

if TYPE_CHECKING:
    import napari

FILE = "a file ..."
MODELS = ("rvae", "skip_rvae", "jrvae", "jvae", "vae")
# Path in the settings, label, kind, help. An empty field is left to the data.
NUMBERS = (
    ("pixel_size_nm", "Pixel size (nm)", float, "from the file"),
    ("detect.spacing_px", "Atom spacing (px)", float, "measured"),
    ("detect.width_px", "Atom width (px)", float, "measured"),
    ("patches.window_nm", "Window (nm)", float, "from the spacing"),
    ("model.latent_dim", "Latent numbers", int, "as the model has"),
    ("train.epochs", "Epochs", int, "from the number of atoms"),
)


class PipelineWidget(QWidget):
    """A form with the few settings that matter, a run button, progress and cancel.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self.children: list[Any] = []  # the process that runs, once it does
        self._worker: Any = None  # the thread that listens to it
        self._stopped = Event()  # this run shall not go on
        self._source: Any = None  # the open layer that is analysed
        self.movie = QComboBox()
        self.file = _Place(self, "a movie", folder=False)
        self.numbers = {path: QLineEdit() for path, _, _, _ in NUMBERS}
        self.polarity = QComboBox()
        self.polarity.addItems(["measured", "bright", "dark"])
        self.model = QComboBox()
        self.model.addItems(MODELS)
        self.out = _Place(self, "where the run goes", folder=True)
        self.out.text.setText(str(Path.home() / "atomvae"))
        self.run = QPushButton("Run")
        self.cancel = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.status = QLabel("")
        self._lay_out()
        self.run.clicked.connect(self._start)
        self.cancel.clicked.connect(self.stop)
        self.movie.currentTextChanged.connect(self._movie_changed)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        self.destroyed.connect(lambda: self._closed())
        self.refresh()
        self._busy(False)

    def _lay_out(self) -> None:
        """Put the fields under each other."""
        form = QFormLayout(self)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Movie", self.movie)
        form.addRow("", self.file)
        for path, label, _, hint in NUMBERS:
            self.numbers[path].setPlaceholderText(hint)
            form.addRow(label, self.numbers[path])
        form.addRow("Atoms are", self.polarity)
        form.addRow("Model", self.model)
        form.addRow("Results in", self.out)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run)
        buttons.addWidget(self.cancel)
        form.addRow(buttons)
        form.addRow(self.bar)
        self.bar.setRange(0, 1000)
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form.addRow(self.status)

    def refresh(self) -> None:
        """Offer the images that are open, and a file."""
        chosen = self.movie.currentText()
        names = [layer.name for layer in self._viewer.layers if _is_movie(layer)]
        self.movie.blockSignals(True)
        self.movie.clear()
        self.movie.addItems([*names, FILE])
        # A first image that is opened is taken; a choice already made stays.
        self.movie.setCurrentText(chosen if chosen in names else (names or [FILE])[-1])
        self.movie.blockSignals(False)
        self._movie_changed()

    def _movie_changed(self) -> None:
        """Fill in the pixel size that the chosen image knows."""
        name = self.movie.currentText()
        self.file.setEnabled(name == FILE)
        size = "" if name == FILE else _pixel_size(self._viewer.layers[name])
        self.numbers["pixel_size_nm"].setText(size)

    def settings(self) -> dict[str, Any]:
        """Read the settings of the pipeline from the form.

        Returns
        -------
        dict
            Plain values as in a YAML file, without the movie.

        Raises
        ------
        InputError
            If a field holds no number.
        """
        plain: dict[str, Any] = {"model": {"variant": self.model.currentText()}}
        if self.polarity.currentText() != "measured":
            plain["detect"] = {"polarity": self.polarity.currentText()}
        for path, label, kind, _ in NUMBERS:
            text = self.numbers[path].text().strip()
            if not text:
                continue
            try:
                value = kind(text.replace(",", "."))
            except ValueError:
                raise InputError(
                    f"{label} is {text!r}, expected a number; leave it empty to have it "
                    f"{self.numbers[path].placeholderText()}"
                ) from None
            section, _, key = path.rpartition(".")
            (plain.setdefault(section, {}) if section else plain)[key] = value
        return plain

    def _start(self) -> None:
        """Write the settings to the results and start a process on them."""
        from napari.qt.threading import create_worker

        try:
            name = self.movie.currentText()
            self._source = None if name == FILE else self._viewer.layers[name]
            settings = self.settings()
            out = Path(self.out.text.text()).expanduser()
            out.mkdir(parents=True, exist_ok=True)
        except (InputError, OSError) as error:
            self.status.setText(str(error))
            return
        file = self.file.text.text().strip()
        self._busy(True)
        self.status.setText("starting")
        self.children, self._stopped = [], Event()
        job = (self._source, file, settings, out, self.children, self._stopped)
        worker = create_worker(follow, *job, _start_thread=False)
        worker.yielded.connect(self._show)
        worker.finished.connect(self._ended)
        self._worker = worker
        worker.start()

    def _show(self, report: dict[str, Any]) -> None:
        """Show a report of the child; open the run when it is the last."""
        if "command" in report:
            self.status.setText(f"the same from a terminal:\n{report['command']}")
        elif "error" in report:
            self.status.setText(report["error"])
        elif "run" in report:
            self.bar.setValue(1000)
            self.status.setText(f"done: {report['run']}")
            self._open(report["run"])
        else:
            self.bar.setValue(round(1000 * report["done"]))
            self.status.setText(f"{report['stage']}  {report['figures']}")

    def _open(self, path: str) -> None:
        """Add the results; a movie that is open already is calibrated, not added again."""
        from atomvae.viewer.plugin.open import annotate
        from atomvae.viewer.plugin.reader import read_run

        for data, options, kind in read_run(path):
            if options["name"] == "movie" and self._source in self._viewer.layers:
                n = self._source.ndim
                self._source.axis_labels = options["axis_labels"][-n:]
                self._source.units = options["units"][-n:]
                self._source.scale = options["scale"][-n:]
                continue
            getattr(self._viewer, f"add_{kind}")(data, **options)
        annotate(self._viewer)

    def stop(self) -> None:
        """Stop the process, or keep it from starting; what it finished stays on disk."""
        if self._worker is not None:
            self._stopped.set()
            self._worker.quit()
            for child in self.children:
                child.cancel()

    def _closed(self) -> None:
        """Stop what goes on, and hear no more of the viewer."""
        self._viewer.layers.events.inserted.disconnect(self.refresh)
        self._viewer.layers.events.removed.disconnect(self.refresh)
        self.stop()

    def _ended(self) -> None:
        """Be ready for the next run."""
        if self._stopped.is_set():
            self.status.setText("cancelled; Run continues where it was")
        self._worker = None
        self._busy(False)

    def _busy(self, busy: bool) -> None:
        """Allow what is possible now."""
        self.run.setEnabled(not busy)
        self.cancel.setEnabled(busy)
        if busy:
            self.bar.setValue(0)


def follow(
    layer: Any,
    file: str,
    settings: dict[str, Any],
    out: Path,
    children: list[Any],
    stopped: Event,
) -> Generator[dict[str, Any], None, None]:
    """Prepare the movie, start the process and pass on what it says; runs in a thread.

    Parameters
    ----------
    layer : napari.layers.Image or None
        The movie, if it is open.
    file : str
        The movie, if it is not.
    settings : dict
        Settings of the pipeline without the movie.
    out : Path
        Folder of the results; the settings are written there too.
    children : list
        Gets the process, so that it can be stopped.
    stopped : Event
        Set before the process is stopped; then one that is just starting is stopped here.

    Yields
    ------
    dict
        The command that does the same, the reports of the process, or ``error``.
    """
    import yaml

    from atomvae.viewer.plugin.child import Child

    try:
        movie = _movie_file(layer, file, out)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", movie.stem).strip("_.-") or "movie"
        path = out / f"{name}.yaml"
        plain = {"name": name, "movie": str(movie)} | settings
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
        yield {"command": f"atomvae run {path} --out {out}"}
        children.append(Child(path, out))
        if stopped.is_set():
            children[-1].cancel()
        yield from children[-1].reports()
    except (InputError, OSError, RuntimeError) as error:
        # Not left to the worker: the user reads it in the form, not in a traceback.
        yield {"error": str(error)}


class _Place(QWidget):
    """A path with a button to browse for it."""

    def __init__(self, parent: QWidget, title: str, *, folder: bool) -> None:
        super().__init__(parent)
        self.text = QLineEdit()
        self.text.setPlaceholderText(title)
        button = QPushButton("...")
        button.setMaximumWidth(30)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text)
        row.addWidget(button)
        button.clicked.connect(self._browse)
        self._title, self._folder = title, folder

    def _browse(self) -> None:
        """Ask for the path; cancelling keeps what was there."""
        if self._folder:
            found = QFileDialog.getExistingDirectory(self, self._title, self.text.text())
        else:
            found, _ = QFileDialog.getOpenFileName(self, self._title, self.text.text())
        if found:
            self.text.setText(found)


def _is_movie(layer: Any) -> bool:
    """Whether a layer is one grey image or a stack of them."""
    grey = type(layer).__name__ == "Image" and not layer.rgb
    return grey and layer.ndim in (2, 3)


def _pixel_size(layer: Any) -> str:
    """Pixel size in nm of an image that is calibrated in a length, else empty."""
    try:
        size = (float(layer.scale[-1]) * layer.units[-1]).to("nm").magnitude
    except Exception:  # pint says in several ways that pixels are no length
        return ""
    return f"{size:.6g}"


def _movie_file(layer: Any, file: str, out: Path) -> Path:
    """Find the file of the movie; an image without one is written beside the results."""
    import numpy as np

    if layer is None:
        if not file:
            raise InputError("no movie is chosen; open an image or choose a file")
        return Path(file).expanduser().absolute()
    data = layer.data[0] if layer.multiscale else layer.data
    path = out / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', layer.name)}.npy"
    frames = data if data.ndim == 3 else data[None]
    target = np.lib.format.open_memmap(path, mode="w+", dtype=frames.dtype, shape=frames.shape)
    for number in range(frames.shape[0]):  # never the whole movie in memory
        target[number] = np.asarray(frames[number])
    target.flush()
    return path
