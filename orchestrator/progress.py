"""The progress of a sweep: in a terminal a line for each training that runs, else a plain line now and then."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

EVERY = 30.0  # seconds between two plain lines


class Board:
    """Trainings that run, and how long the rest will take; use as a context manager.

    Trainings differ in size, so time is told from their work, in a unit that is proportional to time.
    """

    def __init__(self, console: RichConsole, nets: int, work: float, *, every: float = EVERY) -> None:
        """`nets` trainings are to come, `work` of them all."""
        self._console, self._nets, self._work, self._every = console, nets, work, every
        self._ended = 0
        self._done = 0.0
        self._running: dict[int, _Training] = {}
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )

    def __enter__(self) -> "Board":
        self._started = self._spoke = time.monotonic()
        if self._live:
            self._live.start()
            self._overall = self._live.add_task(self._title(), total=self._work, note="")
        return self

    def start(self, key: int, name: str, epochs: int, work: float) -> None:
        """A training begins; one that goes on elsewhere, for its worker was lost, keeps its line."""
        if key in self._running:
            return
        task = self._live.add_task(name, total=epochs, note="") if self._live else None
        self._running[key] = _Training(name, epochs, work, task)

    def epoch(self, key: int, row: Mapping[str, Any]) -> None:
        """An epoch of a training has ended; its row as `train.fit` gives it."""
        one = self._running.get(key)
        if one is None:
            return
        if one.epoch is None:  # what an earlier run of the sweep had done took none of our time
            one.skipped = (row["epoch"] - 1) / one.epochs * one.work
            self._work -= one.skipped
        else:
            self._done -= one.worked()
        one.epoch = row["epoch"]
        one.note = f"epoch {row['epoch']}/{one.epochs}, loss {row['loss']:.3f}"
        if "validation_accuracy" in row:
            one.note += f", validation {row['validation_accuracy']:.1%}"
        self._done += one.worked()
        if self._live and one.task is not None:
            self._live.update(one.task, completed=one.epoch, note=one.note)
        self._show()

    def end(self, key: int, text: str) -> None:
        """A training has ended, well or not; `text` stays above the live lines."""
        self._forget(key)
        self._ended += 1
        (self._live.console if self._live else self._console).print(text, soft_wrap=True)
        self._show()

    def _forget(self, key: int) -> None:
        one = self._running.pop(key, None)
        if one is None:
            return
        # An ended training counts whole, however few epochs it took.
        self._done += one.work - one.skipped - (one.worked() if one.epoch else 0.0)
        if self._live and one.task is not None:
            self._live.remove_task(one.task)

    def _show(self) -> None:
        now = time.monotonic()
        if self._live:
            self._live.update(
                self._overall, completed=self._done, total=self._work, description=self._title(), note=self._left(now)
            )
        elif now - self._spoke >= self._every:
            self._spoke = now
            running = "; ".join(f"{one.name}: {one.note}" for one in self._running.values() if one.note)
            took = spell(now - self._started)
            self._console.print(f"{self._title()}, {took}, {self._left(now)}; {running}", soft_wrap=True)

    def _title(self) -> str:
        return f"{self._ended} of {self._nets} nets"

    def _left(self, now: float) -> str:
        if not self._done:
            return ""
        return f"about {spell((now - self._started) / self._done * max(0.0, self._work - self._done))} left"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            for one in self._running.values():
                if one.task is not None:
                    self._live.remove_task(one.task)
            self._live.stop()


class _Training:
    def __init__(self, name: str, epochs: int, work: float, task: TaskID | None) -> None:
        self.name, self.epochs, self.work, self.task = name, epochs, work, task
        self.epoch: int | None = None  # the last that ended
        self.skipped = 0.0  # work that was done before this run
        self.note = ""

    def worked(self) -> float:
        return self.work * (self.epoch or 0) / self.epochs - self.skipped


def spell(seconds: float) -> str:
    """As few digits as say it: "48 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
