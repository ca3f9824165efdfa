"""`dxray sweep`: Ray Tune spreads the grid over workers; a table of every cell, and the best net saved."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from ray import tune

from models.checkpoint import ModelCard, save
from models.faces import Faces
from models.train import evaluate, fit
from orchestrator.console import Bar, Console
from orchestrator.errors import Interrupted, UserError
from orchestrator.grid import FIT_PARAMETERS, NET_PARAMETERS, cells, varied
from orchestrator.ray_session import cpus, gpus, ray_session
from orchestrator.store import replace_folder, writable_folder, write_json, write_table

CONFIG = "sweep.json"
TABLE = "trials.parquet"


def train_cell(cell: Mapping[str, Any], data: dict[str, Any], *, threads: int = 1) -> None:
    """One trial: build, fit, evaluate, report. All that is not reporting is in `models/`."""
    torch.set_num_threads(threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
    card = ModelCard(
        net=cell["net"],
        parameters={name: cell[name] for name in NET_PARAMETERS if name in cell},
        classes=data["classes"],
        channels=data["train"][0].shape[1],
        size=data["train"][0].shape[2:],
    )
    torch.manual_seed(cell["seed"])
    net = card.build()
    images, labels = data["train"]
    images, labels = images[: cell.get("train_size")], labels[: cell.get("train_size")]
    epochs = cell["epochs"]
    started = time.perf_counter()

    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] < epochs:
            tune.report(row)

    options = {name: cell[name] for name in FIT_PARAMETERS if name in cell}
    history = fit(net, images, labels, validation=data["validation"], seed=cell["seed"], on_epoch=on_epoch, **options)
    seconds = time.perf_counter() - started
    last = history[-1]
    measured = {
        "accuracy": evaluate(net, *data["test"])["accuracy"],
        "validation_accuracy": last["validation_accuracy"],
        "train_accuracy": last["train_accuracy"],
        "parameter_count": sum(p.numel() for p in net.parameters()),
        "train_seconds": seconds,
    }
    card.trained = {"cell": dict(cell), "data": data["source"], "data_sha256": data["sha256"], **measured}
    card.trained["train_images"] = len(images)
    with tempfile.TemporaryDirectory() as folder:
        save(net, card, folder)
        tune.report(last | measured, checkpoint=tune.Checkpoint.from_directory(folder))


def sweep(
    faces: Faces,
    grid: Mapping[str, Sequence[Any]],
    out: Path,
    console: Console,
    *,
    address: str | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
) -> dict[str, Any]:
    """Train every cell of `grid` on `faces`; returns the table's rows, best first, and where the best net is.

    The best net is chosen on the validation split; `accuracy` is that of the test split, which decided nothing.

    Raises:
        UserError: the grid or the folder is not usable, a split is empty, or no cell could be trained.
        Interrupted: Ctrl-C; the finished cells are in the table.
    """
    todo = cells(grid)
    data = _arrays(faces)
    out = writable_folder(out, "the sweep's results")
    if (out / CONFIG).exists():
        raise UserError(f"'{out}' already holds a sweep; choose another folder with --out")
    write_json(out / CONFIG, {"data": faces.source, "data_sha256": data["sha256"], "grid": dict(grid), "cells": todo})
    with ray_session(address):
        share = gpus_per_trial if gpus_per_trial is not None else float(gpus() > 0)
        # Where there are fewer nets than CPUs, each gets several; one thread each wastes least where there are not.
        threads = cpus_per_trial or max(1, cpus() // min(len(todo), max_concurrent or len(todo)))
        at_once = int(min(len(todo), max_concurrent or len(todo), max(1, cpus() // threads)))
        console.say(
            f"sweep: {len(todo)} nets to train, {at_once} at a time with {threads} threads each, "
            f"on {cpus()} CPUs and {gpus():g} GPUs"
        )
        with console.bar("training", sum(cell["epochs"] for cell in todo), "epochs") as bar:
            watcher = Watcher(bar, todo, out)
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(_trial, data=data, threads=threads),
                    {"cpu": threads, "gpu": share},
                ),
                param_space={"trial": tune.grid_search([{"index": i, "cell": cell} for i, cell in enumerate(todo)])},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=max_concurrent or 0),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(out), callbacks=[watcher], verbose=0, log_to_file=False
                ),
            )
            getLogger("ray.tune").setLevel(CRITICAL)  # a failed cell is a row of the table, not a traceback
            try:
                tuner.fit()
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped by Ctrl-C; {len(watcher.rows)} of {len(todo)} nets are finished: their rows are in "
                    f"'{out / TABLE}', the best of them in '{out / 'best'}'"
                    if watcher.rows
                    else f"stopped by Ctrl-C before any of {len(todo)} nets was finished"
                ) from None
    rows = [watcher.rows[i] for i in sorted(watcher.rows)]
    if watcher.best is None:
        raise UserError(f"none of the {len(rows)} nets could be trained; the first: {rows[0]['reason']}")
    return {"out": str(out), "best": str(out / "best"), "best_trial": watcher.best, "trials": rows}


def show_table(result: Mapping[str, Any], console: Console) -> None:
    """The table of a sweep, best first, with only the parameters that differ."""
    trials = sorted(result["trials"], key=lambda row: -(row.get("validation_accuracy") or -1))
    names = varied([{name: row.get(name) for name in _PARAMETERS} for row in trials]) or ["net"]
    header = [*names, "parameters", "validation", "test", "seconds"]
    rows = []
    for row in trials:
        said = [row.get(name) for name in names]
        if row["status"] == "ok":
            shares = [f"{row[name]:.2%}" for name in ("validation_accuracy", "accuracy")]
            rows.append([*said, f"{row['parameter_count']:,}", *shares, f"{row['train_seconds']:.0f}"])
        else:
            rows.append([*said, None, "KO", row["reason"], None])
    console.table("accuracy of each net", header, rows)


_PARAMETERS = ("net", *NET_PARAMETERS, *FIT_PARAMETERS, "train_size", "seed")
_FLOATS = ("dropout", "lr", "weight_decay", "label_smoothing")
_WORDS = ("net", "optimizer", "schedule")
_SWITCHES = ("batch_norm", "augment")

# One row per cell; null where the cell leaves a parameter to the net's or the training's own default.
TRIALS = pa.schema(
    [("cell", pa.int32())]
    + [
        (
            name,
            pa.float64()
            if name in _FLOATS
            else pa.string()
            if name in _WORDS
            else pa.bool_()
            if name in _SWITCHES
            else pa.int64(),
        )
        for name in _PARAMETERS
    ]
    + [("status", pa.string()), ("reason", pa.string())]
    + [(name, pa.float64()) for name in ("accuracy", "validation_accuracy", "train_accuracy", "loss")]
    + [("parameter_count", pa.int64()), ("train_seconds", pa.float64())]
)


class Watcher(tune.Callback):
    """Keeps table and best net as trials end, so that these are on disk whatever happens next; drives the bar."""

    def __init__(self, bar: Bar, cells: Sequence[Mapping[str, Any]], out: Path) -> None:
        self.bar, self.cells, self.out = bar, cells, out
        self.rows: dict[int, dict[str, Any]] = {}
        self.best: dict[str, Any] | None = None
        self._names = varied(cells) or ["net"]

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside its state; a bar that is being drawn cannot be."""
        return {name: value for name, value in vars(self).items() if name != "bar"}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if result.get("status") == "KO":
            return
        note = f"{self._called(trial)}: validation {result['validation_accuracy']:.1%}"
        self.bar.advance(1, note)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        result = trial.last_result
        if result.get("status") == "KO":
            self._failed(trial, result["reason"])
            return
        measured = ("accuracy", "validation_accuracy", "train_accuracy", "loss", "parameter_count", "train_seconds")
        row = self._keep(trial, {"status": "ok", "reason": None} | {name: result[name] for name in measured})
        # The first of equals stays, whatever the order in which they ended.
        if self.best is None or _rank(row) > _rank(self.best):
            self.best = row
            with trial.checkpoint.as_directory() as folder:
                replace_folder(Path(folder), self.out / "best")
        self.bar.log(f"done: {self._called(trial)}: test {row['accuracy']:.2%} in {row['train_seconds']:.0f} s")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._failed(trial, "its worker process died: killed, out of memory, or a crash in native code")

    def _failed(self, trial: Any, reason: str) -> None:
        self._keep(trial, {"status": "KO", "reason": reason})
        self.bar.log(f"KO: {self._called(trial)}: {reason}")

    def _keep(self, trial: Any, row: dict[str, Any]) -> dict[str, Any]:
        index, cell = trial.config["trial"]["index"], trial.config["trial"]["cell"]
        row = {"cell": index, **{name: cell.get(name) for name in _PARAMETERS}, **row}
        self.rows[index] = row
        table = pa.Table.from_pylist([self.rows[i] for i in sorted(self.rows)], schema=TRIALS)
        write_table(self.out / TABLE, table)
        return row

    def _called(self, trial: Any) -> str:
        cell = trial.config["trial"]["cell"]
        return " ".join(f"{name}={cell[name]}" for name in self._names if name in cell)


def _rank(row: dict[str, Any]) -> tuple[float, int]:
    return row["validation_accuracy"], -row["cell"]


def _trial(config: dict[str, Any], data: dict[str, Any], threads: int) -> None:
    try:
        train_cell(config["trial"]["cell"], data, threads=threads)
    except Exception as wrong:
        # A result like any other: Tune would print the traceback, and restart the worker for the next cell.
        text = " ".join(str(wrong).split())
        tune.report({"status": "KO", "reason": text[:200] if text else type(wrong).__name__})


def _arrays(faces: Faces) -> dict[str, Any]:
    """The splits as plain arrays: put into Ray's object store once, read by every trial without a copy."""
    data: dict[str, Any] = {"classes": faces.classes, "source": faces.source, "sha256": faces.sha256()}
    for name in ("train", "validation", "test"):
        split = faces.split(name)
        if not len(split):
            raise UserError(f"'{faces.source}' has no {name} images; give a source with more faces")
        # In an order of its own: rows are sorted by name, and `train_size` takes the first.
        order = np.random.default_rng(0).permutation(len(split))
        data[name] = (split.images[order], split.labels[order])
    return data
