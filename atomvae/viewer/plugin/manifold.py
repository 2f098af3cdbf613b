"""The manifold of a model: decode at the pointer, see which atoms live there, and back."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout

from atomvae.errors import InputError
from atomvae.viewer.plugin.glow import glow_over
from atomvae.viewer.plugin.manifold_sheet import Picture, Sheet
from atomvae.viewer.plugin.manifold_walk import AtomCard, Grid, Walk
from atomvae.viewer.plugin.newest import Newest
from atomvae.viewer.plugin.panel import Panel

if TYPE_CHECKING:
    import napari

EMPTY = "Open a run with a trained model; its manifold is shown here."
CLICK = "Click an atom in the image to see its patch, reconstruction and error bars here."
MOST = 3000  # chosen atoms that are marked on the sheet
TITLES = ("at the pointer", "patch", "reconstructed", "without pose")


class ManifoldWidget(Panel):
    """Decoded pictures over two latents; the pointer decodes live and lights up atoms.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self.walk: Walk | None = None
        self.card: AtomCard | None = None
        self.model, self.x, self.y, self.label = (QComboBox() for _ in range(4))
        self.sheet = Sheet(self)
        self.pictures = [Picture(title, self) for title in TITLES]
        self.numbers = QLabel("")
        self._place: NDArray[Any] = np.empty((0, 0))  # content of the rows of the table
        self._kind: NDArray[Any] = np.empty(0, int)  # their classes
        self._glow: Any = None
        self._source: Any = None
        self._loading = self._work(Walk, self._loaded, self._failed)
        self._drawing = self._work(lambda walk, *what: walk.grid(*what), self._drawn, self._failed)
        self._decoding = self._work(lambda walk, *what: walk.at(*what), self._decoded, self._failed)
        self._looking = self._work(lambda walk, atom: walk.card(atom), self._looked, self._say)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.refresh)
        self._lay_out()
        self._connect()
        self._dress()
        self.refresh()

    def _work(
        self,
        function: Callable[..., Any],
        done: Callable[[Any], None],
        failed: Callable[[str], None],
    ) -> Newest:
        """Have a function called in a thread, and its newest result or what went wrong shown."""
        worker = Newest(function, self)
        worker.ready.connect(done)
        worker.failed.connect(failed)
        return worker

    def _lay_out(self) -> None:
        """Put choices above the sheet, pictures and numbers of an atom below."""
        grid = QGridLayout()
        choices = (("Model", self.model), ("Across", self.x), ("Up", self.y), ("Class", self.label))
        self._titles = {}
        for column, (text, box) in enumerate(choices):
            title = QLabel(text)
            title.setBuddy(box)
            self._titles[text] = title
            grid.addWidget(title, 0, column)
            grid.addWidget(box, 1, column)
            grid.setColumnStretch(column, 1)
        row = QHBoxLayout()
        for picture in self.pictures:
            row.addWidget(picture)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addLayout(grid)
        layout.addWidget(self.sheet, 1)
        layout.addLayout(row)
        layout.addWidget(self.numbers)
        self.numbers.setWordWrap(True)
        self.numbers.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        self.sheet.setToolTip(
            "Move the pointer: decode, and light up the atoms of the cell. "
            "Click: choose them (Shift: in addition)."
        )

    def _connect(self) -> None:
        """Hear of the atoms, of the user and of the viewer."""
        self.atoms.changed.connect(self._chosen)
        self.atoms.replaced.connect(self._soon)
        self._viewer.events.theme.connect(self._dress)
        self.sheet.moved.connect(self._pointed)
        self.sheet.left.connect(self._left)
        self.sheet.clicked.connect(self._choose_cell)
        self.model.textActivated.connect(self._load)
        for box in (self.x, self.y, self.label):
            box.textActivated.connect(self._draw)
        self.destroyed.connect(lambda: self._closed())

    def showEvent(self, event: Any) -> None:
        """Lay the sheet for marks over the canvas, once there is a window."""
        super().showEvent(event)
        if self._glow is None:
            self._glow = glow_over(self, self._viewer, self.atoms)

    @property
    def busy(self) -> bool:
        """Whether something is still being loaded or decoded."""
        jobs = (self._loading, self._drawing, self._decoding, self._looking)
        return any(job.busy for job in jobs) or self._later.isActive()

    def _soon(self) -> None:
        """Look what has changed, when all of it has."""
        self._later.start(0)

    def refresh(self) -> None:
        """Load the model of the run that the atoms come from, unless it is there."""
        source = self.atoms.source
        if self.atoms.layer is None:
            self._forget(EMPTY)
            self._source = None
            return
        models = _models(source)
        known = [self.model.itemText(i) for i in range(self.model.count())]
        if source != self._source or models != known or self.walk is None:
            fresh = [name for name in models if name not in known]
            wanted = self.model.currentText()
            self._source = source
            self.model.clear()
            self.model.addItems(models)
            new = fresh[0] if known and fresh else _last_model(source)
            self.model.setCurrentText(new if wanted not in models or fresh else wanted)
            self._load()
        else:
            self._find_atoms()

    def _load(self, _name: str = "") -> None:
        """Load the model that is chosen; in a thread, since torch takes seconds."""
        self._forget("loading the model ...")
        self._loading.ask(self._source, self.model.currentText() or None)

    def _forget(self, message: str) -> None:
        """Show no model but a sentence."""
        self.walk, self.card = None, None
        self.sheet.message = message
        self.sheet.show_grid(None)
        self.numbers.setText("")
        for picture in self.pictures:
            picture.show_picture(None, (0, 1))
        self._allow()

    def _failed(self, sentence: str) -> None:
        """Say why there is no manifold."""
        self._forget(sentence)

    def _say(self, sentence: str) -> None:
        """Say what is wrong with one atom."""
        self.numbers.setText(sentence)

    def _loaded(self, walk: Walk) -> None:
        """Offer the latents of a model, then draw its manifold."""
        self.walk = walk
        for box, number in ((self.x, 0), (self.y, 1)):
            box.clear()
            box.addItems(walk.columns)
            box.setCurrentIndex(min(number, len(walk.columns) - 1))
        self.label.clear()
        self.label.addItems(walk.classes)
        self.numbers.setText(walk.missing or CLICK)
        self._allow()
        self._find_atoms()
        self._draw()

    def _allow(self) -> None:
        """Show the choices that there are."""
        found = self.walk
        for name, box, useful in (
            ("Model", self.model, self.model.count() > 1),
            ("Across", self.x, found is not None),
            ("Up", self.y, found is not None and len(found.columns) > 1),
            ("Class", self.label, found is not None and bool(found.classes)),
        ):
            box.setVisible(useful)
            self._titles[name].setVisible(useful)

    def _find_atoms(self) -> None:
        """Find the content of the atoms in the image."""
        if self.walk is None:
            return
        table = self.atoms.table
        known = table["atom_id"] if "atom_id" in table else np.full(len(table), -1)
        self._place, self._kind = self.walk.place(known), self.walk.labels(known)
        self._chosen()

    def _draw(self, _choice: str = "") -> None:
        """Decode the grid of these latents."""
        if self.walk is not None:
            self._drawing.ask(self.walk, *self._axes(), max(self.label.currentIndex(), 0))

    def _axes(self) -> tuple[str, str]:
        """The latents that are chosen."""
        return self.x.currentText(), self.y.currentText()

    def _drawn(self, grid: Grid) -> None:
        """Show a grid."""
        if self.walk is not None:
            self.sheet.labels = self._axes()
            self.sheet.show_grid(grid)
            self._mark()

    # ---- pointer on the sheet -------------------------------------------------------------------

    def _pointed(self, x: float, y: float) -> None:
        """Decode at the pointer, and light up the atoms of this cell."""
        if self.walk is None or self.sheet.grid is None:
            return
        self._decoding.ask(self.walk, *self._axes(), (x, y), self.sheet.grid.label)
        self.atoms.light(self.rows_at(x, y))

    def _decoded(self, picture: NDArray[Any]) -> None:
        """Show what was decoded at the pointer."""
        self.pictures[0].show_picture(picture, self.sheet.limits)

    def _left(self) -> None:
        """No more light."""
        self.atoms.light(None)

    def _choose_cell(self, x: float, y: float, how: str) -> None:
        """Choose the atoms of the cell that was clicked."""
        rows = self.rows_at(x, y)
        self.atoms.choose(self.atoms.chosen | rows if how == "add" else rows)

    def rows_at(self, x: float, y: float) -> NDArray[np.bool_]:
        """Which rows of the table have their latents (and class) in the cell of two values."""
        grid = self.sheet.grid
        if grid is None or self.walk is None or len(self._place) != len(self.atoms.chosen):
            return np.zeros(len(self.atoms.chosen), bool)
        across, up = (self._place[:, self.walk.columns.index(name)] for name in self._axes())
        column, row = grid.cell(across, up)
        wanted = grid.cell(x, y)
        known = np.isfinite(across) & np.isfinite(up) & (self._kind == grid.label)
        return known & (column == wanted[0]) & (row == wanted[1])

    # ---- atoms in the image ---------------------------------------------------------------------

    def _chosen(self) -> None:
        """Mark the chosen atoms on the sheet; of a single one show everything."""
        self._mark()
        rows = np.flatnonzero(self.atoms.chosen)
        if self.walk is None or "atom_id" not in self.atoms.table:
            return
        if len(rows) != 1:
            self.card = None
            for picture in self.pictures[1:]:
                picture.show_picture(None, (0, 1))
            self.numbers.setText(self.walk.missing or CLICK)
            return
        self._looking.ask(self.walk, int(self.atoms.table["atom_id"].iloc[rows[0]]))

    def _mark(self) -> None:
        """Mark the places of the chosen atoms."""
        if self.walk is None or len(self._place) != len(self.atoms.chosen):
            return
        rows = np.flatnonzero(self.atoms.chosen)
        numbers = [self.walk.columns.index(name) for name in self._axes()]
        sd = None
        if len(rows) == 1 and self.card is not None:
            same = np.allclose(self.card.z, self._place[rows[0]], equal_nan=True)
            sd = tuple(self.card.z_sd[numbers]) if same else None
        rows = rows[:: max(1, len(rows) // MOST)]
        points = self._place[rows][:, numbers] if len(rows) else np.empty((0, 2))
        self.sheet.show_atoms(points[np.isfinite(points).all(1)], sd)

    def _looked(self, card: AtomCard) -> None:
        """Show an atom; its class is the one whose manifold is shown."""
        if self.walk is None or self.atoms.chosen.sum() != 1:
            return
        self.card = card
        known = [p[np.isfinite(p)] for p in (card.patch, card.posed) if p is not None]
        low, high = np.percentile(np.concatenate(known), [0.5, 99.5])
        limits = (float(low), float(high if high > low else low + 1))
        for picture, shown in zip(
            self.pictures[1:], (card.patch, card.posed, card.plain), strict=True
        ):
            picture.show_picture(shown, limits)
        self.numbers.setText(f"atom {card.atom_id}:  " + ";   ".join(card.lines))
        if self.walk.classes and self.label.currentIndex() != card.label:
            self.label.setCurrentIndex(card.label)
            self._draw()
        self._mark()

    def _dress(self, _event: Any = None) -> None:
        """Wear the colours of the theme."""
        from napari.utils.theme import get_theme

        self.sheet.text = QColor(get_theme(self._viewer.theme).text.as_hex())
        for picture in self.pictures:
            picture.text = self.sheet.text
        self.sheet.update()

    def _closed(self) -> None:
        """Hear no more of the atoms and of the viewer; want no more results."""
        self.atoms.changed.disconnect(self._chosen)
        self.atoms.replaced.disconnect(self._soon)
        self._viewer.events.theme.disconnect(self._dress)
        self.atoms.light(None)
        for job in (self._loading, self._drawing, self._decoding, self._looking):
            job.close()


def _models(source: Any) -> list[str]:
    """Names of the models of a run; none if it is no run."""
    from atomvae.run.folder import RunFolder

    try:
        return RunFolder(source).models if source is not None else []
    except InputError:
        return []  # the loading says what is wrong


def _last_model(source: Any) -> str:
    """Name of the model that the run trained last."""
    from atomvae.run.folder import RunFolder

    try:
        return str((RunFolder(source).marker("train") or {}).get("model", "")) if source else ""
    except InputError:
        return ""
