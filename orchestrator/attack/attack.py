"""`dxray attack`: faces attacked in shards, here or by Ray's workers; a stopped run goes on, and may be added to."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dxray.defenses import parse, text_of
from dxray.defenses.victim import behind, restore
from dxray.models.data.images import one_line
from dxray.models.data.labels import Labeller, checked_classes, class_of
from dxray.models.data.reading import FacesError
from dxray.models.versions import versions
from dxray.models.victims.checkpoint import CARD, CheckpointError, ModelCard
from dxray.models.victims.victim import payload_name
from dxray.orchestrator.attack import net_checks
from dxray.orchestrator.attack.in_process import Compute, Workers
from dxray.orchestrator.attack.input_lists import Listed, already_listed, difference, fresh, write_list
from dxray.orchestrator.attack.inputs import Input, absolute, list_inputs
from dxray.orchestrator.attack.moved import move
from dxray.orchestrator.attack.net_checks import Sample
from dxray.orchestrator.attack.options import class_named, in_effect, must_be_usable
from dxray.orchestrator.attack.run import to_resume, whole_summary, work_off
from dxray.orchestrator.attack.sharding import bounds
from dxray.orchestrator.attack.shards import Job
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, UserError, cannot_write
from dxray.orchestrator.progress import Bar
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.rows import CONFIG
from dxray.orchestrator.runs.store import (
    locked,
    must_be_asked_alike,
    read_json,
    writable_folder,
    write_bytes,
    write_json,
)
from dxray.orchestrator.runs.working_copy import read_net
from dxray.orchestrator.threads import torch_threads

FORMAT = "dxray attack 6"
PNG_LIMIT = 10_000  # a folder of more triples than that is slow for every tool; the parts hold them all the same


@dataclass
class AttackConfig:
    """What decides the rows of a run; written to `attack.json` before the first shard starts, and kept on resume.

    Attributes:
        labels, label: as `list_inputs` takes them. classes: what numbers mean where labels are numbers, 0 the first.
    """

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
    label: str | None = None
    classes: list[str] | None = None


def attack(
    config: AttackConfig,
    out: Place,
    console: Console,
    *,
    workers: Workers = "auto",
    address: str | None = None,
    gpus_per_worker: float | None = None,
) -> dict[str, Any]:
    """Attack every input, a row each; returns the summary. Where `out` holds this very run, it goes on.

    Args:
        workers: "ray", "local" (this process alone), or "auto": this process where there are few images, neither
            `address` nor `gpus_per_worker` is given, and Ray is not connected already. The rows are the same.
        address: of a running Ray cluster; without it a Ray of this machine's own is started where one is needed.
        gpus_per_worker: share of a GPU for each worker (0.25 where there is one: while one decodes, others attack).

    Raises:
        UserError: the inputs, the model, or `out` (it holds another run, it cannot be written to) are not usable.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    compute = Compute(workers, address, gpus_per_worker)
    config = replace(config, options=in_effect(config.attack, config.options))
    card_bytes, weights = _defended(config)
    net, card = restore(card_bytes, weights)
    must_be_usable(config.attack, config.options, card, seed=config.seed, target=config.target, name=config.name)
    labeller = _labeller(config, card)
    if config.target is not None:
        config.target = class_named(config.target, card)
    config.paths = [absolute(path) for path in config.paths]
    out = writable_folder(out, "the attack's results")
    with _in(out, console):
        if (out / CONFIG).exists():
            record = _record(out)
            _same(record, config, card, out)
            console.say(f"'{out}' holds this run; it goes on")
            return _go_on(record, out, console, compute, paths=config.paths)
        passed_over: Counter[str] = Counter()
        inputs = list_inputs(config.paths, classes=card.classes, labeller=labeller, passed_over=passed_over)
        first = list(islice(inputs, 2))
        if config.name is not None and len(first) != 1:
            raise UserError("--name names the files of a single face, and several were given; leave it out")
        sample = Sample(len(card.classes))
        with console.bar("listing", None, "images", brief=True) as bar:
            found = write_list(out, 0, sample.of(bar.over(chain(first, inputs))))
        console.say(str(labeller))
        with console.bar("checking the net", None, "images", brief=True) as bar:
            findings = net_checks.findings(net, card, bar.over(sample), labeller.counted)
        for finding in findings:
            console.say(f"warning: the net may not be fit to be attacked: {finding}")
        if config.png is None:
            config.png = isinstance(out, Path) and found.inputs <= PNG_LIMIT
        write_bytes(out / "model" / payload_name(card_bytes), weights)
        write_bytes(out / "model" / CARD, card_bytes)
        record = {
            "format": FORMAT,
            "config": asdict(config),
            "net_sha256": card.sha256,
            "classes": card.classes,
            "findings": [asdict(finding) for finding in findings],
            "versions": versions(),
            "inputs": found.inputs,
            "passed_over": dict(passed_over.most_common()),
            "numbers": labeller.counted,
            "lists": [_begun(found, 0, labeller)],
        }
        write_json(out / CONFIG, record)
        return work_off(_job(record, out), record, card, console, compute)


def resume(
    out: Place,
    console: Console,
    *,
    update: bool = False,
    paths: Sequence[str] = (),
    workers: Workers = "auto",
    address: str | None = None,
    gpus_per_worker: float | None = None,
) -> dict[str, Any]:
    """Go on with the run in `out`: shards whose part is there are not done again.

    Args:
        update: also attack the inputs that are new since the run was begun or last updated.
        paths: where the same images are now, if elsewhere, see `moved.move`; the run keeps these places.
        workers, address, gpus_per_worker: as for `attack`; they may be others than before. "auto" leaves a run to Ray
            whose last process was killed while it attacked.

    Raises:
        UserError: there is no run, its inputs or its model have changed, another process works on it, or it is to be
            updated and is that of a single face with a name.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    compute = Compute(workers, address, gpus_per_worker)
    out = out.expanduser().absolute()
    _record(out)
    writable_folder(out, "the attack's results")
    with _in(out, console):
        return _go_on(_record(out), out, console, compute, update=update, paths=paths)


def _go_on(
    record: dict[str, Any],
    out: Place,
    console: Console,
    compute: Compute,
    *,
    update: bool = False,
    paths: Sequence[str] = (),
) -> dict[str, Any]:
    try:
        _, card = restore(*read_net(out / "model"))
    except CheckpointError as wrong:
        raise UserError(f"the net in '{out / 'model'}' is not usable: {wrong}") from None
    if card.sha256 != record["net_sha256"]:
        raise UserError(f"the net in '{out / 'model'}' is not the one this run was started with; put it back")
    if record["versions"] != versions():
        console.say(f"warning: begun with {_told(record['versions'])}, going on with {_told(versions())}")
    if paths:
        with console.bar("comparing", None, "images", brief=True) as bar:
            _move(record, out, paths, card, bar, update=update)
    config, lists = AttackConfig(**record["config"]), record["lists"]
    labeller = _labeller(config, card)
    passed_over: Counter[str] = Counter()
    inputs = list_inputs(config.paths, classes=card.classes, labeller=labeller, passed_over=passed_over)
    if update and config.name is not None:
        raise UserError(
            f"'{out}' is the run of a single face whose files are named '{config.name}', so that others would take "
            f"their place; attack new faces in another folder"
        )
    if update:
        if "counts" not in record:
            work_off(_job(record, out), record, card, console, compute)
        with console.bar("listing", None, "images", brief=True) as bar:
            found = write_list(out, len(lists), fresh(out, len(lists), bar.over(_there(inputs, out))))
        console.say(f"update: {found.inputs:,} inputs are new")
        record["passed_over"] = dict(passed_over.most_common())
        if found.inputs:
            first_part = lists[-1]["first_part"] + sum(1 for _ in bounds(lists[-1]))
            if record.pop("compacted", False):
                lists[:] = [one | {"compacted": True} for one in lists]
            lists.append(_begun(found, first_part, labeller))
            record["inputs"] += found.inputs
            record.pop("counts", None)
            write_json(out / CONFIG, record)
    else:
        with console.bar("listing", record["inputs"], "images", brief=True) as bar:
            changed = difference(out, len(lists), bar.over(_there(inputs, out)))
        if changed:
            raise UserError(
                f"the inputs of '{out}' have changed since it was started: {changed}; put them back, take new ones in "
                f"with --update, or start a run in another folder"
            )
    if record.get("compacted"):  # its parts are no longer those of its shards; it was finished before
        return whole_summary(record, out) | {"out": str(out)}
    return work_off(_job(record, out), record, card, console, compute)


def _move(record: dict[str, Any], out: Place, paths: Sequence[str], card: ModelCard, bar: Bar, *, update: bool) -> None:
    """The record and lists of the run come to say that its images are at `paths`; UserError where others are there.

    Args:
        update: whether there may be new images beside those of the run.
    """
    config, lists = AttackConfig(**record["config"]), record["lists"]
    places = [absolute(path) for path in paths]
    if places == config.paths:
        return

    def there() -> Iterator[Input]:
        inputs = bar.over(list_inputs(places, classes=card.classes, labeller=_labeller(config, card)))
        return already_listed(out, len(lists), inputs) if update else inputs

    found = move(out, len(lists), places, there)
    record["lists"] = [one | now for one, now in zip(lists, found, strict=True)]
    record["config"]["paths"] = places
    write_json(out / CONFIG, record)


def _there(inputs: Iterator[Input], out: Place) -> Iterator[Input]:
    """The inputs of a run that goes on; where they cannot be listed, the sentence says what to do if they moved."""
    try:
        yield from inputs
    except UserError as wrong:
        raise UserError(f"{wrong}; if the images are elsewhere now, say where: {to_resume(out)} PATHS") from None


def _job(record: dict[str, Any], out: Place) -> Job:
    config = AttackConfig(**record["config"])
    return Job(
        out=out,
        attack=config.attack,
        options=config.options,
        target=None if config.target is None else list(record["classes"]).index(config.target),
        seed=config.seed,
        png=bool(config.png),
        raw=config.raw,
        name=config.name,
    )


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


def labeller_of(card: ModelCard, labels: str, label: str | None, classes: Sequence[str] | None) -> Labeller:
    """What gives inputs their labels, see `AttackConfig`.

    Raises:
        UserError: the names that numbers are to count are none of the net's.
    """
    names = card.numbers
    if classes is not None:
        try:
            names = checked_classes(classes) or ()
        except FacesError as wrong:
            raise UserError(str(wrong)) from None
        if all(class_of(name, card.classes) is None for name in names):
            raise UserError(f"--classes {','.join(names)}: none is a class of the net, of {', '.join(card.classes)}")
    return Labeller(card.classes, numbers=names, how=labels, column=label)


def _labeller(config: AttackConfig, card: ModelCard) -> Labeller:
    return labeller_of(card, config.labels, config.label, config.classes)


def _begun(listed: Listed, first_part: int, labeller: Labeller) -> dict[str, Any]:
    """What the record says of a list before any of it is attacked."""
    how = {"first_part": first_part, "workers": None, "most": None, "largest": None}
    return asdict(listed) | how | {"labels": str(labeller)}


def _record(out: Place) -> dict[str, Any]:
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the run anew in another folder")
    return record


def _same(record: dict[str, Any], config: AttackConfig, card: ModelCard, out: Place) -> None:
    """UserError where the run in `out` is not the one that is asked for, naming the first thing that differs.

    Of places that differ the images decide, see `moved.move`.
    """
    holds = f"'{out}' holds {'a finished run' if 'counts' in record else 'an unfinished run'}"
    otherwise = f"choose another --out, or go on with it: {to_resume(out)}"
    left_open = {"model", "paths"} | ({"png"} if config.png is None else set())
    then, now = _flat(AttackConfig(**record["config"])), _flat(config)
    must_be_asked_alike(then, now, holds, otherwise, but=left_open)
    if record["net_sha256"] != card.sha256:
        raise UserError(f"{holds} against another net than '{config.model}' is now; {otherwise}")


def _flat(config: AttackConfig) -> dict[str, Any]:
    """What is asked for, the attack's options among the others: of what differs, the name is told."""
    asked = asdict(config)
    options = asked.pop("options")
    return asked | options


@contextmanager
def _in(out: Place, console: Console) -> Iterator[None]:
    """Alone in the folder of a run, on one thread as each worker is; a disk that takes nothing is one sentence."""
    with locked(out, say=console.say), torch_threads(1):
        try:
            yield
        except OSError as wrong:
            if isinstance(out, Path) and wrong.errno not in FULL:
                raise
            said = wrong.strerror or one_line(wrong, 200)
            raise cannot_write(out, said, f"what is finished is kept; go on with: {to_resume(out)}") from None


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
