"""`dxray retrain`: a net hardened in rounds of attack and training; killed it goes on, and new faces begin it anew.

A run is a list of generations. Each begins with the net in use, measured on the faces that are there by then; its
rounds end by a stop rule, and its most robust net takes the other's place where it is no worse.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from dxray.defenses import defended
from dxray.models.data.faces import FacesError
from dxray.models.versions import versions
from dxray.models.victims.checkpoint import CARD, WEIGHTS, ModelCard, load, net_of_round, read
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, Interrupted, UserError, cannot_write
from dxray.orchestrator.hardening import promotion
from dxray.orchestrator.hardening.moved import must_hold
from dxray.orchestrator.hardening.new_faces import take_in
from dxray.orchestrator.hardening.request import USUAL, RetrainConfig, must_make_sense
from dxray.orchestrator.hardening.round_training import ROUNDS, Recipe
from dxray.orchestrator.hardening.rounds import (
    rows_of,
    run_round,
    seconds_of,
    told,
    training_attack,
    write_rounds,
)
from dxray.orchestrator.hardening.stop_rules import Rules, why_stop
from dxray.orchestrator.ray.session import largest_node
from dxray.orchestrator.ray.shared_storage import joined
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.places import absolute_source, place
from dxray.orchestrator.runs.store import (
    locked,
    must_be_asked_alike,
    read_json,
    writable_folder,
    write_bytes,
    write_json,
)
from dxray.orchestrator.runs.working_copy import load_net, on_disk

FORMAT = "dxray retrain 1"
CONFIG = "retrain.json"


def retrain(config: RetrainConfig, out: Place, console: Console, *, address: str | None = None) -> dict[str, Any]:
    """Begin a run in `out` and do its rounds; where `out` holds this very run, it goes on.

    Returns:
        `out`, `current` (the round whose net is in use), `rounds` (their rows), `generations` (of each: `new` faces,
        `stop`, `promotion`).

    Raises:
        UserError: the request, the net or the folder is not usable, or a training failed.
        FacesError, CheckpointError: the faces or the net cannot be read.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    must_make_sense(config)
    for name, usual in USUAL[config.method == ROUNDS].items():
        if getattr(config, name) is None:
            setattr(config, name, usual)
    with on_disk(place(config.model)) as net:
        victim, card = load(net, defend=defended)
        card_bytes, weights = read(net)
    out = writable_folder(out, "the retraining's results")
    with locked(out, say=console.say), _stops(out):
        if (out / CONFIG).exists():
            record = recorded(out)
            _must_be_same(record, config, card, out)
            _move(record, out, config.data, console)
            console.say(f"'{out}' holds this run; it goes on")
        else:
            with joined(out, address):
                config.threads = config.threads or largest_node()
            new = _take_in(config, out, 0, (victim, card), console)
            for name, content in ((WEIGHTS, weights), (CARD, card_bytes)):
                write_bytes(net_of_round(out, 0) / name, content)
            promotion.use(out, 0)
            record = {
                "format": FORMAT,
                "config": asdict(config),
                "net_sha256": card.sha256,
                "versions": versions(),
                "generations": [{"new": new, "first_round": 0, "parent_round": 0}],
            }
            write_json(out / CONFIG, record)
        return _go_on(record, out, console, address)


def resume(out: Place, console: Console, *, data: str | None = None, address: str | None = None) -> dict[str, Any]:
    """Go on with the run in `out`: rounds, attacks, epochs that are done are not done again. Raises as `retrain`.

    Args:
        data: where the faces of the run are now, if elsewhere, see `moved.must_hold`; the run keeps that place.
    """
    out = out.expanduser().absolute()
    recorded(out)
    writable_folder(out, "the retraining's results")
    with locked(out, say=console.say), _stops(out):
        record = recorded(out)
        _move(record, out, data, console)
        return _go_on(record, out, console, address)


def update(
    out: Place,
    console: Console,
    *,
    data: str | None = None,
    label_by: str | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Finish what was begun; then, where the source has new faces, take them in and do the rounds of a new generation.

    Args:
        data: as `resume` takes it; there may be new faces beside those of the run.
        label_by: from now on, see `RetrainConfig`.

    Returns:
        As `retrain`; and `new_faces`, how many came: with 0 nothing was trained on them.

    Raises:
        Busy: another process works on the run.
        UserError, FacesError, CheckpointError, Interrupted: as `retrain`; a source that has vanished changes nothing.
    """
    out = out.expanduser().absolute()
    recorded(out)
    writable_folder(out, "the retraining's results")
    with locked(out, say=console.say), _stops(out):
        record = recorded(out)
        _move(record, out, data, console)
        result = _go_on(record, out, console, address)
        config = config_of(record)
        config = replace(config, label_by=label_by or config.label_by)
        generation = len(record["generations"])
        current = promotion.in_use(out)
        new = _take_in(config, out, generation, load_net(net_of_round(out, current)), console)
        count = new["train"] + new["validation"] + new["test"]
        if not count:
            console.say(f"nothing is new in '{config.data}': round {current} stays in use")
            return result | {"new_faces": 0}
        record["config"]["label_by"] = config.label_by
        record["generations"].append({"new": new, "first_round": len(rows_of(out)), "parent_round": current})
        write_json(out / CONFIG, record)
        return _go_on(record, out, console, address) | {"new_faces": count}


def rollback(out: Place, console: Console, *, to_round: int | None = None) -> dict[str, Any]:
    """Put the net of an earlier round in use again: of `to_round`, or the one that was in use before the present one.

    Raises:
        UserError: there is no such round, or nothing was in use before.
    """
    out = out.expanduser().absolute()
    recorded(out)
    with locked(out, say=console.say):
        record = recorded(out)
        current = promotion.in_use(out)
        changes = record.setdefault("changes", [])
        before = next((change["before"] for change in reversed(changes) if change["round"] == current), None)
        target = before if to_round is None else to_round
        if target is None:
            raise UserError(f"'{out}' had no other net in use before that of round {current}; name one by --to-round N")
        promotion.use(out, target)
        changes.append({"round": target, "before": current, "reason": "rolled back"})
        write_json(out / CONFIG, record)
    console.say(f"in use: the net of round {target} (before: round {current}): '{out / promotion.CURRENT}'")
    return {"out": str(out), "current": target, "before": current}


def result_of(out: Place) -> dict[str, Any]:
    """What is in the folder of a run, which may still go on."""
    out = out.expanduser().absolute()
    record = recorded(out)
    return {
        "out": str(out),
        "current": promotion.in_use(out),
        "rounds": rows_of(out),
        "generations": record["generations"],
        "changes": record.get("changes", []),
    }


def recorded(out: Place) -> dict[str, Any]:
    """What `retrain.json` says, its rules as such; UserError where `out` holds no run, or one of another format."""
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the run anew in another folder")
    return record


def config_of(record: dict[str, Any]) -> RetrainConfig:
    """The request that a record holds."""
    return RetrainConfig(**record["config"] | {"rules": Rules(**record["config"]["rules"])})


def _go_on(record: dict[str, Any], out: Place, console: Console, address: str | None) -> dict[str, Any]:
    """Do what is left of the last generation, and decide which net is in use after it."""
    config = config_of(record)
    generation = len(record["generations"]) - 1
    asked = record["generations"][-1]
    if "promotion" not in asked:
        rows = _rounds(config, asked, generation, out, console, address)
        verdict = promotion.judge(rows, config.max_clean_drop)
        if verdict.promoted and verdict.round is not None:
            promotion.use(out, verdict.round)
            change = {"round": verdict.round, "before": asked["parent_round"], "reason": verdict.reason}
            record.setdefault("changes", []).append(change)
        asked["promotion"] = verdict._asdict()
        write_json(out / CONFIG, record)
        kept = f"the net of round {promotion.in_use(out)} stays in use: not that of round {verdict.round}, for "
        console.say(
            f"in use now: round {verdict.round}: {verdict.reason}" if verdict.promoted else kept + verdict.reason
        )
    return result_of(out)


def _rounds(
    config: RetrainConfig, asked: dict[str, Any], generation: int, out: Place, console: Console, address: str | None
) -> list[dict[str, Any]]:
    """The rows of a generation; its stop is put into `asked`."""
    assert config.eps is not None  # these were settled when the run was begun
    assert config.epochs is not None
    assert config.lr is not None
    first = asked["first_round"]
    attacks = {name: training_attack(name, config.eps, config.norm) for name in config.attacks}
    rows: list[dict[str, Any]] = []
    with joined(out, address):
        while (stop := why_stop(rows, config.rules, seconds=_seconds(out, rows)) if rows else None) is None:
            number = first + len(rows)
            recipe = Recipe(
                parent=number - 1 if rows else asked["parent_round"],
                method=config.method,
                epochs=config.epochs if rows else 0,
                lr=config.lr,
                batch_size=config.batch_size,
                eps=config.eps,
                from_scratch=config.from_scratch,
                held_out=config.held_out,
                seed=config.seed,
                threads=config.threads or 1,
            )
            used = attacks if rows and config.method == ROUNDS else {}
            row = run_round(
                out,
                number,
                generation,
                recipe,
                used,
                console,
                eps=config.eps,
                within=config.within,
                attack_faces=config.attack_faces,
                address=address,
            )
            rows.append(row)
            write_rounds(out)
            console.say(told(row))
    asked["stop"] = stop._asdict()
    console.say(f"stopped after round {rows[-1]['round']}: {stop.says}")
    return rows


def _seconds(out: Place, rows: Sequence[dict[str, Any]]) -> float:
    return sum(sum(seconds_of(out, row["round"]).values()) for row in rows)


def _move(record: dict[str, Any], out: Place, data: str | None, console: Console) -> None:
    """The record comes to say that the faces of the run are at `data`; UserError where they are not."""
    config = config_of(record)
    if data is None or (data := absolute_source(data)) == config.data:
        return
    must_hold(out, _source(replace(config, data=data)), console)
    record["config"]["data"] = data
    write_json(out / CONFIG, record)


def _source(config: RetrainConfig) -> dict[str, Any]:
    """The arguments of `faces.read`, without what follows from the net."""
    return {"spec": config.data, "seed": config.data_seed, "label": config.label, "numbers": config.classes}


def _take_in(
    config: RetrainConfig, out: Place, generation: int, net: tuple[nn.Module, ModelCard], console: Console
) -> dict[str, Any]:
    source = _source(config)
    try:
        with console.share(f"reading {config.data}") as on_share:
            new = take_in(
                out, generation, source, net, label_by=config.label_by, held_out=config.held_out, on_share=on_share
            )
    except FacesError as wrong:
        if not generation:
            raise
        raise UserError(
            f"{wrong}; nothing was trained, and '{out}' keeps its faces and nets; if the faces are elsewhere now, say "
            f"where: dxray retrain --update '{out}' --data SOURCE"
        ) from None
    if any(new[split] for split in ("train", "validation", "test")):
        console.say(
            f"faces: {new['train']:,} for training, {new['validation']:,} for validation, {new['test']:,} for the test "
            f"are new" + (f"; {new['labelled_by_net']:,} labelled by a net" if new["labelled_by_net"] else "")
        )
        console.say(new["labels"])
        if new["swapped"]:
            console.say(f"warning: {new['swapped']}")
        if new["missing"]:
            console.say(f"warning: no new face is {' or '.join(new['missing'])}; those of before stay in the training")
    if new["unlabelled"]:
        console.say(f"{new['unlabelled']:,} new faces have no label and are left out; --label-by MODEL takes them in")
    if new["unreadable"]:
        console.say(f"{new['unreadable']:,} files there are no images that can be read, and are left out")
    return new


def _must_be_same(record: dict[str, Any], config: RetrainConfig, card: ModelCard, out: Place) -> None:
    holds, otherwise = f"'{out}' holds a run", f"choose another --out, or go on with it: dxray retrain --resume '{out}'"
    must_be_asked_alike(
        asdict(config_of(record)), asdict(config), holds, otherwise, but={"data", "model", "label_by", "threads"}
    )
    if record["net_sha256"] != card.sha256:
        raise UserError(f"{holds} that began with another net than '{config.model}' is; {otherwise}")


@contextmanager
def _stops(out: Place) -> Iterator[None]:
    """What ends a run before its time says how to go on with the run, not with the attack that was at work."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped by Ctrl-C; what is finished is kept; go on with: dxray retrain --resume '{out}'"
        ) from None
    except OSError as wrong:
        if wrong.errno not in FULL:
            raise
        kept = f"what is finished is kept; go on with: dxray retrain --resume '{out}'"
        raise cannot_write(out, str(wrong.strerror), kept) from None
