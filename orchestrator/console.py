"""What a person reads: sentences and tables, and progress that is a live bar in a terminal and plain lines in a log."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from dxray.orchestrator.progress import Bar, Board, Item


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

    def bar(self, title: str, total: int | None, unit: str, *, brief: bool = False) -> Bar:
        return Bar(self._progress, title, total, unit, brief=brief)

    @contextmanager
    def share(self, title: str) -> Iterator[Callable[[float], None]]:
        """A bar for what is mostly done in no time; the function is told the share of it that is, in [0, 1]."""
        with Bar(self._progress, title, 1, brief=True) as bar:
            bar.at(0.0)
            yield bar.at

    def over(self, title: str, items: Sequence[Item], unit: str) -> Iterator[Item]:
        """The same, with a bar for those that take long."""
        with self.bar(title, len(items), unit, brief=True) as bar:
            yield from bar.over(items)

    def board(self, nets: int, work: float) -> Board:
        return Board(self._progress, nets, work)
