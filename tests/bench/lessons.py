"""Do our nets show what the course's tables taught? A reduced sweep, its table, and a line for each lesson.

    python -m tests.bench.lessons --data parquet:FACES.parquet
    python -m tests.bench.lessons --data parquet:FACES.parquet --train-size 4000 --epochs 6 --out runs/lessons

The lessons: without batch norm a ConvNet of 7 convolutions a block stays at the majority class, with it it learns; a
DenseNet of that depth learns without it; more convolutions help a DenseNet, until dropout .5 with few filters (4) keeps
it from learning. "Learns" is a test accuracy of ten points above the majority's share. Nothing is augmented, as in the
course.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.trial_table import show_table
from dxray.orchestrator.sweep.sweep import SweepConfig, sweep

CLEAR = 0.10  # above the share of the majority

CONVS, DROPOUTS = [1, 2, 4, 7, 10], [0.3, 0.5]
FEW_FILTERS = {"net": "densenet", "filters": 4, "batch_norm": False, "convs": CONVS, "dropout": DROPOUTS}
GRIDS: list[dict[str, Any]] = [
    {"net": "convnet", "filters": 16, "convs": 7, "dropout": 0.0, "batch_norm": [True, False]},
    {"net": "densenet", "filters": 8, "convs": 7, "dropout": 0.0, "batch_norm": False},
    FEW_FILTERS,
]

Rows = Sequence[Mapping[str, Any]]


def accuracy(rows: Rows, **trial: Any) -> float:
    """Of the one trial with these parameters; that of guessing for one that failed."""
    (row,) = (row for row in rows if all(row[name] == value for name, value in trial.items()))
    return float(row["accuracy"] if row["status"] == "ok" else 0.0)


def lessons(rows: Rows) -> list[tuple[str, bool, str]]:
    """Each lesson: its sentence, whether these rows show it, and by which figures."""
    majority = next(row["majority_share"] for row in rows if row["status"] == "ok")
    learnt = majority + CLEAR
    plain, normed = (accuracy(rows, net="convnet", batch_norm=on) for on in (False, True))
    dense = accuracy(rows, net="densenet", filters=8)
    curves = {
        dropout: [accuracy(rows, net="densenet", filters=4, dropout=dropout, convs=convs) for convs in CONVS]
        for dropout in DROPOUTS
    }
    shown = {dropout: ", ".join(f"{value:.1%}" for value in values) for dropout, values in curves.items()}
    light, heavy = curves[0.3], curves[0.5]
    return [
        ("a ConvNet of 7 convs a block stays at the majority without batch norm", plain < learnt, f"{plain:.1%}"),
        ("with batch norm it learns", normed >= learnt, f"{normed:.1%}"),
        ("a DenseNet of 7 convs a block learns without batch norm", dense >= learnt, f"{dense:.1%}"),
        (
            "more convs help a DenseNet of 4 filters at dropout .3",
            max(light[1:]) > light[0] + 0.01 and max(light) >= learnt,
            f"{shown[0.3]} for {CONVS} convs",
        ),
        (
            "dropout .5 keeps the deepest of them from learning, .3 does not",
            heavy[-1] < learnt <= light[-1],
            f"{shown[0.5]} for {CONVS} convs",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled faces, as `dxray sweep --data` takes them")
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, help="keep the sweep in this folder")
    options = parser.parse_args()
    console = Console()
    shared = {"train_size": options.train_size, "epochs": options.epochs, "augment": False}
    with nullcontext(options.out) if options.out else tempfile.TemporaryDirectory() as out:
        config = SweepConfig(data=options.data, grid=[grid | shared for grid in GRIDS], cpus_per_trial=1)
        rows = sweep(config, Path(out) / "sweep", console)["trials"]
    show_table(rows, console)
    majority = next(row["majority_share"] for row in rows if row["status"] == "ok")
    console.table(
        f"the lessons (majority {majority:.1%}; to learn is to reach {majority + CLEAR:.1%})",
        ["lesson", "shown", "figures"],
        [[sentence, "yes" if holds else "no", figures] for sentence, holds, figures in lessons(rows)],
    )


if __name__ == "__main__":
    main()
