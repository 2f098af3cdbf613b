"""Which atoms of a viewer are chosen: one state, which all widgets share."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from atomvae.errors import InputError

if TYPE_CHECKING:
    import napari
    import pandas as pd

MARKS = "chosen atoms"  # name of the layer that shows them
MARK_COLOR = (1.0, 0.2, 1.0, 1.0)  # magenta: in no colour map of ours
MANY = 5000  # atoms in view; with more of them a redraw takes long without a GPU
NEAR = 1.3  # a click hits an atom if it is nearer than so many sizes of its mark


class Atoms:
    """The atoms of one viewer and which of them are chosen; get it with `atoms_of`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Not a proxy.

    Attributes
    ----------
    changed : Signal
        The selection changed.
    replaced : Signal
        Another layer of atoms is shown, its columns changed, or there is none.
    lit_changed : Signal
        Other atoms light up for a moment.
    lit : ndarray (n,) bool
        Atoms that light up for a moment, such as those under the pointer of another widget.
    patient : bool
        Set by whoever shows the selection at once by other means: then the layer with the marks
        is not touched where that is `slow`; call `mark` when there is time.
    """

    changed = Signal()
    replaced = Signal()
    lit_changed = Signal()

    def __init__(self, viewer: "napari.components.ViewerModel") -> None:
        self._viewer = ref(viewer)  # so that a closed viewer is forgotten
        self._layer: Any = None
        self._busy = False
        self.patient = False
        self.chosen: NDArray[np.bool_] = np.zeros(0, bool)
        self.lit: NDArray[np.bool_] = np.zeros(0, bool)
        viewer.layers.events.inserted.connect(self._look)
        viewer.layers.events.removed.connect(self._look)
        viewer.layers.selection.events.active.connect(self._look)
        viewer.dims.events.current_step.connect(self._moved)
        viewer.mouse_drag_callbacks.append(self._pick)
        self._look()

    @property
    def layer(self) -> "napari.layers.Points | None":
        """The points layer: the active one if it is ours, else the uppermost of ours."""
        return self._layer

    @property
    def table(self) -> "pd.DataFrame":
        """All columns of the atoms, a row for each; empty when there are none."""
        import pandas as pd

        return pd.DataFrame() if self._layer is None else self._layer.features

    @property
    def source(self) -> Path | None:
        """The run folder (or the file) that the atoms come from; None when unknown."""
        about = {} if self._layer is None else self._layer.metadata.get("atomvae", {})
        found = about.get("source")
        return Path(found) if found and Path(found).exists() else None

    @property
    def frame(self) -> int:
        """Frame that is shown, counted along the first axis of the atoms."""
        viewer = self._viewer()
        if viewer is None or self._layer is None or self._layer.ndim < 3:
            return 0
        return round(viewer.dims.point[-3] / self._layer.scale[-3])

    def here(self) -> NDArray[np.bool_]:
        """Which rows lie in the frame that is shown, (n,)."""
        if self._layer is None:
            return np.zeros(0, bool)
        data = self._layer.data
        if data.shape[1] < 3:
            return np.ones(len(data), bool)
        return np.round(data[:, -3]) == self.frame

    def choose(self, rows: NDArray[np.bool_]) -> None:
        """Choose atoms, mark them in the image and tell everybody.

        Parameters
        ----------
        rows : ndarray (n,) bool
            Which rows of the table.

        Raises
        ------
        InputError
            If there are not as many values as atoms.
        """
        rows = np.asarray(rows, bool)
        if rows.shape != self.chosen.shape:
            raise InputError(
                f"the selection has shape {rows.shape}, the table has {len(self.chosen)} atoms; "
                "give one truth value for each"
            )
        self.chosen = rows.copy()
        self._forget_points()
        if not (self.patient and self.slow):
            self.mark()
        self.changed.emit()

    def light(self, rows: NDArray[np.bool_] | None) -> None:
        """Let atoms light up for a moment, without choosing them; None: no more."""
        new = np.zeros(len(self.chosen), bool) if rows is None else np.asarray(rows, bool)
        if new.any() or self.lit.any():
            self.lit = new
            self.lit_changed.emit()

    @property
    def slow(self) -> bool:
        """Whether marking takes long: many atoms are in view, or there is no layer for it yet."""
        viewer = self._viewer()
        missing = viewer is not None and MARKS not in viewer.layers
        return missing or int(self.here().sum()) > MANY

    def prepare(self) -> None:
        """Make the layer of the marks now, rather than when somebody waits for the first ones."""
        viewer = self._viewer()
        if viewer is not None and self._layer is not None and MARKS not in viewer.layers:
            self._add_marks(viewer, self._layer)

    def mark(self) -> None:
        """Show rings around the chosen atoms of this frame, in a layer of their own."""
        viewer, layer = self._viewer(), self._layer
        if viewer is None:
            return
        marks = next((found for found in viewer.layers if found.name == MARKS), None)
        if layer is None or not self.chosen.any():
            if marks is not None and len(marks.data):
                marks.data = np.empty((0, 2))
            return
        rows = self.chosen & self.here()
        position = layer.data[rows][:, -2:]
        if marks is None:
            marks = self._add_marks(viewer, layer)
        marks.selected_data.clear()
        marks.data = position
        if len(position):
            marks.size = 1.45 * np.asarray(layer.size)[rows]

    def _add_marks(self, viewer: Any, layer: Any) -> Any:
        """Add the layer of the marks, above the atoms; the layer in work stays it, unnoticed."""
        selection = viewer.layers.selection
        layers, active = set(selection), selection.active
        with selection.events.blocker_all():
            marks = viewer.add_points(
                np.empty((0, 2)),
                ndim=2,
                name=MARKS,
                face_color="transparent",
                border_color=[MARK_COLOR],
                border_width=0.16,
                scale=layer.scale[-2:],
                units=layer.units[-2:],
                axis_labels=layer.axis_labels[-2:],
            )
            selection.active = active
            selection.update(layers)
        return marks

    def _look(self, _event: Any = None) -> None:
        """Find the layer of atoms; hear of its columns and of napari's own selection."""
        viewer = self._viewer()
        if viewer is None or self._busy:
            return
        ours = [layer for layer in viewer.layers if is_atoms(layer)]
        active = viewer.layers.selection.active
        found = active if active in ours else (ours[-1] if ours else None)
        if found is self._layer:
            return
        if self._layer is not None:
            self._layer.events.features.disconnect(self._columns)
            self._layer.selected_data.events.items_changed.disconnect(self._points)
        self._layer = found
        if found is not None:
            found.events.features.connect(self._columns)
            found.selected_data.events.items_changed.connect(self._points)
        self._reset()

    def _columns(self, _event: Any = None) -> None:
        """Tell that columns changed; atoms added or removed by hand end the selection."""
        if len(self.table) != len(self.chosen):
            self._reset()
        else:
            self.replaced.emit()

    def _reset(self) -> None:
        """Begin with nothing chosen among the atoms of the layer."""
        any_chosen = self.chosen.any()
        self.chosen, self.lit = (np.zeros(len(self.table), bool) for _ in range(2))
        if any_chosen:
            self.mark()
        self.replaced.emit()
        if any_chosen:
            self.changed.emit()

    def _moved(self, _event: Any = None) -> None:
        """Mark the chosen atoms of another frame."""
        if self.chosen.any():
            self.mark()

    def _points(self, *_: Any) -> None:
        """Take over what the user selects with napari's own tools."""
        if self._busy:
            return
        rows = np.zeros(len(self.chosen), bool)
        number = np.fromiter(self._layer.selected_data, int)
        rows[number[number < len(rows)]] = True
        self._busy = True
        self.choose(rows)
        self._busy = False

    def _forget_points(self) -> None:
        """End napari's own selection, which is about to differ from ours."""
        if self._busy or self._layer is None or not self._layer.selected_data:
            return
        self._busy = True
        self._layer.selected_data.clear()
        self._busy = False

    def _pick(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Choose the atom that is clicked, with Shift in addition; dragging moves the view."""
        active = viewer.layers.selection.active
        busy = active is not None and str(active.mode) != "pan_zoom"
        if self._layer is None or busy or event.button != 1 or viewer.dims.ndisplay != 2:
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            if np.abs(np.asarray(event.pos) - start).max() > 3:
                return
            yield
        row = self.nearest(event.position[-2:])
        if row is not None:
            rows = self.chosen.copy() if "Shift" in event.modifiers else np.zeros_like(self.chosen)
            rows[row] = not rows[row]
            self.choose(rows)

    def nearest(self, place: Any) -> int | None:
        """Row of the atom of this frame at a place (y, x) of the world; None if there is none."""
        rows = np.flatnonzero(self.here())
        if self._layer is None or not len(rows):
            return None
        scale = np.asarray(self._layer.scale[-2:])
        step = (self._layer.data[rows][:, -2:] - np.asarray(place) / scale) * scale / scale[-1]
        distance = np.hypot(*step.T)
        best = int(distance.argmin())
        near = distance[best] <= NEAR * float(np.asarray(self._layer.size)[rows[best]])
        return int(rows[best]) if near else None


_ATOMS: WeakKeyDictionary[Any, Atoms] = WeakKeyDictionary()


def atoms_of(viewer: Any) -> Atoms:
    """Give the atoms of a viewer and their selection: always the same object for one viewer.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Also the proxy that plugins get.

    Returns
    -------
    Atoms

    Examples
    --------
    >>> from napari.components import ViewerModel
    >>> viewer = ViewerModel()
    >>> atoms_of(viewer) is atoms_of(viewer)
    True
    """
    real = getattr(viewer, "__wrapped__", viewer)
    if real not in _ATOMS:
        _ATOMS[real] = Atoms(real)
    return _ATOMS[real]


def is_atoms(layer: Any) -> bool:
    """Whether a layer holds points of ours."""
    return "atomvae" in getattr(layer, "metadata", {}) and hasattr(layer, "face_color")
