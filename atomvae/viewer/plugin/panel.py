"""What the widgets of this plugin have in common: a viewer, its atoms, and an end."""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from atomvae.viewer.plugin.selection import Atoms, atoms_of


class Panel(QWidget):
    """A widget in a dock of napari, which ends when its dock is closed.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer, also an empty one.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer

    @cached_property
    def atoms(self) -> Atoms:
        """The atoms of the viewer and their selection."""
        return atoms_of(self._viewer)

    def hear(self, signal: Any, slot: Callable[..., Any]) -> None:
        """Have something called when a signal of the viewer or its atoms is sent; until the end."""
        signal.connect(slot)

        def end() -> None:
            with suppress(RuntimeError):  # at the end of Python this may be dead already
                signal.disconnect(slot)

        self.destroyed.connect(end)

    def event(self, event: QEvent) -> bool:
        """End when napari takes this out of its dock: it does so, and no more, when that closes."""
        if event.type() == QEvent.Type.ParentChange and self.parentWidget() is None:
            self.deleteLater()
        return bool(super().event(event))
