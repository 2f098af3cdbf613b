"""The latent explorer: atoms as dots over any two columns, linked with the atoms in the image."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
)

from atomvae.viewer.plugin.explorer_classes import ClassPanel
from atomvae.viewer.plugin.explorer_plot import ScatterPlot
from atomvae.viewer.plugin.glow import glow_over
from atomvae.viewer.plugin.panel import Panel

if TYPE_CHECKING:
    import napari
    import pandas as pd

# Columns that say what an atom is like come first, those that say where it is last.
FIRST = ("z_", "class", "angle", "reconstruction_error", "amplitude", "sigma", "score")
LAST = ("atom_id", "angle_n")
EMPTY = "Open a run or a table of atoms; its columns are shown here."


class ExplorerWidget(Panel):
    """Dots over two columns of the atoms; what is chosen here is marked in the image, and back.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__(viewer)
        self.plot = ScatterPlot(self)
        self.x, self.y, self.color = QComboBox(), QComboBox(), QComboBox()
        self.tool, self.shape = QComboBox(), QComboBox()
        self.this_frame = QCheckBox("this frame only")
        self.clear, self.invert = QPushButton("None"), QPushButton("Invert")
        self.tracks = QPushButton("In all frames")
        self.count = QLabel("")
        self.classes = ClassPanel(self.atoms, self)
        self._glow: Any = None
        self._columns: list[str] = []
        self._later = QTimer(self)  # several changes in a row are drawn once
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.refresh)
        self._lay_out()
        self._connect()
        self._dress()
        self.refresh()

    def _lay_out(self) -> None:
        """Put choices above the plot, the selection and its classes below."""
        self.tool.addItems(["Lasso", "Rectangle"])
        self.shape.addItems(["Dots", "Density"])
        grid = QGridLayout()
        for column, (text, box) in enumerate(
            (("Across", self.x), ("Up", self.y), ("Colour by", self.color))
        ):
            label = QLabel(text)
            label.setBuddy(box)
            grid.addWidget(label, 0, column)
            grid.addWidget(box, 1, column)
            grid.setColumnStretch(column, 1)
        tools, below = QHBoxLayout(), QHBoxLayout()
        for part in (self.tool, self.shape, self.this_frame):
            tools.addWidget(part)
        tools.addStretch()
        below.addWidget(self.count, 1)
        for button in (self.tracks, self.invert, self.clear):
            below.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addLayout(grid)
        layout.addLayout(tools)
        layout.addWidget(self.plot, 1)
        layout.addLayout(below)
        layout.addWidget(self.classes)
        self.count.setWordWrap(True)
        self.plot.setToolTip(
            "Drag to choose; Shift adds, Alt takes away. Wheel: zoom; right button: move; "
            "double click: everything; Escape: choose nothing."
        )
        self.tracks.setToolTip("Also choose the same atoms (tracks) in all other frames")

    def _connect(self) -> None:
        """Hear of the atoms, of the user and of the viewer."""
        self.hear(self.atoms.changed, self._show_chosen)
        self.hear(self.atoms.replaced, self._soon)
        self.hear(self._viewer.dims.events.current_step, self._frame_changed)
        self.hear(self._viewer.events.theme, self._dress)
        self.plot.chose.connect(self._take)
        for box in (self.x, self.y, self.color):
            box.textActivated.connect(self.redraw)
        self.tool.currentTextChanged.connect(self._tool_changed)
        self.shape.currentTextChanged.connect(self._tool_changed)
        self.this_frame.toggled.connect(self.redraw)
        self.clear.clicked.connect(lambda: self._choose(np.zeros(len(self.atoms.chosen), bool)))
        self.invert.clicked.connect(lambda: self._choose(~self.atoms.chosen))
        self.tracks.clicked.connect(self._whole_tracks)

    def showEvent(self, event: Any) -> None:
        """Lay the sheet for marks over the canvas, once there is a window."""
        super().showEvent(event)
        if self._glow is None:
            self._glow = glow_over(self, self._viewer, self.atoms)

    def _soon(self) -> None:
        """Show other columns when what changes them has ended."""
        self._later.start(0)

    def refresh(self) -> None:
        """Offer the columns of the atoms; choices stay where they still exist."""
        table = self.atoms.table
        names = plot_columns(table)
        if names != self._columns:
            self._columns = names
            chosen = [box.currentText() for box in (self.x, self.y, self.color)]
            shown = self._color_in_image()
            wanted = (*(names[:2] or [""] * 2), shown if shown in names else "frame")
            for box, old, new in zip((self.x, self.y, self.color), chosen, wanted, strict=True):
                box.clear()
                box.addItems(names)
                box.setCurrentText(old if old in names else new)
            self.plot.show_all()
        for part in (self.x, self.y, self.color, self.invert, self.clear):
            part.setEnabled(bool(names))
        self.tracks.setEnabled("track" in names)
        self.plot.message = "" if names else EMPTY
        self.redraw()

    def _color_in_image(self) -> str:
        """Column that colours the atoms in the image."""
        layer = self.atoms.layer
        about = {} if layer is None else layer.metadata.get("atomvae", {})
        return str(about.get("shows", "")).partition("\n")[0]

    def redraw(self, _what: Any = None) -> None:
        """Show the dots of the columns that are chosen."""
        from atomvae.maps.style import label
        from atomvae.viewer.plugin.explorer_picture import axis_values, color_rows

        table = self.atoms.table
        x, y, color = (box.currentText() for box in (self.x, self.y, self.color))
        if not {x, y, color} <= set(table.columns) or not len(table):
            self.plot.set_legend("", None)
            self.plot.set_points(np.empty(0), np.empty(0), np.empty(0, np.uint32))
            self._show_chosen()
            return
        across, up = axis_values(table, x), axis_values(table, y)
        if self.this_frame.isChecked():
            across = np.where(self.atoms.here(), across, np.nan)
        if self.plot.labels != (label(x), label(y)):
            self.plot.labels = (label(x), label(y))
            self.plot.show_all()
        colors, scale = color_rows(table, color)
        self.plot.set_legend(color, scale)
        self.plot.set_points(across, up, colors)
        self._show_chosen()

    def _show_chosen(self) -> None:
        """Show in the plot what is chosen, and how many."""
        chosen = self.atoms.chosen
        if len(chosen) == self.plot.size_of_data():
            self.plot.set_chosen(chosen)
        here = int((chosen & self.atoms.here()).sum())
        self.count.setText(
            f"{int(chosen.sum()):,} of {len(chosen):,} atoms chosen, {here:,} in this frame"
            if len(chosen)
            else ""
        )

    def _take(self, rows: NDArray[np.bool_], how: str) -> None:
        """Choose what the user drew around."""
        before = self.atoms.chosen
        self._choose({"new": rows, "add": before | rows, "remove": before & ~rows}[how])

    def _choose(self, rows: NDArray[np.bool_]) -> None:
        """Choose rows, if they are of these atoms."""
        if rows.shape == self.atoms.chosen.shape:
            self.atoms.choose(rows)

    def _whole_tracks(self) -> None:
        """Choose the chosen atoms in all frames."""
        self._choose(same_tracks(self.atoms.table, self.atoms.chosen))

    def _frame_changed(self, _event: Any = None) -> None:
        """Follow the slider."""
        if self.this_frame.isChecked():
            self.redraw()
        else:
            self._show_chosen()

    def _tool_changed(self, _text: str) -> None:
        """Take another tool, or another kind of picture."""
        self.plot.tool = self.tool.currentText().lower()
        self.plot.density = self.shape.currentText() == "Density"
        self.plot.redraw()

    def _dress(self, _event: Any = None) -> None:
        """Wear the colours of the theme."""
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        self.plot.background = QColor(theme.background.as_hex())
        self.plot.text = QColor(theme.text.as_hex())
        self.plot.redraw()


def plot_columns(table: "pd.DataFrame") -> list[str]:
    """Columns that can be an axis, the telling ones first.

    Parameters
    ----------
    table : DataFrame
        The atoms.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import pandas as pd
    >>> plot_columns(pd.DataFrame({"atom_id": [1], "y": [2.0], "z_0_sd": [0.1], "z_0": [0.5]}))
    ['z_0', 'y', 'z_0_sd', 'atom_id']
    """

    def rank(name: str) -> int:
        if name in LAST:
            return len(FIRST) + 2
        if name.endswith("_sd"):
            return len(FIRST) + 1
        return next((i for i, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))

    return sorted(map(str, table.columns), key=rank)


def same_tracks(table: "pd.DataFrame", rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows belong to the same tracks as some rows.

    Parameters
    ----------
    table : DataFrame
        Column ``track``; -1 is no track.
    rows : ndarray (n,) bool
        Some rows; they stay.

    Returns
    -------
    ndarray (n,) bool

    Examples
    --------
    >>> import pandas as pd
    >>> same_tracks(pd.DataFrame({"track": [4, 5, 4, -1]}), np.array([True, False, False, False]))
    array([ True, False,  True, False])
    """
    track = table["track"].to_numpy()
    wanted = np.unique(track[rows & (track >= 0)])
    return rows | np.isin(track, wanted)
