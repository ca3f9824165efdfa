"""The verb `dxray retrain`: its options, what it prints, and which of its five ways to be called is meant."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.reports.rounds_table import show_rounds
from dxray.orchestrator.runs.places import must_leave_out, place

if TYPE_CHECKING:
    from dxray.orchestrator.hardening.schedule import Schedule

EXAMPLE = "dxray retrain --data utkface:faces/ --model runs/sweep --rounds 4 --out runs/retrain"
OUT = Path("runs/retrain")
RULES = ("rounds", "min_changed", "min_distance", "patience", "max_images", "max_seconds")
ASKED = ("data", "model", "label", "method", "norm", "eps", "within", "epochs", "lr", "batch_size")
FACES = ("held_out", "attack_faces")


def add_options(made: argparse.ArgumentParser) -> None:
    """The options of the verb, without those that all verbs have."""
    made.add_argument("--data", metavar="SOURCE", help="labelled faces, as for sweep (synthetic)")
    made.add_argument("--label", metavar="COLUMN", help="the column that holds the labels (parquet:, hf:)")
    made.add_argument("--model", metavar="PATH", help="the net to begin with: a checkpoint, or a sweep's folder")
    ways = made.add_mutually_exclusive_group()
    ways.add_argument("--resume", type=place, metavar="RUN", help="go on with the stopped run in RUN")
    ways.add_argument(
        "--update", type=place, metavar="RUN", help="take in what is new in the source of RUN, and retrain; or say so"
    )
    ways.add_argument("--show", type=place, metavar="RUN", help="the rounds of RUN, while it runs too")
    ways.add_argument("--rollback", type=place, metavar="RUN", help="put the net in use again that was before")
    made.add_argument("--to-round", type=int, metavar="N", help="with --rollback: the net of this round")
    when = made.add_mutually_exclusive_group()
    when.add_argument("--every", metavar="TIME", help="stay, and look for new faces every 24h, 90m, 7d, ...")
    when.add_argument("--cron", metavar="EXPR", help="the same at these times: '0 3 * * 1' is Mondays at three")
    method = made.add_argument_group("how")
    method.add_argument(
        "--method",
        metavar="NAME",
        help="rounds: attack, then learn from what fooled; fgsm, nfgsm, pgd, free, trades: in each batch (rounds)",
    )
    method.add_argument("--attack", nargs="+", metavar="NAME", help="of the rounds, as for attack (dx)")
    method.add_argument("--attack-faces", type=int, metavar="N", help="so many training faces in each round (all)")
    method.add_argument("--norm", help="of these attacks: l2, linf, l1, l0 (that of each)")
    method.add_argument("--eps", type=budget, help="Linf budget of attacks, methods and judges (2/255; methods 8/255)")
    method.add_argument("--epochs", type=int, help="of the training in a round (3; of the methods 12)")
    method.add_argument("--lr", type=float, help="highest learning rate (0.001; of the methods 0.003)")
    method.add_argument("--batch-size", type=int, help="(64)")
    method.add_argument("--from-scratch", action="store_true", help="each round's net begins with random weights")
    method.add_argument("--held-out", type=int, metavar="N", help="validation faces that each net is judged on (500)")
    method.add_argument("--within", type=float, metavar="L2", help="share of faces fooled within this is told (0.25)")
    rules = made.add_argument_group("when to stop: the first that fires")
    rules.add_argument("--rounds", type=int, metavar="N", help="after N rounds (5)")
    rules.add_argument("--patience", type=int, metavar="N", help="robust accuracy has not risen for N rounds (3)")
    rules.add_argument("--min-changed", type=float, metavar="X", help="share of answers that change (0.002), and ...")
    rules.add_argument("--min-distance", type=float, metavar="X", help="... of the weights' length (0.01) at most")
    rules.add_argument("--max-images", type=int, metavar="N", help="attacked or learnt from, each time counted")
    rules.add_argument("--max-seconds", type=float, metavar="S", help="of work")
    use = made.add_argument_group("which net is in use (RUN/current), and new faces")
    use.add_argument(
        "--max-clean-drop", type=float, metavar="X", help="a net that costs so much clean accuracy is not (0.02)"
    )
    use.add_argument("--label-by", metavar="MODEL", help="new faces without a label get that of this net, marked")


def run(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.hardening.retrain import rollback

    _must_fit_together(options)
    if options.rollback:
        console.result(rollback(options.rollback, console, to_round=options.to_round))
        return 0
    schedule = _schedule(options)  # first of all: a slip in it is not to be told after hours of work
    if not (schedule and options.update):
        console.result(_once(options, console))
    if schedule:
        _keep(options, schedule, console)
    return 0


def _schedule(options: argparse.Namespace) -> "Schedule | None":
    if not options.every and not options.cron:
        return None
    from dxray.orchestrator.hardening.schedule import cron, every

    if options.show or options.rollback:
        raise UserError("--every and --cron go with a retraining or --update; leave them out")
    return cron(options.cron) if options.cron else every(options.every)


def _once(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from dxray.orchestrator.hardening.retrain import result_of, resume, retrain, update

    if options.show:
        result = result_of(options.show)
    elif options.update:
        try:
            result = update(options.update, console, label_by=options.label_by, address=options.address)
        except Busy as wrong:
            # Begun by cron while the one before still works: no fault, and nobody is to be woken by it.
            console.say(f"{wrong}; nothing is done this time")
            return {"out": str(options.update), "busy": True}
    elif options.resume:
        result = resume(options.resume, console, address=options.address)
    else:
        result = retrain(_config(options), options.out or OUT, console, address=options.address)
    show_rounds(result, console)
    return result


def _keep(options: argparse.Namespace, schedule: "Schedule", console: Console) -> None:
    """Look for new faces on the schedule, for ever."""
    from dxray.orchestrator.hardening.retrain import recorded, update
    from dxray.orchestrator.hardening.schedule import keep

    run = (options.update or options.resume or options.out or OUT).expanduser().absolute()
    recorded(run)
    keep(run, schedule, lambda: update(run, console, label_by=options.label_by, address=options.address), console)


def _must_fit_together(options: argparse.Namespace) -> None:
    if options.to_round is not None and not options.rollback:
        raise UserError("--to-round goes with --rollback RUN; to attack the net of a round give --model RUN#round=N")
    named = options.resume or options.update or options.show or options.rollback
    if named:
        free = {"resume", "update", "show", "rollback", "to_round", "every", "cron", "json", "address"}
        if options.update or options.every or options.cron:  # these look for new faces, which it may label
            free.add("label_by")
        must_leave_out(options, f"'{named}' holds what the run was begun with", but=free)


def _config(options: argparse.Namespace) -> Any:
    from dxray.orchestrator.hardening.retrain import RetrainConfig
    from dxray.orchestrator.hardening.round_training import ROUNDS
    from dxray.orchestrator.hardening.stop_rules import Rules

    if not options.model:
        raise UserError("a retraining needs --model: the net to begin with, a checkpoint or a sweep's folder")
    given = {name: value for name in (*ASKED, *FACES) if (value := getattr(options, name)) is not None}
    rules = {name: value for name in RULES if (value := getattr(options, name)) is not None}
    if given.get("method", ROUNDS) != ROUNDS:
        if options.attack:
            raise UserError(f"--method {options.method} attacks in each batch by itself; leave --attack out")
        rules.setdefault("rounds", 1)
    for name, value in (("attacks", options.attack), ("max_clean_drop", options.max_clean_drop)):
        if value is not None:
            given[name] = value
    return RetrainConfig(
        **given,
        data_seed=options.seed,
        seed=options.seed,
        from_scratch=options.from_scratch,
        label_by=options.label_by,
        rules=Rules(**rules),
    )


def budget(text: str) -> float:
    """`0.03`, or `8/255`."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise ValueError(text) from None


budget.__name__ = "number"  # what argparse calls it
