"""`dxray attack`: faces attacked by workers of Ray, in shards; a stopped run goes on, and may be added to."""

import inspect
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dxray.attacks import find
from dxray.attacks.engine.checks import Finding, check
from dxray.attacks.engine.lattice import from_levels
from dxray.defenses import parse, text_of
from dxray.defenses.victim import behind, restore
from dxray.models.data.images import one_line
from dxray.models.versions import versions
from dxray.models.victims.checkpoint import CARD, CheckpointError, ModelCard
from dxray.models.victims.victim import payload_name
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.input_lists import difference, fresh, write_list
from dxray.orchestrator.attack.inputs import Input, absolute, list_inputs
from dxray.orchestrator.attack.sharding import FIRST, Sharding, bounds, finished, most_at_once
from dxray.orchestrator.attack.shards import STAGES, Job
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, Interrupted, UserError
from dxray.orchestrator.ray.session import gpus
from dxray.orchestrator.ray.shared_storage import joined
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.rows import CONFIG
from dxray.orchestrator.runs.store import (
    locked,
    must_be_asked_alike,
    read_json,
    read_rows,
    read_table,
    remove_folder,
    writable_folder,
    write_bytes,
    write_json,
)
from dxray.orchestrator.runs.summary import STATUSES, summarise
from dxray.orchestrator.runs.working_copy import read_net

FORMAT = "dxray attack 5"
FAILED = 64  # images of a run that has no other: it is not their fault
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
    defense: str = "none"


def attack(
    config: AttackConfig,
    out: Place,
    console: Console,
    *,
    address: str | None = None,
    gpus_per_worker: float | None = None,
) -> dict[str, Any]:
    """Attack every input, a row each; returns the summary. Where `out` holds this very run, it goes on.

    Args:
        gpus_per_worker: share of a GPU for each worker (0.25 where there is one: while one decodes, others attack).

    Raises:
        UserError: the inputs, the model, or `out` (it holds another run, it cannot be written to) are not usable.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    card_bytes, weights = _defended(config)
    net, card = restore(card_bytes, weights)
    _check_options(config, card)
    config.paths = [absolute(path) for path in config.paths]
    out = writable_folder(out, "the attack's results")
    with _in(out, console):
        if (out / CONFIG).exists():
            record = _record(out)
            _same(record, config, card, out)
            console.say(f"'{out}' holds this run; it goes on")
            return _go_on(record, out, console, address, gpus_per_worker)
        inputs = list_inputs(config.paths, classes=card.classes, labels=config.labels)
        first = list(islice(inputs, 2 * CHECKED))
        if config.name is not None and len(first) != 1:
            raise UserError(f"--name names the files of a single face, but {len(first):,} were given; leave it out")
        for finding in (findings := _findings(net, card, first)):
            console.say(f"warning: the net may not be fit to be attacked: {finding}")
        listed = write_list(out, 0, chain(first, inputs))
        if config.png is None:
            config.png = isinstance(out, Path) and listed.inputs <= PNG_LIMIT
        write_bytes(out / "model" / payload_name(card_bytes), weights)
        write_bytes(out / "model" / CARD, card_bytes)
        record = {
            "format": FORMAT,
            "config": asdict(config),
            "net_sha256": card.sha256,
            "classes": card.classes,
            "findings": [asdict(finding) for finding in findings],
            "versions": versions(),
            "inputs": listed.inputs,
            "lists": [asdict(listed) | {"first_part": 0, "workers": None, "most": None, "largest": None}],
        }
        write_json(out / CONFIG, record)
        return _run(record, card, out, console, address, gpus_per_worker)


def resume(
    out: Place,
    console: Console,
    *,
    update: bool = False,
    address: str | None = None,
    gpus_per_worker: float | None = None,
) -> dict[str, Any]:
    """Go on with the run in `out`: shards whose part is there are not done again.

    Args:
        update: also attack the inputs that are new since the run was begun or last updated.

    Raises:
        UserError: there is no run, its inputs or its model have changed, another process works on it, or it is to be
            updated and is that of a single face with a name.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    out = out.expanduser().absolute()
    _record(out)
    writable_folder(out, "the attack's results")
    with _in(out, console):
        return _go_on(_record(out), out, console, address, gpus_per_worker, update=update)


def _go_on(
    record: dict[str, Any],
    out: Place,
    console: Console,
    address: str | None,
    gpus_per_worker: float | None,
    *,
    update: bool = False,
) -> dict[str, Any]:
    try:
        _, card = restore(*read_net(out / "model"))
    except CheckpointError as wrong:
        raise UserError(f"the net in '{out / 'model'}' is not usable: {wrong}") from None
    if card.sha256 != record["net_sha256"]:
        raise UserError(f"the net in '{out / 'model'}' is not the one this run was started with; put it back")
    if record["versions"] != versions():
        console.say(f"warning: begun with {_told(record['versions'])}, going on with {_told(versions())}")
    config, lists = AttackConfig(**record["config"]), record["lists"]
    inputs = list_inputs(config.paths, classes=record["classes"], labels=config.labels)
    if update and config.name is not None:
        raise UserError(
            f"'{out}' is the run of a single face whose files are named '{config.name}', so that others would take "
            f"their place; attack new faces in another folder"
        )
    if update:
        if "counts" not in record:
            _run(record, card, out, console, address, gpus_per_worker)
        listed = write_list(out, len(lists), fresh(out, len(lists), inputs))
        console.say(f"update: {listed.inputs:,} inputs are new")
        if listed.inputs:
            first_part = lists[-1]["first_part"] + sum(1 for _ in bounds(lists[-1]))
            if record.pop("compacted", False):
                lists[:] = [one | {"compacted": True} for one in lists]
            lists.append(asdict(listed) | {"first_part": first_part, "workers": None, "most": None, "largest": None})
            record["inputs"] += listed.inputs
            record.pop("counts", None)
            write_json(out / CONFIG, record)
    elif changed := difference(out, len(lists), inputs):
        raise UserError(
            f"the inputs of '{out}' have changed since it was started: {changed}; put them back, take new ones in "
            f"with --update, or start a run in another folder"
        )
    if record.get("compacted"):  # its parts are no longer those of its shards; it was finished before
        return _whole(record, out) | {"out": str(out)}
    return _run(record, card, out, console, address, gpus_per_worker)


def _run(
    record: dict[str, Any],
    card: ModelCard,
    out: Place,
    console: Console,
    address: str | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Work off what is left: of the last list, and of those before it where parts were deleted since."""
    from dxray.orchestrator.attack.workers import WorkerPool

    config, lists, listed = AttackConfig(**record["config"]), record["lists"], record["lists"][-1]
    classes = list(record["classes"])
    job = Job(
        out=out,
        attack=config.attack,
        options=config.options,
        target=None if config.target is None else classes.index(config.target),
        seed=config.seed,
        png=bool(config.png),
        raw=config.raw,
        name=config.name,
    )
    asked = time.perf_counter()
    remove_folder(out / "pieces")  # of shards that will be done again
    with joined(out, address):
        share = (0.25 if gpus() else 0.0) if gpus_per_worker is None else gpus_per_worker
        net = read_net(out / "model")
        pool = WorkerPool(job, net, net_sha256=record["net_sha256"], gpu_share=share, say=console.say)
        if listed["workers"] is None:
            listed["workers"], listed["most"] = pool.at_once, most_at_once(math.prod((card.channels, *card.size)))
            write_json(out / CONFIG, record)  # before the first shard: its bounds must be the same on a resume
        there = finished(out)
        shardings = [
            Sharding(out, number, one, there=there) for number, one in enumerate(lists) if not one.get("compacted")
        ]
        if shardings[-1].measure():
            write_json(out / CONFIG, record)
        left = sum(sharding.left for sharding in shardings)
        console.say(
            f"attack: {left:,} of {record['inputs']:,} images by '{config.attack}', {pool.at_once} at a time; "
            f"labels known for {sum(one['labelled'] for one in lists):,}, else the net's own answer counts as right"
        )
        started, since = time.perf_counter(), time.time()
        counts: Counter[str] = Counter()
        try:
            with pool.hired(math.ceil(left / FIRST)), console.bar("attacking", left, "images") as bar:
                for rows in pool.work_off(
                    lambda: next(filter(None, (sharding.take() for sharding in shardings)), None)
                ):
                    if shardings[-1].measure():
                        write_json(out / CONFIG, record)
                    counts += rows
                    _must_work(counts, out)
                    seconds = time.perf_counter() - started
                    bar.advance(rows.total(), f"{counts.total() / seconds:.0f} images/s, {_counted(counts)}")
        except KeyboardInterrupt:
            kept = record["inputs"] - left + counts.total()
            raise Interrupted(
                f"stopped by Ctrl-C; {kept:,} of {record['inputs']:,} images are finished and kept; "
                f"go on with: {_resume(out)}"
            ) from None
        seconds = time.perf_counter() - started
    remove_folder(out / "pieces")
    summary = _whole(record, out)
    write_json(out / CONFIG, record | {"counts": summary["counts"]})
    return summary | {
        "out": str(out),
        "seconds": seconds,
        "images_per_second": left / seconds if left else None,
        "ray_seconds": started - asked,
        **_timing(out, since),
    }


def _whole(record: dict[str, Any], out: Place) -> dict[str, Any]:
    """The summary; UserError where it is not that of a row for each input."""
    summary = summarise(out)
    if summary["inputs"] != record["inputs"]:
        raise UserError(
            f"'{out / 'images'}' holds {summary['inputs']:,} rows for {record['inputs']:,} inputs; put its parts back "
            f"from a copy, or start a run in another folder"
        )
    return summary


def _defended(config: AttackConfig) -> tuple[bytes, bytes]:
    """Card and payload of the net behind its defence, which gets one form; UserError where there is no such thing."""
    card_bytes, weights = read_net(config.model)
    try:
        defence = parse(config.defense)
        config.defense = text_of(defence)
        return behind(card_bytes, weights, defence)
    except CheckpointError:
        raise
    except ValueError as wrong:
        raise UserError(f"--defense {config.defense}: {wrong}") from None


def _findings(net: torch.nn.Module, card: ModelCard, inputs: Sequence[Input]) -> list[Finding]:
    """What the checks say of the net, on the first images of the run that can be read."""
    found = zip(inputs, contents(inputs, card), strict=True)
    seen = [(content.pixels, item.label) for item, content in found if content.pixels is not None][:CHECKED]
    if not seen:
        return []
    labels = torch.tensor([-1 if label is None else label for _, label in seen])
    return check(net, from_levels(torch.from_numpy(np.stack([pixels for pixels, _ in seen]))), labels)


def _timing(out: Place, since: float) -> dict[str, Any]:
    """Of the shards begun `since` then: how long the first took to begin, and seconds of all workers at each stage."""
    began, stages = [], dict.fromkeys(STAGES, 0.0)
    for file in files(out / "timing", "part-*.parquet"):
        row = read_table(file).to_pylist()[0]
        if row["began"] >= since:
            began.append(row["began"])
            stages = {stage: seconds + row[f"{stage}_s"] for stage, seconds in stages.items()}
    return {"workers_seconds": min(began) - since if began else None, "stages": stages}


def _record(out: Place) -> dict[str, Any]:
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the run anew in another folder")
    return record


def _same(record: dict[str, Any], config: AttackConfig, card: ModelCard, out: Place) -> None:
    """UserError where the run in `out` is not the one that is asked for, naming the first thing that differs."""
    holds = f"'{out}' holds {'a finished run' if 'counts' in record else 'an unfinished run'}"
    otherwise = f"choose another --out, or go on with it: {_resume(out)}"
    left_open = {"model"} | ({"png"} if config.png is None else set())
    then = asdict(AttackConfig(**record["config"]))
    must_be_asked_alike(then, asdict(config), holds, otherwise, but=left_open)
    if record["net_sha256"] != card.sha256:
        raise UserError(f"{holds} against another net than '{config.model}' is now; {otherwise}")


@contextmanager
def _in(out: Place, console: Console) -> Iterator[None]:
    """Alone in the folder of a run; a full disk is one sentence."""
    with locked(out, say=console.say):
        try:
            yield
        except OSError as wrong:
            if isinstance(out, Path) and wrong.errno not in FULL:
                raise
            said = wrong.strerror or one_line(wrong, 200)
            raise UserError(
                f"'{out}' takes no more ({said}); what is finished is kept; make room, then go on with: {_resume(out)}"
            ) from None


def _must_work(counts: Counter[str], out: Place) -> None:
    """UserError where attack or net fail at everything: that is no fault of the images."""
    if counts["failed"] >= FAILED and counts["failed"] + counts["unreadable"] == counts.total():
        reason = next(row["reason"] for row in read_rows(out, ["status", "reason"]) if row["status"] == "failed")
        raise UserError(f"all of the first {counts['failed']:,} images failed, as in: {reason}; see to net and options")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _resume(out: Place) -> str:
    return f"dxray attack --resume '{out}'"


def _check_options(config: AttackConfig, card: ModelCard) -> None:
    """UserError where the attack cannot be called so: said before any work, not by each worker."""
    name = config.attack
    try:
        known = inspect.signature(find(name)).parameters
    except ValueError as wrong:
        raise UserError(str(wrong)) from None
    for option in config.options:
        if option not in known:
            raise UserError(f"attack '{name}' has no option '{option}'; choose another --attack or leave it out")
    if config.target is not None and config.target not in card.classes:
        raise UserError(f"the net knows no class '{config.target}'; its classes are: {', '.join(card.classes)}")
    if config.name is not None and (Path(config.name).name != config.name or not config.name.isprintable()):
        raise UserError(f"--name '{config.name}' is no plain name; give one without slashes, such as curie_marie")
    # A net of one layer that answers 0 to all, and so is wrong already: nothing but the options is looked at.
    dense = torch.nn.Linear(math.prod((card.channels, *card.size)), 2)
    torch.nn.init.zeros_(dense.weight)
    torch.nn.init.zeros_(dense.bias)
    net, image = torch.nn.Sequential(torch.nn.Flatten(), dense), torch.zeros(1, card.channels, *card.size)
    try:
        find(name)(net, image, torch.tensor([1]), seed=config.seed, **config.options)
    except ValueError as wrong:
        raise UserError(f"the attack '{name}' cannot be run so: {wrong}") from None
