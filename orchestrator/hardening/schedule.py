"""When a retraining looks for new faces by itself: every so long, or at the times of a cron expression.

A time that passes while the machine is off, or while the time before is still worked on, is made up for once, however
many such times there were. `RUN/schedule/` holds when it last looked, and the lock that keeps a second process out.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from dxray.models.errors import InputError
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import locked, read_json, writable_folder, write_json

STATE = "schedule.json"
_LOOK = 60.0  # seconds: a machine that was asleep, or whose clock was set, is noticed so soon
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, with its zone."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Schedule(Protocol):
    def first(self, now: datetime) -> datetime:
        """When to look, where nobody has yet."""

    def after(self, last: datetime) -> datetime:
        """When to look next, where that was begun last at `last`."""


@dataclass(frozen=True)
class Every:
    seconds: float

    def first(self, now: datetime) -> datetime:
        return now

    def after(self, last: datetime) -> datetime:
        return last + timedelta(seconds=self.seconds)


@dataclass(frozen=True)
class Cron:
    """At the times of a cron expression, in this machine's own time, as Debian's cron has it where clocks change.

    A fixed time that is skipped comes as soon as the clock has moved on, one that is repeated comes once; of `*` and
    `*/N` each real hour counts.
    """

    expression: str

    def first(self, now: datetime) -> datetime:
        return self.after(now)

    def after(self, last: datetime) -> datetime:
        from cronsim import CronSim
        from dateutil import tz

        # The zone with its rules: `astimezone()` alone knows today's offset only.
        times = CronSim(self.expression, last.astimezone(tz.gettz() or tz.tzlocal()))
        # Begun within an hour that is repeated, CronSim 2.8 may name times of its first pass, which are over.
        return next(due for due in (time.astimezone(UTC) for time in times) if due > last)


def every(text: str) -> Every:
    """`24h`, `90m`, `7d`; UserError for anything else."""
    found = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if not found or not int(found[1]):
        raise UserError(f"--every {text}: expected a number and one of s, m, h, d, w, as in 24h")
    return Every(int(found[1]) * _UNITS[found[2]])


def cron(text: str) -> Cron:
    """`0 3 * * 1`: minute, hour, day, month, day of the week; UserError where it is none."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise UserError("--cron needs the package cronsim: pip install 'dxray[schedule]'") from None
    try:
        next(CronSim(text, datetime.now()))
    except (CronSimError, StopIteration):
        raise UserError(
            f"--cron '{text}' is no cron expression with a time to come: expected minute, hour, day, month and day of "
            "the week, as in '0 3 * * 1'"
        ) from None
    return Cron(text)


def keep(
    run: Place, schedule: Schedule, work: Callable[[], Any], console: Console, *, clock: Clock | None = None
) -> None:
    """Call `work` whenever the schedule says so, for ever; what a person can put right is told, and passed over.

    Raises:
        Busy: another process keeps the schedule of this run.
    """
    clock = clock or SystemClock()
    folder = writable_folder(run / "schedule", "the schedule")
    with locked(folder):
        now = clock.now()
        if (folder / STATE).exists():
            due = schedule.after(datetime.fromisoformat(read_json(folder / STATE)["last"]))
        elif (due := schedule.first(now)) > now:
            _write(folder, now, None)  # a time that is missed from now on is known to be
        while True:
            if due > clock.now():
                console.say(f"next look at {due.astimezone():%Y-%m-%d %H:%M:%S}")
            while (now := clock.now()) < due:
                clock.sleep(min((due - now).total_seconds(), _LOOK))
            failed = None
            try:
                work()
            except Busy as wrong:
                failed = f"passed over: {wrong}"
            except (UserError, InputError) as wrong:
                failed = str(wrong)
            if failed:
                console.say(f"this time: {failed}")
            # Only now: what is killed meanwhile is due again at once, and goes on.
            _write(folder, now, failed)
            due = schedule.after(now)


def _write(folder: Place, last: datetime, failed: str | None) -> None:
    write_json(folder / STATE, {"last": last.isoformat(), "failed": failed})
