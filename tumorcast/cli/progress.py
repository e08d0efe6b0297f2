"""How a run over a cohort shows how far it is: a bar on a terminal, a line a minute in a log."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from tumorcast.counted import counted

if TYPE_CHECKING:
    from tumorcast.running.work_queue import Tally

LINE_SECONDS = 60.0


class CohortProgress:
    """Shows the tallies it is given. The time left is that of the units of this run, not of those done before it."""

    def __init__(self, unit: str, *, silent: bool = False) -> None:
        self._unit, self._silent = unit, silent
        self._began = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Begin; on a terminal with a bar."""
        if not self._silent and sys.stderr.isatty():
            from tumorcast.cli.options import bar_on_stderr

            self._bar = bar_on_stderr(self._unit)
            self._bar.start()
            self._task = self._bar.add_task(self._unit, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def tell(self, tally: "Tally") -> None:
        """Show how far the run is."""
        through = tally.done + tally.failed
        if self._bar is not None:
            self._bar.update(self._task, completed=through, total=tally.total)
            return
        now = time.monotonic()
        if not self._silent and (now - self._last_line >= LINE_SECONDS or through == tally.total):
            self._last_line = now
            typer.echo(line(tally, now - self._began, self._unit), err=True)


def line(tally: "Tally", seconds: float, unit: str) -> str:
    """One line of a log.

    >>> from tumorcast.running.work_queue import Tally
    >>> line(Tally(total=120, done=29, failed=1), 600, "units")
    '30 of 120 units (1 failed), 3 a minute, 30 min left'
    """
    through = tally.done + tally.failed
    failed = f" ({tally.failed} failed)" if tally.failed else ""
    rate = 60 * through / max(seconds, 1e-9)
    left = duration((tally.total - through) / max(through, 1) * seconds)
    return f"{through} of {counted(tally.total, unit.removesuffix('s'))}{failed}, {rate:.3g} a minute, {left} left"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42), duration(1800), duration(3 * 3600 + 600), duration(90 * 3600)
    ('42 s', '30 min', '3 h 10 min', '3 d 18 h')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 72 else f"{hours // 24} d {hours % 24} h"
