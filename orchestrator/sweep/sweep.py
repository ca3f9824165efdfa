"""`dxray sweep`: what was asked and with which faces; the trainings, a table of every trial, and the best net saved."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dxray.models.data.faces import Faces, FacesError, read
from dxray.models.data.images import one_line
from dxray.models.doctor.diagnosis import data_findings
from dxray.models.doctor.evidence import Split
from dxray.models.versions import versions
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, Interrupted, UserError, cannot_write
from dxray.orchestrator.ray.session import capacity, cpus, feeders, gpus, largest_node, memory_for_each
from dxray.orchestrator.ray.shared_storage import joined
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.places import absolute_source
from dxray.orchestrator.runs.store import locked, writable_folder, write_json
from dxray.orchestrator.sweep.grid import Grid, auxiliary_of, expand, says
from dxray.orchestrator.sweep.mlflow_log import MlflowLog
from dxray.orchestrator.sweep.packing import gpu_share, on_a_gpu
from dxray.orchestrator.sweep.search import chosen
from dxray.orchestrator.sweep.tables import CONFIG, FORMAT, ON, best_of, read_record
from dxray.orchestrator.sweep.trial import RESULT
from dxray.orchestrator.sweep.tuning import Limits, run_trials

_SQLITE = "sqlite:///"


@dataclass
class SweepConfig:
    """What decides the tables of a sweep; written to `sweep.json` before the first training, and kept on resume.

    Attributes:
        data, size, classes, label, data_seed: as `faces.read` takes them.
        grid: parameter -> its values, or several such grids, whose union is trained; see `grid.expand`.
        search, samples: how many of the grid's trials are trained, and how they are found; see `search.chosen`.
        stop_early: trainings that lag behind others are stopped, see `search.early_stopping`.
        validate: name -> source of further faces, all of which every net is measured on.
        cpus_per_trial: threads of each training; None: the CPUs shared out among the trainings that run at a time.
        gpus_per_trial: share of a GPU; None: one where there is one; "auto": as much as the hungriest training takes.
        max_concurrent: trainings at a time; None: as many as fit.
        time_limit: seconds for each training; None: no limit.
        memory_limit: GiB for each training; None: the memory shared out among the trainings that run at a time.
        mlflow: address of an MLflow server or store; None: none.
    """

    data: str = "synthetic"
    size: int = 48
    classes: list[str] | None = None
    label: str | None = None
    data_seed: int = 0
    grid: Grid | Sequence[Grid] = field(default_factory=dict)
    search: str = "grid"
    samples: int | None = None
    stop_early: bool = False
    validate: dict[str, str] = field(default_factory=dict)
    cpus_per_trial: int | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    max_concurrent: int | None = None
    time_limit: float | None = None
    memory_limit: float | None = None
    mlflow: str | None = None

    def __post_init__(self) -> None:
        # A resume may come from another folder.
        self.data = absolute_source(self.data)
        self.validate = {name: absolute_source(text) for name, text in self.validate.items()}
        if self.mlflow and self.mlflow.startswith(_SQLITE):
            self.mlflow = f"{_SQLITE}{Path(self.mlflow.removeprefix(_SQLITE)).absolute()}"


def sweep(
    config: SweepConfig, out: Place, console: Console, *, address: str | None = None, faces: Faces | None = None
) -> dict[str, Any]:
    """Train the trials of the grid; returns the rows of the table, and where the best net is.

    The best net is chosen on the validation split; `accuracy` is that of the test split, which decided nothing.

    Args:
        faces: those of `config.data`, where the caller has read them already.

    Raises:
        UserError: the request or the folder is not usable, a split is empty, or no trial could be trained.
        Interrupted: Ctrl-C; the finished trials are in the table.
    """
    todo, data, hashes = asked(config, console, faces)
    out = writable_folder(out, "the sweep's results")
    with locked(out, say=console.say):
        if (out / CONFIG).exists():
            raise UserError(
                f"'{out}' already holds a sweep; choose another --out, or go on with it: dxray sweep --resume '{out}'"
            )
        log = MlflowLog(config.mlflow, out, console) if config.mlflow else None
        with _stops(out, len(todo)), joined(out, address):
            share_out(config, todo, data)
            limits = limits_of(config, console)
            record = {"format": FORMAT, "config": asdict(config), "trials": todo, **hashes}
            write_json(out / CONFIG, record | {"versions": versions()})
            return _train(config, todo, data, out, console, limits, log)


def asked(
    config: SweepConfig, console: Console, faces: Faces | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """The trials to train, what every training gets, and the hashes of its faces.

    Raises:
        UserError: the request makes no sense, or a split is empty.
    """
    todo = chosen(expand(config.grid), config.search, config.samples, config.data_seed)
    if any(trial["refit"] for trial in todo) and (config.stop_early or config.search == "optuna"):
        by = "--stop-early" if config.stop_early else "--search optuna"
        raise UserError(
            f"{by} judges nets by the validation images, which 'refit' has them learn; leave one of them out"
        )
    return todo, *_arrays(config, faces or _read(config, todo, console), console)


def resume(
    out: Place,
    console: Console,
    *,
    data: str | None = None,
    validate: Mapping[str, str] | None = None,
    address: str | None = None,
    faces: Faces | None = None,
) -> dict[str, Any]:
    """Go on with the sweep in `out`: finished trials are not done again, others go on from their last epoch.

    Args:
        data, validate: where the same faces are now, if elsewhere: the hashes of their images, names and labels decide.
            The sweep keeps these places.

    Raises:
        UserError: there is no sweep, its data have changed, or another process works on it.
        Interrupted: Ctrl-C; the finished trials are in the table.
    """
    out = out.expanduser().absolute()
    config, record = recorded(out)
    if others := set(validate or ()) - set(config.validate):
        raise UserError(f"'{out}' is not measured on '{min(others)}'; of --validate only a place can be another")
    begun = asdict(config)
    config = replace(config, data=data or config.data, validate=config.validate | dict(validate or {}))
    try:
        arrays, hashes = _arrays(config, faces or _read(config, record["trials"], console), console)
    except FacesError as wrong:
        raise UserError(f"{wrong}; {_elsewhere(config, out)}") from None
    _must_be_same(config, record, hashes, out)
    with locked(writable_folder(out, "the sweep's results"), say=console.say):
        if asdict(config) != begun:
            record["config"] = asdict(config)
            write_json(out / CONFIG, record)
        log = MlflowLog(config.mlflow, out, console) if config.mlflow else None
        with _stops(out, len(record["trials"])), joined(out, address):
            limits = limits_of(config, console, "the sweep was begun so: go on where a node has them")
            return _train(config, record["trials"], arrays, out, console, limits, log)


def recorded(out: Place) -> tuple[SweepConfig, dict[str, Any]]:
    """What the sweep in `out` was asked, and its record whole.

    Raises:
        UserError: `out` holds no sweep, or one of another format.
    """
    record = read_record(out)
    return SweepConfig(**record["config"]), record


@contextmanager
def _stops(out: Place, nets: int) -> Iterator[None]:
    """What ends a sweep before its time, as one sentence that says what is kept and how to go on."""

    def go_on() -> str:
        with suppress(OSError):  # a bucket that does not answer does not say either
            ended = len(files(out, f"trials/*/{RESULT}"))
            return f"{ended} of {nets} nets are finished and kept; go on with: dxray sweep --resume '{out}'"
        return f"what is finished is kept; go on with: dxray sweep --resume '{out}'"

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by Ctrl-C; {go_on()}") from None
    except UserError:
        raise
    except Exception as wrong:
        disk: BaseException | None = wrong
        while disk and not isinstance(disk, OSError):
            disk = disk.__cause__ or disk.__context__
        # One without a number is a bucket's, or comes from a trial's process, which tells of its folder alone.
        if not isinstance(disk, OSError) or disk.errno not in (None, *FULL):
            raise
        raise cannot_write(out, one_line(disk, 200), go_on()) from None


def share_out(config: SweepConfig, todo: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> None:
    """Fill in, for good, what the request leaves to the cluster that is connected."""
    nets = len(todo)
    if config.gpus_per_trial is None:
        config.gpus_per_trial = float(gpus() > 0)
    if config.gpus_per_trial == "auto" and not gpus():
        config.gpus_per_trial = 0.0
    if config.gpus_per_trial == "auto":
        shape, classes = data["train"][0].shape[1:], len(data["classes"])
        config.gpus_per_trial = gpu_share(todo, shape, classes, feeders(), on_a_gpu)
    if config.cpus_per_trial is None:
        # Where there are fewer nets than CPUs each gets several threads; else one each wastes least.
        config.cpus_per_trial = max(1, min(largest_node(), cpus() // min(nets, config.max_concurrent or nets)))
    if config.memory_limit is None and not config.gpus_per_trial:
        threads = config.cpus_per_trial
        at_once = min(nets, config.max_concurrent or nets, capacity(threads, 0))
        # Two digits: the table says it, and should say the same on a day with a little less memory.
        config.memory_limit = float(f"{memory_for_each(threads, 0, max(1, at_once)) * 0.95:.2g}")


def _train(
    config: SweepConfig,
    todo: list[dict[str, Any]],
    data: Mapping[str, Any],
    out: Place,
    console: Console,
    limits: Limits,
    log: MlflowLog | None,
) -> dict[str, Any]:
    rows = run_trials(
        todo,
        data,
        out,
        console,
        limits,
        study=(config.samples or 0, config.data_seed) if config.search == "optuna" else None,
        stop_early=config.stop_early,
        log=log,
    )
    best = best_of(rows)
    if best is None:
        raise UserError(f"none of the {len(rows)} nets could be trained; the first: {rows[0]['reason']}")
    for name in best.get("swapped") or ():
        share = best[f"{ON}{name}"]
        console.say(
            f"warning: of the faces of --validate {name} the best net has {share:.1%} right, surely fewer than by "
            f"guessing: their labels are swapped, or mean something else; write them as words, such as "
            f"{' and '.join(data['classes'][:2])}, or swap their numbers"
        )
    return {"out": str(out), "best": str(out / "best"), "best_trial": best, "trials": rows}


def limits_of(
    config: SweepConfig, console: Console, advice: str = "give less by --cpus-per-trial and --gpus-per-trial"
) -> Limits:
    """UserError, with the advice, where the cluster has nothing that even one training would fit on."""
    threads, share, gib = config.cpus_per_trial or 1, float(config.gpus_per_trial or 0.0), config.memory_limit
    most = capacity(threads, share)
    if not most:
        raise UserError(
            f"no node has the {threads} CPUs and {share:g} GPUs that a training is to have "
            f"(the cluster has {cpus()} and {gpus():g}); {advice}"
        )
    if gib and not share:
        there = memory_for_each(threads, share, 1)
        if gib > there:
            console.say(f"memory: {gib:g} GiB are allowed for each net, but only {there:.3g} GiB are there")
            gib = there
        most = max(1, capacity(threads, share, gib))
    return Limits(threads, share, config.time_limit, gib, min(most, config.max_concurrent or most))


def _read(config: SweepConfig, todo: Sequence[Mapping[str, Any]], console: Console) -> Faces:
    auxiliary = sorted({name for trial in todo for name in auxiliary_of(trial)})
    with console.share(f"reading {config.data}") as on_share:
        faces = read(
            config.data,
            size=config.size,
            seed=config.data_seed,
            classes=config.classes or None,
            label=config.label,
            auxiliary=auxiliary,
            on_share=on_share,
        )
    console.say(faces.summary())
    if untold := [name for name in auxiliary if name not in faces.auxiliary]:
        console.say(f"'{config.data}' tells no {' and no '.join(untold)}, so that is not learnt beside the class")
    return faces


def _arrays(config: SweepConfig, faces: Faces, console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every training gets, as plain arrays, and the hashes of all faces in it, as they are recorded."""
    hashes: dict[str, Any] = {"data_sha256": faces.sha256()}
    data: dict[str, Any] = {"classes": faces.classes, "source": faces.source, "sha256": hashes["data_sha256"]}
    data["attacked"] = says(config.grid, "defense")
    auxiliary = {}
    for name in ("train", "validation", "test"):
        split = faces.shuffled(name)
        if not len(split):
            raise UserError(f"'{faces.source}' has no {name} images; give a source with more faces")
        data[name] = (split.images, split.labels)
        auxiliary[name] = split.auxiliary
    told = {name: (auxiliary["train"][name], auxiliary["validation"][name]) for name in faces.auxiliary}
    data["auxiliary"] = {name: np.concatenate(both) for name, both in told.items()}
    splits = {name: Split(*data[name]) for name in ("train", "test")}
    data["findings"] = data_findings(splits, faces.classes)
    others = {name: _other(name, source, config, faces, console) for name, source in config.validate.items()}
    data["validate"] = {name: (other.images, other.labels) for name, other in others.items()}
    if others:
        hashes["validate_sha256"] = {name: other.sha256() for name, other in others.items()}
        for name, other in others.items():
            console.say(f"also measured on {name}: {len(other):,} faces of {other.source}; {other.labelled_by}")
    return data, hashes


def _other(name: str, source: str, config: SweepConfig, faces: Faces, console: Console) -> Faces:
    """The faces of a `--validate`, as the nets take them."""
    kind = source.partition(":")[0]
    channels, size = faces.images.shape[1], faces.images.shape[2:]
    with console.share(f"reading {source}") as on_share:
        found = read(
            source,
            size=(size[0], size[1]),
            channels=channels,
            seed=config.data_seed,
            classes=config.classes or None,
            label=config.label if kind in ("parquet", "hf") else None,
            on_share=on_share,
        )
    if tuple(found.classes) != tuple(faces.classes):
        raise UserError(
            f"--validate {name}={source} has the classes {', '.join(found.classes)}, and the nets learn "
            f"{', '.join(faces.classes)}; give faces of the same classes, in the same order"
        )
    return found


def _must_be_same(config: SweepConfig, record: Mapping[str, Any], hashes: Mapping[str, Any], out: Place) -> None:
    """UserError where a source does not hold the faces of the record."""
    known = {config.data: (record["data_sha256"], hashes["data_sha256"])}
    for name, source in config.validate.items():
        known[source] = (record["validate_sha256"][name], hashes["validate_sha256"][name])
    for source, (then, now) in known.items():
        if then != now:
            raise UserError(
                f"'{source}' holds other faces than when '{out}' was started (another image, name or label); put them "
                f"back; {_elsewhere(config, out)}"
            )


def _elsewhere(config: SweepConfig, out: Place) -> str:
    others = " and --validate NAME=SOURCE" if config.validate else ""
    return f"if they are elsewhere now, say where: dxray sweep --resume '{out}' --data SOURCE{others}"
