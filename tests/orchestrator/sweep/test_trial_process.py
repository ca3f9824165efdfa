"""A trial behind its guard: whatever its process does to itself or suffers, there is a result with the reason."""

import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.runs.store import read_json, write_json
from dxray.orchestrator.sweep import trial_process
from dxray.orchestrator.sweep.trial import RESULT
from dxray.orchestrator.sweep.trial_process import Ended, Report, Unwritable, run_alone, run_trial

TRIAL = {"net": "convnet", "seed": 0}


def test_what_a_process_sends_arrives_in_order_and_its_end_is_known() -> None:
    heard: list[Any] = []

    def work(send: Report) -> None:
        for i in range(3):
            send({"epoch": i, "pid": os.getpid()})

    assert run_alone(work, heard.append) == Ended(exit_code=0)
    assert [message["epoch"] for message in heard] == [0, 1, 2]
    assert heard[0]["pid"] != os.getpid()


def exits(send: Report) -> None:
    os._exit(3)


def faults(send: Report | None = None) -> None:
    faulthandler.disable()  # pytest's, which would print where
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(send: Report) -> None:
    send(os.getpid())
    while True:
        time.sleep(60)


@pytest.mark.parametrize(
    ("work", "seconds", "ended"),
    [
        (exits, None, Ended(exit_code=3)),
        (faults, None, Ended(signal=signal.SIGSEGV)),
        (hangs, 0.5, Ended(timed_out=True)),
    ],
)
def test_how_a_process_died_is_known(work: Callable[[Report], None], seconds: float | None, ended: Ended) -> None:
    assert run_alone(work, lambda message: None, seconds=seconds) == ended


def gone(process: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # dead, and its parent, which was to collect it, is too
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_process_ends_with_the_call_that_made_it() -> None:
    """As when the early stopping raises in what listens to the training."""
    started: list[int] = []

    def stop(message: int) -> None:
        started.append(message)
        raise SystemExit

    with pytest.raises(SystemExit):
        run_alone(hangs, stop)
    assert gone(started[0])


ORPHAN = """
import os, time
from dxray.orchestrator.sweep.trial_process import run_alone
def hangs(send):
    send(os.getpid())
    time.sleep(600)
run_alone(hangs, lambda message: print(message, flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's death by Linux only")
def test_a_process_does_not_outlive_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    assert gone(child)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Any]], None]:
    """Puts a function of the trial's folder in the place of the training."""

    def plant(work: Callable[[Path], Any]) -> None:
        monkeypatch.setattr(trial_process, "train_trial", lambda trial, data, folder, **_: work(folder))

    return plant


Plant = Callable[[Callable[[Path], Any]], None]


def counted(folder: Path) -> int:
    """How often the training was begun, this time included."""
    with (folder / "begun").open("a") as file:
        file.write("x")
    return len((folder / "begun").read_text())


@pytest.mark.parametrize(
    ("die", "reason", "begun"),
    [
        (lambda: os._exit(3), "crashed: its process ended itself with exit code 3", 1),
        (faults, "crashed: its process died of SIGSEGV (Segmentation fault)", 1),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "crashed: its process was killed by SIGKILL 3 times (by someone, or by the kernel when memory ran out)",
            3,
        ),
    ],
)
def test_a_trial_that_dies_is_a_result_and_is_begun_again_only_where_that_helps(
    planted: Plant, tmp_path: Path, die: Callable[[], None], reason: str, begun: int
) -> None:
    def work(folder: Path) -> None:
        counted(folder)
        die()

    planted(work)
    assert run_trial(TRIAL, {}, tmp_path) == {"status": "KO", "reason": reason}
    assert read_json(tmp_path / RESULT)["reason"] == reason
    assert len((tmp_path / "begun").read_text()) == begun


def test_a_trial_that_is_killed_once_is_a_result_of_its_own(planted: Plant, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        if counted(folder) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        write_json(folder / RESULT, {"status": "ok"})

    planted(work)
    assert run_trial(TRIAL, {}, tmp_path) == {"status": "ok"}


def test_a_trial_past_its_time_is_a_result(planted: Plant, tmp_path: Path) -> None:
    planted(lambda folder: time.sleep(600))
    assert run_trial(TRIAL, {}, tmp_path, time_limit=0.5) == {"status": "KO", "reason": "timed out after 0.5 s"}


def test_a_full_disk_is_no_result_of_the_trial(planted: Plant, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    planted(work)
    with pytest.raises(Unwritable, match="No space left on device"):
        run_trial(TRIAL, {}, tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_two_processes_never_train_the_same_trial(planted: Plant, tmp_path: Path) -> None:
    """A worker whose driver was killed lives on for a while; the one that resumes waits for its end."""
    orphan = (
        "import sys, time; from pathlib import Path; from dxray.orchestrator.runs.store import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(1); Path(sys.argv[1], 'left').touch()"
    )
    command = [sys.executable, "-c", orphan, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        planted(lambda folder: write_json(folder / RESULT, {"status": "ok", "alone": (folder / "left").exists()}))
        assert run_trial(TRIAL, {}, tmp_path)["alone"]


def test_what_a_training_needs_is_known_to_the_trials_that_a_worker_trains_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(trial: Any, data: Any, folder: Path, *, least: dict[str, int], **_: Any) -> None:
        write_json(folder / RESULT, {"known": dict(least)})
        least["a training"] = 7

    monkeypatch.setattr(trial_process, "_least", {})
    monkeypatch.setattr(trial_process, "train_trial", train)
    assert run_trial(TRIAL, {}, tmp_path / "0") == {"known": {}}
    assert run_trial(TRIAL, {}, tmp_path / "1") == {"known": {"a training": 7}}
