"""Work of the thread of the windows in small pieces, between which the window lives."""

from collections.abc import Iterator

from qtpy.QtCore import QObject, QTimer

MOMENT = 30  # ms: long enough for the window to be drawn, too short to be noticed
DONE = object()


class Turns(QTimer):
    """Does some work a piece at a time; newer work takes the place of what is not done yet.

    Parameters
    ----------
    parent : QObject
        Whose life it shares.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._work: Iterator[None] = iter(())
        self.setSingleShot(True)
        self.setInterval(MOMENT)
        self.timeout.connect(self._turn)

    def begin(self, work: Iterator[None]) -> None:
        """Do this from now on.

        Parameters
        ----------
        work : iterator
            Usually a generator, which yields where the window may be drawn and hear its user.
        """
        self._work = work
        self.start()

    def _turn(self) -> None:
        """Do the next piece."""
        if next(self._work, DONE) is not DONE:
            self.start()
