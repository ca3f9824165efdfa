"""Whether labels mean what a net's answers mean: labels the wrong way round leave it right less often than chance."""

import math
from collections.abc import Sequence

import numpy as np

FEWEST = 30  # labelled faces, below which nothing is said
SURE = 1e-6  # how seldom answers without any relation to the labels may look so


def counted(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """How often each answer met each label, int64 `(classes, classes)`, rows by label; labels below 0 are unknown."""
    known = labels >= 0
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels[known], answers[known]), 1)
    return table


def surely_below_chance(table: np.ndarray) -> bool:
    """Whether a net is right less often than answers as frequent as its own would be, without a look at the face.

    So one answer to all is never below chance. The chance of so few right ones is that of a binomial distribution,
    bounded from above (Chernoff 1952), and must be below `SURE`.
    """
    return _tail(table, below=True) < SURE


def surely_above_chance(table: np.ndarray) -> bool:
    """The same, of so many right ones."""
    return _tail(table, below=False) < SURE


def swapped(table: np.ndarray, classes: Sequence[str], numbers: Sequence[str] = ()) -> tuple[str, str] | None:
    """What is seen, and what mends it, where the labels are surely not what the net's answers mean; else None.

    Args:
        table: what `counted` gives.
        classes: the net's, for people.
        numbers: the names that were counted where the labels were numbers.
    """
    if not surely_below_chance(table):
        return None
    total, right, chance = table.sum(), table.trace(), _chance(table)
    seen = (
        f"the net is right on {right:,} of {total:,} labelled faces ({right / total:.1%}), and by guessing would be on "
        f"{chance:.1%}: the labels are {'swapped' if len(classes) == 2 else 'of another order or meaning'}"
    )
    if numbers:
        other = ",".join(reversed(numbers)) if len(numbers) == 2 else "NAME,NAME,..."
        counts = ", ".join(f"{i} for {name}" for i, name in enumerate(numbers))
        return seen, f"the labels were numbers, {counts} was assumed: give what they mean by --classes {other}"
    return seen, (
        f"see whether the net's outputs are {', '.join(classes)} in this order ('classes' in its side file, or in its "
        f"training), and whether the labels are right"
    )


def _chance(table: np.ndarray) -> float:
    total = max(1, int(table.sum()))
    return float((table.sum(0) / total * (table.sum(1) / total)).sum())


def _tail(table: np.ndarray, *, below: bool) -> float:
    """The chance that guesses are right so seldom (`below`) or so often, or a bound above it."""
    total = int(table.sum())
    if total < FEWEST:
        return 1.0
    share, chance = float(table.trace()) / total, _chance(table)
    if not 0 < chance < 1 or share == chance or (share < chance) != below:
        return 1.0
    return math.exp(-total * (_term(share, chance) + _term(1 - share, 1 - chance)))


def _term(share: float, chance: float) -> float:
    return share * math.log(share / chance) if share else 0.0
