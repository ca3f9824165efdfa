"""`dxray show`: what came out of an attack, finished or running, or of some of its images; which were hard and easy."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.report import contact_sheet
from orchestrator.rows import PART, is_finished, read_config, read_images, scan
from orchestrator.store import writable_folder
from orchestrator.where import parse

STATUSES = ("fooled", "missed", "already_wrong", "is_target", "unreadable", "failed")
DISTANCES = ("l0", "l1", "l2", "linf")
SHEET = "contact_sheet.png"
REASONS = 20  # of images that were not attacked that are told of, the most frequent
LISTED = ["name", "status", "label", "predicted_after", "probability_before", "probability_after", *DISTANCES]
LISTED += ["gradients", "forwards"]


def show(run: Path, *, where: str | None = None, count: int = 6, out: Path | None = None) -> dict[str, Any]:
    """A summary, the hardest, easiest and slowest `count` images, and a contact sheet of the first two.

    Hard is what was missed, then what took the largest change in the norm that the attack kept small; slow is what took
    the most gradients.

    Args:
        where: only the rows for which this holds, see `orchestrator.where`.
        out: a folder for the contact sheet (the run's own).

    Raises:
        UserError: `run` is no attack's folder, `where` is not understood, a part is damaged, `out` is not writable.
    """
    record = read_config(run)
    chosen = parse(where) if where is not None else None
    out = writable_folder(out or run, "the contact sheet")
    norm = record["config"]["options"].get("norm", "l2")
    ranked = _ranked(run, norm, count, chosen)
    hardest = {row["name"] for row in ranked["hardest"]}
    bands = {
        "hardest": ranked["hardest"],
        "easiest": [row for row in ranked["easiest"] if row["name"] not in hardest],  # of few, all would be both
    }
    drawn = {title: [row | read_images(run, row) for row in rows] for title, rows in bands.items() if rows}
    if drawn:
        contact_sheet(drawn, out / SHEET, record["classes"])
    return summarise(run, chosen) | {
        "out": str(run),
        "where": where,
        "finished": is_finished(record),
        "expected": record["inputs"],
        "norm": norm,
        **{title: [_without(row, PART) for row in rows] for title, rows in ranked.items()},
        "contact_sheet": str(out / SHEET) if drawn else None,
    }


def summarise(run: Path, where: pc.Expression | None = None) -> dict[str, Any]:
    """Counts by status, how many of the faces that the net had right were fooled, and quantiles of the distances."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    distances: dict[str, list[np.ndarray]] = {name: [] for name in DISTANCES}
    gradients = 0
    for batch in scan(run, ["status", "reason", "gradients", *DISTANCES], where):
        counts += _counted(batch["status"])
        reasons += _counted(batch["reason"].drop_null())
        gradients += pc.sum(batch["gradients"]).as_py() or 0
        fooled = batch.filter(pc.equal(batch["status"], "fooled"))
        for name, values in distances.items():
            values.append(fooled[name].to_numpy(zero_copy_only=False))
    right = counts["fooled"] + counts["missed"]
    return {
        "inputs": counts.total(),
        "counts": {status: counts[status] for status in STATUSES},
        "reasons": dict(reasons.most_common(REASONS)),
        "right": right,
        "fooled_share": counts["fooled"] / right if right else None,
        "distances": {name: _quantiles(values) for name, values in distances.items()},
        "gradients_per_image": gradients / right if right else None,
    }


def _ranked(run: Path, norm: str, count: int, where: pc.Expression | None) -> dict[str, list[dict[str, Any]]]:
    """The first `count` rows in each of three orders, found in one pass that keeps no more than these."""
    status = pc.field("status")
    orders = {
        "hardest": (
            status.isin(["fooled", "missed"]),
            [("status", "descending"), (norm, "descending"), ("gradients", "descending")],  # missed, then fooled
        ),
        "easiest": (status == "fooled", [(norm, "ascending"), ("gradients", "ascending")]),
        "slowest": (~pc.field("gradients").is_null(), [("gradients", "descending"), ("forwards", "descending")]),
    }
    found = dict.fromkeys(orders, pa.Table.from_batches([], pa.schema([])))
    for batch in scan(run, LISTED, where):
        table = pa.Table.from_batches([batch])
        for title, (counted, order) in orders.items():
            rows = pa.concat_tables([found[title], table.filter(counted)], promote_options="default")
            best = pc.select_k_unstable(rows, count, sort_keys=[*order, ("name", "ascending")])
            found[title] = rows.take(best)
    return {title: rows.to_pylist() for title, rows in found.items()}


def _counted(values: pa.Array) -> Counter[str]:
    return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(values).to_pylist()})


def _quantiles(batches: list[np.ndarray]) -> dict[str, float] | None:
    """Mean, and the quantiles that a person asks for."""
    values = np.concatenate([np.empty(0), *batches])
    if not len(values):
        return None
    shares = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
    found = np.quantile(values, list(shares.values()))
    return dict(zip(shares, map(float, found), strict=True)) | {"mean": float(values.mean())}


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
