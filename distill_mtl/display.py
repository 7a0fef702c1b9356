"""Progress of a run: a bar with time left and losses on a terminal, or plain lines in a log file."""

import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from distill_mtl.untrusted_text import visible

PLAIN_SECONDS = 10.0
FILE_COLUMNS = 120


class PlainConsole(Console):
    """A console that obeys no text: a class named `[red]` or `:cat:` is shown by that name, and a control sequence of
    the terminal as its characters' numbers. Colours come from `style` and from `rich.text.Text`.

    Args:
        options: rich's own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def messages() -> Console:
    """Standard error."""
    return PlainConsole(stderr=True, highlight=False)


def mark(passed: bool | None) -> Text:
    """The cell of a table that says whether something passed; None: nobody knows."""
    if passed is None:
        return Text("?", "yellow")
    return Text("✓", "green") if passed else Text("✗", "red")


def output() -> Console:
    """Standard output; what goes to a file or a pipe has `FILE_COLUMNS` columns, unless COLUMNS says otherwise.

    There rich would assume 80, and a log would lack what does not fit.
    """
    console = PlainConsole()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_COLUMNS
    return console


def console_of(console: Console | None, *, first: bool) -> Console:
    """Where a process prints: the console that it was given, else standard output; all but the first nowhere."""
    return (console or output()) if first else Console(quiet=True)


class Display:
    """One bar over the steps of something slow. On a terminal it moves; elsewhere a line every 10 seconds.

    Args:
        console: where to show it; a quiet console shows nothing (every process but the first).
        what: what is being done ("training", "evaluation").
        total: steps or rows in all.
        done: how many of them an earlier run has done.
        unit: what is counted ("step", "row").
    """

    def __init__(self, console: Console, what: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        self.console = console
        self.what, self.total, self.unit = what, total, unit
        self._first, self._done = done, done
        self._start = self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> "Display":
        if (
            self.console.is_terminal
        ):  # elsewhere rich before 14.3 ends a bar with an empty line, even one that is off
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._progress.stop()

    def update(self, done: int, note: str = "") -> None:
        """Move to `done`; `note` is shown beside the bar."""
        self._done = done
        if self.console.is_terminal:
            self._progress.update(self._bar, completed=done, note=note)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(
                f"{self.what} {self.unit} {done}/{self.total}  ETA {_clock(self._seconds_left())}  {note}",
                highlight=False,
                soft_wrap=True,
            )

    def _seconds_left(self) -> float:
        moved = self._done - self._first
        elapsed = time.monotonic() - self._start
        return elapsed / moved * (self.total - self._done) if moved else 0.0


def losses_note(losses: Mapping[str, float], rows_per_second: float) -> str:
    """Live losses and speed in one short line."""
    return f"{rows_per_second:.0f} rows/s  " + "  ".join(
        f"{task} {loss:.3f}" for task, loss in losses.items()
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
