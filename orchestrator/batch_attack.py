"""`dxray attack`: a folder of faces, attacked by Ray tasks, a shard each; a stopped run goes on where it was."""

import inspect
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks import find
from attacks.checks import Finding, check
from attacks.lattice import from_levels
from defenses.victim import restore
from models.checkpoint import CARD, CheckpointError, ModelCard, versions
from models.images import UnreadableImage, decode
from models.victim import payload_name, read
from orchestrator.console import Console
from orchestrator.errors import Interrupted, UserError
from orchestrator.inputs import Input, fingerprint, list_inputs
from orchestrator.ray_session import connected, cpus
from orchestrator.shards import Job, attack_shard
from orchestrator.store import locked, read_json, read_rows, writable_folder, write_bytes, write_json

FORMAT = "dxray attack 1"
CONFIG = "attack.json"
STATUSES = ("fooled", "missed", "already_wrong", "is_target", "unreadable")
CHECKED = 32  # images that the net is looked at with before the run
PNG_LIMIT = 10_000  # a folder of more triples than that is slow for every tool; the parts hold them all the same


@dataclass
class AttackConfig:
    """What decides the rows of a run; written to `attack.json` before the first shard starts, and kept on resume."""

    paths: list[str]
    model: str
    labels: str = "auto"
    attack: str = "dx"
    options: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    seed: int = 0
    png: bool | None = None
    raw: bool = False
    name: str | None = None


def attack(config: AttackConfig, out: Path, console: Console, *, address: str | None = None) -> dict[str, Any]:
    """Start a run in `out`; returns its summary.

    Raises:
        UserError: the inputs, the model, or `out` (it already holds a run, it cannot be written to) are not usable.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    _check_options(config.attack, config.options)
    card_bytes, weights = read(config.model)
    net, card = restore(card_bytes, weights)
    config.paths = [str(Path(path).expanduser().absolute()) for path in config.paths]
    inputs = list_inputs(config.paths, classes=card.classes, labels=config.labels)
    if config.name is not None and len(inputs) != 1:
        raise UserError(f"--name names the files of a single face, but {len(inputs):,} were given; leave it out")
    if config.name is not None and (Path(config.name).name != config.name or not config.name.isprintable()):
        raise UserError(f"--name '{config.name}' is no plain name; give one without slashes, such as curie_marie")
    if config.target is not None and config.target not in card.classes:
        raise UserError(f"the net knows no class '{config.target}'; its classes are: {', '.join(card.classes)}")
    out = writable_folder(out, "the attack's results")
    with locked(out):
        if (out / CONFIG).exists():
            state = "a finished run" if "counts" in read_json(out / CONFIG) else "an unfinished run"
            raise UserError(f"'{out}' already holds {state}; choose another --out, or go on with it: {_resume(out)}")
        if config.png is None:
            config.png = len(inputs) <= PNG_LIMIT
        write_bytes(out / "model" / payload_name(card_bytes), weights)
        write_bytes(out / "model" / CARD, card_bytes)
        findings = _findings(net, card, inputs)
        for finding in findings:
            console.say(f"warning: the net may not be fit to be attacked: {finding}")
        with connected(address):
            record = {
                "format": FORMAT,
                "config": asdict(config),
                "inputs": len(inputs),
                "inputs_sha256": fingerprint(inputs),
                "net_sha256": card.sha256,
                "classes": card.classes,
                "findings": [asdict(finding) for finding in findings],
                "shard_size": _shard_size(len(inputs), cpus()),
                "versions": versions(),
            }
            write_json(out / CONFIG, record)
            return _run(record, inputs, out, console)


def resume(out: Path, console: Console, *, address: str | None = None) -> dict[str, Any]:
    """Go on with the run in `out`: shards whose part is there are not done again.

    Raises:
        UserError: there is no run, its inputs or its model have changed, or another process works on it.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    out = out.expanduser().absolute()
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the run anew in another folder")
    config = AttackConfig(**record["config"])
    inputs = list_inputs(config.paths, classes=record["classes"], labels=config.labels)
    if fingerprint(inputs) != record["inputs_sha256"]:
        raise UserError(
            f"the inputs of '{out}' have changed since it was started ({record['inputs']:,} then, {len(inputs):,} now, "
            "or other names); put them back, or start a run in another folder"
        )
    try:
        _, card = restore(*read(out / "model"))
    except CheckpointError as wrong:
        raise UserError(f"the net in '{out / 'model'}' is not usable: {wrong}") from None
    if card.sha256 != record["net_sha256"]:
        raise UserError(f"the net in '{out / 'model'}' is not the one this run was started with; put it back")
    writable_folder(out, "the attack's results")
    with locked(out), connected(address):
        return _run(record, inputs, out, console)


def summarise(out: Path) -> dict[str, Any]:
    """Counts by status, how many of the faces that the net had right were fooled, and quantiles of the distances."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    distances: dict[str, list[float]] = {"l0": [], "l1": [], "l2": [], "linf": []}
    gradients = 0
    for row in read_rows(out, ["status", "reason", "gradients", *distances]):
        counts[row["status"]] += 1
        if row["status"] == "unreadable":
            reasons[row["reason"]] += 1
        if row["status"] == "fooled":
            for name, values in distances.items():
                values.append(row[name])
        gradients += row["gradients"] or 0
    right = counts["fooled"] + counts["missed"]
    return {
        "inputs": counts.total(),
        "counts": {status: counts[status] for status in STATUSES},
        "unreadable_reasons": dict(reasons),
        "right": right,
        "fooled_share": counts["fooled"] / right if right else None,
        "distances": {name: _quantiles(values) for name, values in distances.items()},
        "gradients_per_image": gradients / right if right else None,
    }


def _run(record: dict[str, Any], inputs: Sequence[Input], out: Path, console: Console) -> dict[str, Any]:
    import ray

    config = AttackConfig(**record["config"])
    job = Job(
        out=out,
        attack=config.attack,
        options=config.options,
        target=None if config.target is None else list(record["classes"]).index(config.target),
        seed=config.seed,
        png=bool(config.png),
        raw=config.raw,
        name=config.name,
    )
    size = record["shard_size"]
    shards = {i: inputs[i * size : (i + 1) * size] for i in range(math.ceil(len(inputs) / size))}
    todo = [i for i in shards if not (out / "images" / f"part-{i:05d}.parquet").exists()]
    left = sum(len(shards[i]) for i in todo)
    known = sum(item.label is not None for item in inputs)
    console.say(
        f"attack: {left:,} of {len(inputs):,} images by '{config.attack}', {len(todo)} of {len(shards)} shards, "
        f"on {cpus()} CPUs; labels known for {known:,}, else the net's own answer counts as right"
    )
    started = time.perf_counter()
    counts: Counter[str] = Counter()
    finished = 0
    net = [ray.put(content) for content in read(out / "model")]
    task = ray.remote(num_cpus=1, max_retries=3)(attack_shard)
    try:
        with console.bar("attacking", left, "images") as bar:
            waiting = iter(todo)
            running: dict[Any, int] = {}
            while True:
                # Two shards for each CPU: a worker never waits, and the driver holds names for few.
                while len(running) < 2 * cpus() and (index := next(waiting, None)) is not None:
                    running[task.remote(job, index, shards[index], *net)] = index
                if not running:
                    break
                for done in ray.wait(list(running), num_returns=1)[0]:
                    counts += _outcome(done, out)
                    finished += 1
                    bar.advance(len(shards[running.pop(done)]), _counted(counts))
    except KeyboardInterrupt:
        kept = len(shards) - len(todo) + finished
        raise Interrupted(
            f"stopped by Ctrl-C; {kept} of {len(shards)} shards are finished and kept; go on with: {_resume(out)}"
        ) from None
    seconds = time.perf_counter() - started
    summary = summarise(out)
    write_json(out / CONFIG, record | {"counts": summary["counts"]})
    return summary | {"out": str(out), "seconds": seconds, "images_per_second": left / seconds if left else None}


def _findings(net: torch.nn.Module, card: ModelCard, inputs: Sequence[Input]) -> list[Finding]:
    """What the checks say of the net, on the first images of the run that can be read."""
    pictures, labels = [], []
    for item in inputs[: 2 * CHECKED]:
        try:
            pictures.append(decode(Path(item.path), size=card.size, channels=card.channels))
        except UnreadableImage:
            continue  # its row will say why
        labels.append(-1 if item.label is None else item.label)
        if len(pictures) == CHECKED:
            break
    if not pictures:
        return []
    return check(net, from_levels(torch.from_numpy(np.stack(pictures))), torch.tensor(labels))


def _outcome(done: Any, out: Path) -> Counter[str]:
    import ray

    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as wrong:
        cause = wrong.cause
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        if isinstance(cause, OSError):
            raise UserError(
                f"a worker could not write to '{out}' ({cause.strerror}); finished shards are kept; "
                f"make room or give it the right to write, then go on with: {_resume(out)}"
            ) from None
        raise
    except ray.exceptions.RayError as wrong:
        raise UserError(
            f"a worker died ({type(wrong).__name__}) four times at one shard; finished shards are kept; "
            f"look for a lack of memory, then go on with: {_resume(out)}"
        ) from None


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])


def _shard_size(images: int, workers: int) -> int:
    """About four shards for each worker, so that none ends long before the others; at least the attack's batch."""
    return min(256, max(32, math.ceil(images / (4 * workers))))


def _resume(out: Path) -> str:
    return f"dxray attack --resume '{out}'"


def _quantiles(values: list[float]) -> dict[str, float] | None:
    """Mean, and the quantiles that a person asks for."""
    if not values:
        return None
    shares = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
    found = np.quantile(values, list(shares.values()))
    return dict(zip(shares, map(float, found), strict=True)) | {"mean": float(np.mean(values))}


def _check_options(name: str, options: dict[str, Any]) -> None:
    """UserError where the attack has no such keyword: said before any work, not by each worker."""
    try:
        known = inspect.signature(find(name)).parameters
    except ValueError as wrong:
        raise UserError(str(wrong)) from None
    for option in options:
        if option not in known:
            raise UserError(f"attack '{name}' has no option '{option}'; choose another --attack or leave it out")
