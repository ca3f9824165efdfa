"""What came out of an attack in figures: of all its images, or of some."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxray.models.data.agreement import counted
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.rows import scan

STATUSES = ("fooled", "missed", "already_wrong", "is_target", "unreadable", "failed")
DISTANCES = ("l0", "l1", "l2", "linf")
REASONS = 20  # of images that were not attacked that are told of, the most frequent


def summarise(
    run: Place, where: pc.Expression | None = None, on_share: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Counts by status, how many of the faces that the net had right were fooled, and quantiles of the distances."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    distances: dict[str, list[np.ndarray]] = {name: [] for name in DISTANCES}
    gradients = 0
    for batch in scan(run, ["status", "reason", "gradients", *DISTANCES], where, on_share):
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


def answers_by_label(run: Place, classes: int) -> np.ndarray:
    """How often the net answered a class to faces of each label that came with them, int64 `(classes, classes)`."""
    table = np.zeros((classes, classes), np.int64)
    asked = pc.field("label_known") & pc.is_valid(pc.field("predicted_before"))
    for batch in scan(run, ["label", "predicted_before"], asked):
        table += counted(batch["label"].to_numpy(), batch["predicted_before"].to_numpy(), classes)
    return table


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
