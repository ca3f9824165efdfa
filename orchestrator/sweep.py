"""`dxray sweep`: Ray Tune spreads the grid over workers; a table of every cell, and the best net saved."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from models.checkpoint import CARD, WEIGHTS, versions
from models.faces import Faces, read
from orchestrator.cell import RESULT, train_cell
from orchestrator.console import Bar, Console
from orchestrator.errors import Interrupted, UserError
from orchestrator.grid import Grid, cells, varied
from orchestrator.ray_session import connected, cpus, gpus
from orchestrator.store import locked, read_json, replace_folder, writable_folder, write_json
from orchestrator.trials import best_of, trial_row, write_tables

FORMAT = "dxray sweep 1"
CONFIG = "sweep.json"
CRASHES = 2  # a cell whose process dies is begun again (from its last epoch) that often


@dataclass
class SweepConfig:
    """What decides the tables of a sweep; written to `sweep.json` before the first training, and kept on resume.

    Attributes:
        data, size, classes, label, data_seed: as `models.faces.read` takes them.
        grid: parameter -> its values, or several such grids, whose union is trained; see `grid.cells`.
        cpus_per_trial: threads of each training; None: the CPUs shared out among the trainings that run at a time.
        gpus_per_trial: share of a GPU; None: one where there is one.
        max_concurrent: trainings at a time; None: as many as fit.
        time_limit, memory_limit: seconds and GiB for each training; None: no limit.
    """

    data: str = "synthetic"
    size: int = 48
    classes: list[str] | None = None
    label: str | None = None
    data_seed: int = 0
    grid: Grid | Sequence[Grid] = field(default_factory=dict)
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    time_limit: float | None = None
    memory_limit: float | None = None


def sweep(
    config: SweepConfig, out: Path, console: Console, *, address: str | None = None, faces: Faces | None = None
) -> dict[str, Any]:
    """Train every cell of the grid; returns the rows of the table, and where the best net is.

    The best net is chosen on the validation split; `accuracy` is that of the test split, which decided nothing.

    Args:
        faces: those of `config.data`, where the caller has read them already.

    Raises:
        UserError: the grid or the folder is not usable, a split is empty, or no cell could be trained.
        Interrupted: Ctrl-C; the finished cells are in the table.
    """
    todo = cells(config.grid)
    data = _arrays(faces or _read(config, console))
    out = writable_folder(out, "the sweep's results")
    with locked(out):
        if (out / CONFIG).exists():
            raise UserError(f"'{out}' already holds a sweep; choose another --out, or go on with it: {_resume(out)}")
        with connected(address):
            if config.gpus_per_trial is None:
                config.gpus_per_trial = float(gpus() > 0)
            if config.cpus_per_trial is None:
                # Where there are fewer nets than CPUs each gets several threads; else one each wastes least.
                config.cpus_per_trial = max(1, cpus() // min(len(todo), config.max_concurrent or len(todo)))
            record = {"format": FORMAT, "config": asdict(config), "cells": todo, "data_sha256": data["sha256"]}
            write_json(out / CONFIG, record | {"versions": versions()})
            return _run(config, todo, data, out, console)


def resume(out: Path, console: Console, *, address: str | None = None, faces: Faces | None = None) -> dict[str, Any]:
    """Go on with the sweep in `out`: finished cells are not done again, others go on from their last epoch.

    Raises:
        UserError: there is no sweep, its data have changed, or another process works on it.
        Interrupted: Ctrl-C; the finished cells are in the table.
    """
    out = out.expanduser().absolute()
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the sweep anew in another folder")
    config = SweepConfig(**record["config"])
    data = _arrays(faces or _read(config, console))
    if data["sha256"] != record["data_sha256"]:
        raise UserError(f"'{config.data}' holds other faces than when '{out}' was started; put them back")
    with locked(writable_folder(out, "the sweep's results")), connected(address):
        return _run(config, record["cells"], data, out, console)


def _run(
    config: SweepConfig, todo: Sequence[dict[str, Any]], data: dict[str, Any], out: Path, console: Console
) -> dict[str, Any]:
    watcher = Watcher(todo, out)
    left = [i for i in range(len(todo)) if i not in watcher.rows]
    threads = config.cpus_per_trial or 1
    at_once = int(min(len(left), config.max_concurrent or len(left), max(1, cpus() // threads)))
    console.say(
        f"sweep: {len(left)} of {len(todo)} nets to train, {at_once} at a time with {threads} CPU each, "
        f"on {cpus()} CPUs and {gpus():g} GPUs"
    )
    if left:
        limits = {"threads": threads, "time_limit": config.time_limit, "memory_limit": config.memory_limit}
        share = {"cpu": threads, "gpu": config.gpus_per_trial or 0}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, data=data, out=out, limits=limits), share),
            param_space={"trial": tune.grid_search([{"index": i, "cell": todo[i]} for i in left])},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=config.max_concurrent or 0),
            run_config=tune.RunConfig(
                name=f"tune-{len(list(out.glob('tune-*')))}",
                storage_path=str(out),
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=CRASHES),
                verbose=0,
            ),
        )
        getLogger("ray.tune").setLevel(CRITICAL)  # a failed cell is a row of the table, not a traceback
        try:
            with console.bar("training", sum(todo[i]["epochs"] for i in left), "epochs") as watcher.bar:
                tuner.fit()
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped by Ctrl-C; {len(watcher.rows)} of {len(todo)} nets are finished and in the table; "
                f"go on with: {_resume(out)}"
            ) from None
    rows = watcher.table()
    best = best_of(rows)
    if best is None:
        raise UserError(f"none of the {len(rows)} nets could be trained; the first: {rows[0]['reason']}")
    return {"out": str(out), "best": str(out / "best"), "best_trial": best, "trials": rows}


def _trial(config: dict[str, Any], data: dict[str, Any], out: Path, limits: dict[str, Any]) -> None:
    """All that Tune knows of a cell."""
    index, cell = config["trial"]["index"], config["trial"]["cell"]
    train_cell(cell, data, _folder(out, index), on_epoch=tune.report, **limits)
    tune.report({"ended": True})


class Watcher(tune.Callback):
    """Keeps tables and best net as cells end, so that these are on disk whatever happens next; drives the bar."""

    def __init__(self, cells: Sequence[Mapping[str, Any]], out: Path) -> None:
        self.cells, self.out = cells, out
        self.bar: Bar | None = None
        self.rows: dict[int, dict[str, Any]] = {}
        self._names = varied(cells) or ["net"]
        for index in range(len(cells)):
            if (_folder(out, index) / RESULT).exists():
                self._keep(index)
        if self.rows:
            self._write()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside its state; a bar that is being drawn cannot be."""
        return vars(self) | {"bar": None}

    def table(self) -> list[dict[str, Any]]:
        return [self.rows[index] for index in sorted(self.rows)]

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if self.bar and "validation_accuracy" in result:
            self.bar.advance(1, f"{self._called(trial)}: validation {result['validation_accuracy']:.1%}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        result = _folder(self.out, trial.config["trial"]["index"]) / RESULT
        if not result.exists():
            reason = f"crashed: its process died {CRASHES + 1} times (killed, or a fault in native code)"
            write_json(result, {"status": "KO", "reason": reason})
        self._ended(trial)

    def _ended(self, trial: Any) -> None:
        row = self._keep(trial.config["trial"]["index"])
        self._write()
        if self.bar and row["status"] == "ok":
            self.bar.log(f"done: {self._called(trial)}: test {row['accuracy']:.2%} in {row['seconds']:.0f} s")
        elif self.bar:
            self.bar.log(f"KO: {self._called(trial)}: {row['reason']}")

    def _keep(self, index: int) -> dict[str, Any]:
        row = trial_row(index, self.cells[index], read_json(_folder(self.out, index) / RESULT))
        self.rows[index] = row
        return row

    def _write(self) -> None:
        rows = self.table()
        write_tables(self.out, rows)
        best = best_of(rows)
        if best and _sha256(self.out / "best") != best["sha256"]:
            replace_folder(_folder(self.out, best["cell"]), self.out / "best", only=(CARD, WEIGHTS))

    def _called(self, trial: Any) -> str:
        cell = trial.config["trial"]["cell"]
        return " ".join(f"{name}={cell[name]}" for name in self._names if name in cell)


def _folder(out: Path, index: int) -> Path:
    return out / "cells" / f"{index:04d}"


def _sha256(folder: Path) -> str | None:
    return read_json(folder / CARD)["sha256"] if (folder / CARD).exists() else None


def _resume(out: Path) -> str:
    return f"dxray sweep --resume '{out}'"


def _read(config: SweepConfig, console: Console) -> Faces:
    faces = read(
        config.data, size=config.size, seed=config.data_seed, classes=config.classes or None, label=config.label
    )
    console.say(faces.summary())
    return faces


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
