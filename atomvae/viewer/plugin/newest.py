"""Work in a thread of which only the newest result is wanted."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal


class Newest(QObject):
    """Calls a function in a thread; while it works, only the last request is kept.

    Parameters
    ----------
    function : callable
        Does the work; touches nothing of Qt.
    parent : QObject
        Whose life it shares.
    """

    ready = Signal(object)
    failed = Signal(str)

    def __init__(self, function: Callable[..., Any], parent: QObject) -> None:
        super().__init__(parent)
        self._function, self._worker = function, None
        self._waiting: tuple[Any, ...] | None = None
        self._open = True
        parent.destroyed.connect(self.close)

    @property
    def busy(self) -> bool:
        """Whether something is worked on."""
        return self._worker is not None

    def ask(self, *arguments: Any) -> None:
        """Request a result for these arguments; requests that still wait are forgotten."""
        if self._worker is not None:
            self._waiting = arguments
            return
        from napari.qt.threading import create_worker

        worker = create_worker(_outcome, self._function, arguments, _start_thread=False)
        worker.returned.connect(self._done)
        self._worker = worker
        worker.start()

    def close(self) -> None:
        """Want nothing more."""
        self._open, self._waiting = False, None

    def _done(self, outcome: Any) -> None:
        self._worker = None
        if not self._open:
            return
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.ask(*waiting)
        result, error = outcome
        if error is None:
            self.ready.emit(result)
        else:
            self.failed.emit(error)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    """The result, or what went wrong in a sentence: a thread must not end in a traceback."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, str(error) or type(error).__name__
