"""When the rounds of a retraining end: rules over the rows of the rounds done, each with a sentence for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Stop(NamedTuple):
    """The rule that fired, of `nothing_fools`, `rounds`, `small_change`, `no_longer_rises`, `budget`; and why."""

    rule: str
    says: str


@dataclass(frozen=True)
class Rules:
    """What a retraining stops at; None: never.

    Attributes:
        rounds: so many.
        min_changed, min_distance: both the share of validation faces that a net answers otherwise than the one before,
            and the distance of their weights (see `round_training.fit_round`) are at most so large.
        patience: robust accuracy has not been higher than before for so many rounds.
        max_images: so many images were attacked or learnt from, each time counted. max_seconds: of work.
    """

    rounds: int = 5
    min_changed: float = 0.002
    min_distance: float = 0.01
    patience: int | None = 3
    max_images: int | None = None
    max_seconds: float | None = None


def why_stop(rows: Sequence[Mapping[str, Any]], rules: Rules, *, seconds: float = 0.0) -> Stop | None:
    """The first rule that fires after the last of `rows`, or None.

    Args:
        rows: of one generation, as in `rounds.parquet`; the first is of the net it begins with.
        seconds: that these took.
    """
    done = rows[1:]
    if not done:
        return None
    last = done[-1]
    if last["attacked"] and not last["fooled"]:
        return Stop("nothing_fools", f"the attack fools the net on none of {last['attacked']:,} training faces")
    if len(done) >= rules.rounds:
        return Stop("rounds", f"{len(done)} of {rules.rounds} rounds are done")
    if last["changed"] <= rules.min_changed and last["weight_distance"] <= rules.min_distance:
        return Stop(
            "small_change",
            f"the net hardly changes: {last['changed']:.2%} of its answers (limit {rules.min_changed:.2%}) and "
            f"{last['weight_distance']:.4f} of its weights' length (limit {rules.min_distance:g})",
        )
    best = max(range(len(rows)), key=lambda i: (rows[i]["robust_accuracy"], -i))
    if rules.patience is not None and len(done) - best >= rules.patience:
        return Stop(
            "no_longer_rises",
            f"robust accuracy has not risen for {rules.patience} rounds: {rows[best]['robust_accuracy']:.1%} in round "
            f"{rows[best]['round']}, {last['robust_accuracy']:.1%} now",
        )
    images = sum((row["attacked"] or 0) + row["epochs"] * row["train_images"] for row in done)
    if rules.max_images is not None and images >= rules.max_images:
        return Stop("budget", f"{images:,} images were attacked or learnt from, of {rules.max_images:,} allowed")
    if rules.max_seconds is not None and seconds >= rules.max_seconds:
        return Stop("budget", f"{seconds:,.0f} seconds were spent, of {rules.max_seconds:,.0f} allowed")
    return None
