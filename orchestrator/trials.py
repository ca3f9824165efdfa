"""The tables of a sweep: a row for each cell, a row for each of its epochs, and what a person sees of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.console import Console
from orchestrator.grid import PARAMETERS, varied
from orchestrator.store import write_table

_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}

# One row per cell. A parameter is null where the cell leaves it to the net's or the training's own default.
TRIALS = pa.schema(
    [("cell", pa.int32()), *((name, _ARROW[parameter.kind]) for name, parameter in PARAMETERS.items())]
    + [("status", pa.string()), ("reason", pa.string()), ("mark", pa.string())]
    + [(name, pa.float64()) for name in ("accuracy", "validation_accuracy", "validation_loss")]
    + [(name, pa.float64()) for name in ("train_accuracy", "loss", "majority_share", "largest_answer_share")]
    + [("parameter_count", pa.int64()), ("train_images", pa.int64()), ("sha256", pa.string())]
)
EPOCHS = pa.schema(
    [("cell", pa.int32()), ("epoch", pa.int32())]
    + [(name, pa.float64()) for name in ("loss", "train_accuracy", "validation_loss", "validation_accuracy")]
)
# What differs from run to run has a file of its own, so that the tables of two runs can be compared.
TIMING = pa.schema([("cell", pa.int32()), ("seconds", pa.float64()), ("images_per_second", pa.float64())])


def trial_row(index: int, cell: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `TRIALS`, with `seconds` and `epochs` beside its columns."""
    parameters = {name: cell.get(name) for name in PARAMETERS}
    return {"cell": index, **parameters, **result, "mark": _mark(result), "epoch_rows": result.get("epochs", [])} | {
        "epochs": parameters["epochs"]
    }


def _mark(result: Mapping[str, Any]) -> str | None:
    """What an accuracy alone would hide: a net that gives one answer to nearly everything, or does worse than that."""
    if result["status"] != "ok":
        return None
    if result["largest_answer_share"] >= 0.99:
        return "one class"
    if result["accuracy"] < result["majority_share"]:
        return "under majority"
    return None


def write_tables(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`trials.parquet`, `epochs.parquet` and `timing.parquet` in `out`."""
    write_table(out / "trials.parquet", _table(rows, TRIALS))
    epochs = [{"cell": row["cell"], **epoch} for row in rows for epoch in row["epoch_rows"]]
    write_table(out / "epochs.parquet", _table(epochs, EPOCHS))
    timing = [
        {"cell": row["cell"], "seconds": row["seconds"]}
        | {"images_per_second": row["train_images"] * row["epochs"] / row["seconds"]}
        for row in rows
        if row["status"] == "ok"
    ]
    write_table(out / "timing.parquet", _table(timing, TIMING))


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in schema.names}, schema=schema)


def best_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the highest validation accuracy, the first of equals; None where nothing was trained."""
    trained = [row for row in rows if row["status"] == "ok"]
    return max(trained, key=lambda row: (row["validation_accuracy"], -row["cell"]), default=None)


def show_table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Best first; only the parameters that differ; several seeds of one cell are one line with mean and spread."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(repr([row[name] for name in PARAMETERS if name != "seed"]), []).append(row)
    names = [n for n in varied([{n: row[n] for n in PARAMETERS} for row in rows]) if n != "seed"] or ["net"]
    several = any(len(group) > 1 for group in groups.values())
    lines = [(_rank(group), [*(group[0][n] for n in names), *_figures(group)]) for group in groups.values()]
    header = [*names, "parameters", "validation", "test", "seconds", "remark"]
    if not any(line[-1] for _, line in lines):
        header, lines = header[:-1], [(rank, line[:-1]) for rank, line in lines]
    title = "accuracy of each net" + (" (mean and standard deviation over seeds)" if several else "")
    console.table(title, header, [line for _, line in sorted(lines, key=lambda pair: -pair[0])])


def _rank(group: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row.get("validation_accuracy") or -1 for row in group]))


def _figures(group: Sequence[Mapping[str, Any]]) -> list[str | None]:
    trained = [row for row in group if row["status"] == "ok"]
    failed = [f"KO: {row['reason']}" for row in group if row["status"] != "ok"]
    remark = ", ".join(dict.fromkeys(failed + [row["mark"] for row in trained if row["mark"]])) or None
    if not trained:
        return [None, "KO", "KO", None, remark]
    shares = []
    for name in ("validation_accuracy", "accuracy"):
        values = [row[name] for row in trained]
        spread = f" ± {np.std(values, ddof=1):.2%}" if len(values) > 1 else ""
        shares.append(f"{np.mean(values):.2%}{spread}")
    return [f"{trained[0]['parameter_count']:,}", *shares, f"{np.mean([r['seconds'] for r in trained]):.0f}", remark]
