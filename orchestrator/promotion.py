"""Which net of a retraining is in use: `RUN/current`, a link to the net of a round, moved on or back in one step."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint import CARD, net_of_round
from orchestrator.errors import UserError

CURRENT = "current"


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


def use(run: Path, number: int) -> None:
    """Point `RUN/current` to the net of a round; a reader sees the old one or the new one."""
    target = net_of_round(run, number)
    if not (target / CARD).is_file():
        raise UserError(f"'{run}' has no net of a round {number}; dxray retrain --show '{run}' lists its rounds")
    link = run / f".{CURRENT}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(run))
    link.replace(run / CURRENT)


def in_use(run: Path) -> int:
    """The round whose net `RUN/current` is."""
    try:
        return int((run / CURRENT).readlink().parent.name)
    except (OSError, ValueError):
        raise UserError(
            f"'{run / CURRENT}' is no link to the net of a round; set it by: "
            f"dxray retrain --rollback '{run}' --to-round N"
        ) from None
