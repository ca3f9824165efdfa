"""What the driver does as trials end: tables, the best net, progress; trials that were stopped early are measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from dxray.models.victims.checkpoint import CARD, WEIGHTS
from dxray.orchestrator import progress
from dxray.orchestrator.progress import Board
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import locked, read_json, read_table, replace_folder, write_json
from dxray.orchestrator.runs.word import told
from dxray.orchestrator.runs.working_copy import worked_in
from dxray.orchestrator.sweep.describe import value_text
from dxray.orchestrator.sweep.grid import varied
from dxray.orchestrator.sweep.tables import best_of, trial_row, write_tables
from dxray.orchestrator.sweep.trial import RESULT, measure_stopped
from dxray.orchestrator.sweep.trial_process import ORPHAN

STOPPED = "stopped.json"  # in the folder of a trial that is not to go on, until it is measured
LOST = 2  # a trial whose worker is lost, with its node or alone, is begun again (from its last epoch) that often

Row = dict[str, Any]


def folder_of(out: Place, index: int) -> Any:
    """Of a trial; a `Place` as `out` is."""
    return out / "trials" / f"{index:04d}"


class Watcher(tune.Callback):
    """Keeps tables and best net as trials end, so that these are on disk whatever happens next.

    Args:
        trials: all that the sweep may train; their numbers are those of the folders and of the table.
        data: the faces, in Ray's object store.
        on_row: called with the row of each trial that ends in this run, or ended unseen by an earlier one.
    """

    def __init__(
        self,
        trials: Sequence[Mapping[str, Any]],
        work: Sequence[float],
        out: Place,
        data: ray.ObjectRef,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self.trials, self.work, self.out, self.data, self.on_row = trials, work, out, data, on_row
        self.board: Board | None = None
        self.rows: dict[int, Row] = {}
        self._names = varied(trials) or ["net"]
        self._measuring: dict[ray.ObjectRef, int] = {}
        self._listen_at = 0.0
        ended, stopped = (
            {int(file.parent.name) for file in files(out, f"trials/[0-9]*/{name}")} for name in (RESULT, STOPPED)
        )
        table = out / "trials.parquet"
        told = set(read_table(table, columns=["trial"])["trial"].to_pylist()) if table.exists() else set()
        for index in sorted(ended):
            row = self._keep(index)
            if on_row and index not in told:  # it ended while the driver of an earlier run was ending too
                on_row(row)
        for index in sorted(stopped - ended):
            self._measure(index)
        if self.rows:
            self._write()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside its state, and no one reads that."""
        return {}

    def table(self) -> list[Row]:
        return [self.rows[index] for index in sorted(self.rows)]

    def known(self) -> set[int]:
        """Trials that need no training: ended, or stopped early and being measured."""
        return {*self.rows, *self._measuring.values()}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        index = _number(trial)
        if self.board:
            self.board.start(index, self._called(index), self.trials[index]["epochs"], self.work[index])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        if "unwritable" in result:
            raise OSError(result["unwritable"])
        if self.board and "epoch" in result:
            self.board.epoch(_number(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        index = _number(trial)
        folder = folder_of(self.out, index)
        if (folder / RESULT).exists():
            self._ended(index)
        else:
            write_json(folder / STOPPED, {"stopped": "by the early stopping; being measured"})
            self._measure(index)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        index = _number(trial)
        result = folder_of(self.out, index) / RESULT
        if not result.exists():
            write_json(result, {"status": "KO", "reason": f"crashed: {_lost(trial)}"})
        self._ended(index)

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        if self._measuring:
            self._collect(timeout=0)
        if self.board and time.monotonic() >= self._listen_at:
            self._listen(self.board)

    def _listen(self, board: Board) -> None:
        """Hear how far the trainings are within their epochs; a bucket that is slow to answer is asked less often."""
        began = time.monotonic()
        for index in board.running():
            board.share(index, told(folder_of(self.out, index)).get("share", 0.0))
        took = time.monotonic() - began
        self._listen_at = began + max(progress.TOLD, 10 * took)

    def settle(self) -> None:
        """Wait for the measurements that still run."""
        while self._measuring:
            self._collect(timeout=None)

    def _measure(self, index: int) -> None:
        """Beside the trainings: a pass over the test images takes about a second."""
        self._measuring[_measured.remote(self.trials[index], self.data, folder_of(self.out, index))] = index

    def _collect(self, timeout: float | None) -> None:
        done, _ = ray.wait(list(self._measuring), num_returns=1, timeout=timeout)
        for task in done:
            ray.get(task)
            self._ended(self._measuring.pop(task))

    def _ended(self, index: int) -> None:
        row = self._keep(index)
        if self.on_row:
            self.on_row(row)  # first: what is in the tables is not told again
        self._write()
        if self.board:
            self.board.end(index, self._sentence(row))

    def _sentence(self, row: Row) -> str:
        name = self._called(row["trial"])
        if row["status"] == "KO":
            return f"KO: {name}: {row['reason']}"
        return f"{row['reason'] or 'done'}: {name}: test {row['accuracy']:.2%} in {row['seconds']:.0f} s"

    def _keep(self, index: int) -> Row:
        row = trial_row(index, self.trials[index], read_json(folder_of(self.out, index) / RESULT))
        self.rows[index] = row
        return row

    def _write(self) -> None:
        rows = self.table()
        write_tables(self.out, rows)
        best = best_of(rows)
        if best and _sha256(self.out / "best") != best["sha256"]:
            replace_folder(folder_of(self.out, best["trial"]), self.out / "best", only=(WEIGHTS, CARD))

    def _called(self, index: int) -> str:
        trial = self.trials[index]
        return " ".join(f"{name}={value_text(name, trial[name])}" for name in self._names if name in trial)


@ray.remote(num_cpus=0)
def _measured(trial: Mapping[str, Any], data: Mapping[str, Any], place: Place) -> None:
    # The lock: the process that was stopped may not be gone yet.
    with worked_in(place, "*") as (folder, _), locked(folder, patience=ORPHAN):
        try:
            measure_stopped(trial, data, folder)
        except Exception as wrong:
            text = " ".join(str(wrong).split())[:300]
            write_json(folder / RESULT, {"status": "KO", "reason": f"failed: stopped early, then not measured: {text}"})


def _number(trial: Trial) -> int:
    return int(trial.config["trial"])


def _lost(trial: Trial) -> str:
    """What is known of a worker that was lost: Ray says that it is, not how."""
    said = trial.get_error()
    if said is not None and not isinstance(said, ray.exceptions.RayActorError):
        return " ".join(str(getattr(said, "cause", said)).split())[-300:]
    return f"its Ray worker was lost {trial.num_failures} times (killed, or its node died)"


def _sha256(folder: Place) -> str | None:
    return read_json(folder / CARD)["sha256"] if (folder / CARD).exists() else None
