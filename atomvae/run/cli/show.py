"""What people see of a run: a bar per stage while it works, a line of figures when it ends."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Tasks per second."""

    def render(self, task: Task) -> Text:
        """Show the speed once there is one."""
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", style="cyan")


class StageBars:
    """Shows the progress of `run_pipeline`; a context manager and the callable it wants.

    On a terminal every stage has a bar with its rate and the time that remains; in a file or a
    pipe there are only the lines of figures.

    Parameters
    ----------
    console : rich.console.Console, optional
        Default: standard output.

    Examples
    --------
    >>> with StageBars() as show:
    ...     show("detect", 1, 2, "")
    ...     show("detect", 1, 1, "60 atoms")
    detect   60 atoms
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(soft_wrap=True, highlight=False) if console is None else console
        self.bars = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._stage = ""

    def __enter__(self) -> "StageBars":
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def __call__(self, stage: str, done: float, total: float, figures: str) -> None:
        """Move the bar of a stage, or replace it by its line of figures."""
        if figures:
            self._clear()
            self.console.print(Text(f"{stage:<8} ", style="bold green") + Text(figures))
            return
        if stage != self._stage:
            self._clear()
            self._stage = stage
            self.bars.add_task(stage, total=total)
        if self.bars.task_ids:
            self.bars.update(self.bars.task_ids[-1], completed=done, total=total)

    def _clear(self) -> None:
        """Take away the bars of earlier stages."""
        for task in list(self.bars.task_ids):
            self.bars.remove_task(task)
        self._stage = ""
