"""Bars of what goes on, on a terminal: what is made, how far it is, and the time left; what is done stands above."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ad_assets.commands.output import terminal
from ad_assets.datasets.names import plain
from ad_assets.graph.progress import watched_by
from ad_assets.interrupts import when_interrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@contextmanager
def live_progress(assets: int = 0) -> Iterator[None]:
    """Show the progress of the block as bars, if standard error is a terminal; else it comes as lines.

    Args:
        assets: how many asset partitions the block makes, for a bar of them; 0: no such bar.
    """
    console = terminal(sys.stderr)
    if console is None:
        yield
        return
    with _own(sys.stderr) as stream:
        bars = _bars(terminal(stream) or console)
        with bars, when_interrupted(bars.stop), watched_by(_Bars(bars, assets)):  # else a signal would leave no cursor
            yield


@contextmanager
def _own(stream: TextIO) -> Iterator[TextIO]:
    """The terminal of a stream by a descriptor of its own: Dagster lets the stream's write to a file meanwhile."""
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # a stream without one
        yield stream
        return
    with open(descriptor, "w", encoding=stream.encoding, errors=stream.errors) as own:  # noqa: PTH123 - a descriptor
        yield own


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Time(ProgressColumn):
        """The time left of what has a rate; assets, of which no two take the same time, have the time since."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            if task.fields.get("assets"):
                return Text(f"{datetime.timedelta(seconds=round(task.elapsed or 0))} so far")
            left = task.time_remaining
            return Text("" if left is None else f"{datetime.timedelta(seconds=round(left))} left")

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=console.width // 6),
        MofNCompleteColumn(),
        Time(table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        expand=True,
    )


class _Bars:
    """A bar for all assets, and one for each that reports steps."""

    def __init__(self, bars: Progress, assets: int) -> None:
        self._bars = bars
        self._all = bars.add_task("assets", total=assets, assets=True) if assets else None
        self._tasks: dict[str, tuple[TaskID, str]] = {}

    def step(self, title: str, what: str, done: int, total: int) -> None:
        task, before = self._tasks.get(title, (None, ""))
        if task is None or what != before:
            if task is not None:
                self._bars.remove_task(task)  # a rate is of one kind of step
            task = self._bars.add_task(plain(f"{title}: {what}"), total=total)
            self._tasks[title] = task, what
        self._bars.update(task, completed=done, total=total)

    def told(self, title: str, message: str, *, ended: bool) -> None:
        self._bars.console.print(plain(f"{time.strftime('%H:%M:%S')} {title}: {message}"))
        if not ended:
            return
        task, _ = self._tasks.pop(title, (None, ""))
        if task is not None:
            self._bars.remove_task(task)
        if self._all is not None:
            self._bars.advance(self._all)
