"""The verb `dxray retrain`: its options, what it prints, and which of its five ways to be called is meant."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter
from cyclopts.validators import mutually_exclusive

from dxray.orchestrator.cli.options import (
    DATA,
    NET,
    ONCE,
    RULES,
    RUN,
    SCHEDULE,
    TRAINING,
    WAYS,
    Address,
    Budget,
    Classes,
    Json,
    Label,
    PathText,
    Place,
    Seed,
    Source,
    Whole,
    class_names,
    given,
    must_leave_out,
)
from dxray.orchestrator.errors import Busy, UserError

if TYPE_CHECKING:
    from dxray.orchestrator.hardening.request import RetrainConfig
    from dxray.orchestrator.hardening.schedule import Schedule

WHEN = Group(validator=mutually_exclusive)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class Training:
    method: Annotated[
        str,
        Parameter(
            metavar="NAME",
            help="rounds: attack, then learn from what fooled; fgsm, nfgsm, pgd, free, trades: in each batch",
        ),
    ] = "rounds"
    attack: Annotated[list[str] | None, ONCE, Parameter(metavar="NAME...", show_default="dx")] = None
    """of the rounds, as for attack"""
    attack_faces: Annotated[Whole | None, Parameter(metavar="N", show_default="all")] = None
    """so many training faces in each round"""
    norm: Annotated[Literal["l2", "linf", "l1", "l0"] | None, Parameter(show_default="that of each")] = None
    """of these attacks"""
    eps: Annotated[Budget | None, Parameter(show_default="2/255; of the methods 8/255")] = None
    """Linf budget of attacks, methods and judges"""
    epochs: Annotated[Whole | None, Parameter(show_default="3; of the methods 12")] = None
    """of the training in a round"""
    lr: Annotated[float | None, Parameter(show_default="0.001; of the methods 0.003")] = None
    """highest learning rate"""
    batch_size: Whole = 64
    """images in a step"""
    from_scratch: bool = False
    """each round's net begins with random weights"""
    held_out: Annotated[Whole, Parameter(metavar="N")] = 500
    """validation faces that each net is judged on"""
    within: Annotated[float, Parameter(metavar="L2")] = 0.25
    """the share of faces that are fooled within this distance is told"""


@Parameter(name="*", group=RULES)
@dataclass(frozen=True)
class StopRules:
    rounds: Annotated[Whole | None, Parameter(metavar="N", show_default="5; of the methods 1")] = None
    """after N rounds"""
    patience: Annotated[Whole, Parameter(metavar="N")] = 3
    """robust accuracy has not risen for N rounds"""
    min_changed: Annotated[float, Parameter(metavar="X")] = 0.002
    """at most this share of the answers has changed, and ..."""
    min_distance: Annotated[float, Parameter(metavar="X")] = 0.01
    """... the weights have moved by at most this share of their length"""
    max_images: Annotated[Whole | None, Parameter(metavar="N")] = None
    """so many were attacked or learnt from, each time counted"""
    max_seconds: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """so long was worked"""


@Parameter(name="*", group=SCHEDULE)
@dataclass(frozen=True)
class Times:
    every: Annotated[str | None, Parameter(group=(SCHEDULE, WHEN), metavar="TIME")] = None
    """stay, and look for new faces every 24h, 90m, 7d, ..."""
    cron: Annotated[str | None, Parameter(group=(SCHEDULE, WHEN), metavar="EXPR")] = None
    """the same at these times: '0 3 * * 1' is Mondays at three"""


def _check(**options: Any) -> None:
    if "to_round" in options and "rollback" not in options:
        raise UserError("--to-round goes with --rollback RUN; to attack the net of a round give --model RUN#round=N")
    if "times" in options and options.keys() & {"show", "rollback"}:
        raise UserError("--every and --cron go with a retraining or --update; leave them out")
    if named := [options[way] for way in ("resume", "update", "show", "rollback") if way in options]:
        free = {"resume", "update", "show", "rollback", "to_round", "every", "cron", "json", "address"}
        if "update" in options or "times" in options:  # these look for new faces, which it may label
            free.add("label_by")
        if options.keys() & {"resume", "update"}:  # where its faces are now
            free.add("data")
        must_leave_out(options, f"'{named[0]}' holds what the run was begun with", but=free)


verb = App(name="retrain", validator=_check)


@verb.default
def retrain(
    *,
    data: Annotated[Source | None, Parameter(show_default="synthetic")] = None,
    label: Label = None,
    classes: Classes = None,
    model: Annotated[PathText | None, Parameter(group=NET, metavar="NET")] = None,
    training: Training = Training(),
    rules: StopRules = StopRules(),
    max_clean_drop: Annotated[float, Parameter(group=NET, metavar="X")] = 0.02,
    label_by: Annotated[PathText | None, Parameter(group=DATA, metavar="NET")] = None,
    times: Times = Times(),
    out: Place = Path("runs/retrain"),
    resume: Annotated[Place | None, Parameter(group=(RUN, WAYS), metavar="RUN")] = None,
    update: Annotated[Place | None, Parameter(group=(RUN, WAYS), metavar="RUN")] = None,
    show: Annotated[Place | None, Parameter(group=(RUN, WAYS), metavar="RUN")] = None,
    rollback: Annotated[Place | None, Parameter(group=(RUN, WAYS), metavar="RUN")] = None,
    to_round: Annotated[Whole | None, Parameter(metavar="N")] = None,
    seed: Seed = 0,
    address: Address = None,
    json: Json = False,
) -> None:
    """Harden a net in rounds of attack and training; take in new faces.

    $ dxray retrain --data utkface:faces/ --model runs/sweep --rounds 4
    $ dxray retrain --update runs/retrain --every 24h
    $ dxray retrain --rollback runs/retrain

    Args:
        data: labelled faces, as for sweep; with resume or update, where those of RUN are now
        model: the net to begin with: a checkpoint, or a sweep's folder
        max_clean_drop: a net that costs so much clean accuracy is not put in use
        label_by: new faces without a label get that of this net, marked
        out: folder for the results
        resume: go on with the stopped run in RUN
        update: take in what is new in the source of RUN, and retrain; or say that nothing is
        show: the rounds of RUN, while it runs too
        rollback: put the net in use again that was before
        to_round: with --rollback: the net of this round
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.hardening import retrain as runs
    from dxray.orchestrator.hardening.schedule import keep
    from dxray.orchestrator.reports.rounds_table import show_rounds

    console = Console(as_json=json)
    if rollback:
        console.result(runs.rollback(rollback, console, to_round=to_round))
        return
    schedule = _schedule(times)  # first of all: a slip in it is not to be told after hours of work
    if not (update and schedule):
        if show:
            result = runs.result_of(show)
        elif update:
            try:
                result = runs.update(update, console, data=data, label_by=label_by, address=address)
            except Busy as wrong:
                # Begun by cron while the one before still works: no fault, and nobody is to be woken by it.
                console.say(f"{wrong}; nothing is done this time")
                console.result({"out": str(update), "busy": True})
                return
        elif resume:
            result = runs.resume(resume, console, data=data, address=address)
        else:
            config = _config(
                data or "synthetic", label, classes, model, training, rules, max_clean_drop, label_by, seed
            )
            result = runs.retrain(config, out, console, address=address)
        show_rounds(result, console)
        console.result(result)
    if schedule:
        run = (update or resume or out).expanduser().absolute()
        runs.recorded(run)
        moved = data if update or resume else None
        keep(run, schedule, lambda: runs.update(run, console, data=moved, label_by=label_by, address=address), console)


def _schedule(times: Times) -> "Schedule | None":
    from dxray.orchestrator.hardening.schedule import cron, every

    if times.cron:
        return cron(times.cron)
    return every(times.every) if times.every else None


def _config(
    data: str,
    label: str | None,
    classes: str | None,
    model: str | None,
    training: Training,
    rules: StopRules,
    max_clean_drop: float,
    label_by: str | None,
    seed: int,
) -> "RetrainConfig":
    from dxray.orchestrator.hardening.request import RetrainConfig
    from dxray.orchestrator.hardening.round_training import ROUNDS
    from dxray.orchestrator.hardening.stop_rules import Rules

    if not model:
        raise UserError("a retraining needs --model: the net to begin with, a checkpoint or a sweep's folder")
    asked, stop = given(training), given(rules)
    if "attack" in asked:
        asked["attacks"] = asked.pop("attack")
    if training.method != ROUNDS:
        if training.attack:
            raise UserError(f"--method {training.method} attacks in each batch by itself; leave --attack out")
        stop.setdefault("rounds", 1)
    return RetrainConfig(
        data=data,
        model=model,
        label=label,
        classes=class_names(classes),
        data_seed=seed,
        max_clean_drop=max_clean_drop,
        label_by=label_by,
        seed=seed,
        rules=Rules(**stop),
        **asked,
    )
