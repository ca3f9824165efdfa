"""How far a work is: live bars in a terminal, else a plain line now and then. A bar, or a board of many trainings."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SPEAK, SPEAK_OF_MANY = 5.0, 30.0  # seconds between two plain lines of a bar, and of a board
BRIEF = 1.0  # seconds: of work that ends sooner no bar need be seen
TOLD = 3.0  # seconds between two words of a training on a worker

Item = TypeVar("Item")


class Bar:
    """Progress over `total` units, on standard error; use as a context manager.

    Whoever works tells how far it is. A log is spoken to every so many seconds also where nothing was told meanwhile:
    that a step takes long is to be seen too.
    """

    def __init__(
        self,
        console: RichConsole,
        title: str,
        total: float | None,
        unit: str = "",
        *,
        brief: bool = False,
        every: float | None = None,
    ) -> None:
        """
        Args:
            total: None where it is not known.
            unit: of the total; none: only shares of the whole are told.
            brief: work that mostly ends at once: nothing is shown before `BRIEF` seconds, in a log before `every`.
            every: seconds between two lines of a log; None: `SPEAK`.
        """
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._brief, self._every = brief, SPEAK if every is None else every
        self._done, self._note = 0.0, ""
        self._before: float | None = None  # what was done already when the work was first heard of, and when that was
        self._began = 0.0
        self._ended = False
        self._over, self._lock = Event(), Lock()
        self._thread = Thread(target=self._wait, daemon=True)
        self._live: Progress | None = None
        if console.is_terminal:
            counted = [MofNCompleteColumn(), TextColumn(unit)] if unit else []
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                *counted,
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )

    def __enter__(self) -> "Bar":
        self._started = self._spoke = time.monotonic()
        if self._live:
            self._task = self._live.add_task(self._title, total=self._total, note="")
        if self._live and not self._brief:
            self._live.start()
        else:
            self._thread.start()
        return self

    def advance(self, by: float = 1, note: str = "") -> None:
        """So many more units are done."""
        if self._before is None:
            self._before, self._began = 0.0, self._started
        self.at(self._done + by, note)

    def at(self, done: float, note: str = "") -> None:
        """So many units are done by now; those of the first call took none of this work's time."""
        if self._before is None:
            self._before, self._began = done, time.monotonic()
        self._done, self._note = done, note or self._note
        if self._live:
            self._live.update(self._task, completed=done, note=self._note)
        else:
            self._speak()

    def part(self, number: int, note: str = "") -> Callable[[float], None]:
        """What is to be told the share, in [0, 1], of one unit that is done; the units before it are."""
        return lambda share: self.at(number + share, note)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same, each counted as it is taken."""
        for item in items:
            self.advance()
            yield item

    def log(self, text: str) -> None:
        """A line that stays, above the bar."""
        (self._live.console if self._live else self._console).print(text, soft_wrap=True)

    def _wait(self) -> None:
        if self._live:
            if not self._over.wait(BRIEF):
                self._live.start()
            return
        while not self._over.wait(self._every):
            self._speak()

    def _speak(self) -> None:
        with self._lock:
            now = time.monotonic()
            ends = self._total is not None and self._done >= self._total and not (self._ended or self._brief)
            if now - self._spoke >= self._every or ends:
                self._spoke, self._ended = now, self._ended or ends
                self.log(self._line(now))

    def _line(self, now: float) -> str:
        told = [f"{self._done:,.0f} {self._unit}"]
        if self._total:
            share = f"{self._done / self._total:.0%}"
            told = [f"{int(self._done):,}/{self._total:,} {self._unit} ({share})" if self._unit else share]
        told.append(spell(now - self._started))
        worked = self._done - (self._before or 0.0)
        if self._total is not None and worked > 0:
            told.append(f"about {spell((now - self._began) / worked * max(0.0, self._total - self._done))} left")
        return f"{self._title}: {', '.join(told + [self._note] * bool(self._note))}"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._live and self._live.live.is_started:
            self._live.stop()


class Board:
    """Trainings that run, and how long the rest will take; use as a context manager.

    Trainings differ in size, so time is told from their work, in a unit that is proportional to time.
    """

    def __init__(self, console: RichConsole, nets: int, work: float, *, every: float | None = None) -> None:
        """`nets` trainings are to come, `work` of them all."""
        self._console, self._nets, self._work = console, nets, work
        self._every = SPEAK_OF_MANY if every is None else every
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

    def running(self) -> list[int]:
        """Keys of the trainings that have begun and not ended."""
        return list(self._running)

    def epoch(self, key: int, row: Mapping[str, Any]) -> None:
        """An epoch of a training has ended; its row as `train.fit` gives it."""
        if one := self._running.get(key):
            one.note = figures(row, one.epochs)
            self._reach(one, row["epoch"] / one.epochs, (row["epoch"] - 1) / one.epochs)

    def share(self, key: int, share: float) -> None:
        """So much of a training, in [0, 1], is done by now."""
        if one := self._running.get(key):
            one.note = one.note or f"epoch 1/{one.epochs}"
            self._reach(one, share, share)

    def _reach(self, one: "_Training", share: float, before: float) -> None:
        """A training has come to a share of its epochs; where it is the first that is heard, `before` was there."""
        if one.share is None:  # what an earlier run of the sweep had done took none of our time
            one.share = one.skipped = before
            self._work -= one.skipped * one.work
        if share > one.share:
            self._done += (share - one.share) * one.work
            one.share = share
        if self._live and one.task is not None:
            self._live.update(one.task, completed=one.share * one.epochs, note=one.note)
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
        self._done += (1 - (one.share or 0.0)) * one.work
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
            running = [f"{one.name}: {one.share or 0:.0%}, {one.note}" for one in self._running.values() if one.note]
            told = [self._title() + (f" ({self._done / self._work:.0%})" if self._work else "")]
            told += filter(None, [spell(now - self._started), self._left(now)])
            self._console.print("; ".join([", ".join(told), *running]), soft_wrap=True)

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
        self.share: float | None = None  # of its epochs that are done; None: nothing was heard of it
        self.skipped = 0.0  # the share that was done before this run
        self.note = ""


def now_and_then(tell: Callable[[float], None], every: float | None = None) -> Callable[[float], None]:
    """`tell` for what happens often: of all its calls one is made every so many seconds (None: `TOLD`)."""
    every, last = TOLD if every is None else every, -float("inf")

    def told(share: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= every:
            last = now
            tell(share)

    return told


def figures(row: Mapping[str, Any], epochs: int) -> str:
    """What a training has come to after an epoch; its row as `train.fit` gives it."""
    told = [f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.3f}"]
    for name in ("validation", "weak", "strong"):
        if f"{name}_accuracy" in row:
            told.append(f"{name} {row[f'{name}_accuracy']:.1%}")
    return ", ".join(told)


def spell(seconds: float) -> str:
    """As few digits as say it: "48 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
