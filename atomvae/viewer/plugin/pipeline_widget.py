"""From the movie that is open to its atoms, latents and maps, with one button."""

import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QFileDialog

from atomvae.errors import InputError
from atomvae.viewer.plugin.job import (
    Job,
    Unfinished,
    calibration,
    duration,
    follow,
    is_movie,
    plain_settings,
    read_settings,
    run_name,
    unfinished,
    write_settings,
)
from atomvae.viewer.plugin.newest import Newest
from atomvae.viewer.plugin.pipeline_parts import PipelineParts
from atomvae.viewer.plugin.preview_layer import PreviewLayer

if TYPE_CHECKING:
    import napari

FILE = "a file ..."
# What most people want to set, and how it is called where its section isn't named.
COMMON = {
    "pixel_size_nm": "Pixel size",
    "frame_time_s": "Frame time",
    "detect.polarity": "Atoms are",
    "detect.spacing_px": "Atom spacing",
    "detect.width_px": "Atom width",
    "detect.threshold": "Threshold",
    "patches.window_nm": "Window",
    "model.variant": "Model",
    "model.latent_dim": "Latent numbers",
    "train.epochs": "Epochs",
}
# What the run makes of candidates, which takes it up to a minute a frame, so it isn't previewed.
FITTED = "The run fits each of them and leaves out what it finds twice."
LATTICE = (
    "The run fits each of them; where the frame shows a lattice it also adds faint atoms at its "
    "sites and drops what the pixels don't bear out."
)
SLIDERS = ("detect.spacing_px", "detect.width_px", "detect.threshold")


class PipelineWidget(PipelineParts):
    """Every setting of a run, a live preview of the atoms, and buttons to run, stop and go on.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.

    Attributes
    ----------
    form : SettingsForm or None
        The settings; None for the moment in which they are loaded.
    """

    ready = Signal()  # the form is there

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self.children: list[Any] = []  # the process that runs, once it does
        self._worker: Any = None  # the thread that listens to it
        self._stopped = Event()  # this run shall not go on
        self._source: Any = None  # the open layer that is analysed
        self._offer: Unfinished | None = None  # a run that could be continued
        self.form: Any = None
        self._connect()
        self._busy(False)
        if "atomvae.run.fields" in sys.modules:
            self._make_form()
        else:  # a second or two of imports, during which nothing shall freeze
            loader = Newest(_load, self)
            loader.ready.connect(self._make_form)
            loader.ask()
        self.refresh()

    def _connect(self) -> None:
        """Say what happens when."""
        self.run.clicked.connect(lambda: self._start())
        self.resume.clicked.connect(lambda: self._start(resume=True))
        self.cancel.clicked.connect(self.stop)
        self.save.clicked.connect(self._save)
        self.load.clicked.connect(self._load)
        self.movie.currentTextChanged.connect(self._movie_changed)
        self.file.text.textChanged.connect(self._look_for_runs)
        self.out.text.textChanged.connect(self._look_for_runs)
        self.rings = PreviewLayer(self._viewer, self)
        self.rings.found.connect(self._measured)
        self.rings.failed.connect(self.found.setText)
        self.preview.toggled.connect(self._toggle_preview)
        self._viewer.layers.events.inserted.connect(self.refresh)
        self._viewer.layers.events.removed.connect(self.refresh)
        self._viewer.dims.events.current_step.connect(self._moved)
        self.destroyed.connect(lambda: self._closed())

    def _make_form(self, _: Any = None) -> None:
        """Build the form; the settings are there now."""
        from atomvae.run.fields import setting_fields
        from atomvae.viewer.plugin.form import SettingsForm

        form = SettingsForm(setting_fields(), COMMON, SLIDERS)
        self._column.insertWidget(self._place, form)
        builder = QTimer(form)
        builder.timeout.connect(lambda: self._build(form, builder))
        builder.start(0)

    def _build(self, form: Any, builder: QTimer) -> None:
        """Build one section after the other, between other events."""
        if form.build():
            return
        builder.stop()
        self._waiting.hide()
        self.form = form
        self.fit_width()
        form.changed.connect(self._setting_changed)
        self._movie_changed()
        self.ready.emit()

    # ---- movie and preview --------------------------------------------------------------------

    def refresh(self) -> None:
        """Offer the images that are open, and a file."""
        chosen = self.movie.currentText()
        names = [layer.name for layer in self._viewer.layers if is_movie(layer)]
        if [*names, FILE] == [self.movie.itemText(i) for i in range(self.movie.count())]:
            return
        self.movie.blockSignals(True)
        self.movie.clear()
        self.movie.addItems([*names, FILE])
        # A first image that is opened is taken; a choice already made stays.
        self.movie.setCurrentText(chosen if chosen in names else (names or [FILE])[-1])
        self.movie.blockSignals(False)
        if self.movie.currentText() != chosen:
            self._movie_changed()

    def layer(self) -> Any:
        """The open image that is chosen; None for a file."""
        name = self.movie.currentText()
        return next((found for found in self._viewer.layers if found.name == name), None)

    def _movie_changed(self) -> None:
        """Fill in what the chosen image knows, and measure the rest."""
        layer = self.layer()
        self.file.setEnabled(layer is None)
        self.preview.setEnabled(layer is not None)
        self.found.setText("")
        self._look_for_runs()
        if self.form is None:
            return
        known = {} if layer is None else calibration(layer)
        for path in ("pixel_size_nm", "frame_time_s"):
            self.form.editors[path].enter(known.get(path))
        for path in self.form.editors:
            if path.startswith("detect."):
                self.form.suggest(path, None)
        if layer is not None:
            self._search()

    def _moved(self) -> None:
        """Search the frame that is shown now, while the preview is on."""
        if self.preview.isChecked():
            self._search()

    def _setting_changed(self, path: str) -> None:
        """Say at once what is wrong; let the preview follow a setting of the detection."""
        try:
            self.settings()
        except InputError as error:
            self.status.setText(str(error))
            return
        self.status.setText("")
        if path.startswith("detect.") and self.layer() is not None:
            if self.preview.isChecked():
                self._search()
            else:
                self.preview.setChecked(True)

    def _toggle_preview(self, wanted: bool) -> None:
        """Show or hide the rings."""
        self.rings.shown = wanted
        if wanted:
            self._search()
        else:
            self.rings.hide()

    def _search(self) -> None:
        """Ask for the candidates of the frame that is shown."""
        layer = self.layer()
        if layer is None or self.form is None:
            return
        try:
            values = self.form.values()
        except InputError:
            return  # it has been said where it was typed
        own = {p.partition(".")[2]: v for p, v in values.items() if p.startswith("detect.")}
        self.rings.ask(layer, own)

    def _measured(self, result: Any) -> None:
        """Show what the data say, and how many candidates there are."""
        layer, preview, points, whole = result
        if layer is not self.layer() or self.form is None:
            return
        for name, value in preview.config.model_dump().items():
            editor = self.form.editors[f"detect.{name}"]
            if editor.field.optional and (editor.value() is None):
                editor.suggest(value)
        place = "this frame" if whole else "the middle of what is shown"
        lattice = preview.config.lattice != "off"
        self.found.setText(f"{len(points)} candidates in {place}. {LATTICE if lattice else FITTED}")

    # ---- settings -----------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Read the settings that were chosen, by path such as ``"train.epochs"``.

        Raises
        ------
        InputError
            If one is wrong, in one sentence.
        """
        values: dict[str, Any] = self.form.values()
        plain_settings("run", Path("movie"), values)
        return values

    def _name(self) -> str:
        """Name that the run will have."""
        layer = self.layer()
        name = self.file.text.text().strip() if layer is None else layer.name
        return run_name(Path(name).name.partition(".")[0] if layer is None else name)

    def _save(self) -> None:
        """Write the settings to a file of the user's choice."""
        place = str(Path(self.out.text.text()) / f"{self._name()}.yaml")
        file, _ = QFileDialog.getSaveFileName(self, "Save settings", place, "YAML (*.yaml)")
        if file:
            self.save_settings(file)

    def save_settings(self, file: str) -> None:
        """Write the YAML that reproduces what was clicked; says so in the form.

        Parameters
        ----------
        file : str
            Where to.
        """
        layer = self.layer()
        own = self.file.text.text().strip() if layer is None else getattr(layer.source, "path", "")
        movie = (
            Path(own).expanduser() if own else Path(self.out.text.text()) / f"{self._name()}.npy"
        )
        try:
            write_settings(Path(file), self._name(), movie, self.settings())
        except (InputError, OSError) as error:
            self.status.setText(str(error))
            return
        self.status.setText(f"written; the same from a terminal:\natomvae run {file}")

    def _load(self) -> None:
        """Take the settings of a file of the user's choice."""
        kinds = "Settings (*.yaml *.yml)"
        file, _ = QFileDialog.getOpenFileName(self, "Load settings", self.out.text.text(), kinds)
        if file:
            self.load_settings(file)

    def load_settings(self, file: str) -> None:
        """Take the settings of a YAML file or a run folder; of its movie when none is open.

        Parameters
        ----------
        file : str
            Either.
        """
        try:
            movie, values = read_settings(file)
        except InputError as error:
            self.status.setText(str(error))
            return
        layer = self.layer()
        if layer is None:
            self.file.text.setText(movie)
        else:
            values = calibration(layer) | values
        self.form.fill(values)
        self.status.setText(f"settings of {Path(file).name}")
        if self.preview.isChecked():
            self._search()

    def _look_for_runs(self) -> None:
        """Offer to continue what was begun and not ended."""
        out = Path(self.out.text.text()).expanduser()
        self._offer = None if self._worker is not None else unfinished(out, self._name())
        if self._offer is not None:
            done = ", ".join(self._offer.done) or "nothing"
            self.offer.setText(f"{self._offer.path.name} is not finished (done: {done}).")
        self.offer.setVisible(self._offer is not None)
        self.resume.setVisible(self._offer is not None)

    # ---- running ------------------------------------------------------------------------------

    def _start(self, resume: bool = False) -> None:
        """Write the settings to the results and start a process on them."""
        from napari.qt.threading import create_worker

        if self.form is None:
            return
        self._source = self.layer()
        try:
            out = Path(self.out.text.text()).expanduser()
            path = None
            if resume and self._offer is not None:
                path = self._offer.path
                self.form.fill(self._offer.settings)
            job = Job(self._source, self.file.text.text().strip(), self.settings(), out, path)
        except InputError as error:
            self.status.setText(str(error))
            return
        self.children, self._stopped = [], Event()
        worker = create_worker(follow, job, self.children, self._stopped, _start_thread=False)
        worker.yielded.connect(self._show)
        worker.finished.connect(self._ended)
        self._worker = worker
        self._busy(True)
        self.preview.setChecked(False)
        self.training.clear()
        self.status.setText("starting")
        worker.start()

    def _show(self, report: dict[str, Any]) -> None:
        """Show a report of the child; open the run when it is the last."""
        if "command" in report:
            self.status.setText(f"the same from a terminal:\n{report['command']}")
        elif "error" in report:
            self.status.setText(report["error"])
        elif "run" in report:
            self.bar.setValue(1000)
            self.left.setText("")
            self.status.setText(f"done: {report['run']}")
            self._open(report["run"])
        elif "training" in report or "manifold" in report:
            self.training.show()
            self.training.add(report)
        else:
            self.bar.setValue(round(1000 * report["done"]))
            rest = f": about {duration(report['left'])} left" if "left" in report else ""
            self.left.setText(f"{report['stage']}{rest}")
            if report["figures"]:
                self.status.setText(f"{report['stage']}: {report['figures']}")

    def _open(self, path: str) -> None:
        """Add the results, read in a thread; a movie that is open is calibrated, not added."""
        from atomvae.viewer.plugin.adding import add_run

        add_run(self._viewer, path, instead_of=self._source, parent=self)

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
        self._viewer.dims.events.current_step.disconnect(self._moved)
        self.stop()

    def _ended(self) -> None:
        """Be ready for the next run."""
        if self._stopped.is_set():
            self.status.setText("cancelled; what is done is kept")
            self.left.setText("")
        self._worker = None
        self._busy(False)
        self._look_for_runs()

    def _busy(self, busy: bool) -> None:
        """Allow what is possible now."""
        for part in (self.run, self.resume, self.load):
            part.setEnabled(not busy)
        self.cancel.setEnabled(busy)
        if busy:
            self.bar.setValue(0)
            self.offer.hide()
            self.resume.hide()


def _load() -> None:
    """Import the settings; in a thread."""
    import atomvae.run.fields  # noqa: F401
