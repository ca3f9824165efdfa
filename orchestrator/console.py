"""What a person reads: sentences and tables, and progress that is a live bar in a terminal and plain lines in a log."""

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dxray.orchestrator.progress import Board


class Console:
    """Human text goes to standard output, or to standard error where that is kept for one JSON object (`--json`)."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._text = RichConsole(stderr=as_json, highlight=False, markup=False, emoji=False)
        if not self._text.is_terminal:
            self._text.width = 160  # not in a terminal there is no width to fit into: a table in a log must not be cut
        self._progress = RichConsole(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def width(self) -> int:
        """Characters that a line has room for."""
        return self._text.width

    def say(self, text: str = "") -> None:
        self._text.print(text, soft_wrap=True)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Numbers are set to the right, words to the left; floats keep the digits that they were given with."""
        table = Table()
        for i, name in enumerate(header):
            numeric = all(not isinstance(row[i], str) or row[i] in ("", "-") for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*("-" if cell is None else str(cell) for cell in row))
        self._text.print(title, style="bold", soft_wrap=True)  # as a table's own title it would be no wider than it
        self._text.print(table)

    def result(self, value: dict[str, Any]) -> None:
        """The machine-readable end of a command: printed only with `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, default=str) + "\n")
            sys.stdout.flush()

    def bar(self, title: str, total: int, unit: str) -> "Bar":
        return Bar(self._progress, title, total, unit)

    def board(self, nets: int, work: float) -> Board:
        return Board(self._progress, nets, work)


class Bar:
    """Progress over `total` units, on standard error; use as a context manager."""

    def __init__(self, console: RichConsole, title: str, total: int, unit: str, *, every: float = 5.0) -> None:
        self._console, self._title, self._total, self._unit, self._every = console, title, total, unit, every
        self._done = 0
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )

    def __enter__(self) -> "Bar":
        self._started = self._spoke = time.monotonic()
        if self._live:
            self._live.start()
            self._task = self._live.add_task(self._title, total=self._total, note="")
        return self

    def advance(self, by: int = 1, note: str = "") -> None:
        self._done += by
        if self._live:
            self._live.update(self._task, advance=by, note=note)
            return
        now = time.monotonic()
        if now - self._spoke >= self._every or self._done >= self._total:
            self._spoke = now
            took = now - self._started
            left = took / self._done * (self._total - self._done) if self._done else float("nan")
            self.log(
                f"{self._title}: {self._done}/{self._total} {self._unit}, {took:.0f} s, about {left:.0f} s left"
                + (f", {note}" if note else "")
            )

    def log(self, text: str) -> None:
        """A line that stays, above the bar."""
        (self._live.console if self._live else self._console).print(text, soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
