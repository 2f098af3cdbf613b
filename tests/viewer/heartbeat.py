"""A timer that beats in the thread of the windows: the longest pause is the longest freeze."""

import time

from qtpy.QtCore import QEventLoop, QTimer


class Heartbeat:
    """Beats every few milliseconds while events are processed.

    Attributes
    ----------
    longest, longest_cpu : float
        Longest time between two beats since `start`, in s: on the clock, and as CPU time of this
        thread alone, which a busy machine does not lengthen.
    """

    def __init__(self, every_ms: int = 5) -> None:
        self._timer = QTimer()
        self._timer.setInterval(every_ms)
        self._timer.timeout.connect(self._beat)
        self.longest = self.longest_cpu = 0.0
        self.beats = 0

    def start(self) -> None:
        """Begin to count anew."""
        self.longest, self.longest_cpu, self.beats = 0.0, 0.0, 0
        self._last = time.perf_counter(), time.thread_time()
        self._timer.start()

    def stop(self) -> None:
        """Beat no more."""
        self._timer.stop()

    def watch(self, action, seconds: float = 0.5, until=lambda: True, most: float = 120.0) -> None:
        """Do something in an event loop, as a user does, until it has ended and a while longer."""
        loop, poll, begin = QEventLoop(), QTimer(), time.perf_counter()
        end = begin + most

        def look() -> None:
            nonlocal end
            if time.perf_counter() > end:
                loop.quit()
            elif until():
                end = min(end, time.perf_counter() + seconds)

        poll.timeout.connect(look)
        poll.start(10)
        QTimer.singleShot(0, action)
        self.start()
        loop.exec()
        self._beat()
        self.stop()
        assert until(), "waited in vain"

    def _beat(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.longest = max(self.longest, now[0] - self._last[0])
        self.longest_cpu = max(self.longest_cpu, now[1] - self._last[1])
        self._last, self.beats = now, self.beats + 1
