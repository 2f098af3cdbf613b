"""What napari calls to open a file: whoever uses a window does not wait for it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from atomvae.viewer.plugin import reader


def get_reader(path: str | list[str]) -> Callable[[str], list[Any]] | None:
    """Choose how napari opens a path.

    Parameters
    ----------
    path : str or list of str
        What the user opens.

    Returns
    -------
    callable or None
        For a run folder or a table of atoms. A script gets the layers from it; called by a window
        that handles its events, it gives none and adds them in the background.

    Examples
    --------
    >>> get_reader("holiday.png") is None
    True
    """
    read = reader.get_reader(path)
    return None if read is None else partial(_read_or_add, read)


def _read_or_add(read: Callable[[str], list[Any]], path: str) -> list[Any]:
    """Read, or let it be done in the background while a window waits for this to return."""
    import napari

    viewer = napari.current_viewer()
    if viewer is not None:
        from napari.utils.notifications import show_error
        from qtpy.QtCore import QThread

        from atomvae.viewer.plugin.adding import add_run

        if QThread.currentThread().loopLevel() > 0:
            maker = add_run(viewer, path, parent=viewer.window.main_menu, read=read)
            maker.failed.connect(show_error)
            return [(None,)]  # which tells napari that there is nothing to add
    return read(path)
