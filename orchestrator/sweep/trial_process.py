"""One trial behind a guard: trained in a process of its own, so that whatever it does to itself has a known reason.

A Ray worker that trained the trial itself would die with it, and Ray cannot say how. A forked process costs some
hundredths of a second, starts with everything imported and with the data of Ray's object store in place, and leaves
no memory behind for the next trial.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dxray.orchestrator.progress import now_and_then
from dxray.orchestrator.runs.store import locked, read_json, write_json
from dxray.orchestrator.sweep.trial import RESULT, train_trial

KILLS = 2  # a trial that is killed from outside is begun again (from its last epoch) that often
ORPHAN = 120.0  # seconds for which a trial's process may outlive the sweep that started it

# Someone else's doing. All other signals a process brings upon itself, and would again: its training is deterministic.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

Report = Callable[[Any], None]

# Asking torch what a training needs takes 0.2 s: its answers, kept for the trials that this worker trains next.
_least: dict[str, int] = {}


class Unwritable(RuntimeError):
    """A trial's folder took no more, so the trial has no result; the text says why."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or the signal that killed it, or by us because its time was over."""

    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False


def run_trial(
    trial: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    *,
    time_limit: float | None = None,
    on_epoch: Report | None = None,
    on_share: Report | None = None,
    **limits: Any,
) -> dict[str, Any]:
    """As `train_trial`, in a process of its own; a process that dies is a result too, with what is known of its death.

    Args:
        time_limit: seconds after which the process is killed.
        on_epoch, on_share: as `fit` takes them; this one is told only now and then.
        limits: as `train_trial` takes them.

    Raises:
        Unwritable: the folder's disk is full or read-only.
    """
    hear: dict[str, Report] = {"unwritable": unwritable, "least": _least.update}
    hear |= {"epoch": on_epoch or _ignore, "share": on_share or _ignore}
    work = partial(_train, trial, data, folder, limits)
    return settled(work, folder, on_message=lambda message: hear[message[0]](message[1]), time_limit=time_limit)


def settled(
    work: Callable[[Report], None], folder: Path, *, on_message: Report | None = None, time_limit: float | None = None
) -> dict[str, Any]:
    """What `work(send)` writes to the folder's `RESULT`, or wrote there before, in a process of its own.

    One that is killed from outside is begun again; its folder must hold what it needs to go on. A death that would
    happen again is the result, `status` "KO" with its `reason`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A worker whose driver was killed goes on for some seconds, and would write beside us.
    with locked(folder, patience=ORPHAN):
        reason = ""
        for deaths in range(1, KILLS + 2):
            if (folder / RESULT).exists():
                return read_json(folder / RESULT)
            ended = run_alone(work, on_message or _ignore, seconds=time_limit)
            reason = _death(ended, time_limit, deaths)
            if ended.signal not in _FROM_OUTSIDE:
                break
        if not (folder / RESULT).exists():
            write_json(folder / RESULT, {"status": "KO", "reason": reason})
        return read_json(folder / RESULT)


def _train(
    trial: Mapping[str, Any], data: Mapping[str, Any], folder: Path, limits: Mapping[str, Any], report: Report
) -> None:
    try:
        train_trial(
            trial,
            data,
            folder,
            least=_least,
            on_epoch=lambda row: report(("epoch", row)),
            on_share=now_and_then(lambda share: report(("share", share))),
            **limits,
        )
    except OSError as wrong:
        report(("unwritable", f"{folder}: {wrong.strerror or wrong}"))
    report(("least", _least))


def _ignore(message: Any) -> None:
    return None


def unwritable(text: str) -> None:
    """What is done with a process's message that the disk takes no more."""
    raise Unwritable(text)


def _death(ended: Ended, time_limit: float | None, deaths: int) -> str:
    if ended.timed_out:
        return f"timed out after {time_limit:g} s"
    if ended.signal is None:
        return f"crashed: its process ended itself with exit code {ended.exit_code}"
    name = signal.Signals(ended.signal).name
    if ended.signal not in _FROM_OUTSIDE:
        return f"crashed: its process died of {name} ({signal.strsignal(ended.signal)})"
    times = f" {deaths} times" if deaths > 1 else ""
    return f"crashed: its process was killed by {name}{times} (by someone, or by the kernel when memory ran out)"


def run_alone(work: Callable[[Report], None], on_message: Report, *, seconds: float | None = None) -> Ended:
    """Run `work(send)` in a process of its own; `on_message` gets here what it sends, as it comes.

    The process never outlives this call, nor this process.
    """
    # Other systems than Linux cannot fork a process with threads safely; a new one must import all anew.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    inbox, outbox = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, outbox, os.getpid()))
    with warnings.catch_warnings():
        # From Python 3.12 on: "may lead to deadlocks". The other threads here are Ray's, which the child never calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    outbox.close()
    deadline = None if seconds is None else time.monotonic() + seconds
    timed_out = False
    try:
        while not timed_out:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            timed_out = not wait([inbox], left)
            if not timed_out:
                on_message(inbox.recv())
    except EOFError:  # it has closed its end: it is done, or dead
        process.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        timed_out = process.exitcode is None
    finally:
        process.kill()
        process.join()
        inbox.close()
    if timed_out:
        return Ended(timed_out=True)
    code = process.exitcode
    return Ended(signal=-code) if code < 0 else Ended(exit_code=code)


def _child(work: Callable[[Report], None], outbox: Connection, parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # Ray's handlers are for Ray's process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends us
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    work(outbox.send)
