"""The trainings of a sweep as trials of Ray Tune: how many at a time, in which order, within which limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from logging import CRITICAL, getLogger
from typing import Any

import ray
from ray import tune
from ray.tune.logger import TBXLoggerCallback

from dxray.models.nets import build
from dxray.models.training.cost import multiplications
from dxray.orchestrator.console import Console
from dxray.orchestrator.ray.session import BASE, cpus, gpus
from dxray.orchestrator.runs.buckets import Place, files, in_arrow
from dxray.orchestrator.runs.word import telling
from dxray.orchestrator.runs.working_copy import worked_in
from dxray.orchestrator.sweep.callbacks import LOST, Watcher, folder_of
from dxray.orchestrator.sweep.grid import of_net
from dxray.orchestrator.sweep.mlflow_log import MlflowLog
from dxray.orchestrator.sweep.search import HALVE, CellSearcher, Study, early_stopping
from dxray.orchestrator.sweep.trial_process import Unwritable, run_trial

Trials = Sequence[Mapping[str, Any]]


@dataclass
class Limits:
    """What each training may take: threads, share of a GPU, seconds, GiB; and how many run at a time at most."""

    threads: int
    gpu_share: float
    seconds: float | None
    gib: float | None
    at_once: int

    def resources(self) -> dict[str, float]:
        """What Ray sets apart for each. Memory too, so that a node is never promised more than it has."""
        asked = {"cpu": float(self.threads), "gpu": self.gpu_share}
        # With a GPU the limit is of the GPU's memory, of which Ray knows nothing.
        return asked | ({"memory": (self.gib + BASE) * 2**30} if self.gib and not self.gpu_share else {})


def run_trials(
    trials: Trials,
    data: Mapping[str, Any],
    out: Place,
    console: Console,
    limits: Limits,
    *,
    study: tuple[int, int] | None = None,
    stop_early: bool = False,
    log: MlflowLog | None = None,
) -> list[dict[str, Any]]:
    """Train what has not ended of `trials`; the rows of all that have ended, in the order of `trials`.

    Args:
        data: as `trial.train_trial` takes it; put into Ray's object store once and read there by every training.
        out: the sweep's folder, absolute, or its place in a bucket.
        study: how many trials Optuna may propose, and its seed; None: all of `trials` are trained.

    Raises:
        OSError, or an exception that it has led to: `out` takes no more.
    """
    shared = ray.put(data)
    work = [work_of(trial, data) for trial in trials]
    watcher = Watcher(trials, work, out, shared, log.add if log else None)
    known = watcher.known()
    if study:
        proposals = Study(trials, out, samples=study[0], seed=study[1], rows=watcher.rows)
        left, total, propose = [i for i in proposals.proposed if i not in known], study[0], proposals.propose
    else:
        # The costliest first: where a long training begins last, all other CPUs wait for it.
        left, total = sorted(set(range(len(trials))) - known, key=lambda i: (-work[i], i)), len(trials)
        propose = _none
    to_come = min(total, len(trials)) - len(known)
    console.say(
        f"sweep: {to_come} of {min(total, len(trials))} nets to train, {min(limits.at_once, max(1, to_come))} at a "
        f"time with {limits.threads} CPU each, on {cpus()} CPUs and {gpus():g} GPUs"
        + (f"; each may take {limits.gib:.3g} GiB" if limits.gib else "")
    )
    system, path = in_arrow(out)
    tuner = tune.Tuner(
        tune.with_resources(
            # A list, for Tune would put the reference itself into the store.
            tune.with_parameters(_trial, trials=trials, shared=[shared], out=out, limits=limits),
            limits.resources(),
        ),
        tune_config=tune.TuneConfig(
            search_alg=CellSearcher(trials, left, propose),
            scheduler=early_stopping(max(trial["epochs"] for trial in trials), watcher.rows) if stop_early else None,
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=limits.at_once,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{len({file.parent for file in files(out, 'tune-*/*')})}",
            storage_path=path,
            storage_filesystem=system,
            callbacks=[watcher, TBXLoggerCallback()],
            failure_config=tune.FailureConfig(max_failures=LOST),
            progress_reporter=tune.CLIReporter(),  # silent by the next line; that of notebooks wipes a cell's output
            verbose=0,
        ),
    )
    getLogger("ray.tune").setLevel(CRITICAL)  # a failed trial is a row of the table, not a traceback
    average = sum(work) / len(work)
    if to_come:
        to_do = sum(work[i] for i in left) + average * (to_come - len(left))
        with console.board(to_come, to_do) as watcher.board:
            tuner.fit()
    watcher.settle()
    return watcher.table()


def _trial(config: dict[str, Any], trials: Trials, shared: list[ray.ObjectRef], out: Place, limits: Limits) -> None:
    """All that Tune knows of a trial."""
    import torch._dynamo  # noqa: F401  # here, once: optimizers load it, which takes each process a second

    index = config["trial"]
    trial = trials[index]

    def report(row: dict[str, Any]) -> None:
        keep()  # first: whoever stops the training by this report finds its state
        figures = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        # The step by which TensorBoard draws, also after a training went on elsewhere.
        figures["timesteps_total"] = row["epoch"]
        tune.report(figures if row["epoch"] == trial["epochs"] else figures | {HALVE: row["epoch"]})

    try:
        place = folder_of(out, index)
        with worked_in(place, "*") as (folder, keep), telling(place) as tell:
            run_trial(
                trial,
                ray.get(shared[0]),
                folder,
                time_limit=limits.seconds,
                on_epoch=report,
                on_share=lambda share: tell({"share": share}),
                threads=limits.threads,
                memory_limit=limits.gib,
                gpu_share=limits.gpu_share or 1.0,
            )
        tune.report({"ended": True})
    except (Unwritable, OSError) as wrong:
        tune.report({"unwritable": str(wrong)})


def work_of(trial: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    """What a training costs beside others: multiplications over all epochs. 0 where the trial makes no net."""
    images = data["train"][0]
    learnt = len(images) + (len(data["validation"][0]) if trial["refit"] else 0)
    if trial["train_size"] is not None:
        learnt = min(learnt, trial["train_size"])
    free = ("dropout", "tta_flip", "tta_shift")  # which multiply nothing in a training
    net = tuple((name, value) for name, value in of_net(trial).items() if name not in free)
    try:
        return _multiplications(trial["net"], net, images.shape[1:], len(data["classes"])) * learnt * trial["epochs"]
    except (ValueError, RuntimeError):
        return 0.0  # its training will say why


@cache
def _multiplications(net: str, parameters: tuple[tuple[str, Any], ...], shape: tuple[int, ...], classes: int) -> int:
    return multiplications(
        lambda: build(net, **dict(parameters), channels=shape[0], size=shape[1:], classes=classes), shape
    )


def _name(trial: Any) -> str:
    return f"{trial.config['trial']:04d}"


def _none() -> None:
    return None
