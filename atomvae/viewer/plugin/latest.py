"""Work in a thread of which only the latest result is wanted: nothing queues up."""

from collections.abc import Callable
from typing import Any

from atomvae.errors import InputError


class Latest:
    """Call a function in a thread; requests that come meanwhile replace each other.

    Parameters
    ----------
    function : callable
        Slow; touches neither Qt nor napari.
    done : callable
        Gets its result, in the thread of the window.
    failed : callable
        Gets the sentence of an InputError instead.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        done: Callable[[Any], None],
        failed: Callable[[str], None],
    ) -> None:
        self._function, self._done, self._failed = function, done, failed
        self._worker: Any = None
        self._next: tuple[Any, ...] | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return self._worker is not None

    def ask(self, *arguments: Any) -> None:
        """Ask for the result of these arguments, as soon as possible."""
        if self._worker is not None or self._closed:
            self._next = arguments
            return
        from napari.qt.threading import create_worker

        self._worker = create_worker(self._call, *arguments, _start_thread=False)
        self._worker.returned.connect(self._returned)
        self._worker.finished.connect(self._finished)
        self._worker.start()

    def close(self) -> None:
        """Want no more results."""
        self._closed, self._next = True, None

    def _call(self, *arguments: Any) -> tuple[Any, str]:
        """In the thread: the result, or what is wrong."""
        try:
            return self._function(*arguments), ""
        except (InputError, OSError) as error:
            return None, str(error)

    def _returned(self, answer: tuple[Any, str]) -> None:
        """Hand over the result."""
        result, error = answer
        if self._closed:
            return
        if error:
            self._failed(error)
        else:
            self._done(result)

    def _finished(self) -> None:
        """Take up the latest request that came meanwhile."""
        self._worker = None
        if self._next is not None:
            arguments, self._next = self._next, None
            self.ask(*arguments)
