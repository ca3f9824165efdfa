"""Which net of a retraining is in use: `RUN/current`, a link to the net of a round, moved on or back in one step.

A bucket has no links, nor anything that changes two objects in one step: there it is a copy, and `round.json` beside it
says of which. Who is killed in between does it again when the run goes on.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dxray.models.victims.checkpoint import CARD, WEIGHTS, net_of_round
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import ObjectPath, Place
from dxray.orchestrator.runs.store import read_json, replace_folder, write_json

CURRENT, ROUND = "current", "round.json"


class Verdict(NamedTuple):
    """round: of the candidate, or None where there is none. promoted: whether it is to be used from now on; and why."""

    round: int | None
    promoted: bool
    reason: str


def judge(rows: Sequence[Mapping[str, Any]], max_clean_drop: float) -> Verdict:
    """Whether the most robust net of a generation is to replace the one that it began with.

    Args:
        rows: of the generation; the first is of the net in use, measured on the same faces as the others.
        max_clean_drop: validation accuracy that robustness may cost: the fall must be smaller.
    """
    used, *others = rows
    if not others:
        return Verdict(None, False, "no round was done")
    best = max(others, key=lambda row: (row["robust_accuracy"], row["validation_accuracy"], -row["round"]))
    number, robust = best["round"], f"{used['robust_accuracy']:.1%} -> {best['robust_accuracy']:.1%}"
    clean = f"{used['validation_accuracy']:.1%} -> {best['validation_accuracy']:.1%}"
    if best["net_sha256"] == used["net_sha256"]:
        return Verdict(number, False, "no net differs from the one in use")
    if best["robust_accuracy"] < used["robust_accuracy"]:
        return Verdict(number, False, f"robust accuracy would fall ({robust})")
    if used["validation_accuracy"] - best["validation_accuracy"] >= max_clean_drop:
        return Verdict(number, False, f"clean accuracy would fall by {max_clean_drop:.1%} or more ({clean})")
    return Verdict(number, True, f"robust accuracy {robust}, clean accuracy {clean}")


def use(run: Place, number: int) -> None:
    """Point `RUN/current` to the net of a round; a reader sees the old one or the new one."""
    target = net_of_round(run, number)
    if not (target / CARD).exists():
        raise UserError(f"'{run}' has no net of a round {number}; dxray retrain --show '{run}' lists its rounds")
    if isinstance(run, ObjectPath):
        replace_folder(target, run / CURRENT, only=(WEIGHTS, CARD))
        write_json(run / CURRENT / ROUND, {"round": number})
        return
    link = run / f".{CURRENT}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(run))
    link.replace(run / CURRENT)


def in_use(run: Place) -> int:
    """The round whose net `RUN/current` is."""
    if isinstance(run, ObjectPath):
        return int(read_json(run / CURRENT / ROUND)["round"])
    try:
        return int((run / CURRENT).readlink().parent.name)
    except (OSError, ValueError):
        raise UserError(
            f"'{run / CURRENT}' is no link to the net of a round; set it by: "
            f"dxray retrain --rollback '{run}' --to-round N"
        ) from None
