"""What a person reads of a sweep: test accuracies in the shape of the course's tables, and the best nets as a list."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dxray.orchestrator.console import Console
from dxray.orchestrator.sweep.describe import alike, value_text
from dxray.orchestrator.sweep.grid import varied
from dxray.orchestrator.sweep.tables import ON, TRAINED, measured_on

Row = Mapping[str, Any]
Key = tuple[Any, ...]  # values of some parameters

ACROSS = ("batch_size", "filters", "dropout")  # what the course's tables have as columns
LISTED = 5  # nets below such a table
REASONS = 20
SHARES = {
    "validation_accuracy": "validation",
    "accuracy": "test",
    "robust_naive": "naive attack",  # made for the net without its defence
    "robust_adaptive": "adaptive attack",
}

# How the reasons of a trial begin, and the word for each that fits into a table.
_WORDS = {"out of memory": "memory", "diverged": "diverged", "timed out": "time", "crashed": "crashed"}
SIGNS = {
    "one class": ("†", "one class: 99 % of its answers are alike"),
    "under majority": ("‡", "under majority: worse than always answering the larger class"),
    "stopped": ("*", "stopped early; measured as it was then"),
    "pending": ("·", "not run yet"),
}


@dataclass(frozen=True)
class Pivot:
    """A table of trials.

    Attributes:
        down, across: parameters of its rows and columns, outermost first.
        rows, columns: values of these, in ascending order.
        groups: the trials of each place, several where there are several seeds; a place without a trial is missing.
    """

    down: list[str]
    across: list[str]
    rows: list[Key]
    columns: list[Key]
    groups: dict[tuple[Key, Key], list[Row]]

    @property
    def sparse(self) -> bool:
        """Whether most places hold no trial, as after a random search."""
        return 2 * len(self.groups) < len(self.rows) * len(self.columns)


def pivot(rows: Sequence[Row], across: Sequence[str]) -> Pivot:
    """The trials with the parameters `across` as columns and all others in which they differ, but the seed, as rows."""
    # What is a column elsewhere comes first: it parts the table into several, one below the other.
    down = sorted((name for name in _differing(rows) if name not in across), key=lambda name: name not in ACROSS)
    groups: dict[tuple[Key, Key], list[Row]] = {}
    for row in rows:
        place = tuple(row[name] for name in down), tuple(row[name] for name in across)
        groups.setdefault(place, []).append(row)
    lines, columns = (sorted({place[i] for place in groups}, key=_in_order) for i in (0, 1))
    return Pivot(down, list(across), lines, columns, groups)


def course_shape(rows: Sequence[Row]) -> Pivot:
    """The pivot with the course's columns, as far as these differ, else with the last parameter that does."""
    names = _differing(rows)
    across = [name for name in ACROSS if name in names]
    if len(names) > 1 and len(across) == len(names):
        across = across[1:]
    return pivot(rows, across or names[-1:])


def _differing(rows: Sequence[Row]) -> list[str]:
    return [name for name in varied(rows) if name != "seed"]


def _in_order(key: Key) -> Key:
    return tuple((value is not None, value) for value in key)


@dataclass(frozen=True)
class Figure:
    """What is said of a place: mean and spread of the accuracy over its seeds, in [0, 1], and what went otherwise.

    Attributes:
        accuracy: None where no seed has a net.
        spread: standard deviation; None for fewer than two nets.
        remarks: of `SIGNS`, those that apply to one seed at least.
        failed: words for the reasons of KO.
        share: of how many seeds that is, such as 1/3; empty where of all.
        others: mean accuracy on the faces of each `--validate`, by its name.
    """

    accuracy: float | None
    spread: float | None
    remarks: tuple[str, ...]
    failed: tuple[str, ...]
    share: str
    others: dict[str, float]

    @property
    def mean_text(self) -> str:
        """In per cent, with the spread; empty where there is no net."""
        if self.accuracy is None:
            return ""
        spread = "" if self.spread is None else f" ± {100 * self.spread:.1f}"
        return f"{100 * self.accuracy:.1f}{spread}"

    @property
    def text(self) -> str:
        """On a line: figures, a sign for each remark, and KO with its reasons."""
        signs = (SIGNS[remark][0] for remark in self.remarks)
        ko = ("KO", self.share, *self.failed) if self.failed else ()
        return " ".join(filter(None, (self.mean_text, *signs, *ko)))


def figure(group: Sequence[Row]) -> Figure:
    """Of the trials of one place."""
    accuracies = [row["accuracy"] for row in group if row["status"] in TRAINED]
    failed = [row for row in group if row["status"] == "KO"]
    found = {row["mark"] for row in group} | {row["status"] for row in group}
    return Figure(
        accuracy=float(np.mean(accuracies)) if accuracies else None,
        spread=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        remarks=tuple(remark for remark in SIGNS if remark in found),
        failed=tuple(dict.fromkeys(reason_word(row["reason"]) for row in failed)),
        share=f"{len(failed)}/{len(group)}" if 0 < len(failed) < len(group) else "",
        others={
            name.removeprefix(ON): float(np.mean(shares))
            for name in measured_on(group)
            if (shares := [row[name] for row in group if row.get(name) is not None])
        },
    )


def reason_word(reason: str) -> str:
    """memory, diverged, time, crashed, else failed."""
    return next((word for start, word in _WORDS.items() if reason.startswith(start)), "failed")


def title(rows: Sequence[Row], figures: str = "test accuracy in %") -> str:
    """What the figures are, and what the larger class alone gives."""
    shares = {row["majority_share"] for row in rows if row["status"] in TRAINED}
    seeds = ", mean and standard deviation over seeds" if len({row["seed"] for row in rows}) > 1 else ""
    larger = f" (larger class alone: {100 * max(shares):.1f})" if shares else ""
    return f"{figures}{seeds}{larger}"


def show_table(rows: Sequence[Row], console: Console) -> None:
    """A table in the course's shape and the best few as a list; all as a list where it has no such shape, or no room.

    What is shown as a number alone is a net that has learnt; all else is marked, and explained below the table. Last
    come the parameters in which the nets do not differ.
    """
    lines = _pivot_that_fits(rows, console.width)
    if lines is None:
        _show_list(rows, console, title(rows, "accuracy of each net"))
    else:
        console.table(title(rows), lines[0], lines[1:])
        _explain(rows, console)
        if any(row["status"] in TRAINED and row["validation_accuracy"] is not None for row in rows):
            _show_list(rows, console, "the best on the validation split", LISTED)
    console.say(alike(rows, console.width))
    # A preset asks for as many images as the course had; whoever has fewer is told.
    for asked, used in sorted(
        {(row["train_size"], row["train_images"]) for row in rows if row.get("train_images")}, key=str
    ):
        if asked and used < asked:
            console.say(f"train_size {asked:,}: the data hold {used:,} training images, and all of them were used")


def _explain(rows: Sequence[Row], console: Console) -> None:
    """The signs that came in a table, and in full the reasons for KO, each once."""
    for remark, (sign, meaning) in SIGNS.items():
        if any(remark in (row["mark"], row["status"]) for row in rows):
            console.say(f"{sign} {meaning}")
    counts = Counter(row["reason"] for row in rows if row["status"] == "KO")
    for reason, count in list(counts.items())[:REASONS]:
        console.say(f"KO {reason_word(reason)}, {count} net{'s' * (count > 1)}: {reason}")
    if len(counts) > REASONS:
        console.say(f"... and {len(counts) - REASONS} further reasons, in trials.parquet")


def _pivot_that_fits(rows: Sequence[Row], width: int) -> list[list[str]] | None:
    """The lines of a pivot that is no wider than `width`; parameters go from its columns to its rows until it is.

    None where there is no such pivot: nothing or one thing differs, most places would be empty, or all are too wide.
    """
    if len(_differing(rows)) < 2:
        return None
    table = course_shape(rows)
    while table.across and not table.sparse:
        lines = _lines(table)
        if sum(_width(column) + 3 for column in zip(*lines, strict=True)) < width:
            return lines
        table = pivot(rows, table.across[1:])
    return None


def _width(column: Sequence[str]) -> int:
    return max(len(line) for trial in column for line in trial.split("\n"))


def _lines(table: Pivot) -> list[list[str]]:
    """Header and lines; a value that is that of the line above, or of the column to the left, is not said again."""
    above = "\n" * (len(table.across) - 1)
    names = [f"{above}{name}" for name in table.down]
    header = [*names, "\n".join(table.across), *("\n".join(key) for key in _news(table.columns, table.across))]
    lines = [header]
    for row, key in zip(table.rows, _news(table.rows, table.down), strict=True):
        groups = (table.groups.get((row, column)) for column in table.columns)
        lines.append([*key, "", *(figure(group).text if group else "" for group in groups)])
    return lines


def _news(keys: Sequence[Key], names: Sequence[str]) -> list[list[str]]:
    """Each key, of the parameters `names`, as texts; empty for leading values that it shares with the key before."""
    told = []
    for i, key in enumerate(keys):
        same = 0
        while i and same < len(key) - 1 and key[: same + 1] == keys[i - 1][: same + 1]:
            same += 1
        told.append([""] * same + [value_text(*pair) for pair in zip(names[same:], key[same:], strict=True)])
    return told


def _show_list(rows: Sequence[Row], console: Console, heading: str, most: int | None = None) -> None:
    """Best first, the first `most` that have a net or all; only what differs; several seeds of a trial are one line."""
    names = _differing(rows) or ["net"]
    ranked = sorted(pivot(rows, ()).groups.values(), key=rank)
    if most:
        ranked = [group for group in ranked if any(row["status"] in TRAINED for row in group)][:most]
    shares = {
        name: said
        for name, said in (SHARES | {name: f"on {name.removeprefix(ON)}" for name in measured_on(rows)}).items()
        if not name.startswith("robust") or any(row.get(name) is not None for row in rows)
    }
    header = [*names, "parameters", *shares.values(), "seconds", "remark"]
    lines = [
        [*(value_text(name, group[0][name]) for name in names), *_figures(group, list(shares))] for group in ranked
    ]
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    console.table(heading, header, lines)


def rank(group: Sequence[Row]) -> float:
    """Lowest for the highest validation accuracy; a seed without a net counts against its trial."""
    return -float(np.mean([row.get("validation_accuracy") or -1 for row in group]))


def _figures(group: Sequence[Row], shares: Sequence[str]) -> list[str | None]:
    trained = [row for row in group if row["status"] in TRAINED]
    said = [
        row["reason"] if row["status"] == "stopped" else f"KO: {row['reason']}" for row in group if row.get("reason")
    ]
    marks = [row["mark"] for row in group if row["mark"]]
    pending = [SIGNS["pending"][1] for row in group if row["status"] == "pending"]
    failed = any(row["status"] == "KO" for row in group)
    remark = ", ".join(dict.fromkeys(marks + said + pending)) or None
    if not trained:
        return [None, *(["KO" if failed else None] * len(shares)), None, remark]
    told: list[str | None] = []
    for name in shares:
        values = [row[name] for row in trained if row.get(name) is not None]
        spread = f" ± {np.std(values, ddof=1):.2%}" if len(values) > 1 else ""
        told.append(f"{np.mean(values):.2%}{spread}" if values else None)
    # The table of times is written after that of the nets, and may lag behind.
    times = [row["seconds"] for row in trained if row.get("seconds") is not None]
    return [f"{trained[0]['parameter_count']:,}", *told, f"{np.mean(times):.0f}" if times else None, remark]
