"""Below the plot of the explorer: name what is chosen, undo, train on the names."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QWidget,
)

from atomvae.errors import InputError
from atomvae.viewer.plugin.classes import Classes, training_file, training_settings
from atomvae.viewer.plugin.selection import Atoms
from atomvae.viewer.plugin.turns import Turns

ROWS = 3  # of the list that are seen at once


class ClassPanel(QWidget):
    """Classes of atoms, written to the run at every step.

    Parameters
    ----------
    atoms : Atoms
        Which are chosen.
    parent : QWidget
        The explorer.
    """

    def __init__(self, atoms: Atoms, parent: QWidget) -> None:
        super().__init__(parent)
        self._atoms = atoms
        self._classes: Classes | None = None
        self._worker: Any = None
        self._turns = Turns(self)
        self.children_: list[Any] = []  # the process that trains, once it does
        self.name = QComboBox()
        self.save, self.undo = QPushButton("Save as class"), QPushButton("Undo")
        self.list = QListWidget()
        self.train, self.cancel = QPushButton("Train with these classes"), QPushButton("Cancel")
        self.bar, self.note = QProgressBar(), QLabel("")
        self._lay_out()
        self.save.clicked.connect(self._give)
        self.undo.clicked.connect(self._undo)
        self.train.clicked.connect(self._train)
        self.cancel.clicked.connect(self.stop)
        self.list.itemClicked.connect(self._choose)
        atoms.changed.connect(self._allow)
        atoms.replaced.connect(self.refresh)
        self.destroyed.connect(lambda: self._closed())
        self.refresh()

    def _lay_out(self) -> None:
        """Name and button, then the classes, then the training."""
        self.name.setEditable(True)
        field = self.name.lineEdit() or QLineEdit()
        field.setPlaceholderText("name of the class")
        field.returnPressed.connect(self._give)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.name, 0, 0)
        grid.addWidget(self.save, 0, 1)
        grid.addWidget(self.undo, 0, 2)
        grid.addWidget(self.list, 1, 0, 1, 3)
        row = QHBoxLayout()
        row.addWidget(self.train, 1)
        row.addWidget(self.cancel)
        grid.addLayout(row, 2, 0, 1, 3)
        grid.addWidget(self.bar, 3, 0, 1, 3)
        grid.addWidget(self.note, 4, 0, 1, 3)
        grid.setColumnStretch(0, 1)
        self.list.setMaximumHeight(ROWS * 22)
        self.list.setToolTip("Click a class to choose its atoms")
        self.train.setToolTip(
            "Train a semi-supervised model that knows these classes, in the same run folder"
        )
        self.bar.setRange(0, 1000)
        self.note.setWordWrap(True)
        self.note.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._busy(False)

    def refresh(self) -> None:
        """Show the classes of the run that the atoms come from."""
        source = self._atoms.source
        known = self._classes.folder.path if self._classes is not None else None
        if source is None or source.absolute() != known:
            self._open(source)
        self._show()

    def _open(self, source: Path | None) -> None:
        """Find the classes of a run; without one, say why there are none."""
        if self._classes is not None:
            self._classes.changed.disconnect(self._show)
        self._classes = None
        self.note.setText("")
        try:
            self._classes = classes_of(source)
            self._classes.changed.connect(self._show)
        except InputError as error:
            if self._atoms.layer is not None:
                self.note.setText(str(error))

    def _show(self) -> None:
        """List the classes with their numbers of atoms."""
        counts = self._classes.counts() if self._classes is not None else {}
        typed = self.name.currentText()
        self.name.clear()
        self.name.addItems(list(counts))
        self.name.setCurrentText(typed)
        self.list.clear()
        for name, count in counts.items():
            item = QListWidgetItem(f"{name}   {count:,} atoms")
            item.setData(Qt.ItemDataRole.UserRole, name)
            self.list.addItem(item)
        self.list.setVisible(bool(counts))
        self._allow()

    def _allow(self) -> None:
        """Allow what is possible now."""
        found = self._classes
        self.save.setEnabled(found is not None and bool(self._atoms.chosen.any()))
        self.undo.setEnabled(found is not None and found.can_undo)
        self.train.setEnabled(found is not None and self.list.count() > 0 and self._worker is None)

    def _give(self) -> None:
        """Save what is chosen as a class."""
        name = self.name.currentText().strip()
        from atomvae.run.labels import PLACE

        try:
            if self._classes is None:
                return
            if not name:
                raise InputError("the class has no name; type one, e.g. vacancy")
            table = self._atoms.table
            kept = [column for column in PLACE if column in table]  # copying all takes long
            self._classes.give(table[kept][self._atoms.chosen], name)
            count = self._classes.counts()[name]
            self.note.setText(f"{name}: {count:,} atoms, written to {self._classes.folder.name}")
        except (InputError, OSError) as error:
            self.note.setText(str(error))

    def _undo(self) -> None:
        """Take the last step back."""
        if self._classes is not None and self._classes.undo():
            self.note.setText("the last step is undone")

    def _choose(self, item: QListWidgetItem) -> None:
        """Choose the atoms of a class."""
        if self._classes is not None:
            name = item.data(Qt.ItemDataRole.UserRole)
            self.name.setCurrentText(name)
            self._atoms.choose(self._classes.rows(self._atoms.table, name))

    # ---- training -------------------------------------------------------------------------------

    def _train(self) -> None:
        """Write the settings of a training with these classes, and start a process on them."""
        from napari.qt.threading import create_worker

        if self._classes is None:
            return
        try:
            source = self._classes.folder.path
            settings = training_settings(source, self._classes.labels)
        except InputError as error:
            self.note.setText(str(error))
            return
        self.children_ = []
        job = (settings, source, self.children_)
        self._worker = create_worker(follow_training, *job, _start_thread=False)
        self._worker.yielded.connect(self._tell)
        self._worker.finished.connect(self._ended)
        self._busy(True)
        self._worker.start()

    def _tell(self, report: dict[str, Any]) -> None:
        """Show a report of the process; at its end, the new columns."""
        if "command" in report:
            self.note.setText(f"the same from a terminal:\n{report['command']}")
        elif "error" in report:
            self.note.setText(report["error"])
        elif "table" in report:
            self.bar.setValue(1000)
            self._turns.begin(self._show_columns(report["table"]))
        elif "done" in report:
            self.bar.setValue(round(1000 * report["done"]))
            self.note.setText(f"{report['stage']}  {report['figures']}")

    def _show_columns(self, table: Any) -> Iterator[None]:
        """Put the columns of a table that was made anew into the layer, then colour by class."""
        from atomvae.viewer.layers import atom_features
        from atomvae.viewer.plugin.color_widget import recolor

        layer = self._atoms.layer
        if layer is None or len(layer.features) != len(table):
            self.note.setText("done; open the run again to see the new classes")
            return
        layer.face_color_mode = "direct"  # the column that coloured the atoms may be gone
        layer.features = table = atom_features(table)
        yield
        column = "class_name" if "class_name" in table else "class"
        recolor(layer, column)
        self.note.setText(
            f"done: the atoms are coloured by {column}, the class that the model gives them"
        )

    def stop(self) -> None:
        """Stop the process; what it finished stays on disk."""
        if self._worker is not None:
            self._worker.quit()
            for child in self.children_:
                child.cancel()
            self.note.setText("cancelled; Train continues where it was")

    def _ended(self) -> None:
        """Be ready for the next training."""
        self._worker = None
        self._busy(False)
        self._allow()

    def _busy(self, busy: bool) -> None:
        """Show the bar while a process runs."""
        self.cancel.setVisible(busy)
        self.bar.setVisible(busy)
        self.bar.setValue(0)
        if busy:
            self.train.setEnabled(False)

    def _closed(self) -> None:
        """End the process, and hear no more."""
        self._atoms.changed.disconnect(self._allow)
        self._atoms.replaced.disconnect(self.refresh)
        if self._classes is not None:
            self._classes.changed.disconnect(self._show)
        if self._worker is not None:
            self._worker.quit()
        for child in self.children_:
            child.cancel()


_CLASSES: dict[Path, Classes] = {}


def classes_of(source: Path | None) -> Classes:
    """Give the classes of a run: always the same object, so that all explorers agree.

    Parameters
    ----------
    source : Path or None
        The run folder.

    Returns
    -------
    Classes

    Raises
    ------
    InputError
        If there is none.
    """
    key = Path() if source is None else source.absolute()
    if key not in _CLASSES:
        _CLASSES[key] = Classes(source)
    return _CLASSES[key]


def follow_training(
    settings: dict[str, Any], source: Path, children: list[Any]
) -> Generator[dict[str, Any], None, None]:
    """Write the settings, start the process and pass on what it says; runs in a thread.

    Parameters
    ----------
    settings : dict
        Of the pipeline.
    source : Path
        The run folder.
    children : list
        Gets the process, so that it can be stopped.

    Yields
    ------
    dict
        The command that does the same, the reports of the process, at last the new ``table``, or
        ``error``.
    """
    import yaml

    from atomvae.run.folder import RunFolder
    from atomvae.viewer.plugin.child import Child

    try:
        path = training_file(source)
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        yield {"command": f"atomvae run {path} --out {source}"}
        children.append(Child(path, source))
        for report in children[-1].reports():
            if "run" in report:
                yield {"table": RunFolder(source).table()}
            else:
                yield report
    except (InputError, OSError, RuntimeError) as error:
        # Not left to the worker: the user reads it in the panel, not in a traceback.
        yield {"error": str(error)}
