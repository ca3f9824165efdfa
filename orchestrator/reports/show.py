"""`dxray show`: what came out of an attack, finished or running, or of some of its images; which were hard and easy."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dxray.attacks import ATTACKS
from dxray.orchestrator.reports.attack_report import contact_sheet
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.filters import parse
from dxray.orchestrator.runs.rows import PART, is_finished, read_config, read_images, scan
from dxray.orchestrator.runs.store import writable_folder, write_bytes
from dxray.orchestrator.runs.summary import DISTANCES, summarise

SHEET = "contact_sheet.png"
LISTED = ["name", "status", "label", "predicted_after", "probability_before", "probability_after", *DISTANCES]
LISTED += ["gradients", "forwards"]


def show(
    run: Place,
    *,
    where: str | None = None,
    count: int = 6,
    out: Place | None = None,
    on_share: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """A summary, the hardest, easiest and slowest `count` images, and a contact sheet of the first two.

    Hard is what was missed, then what took the largest change in the norm that the attack kept small; slow is what took
    the most gradients.

    Args:
        where: only the rows for which this holds, see `runs.filters`.
        out: a folder for the contact sheet (the run's own).
        on_share: told now and then which share of the run is read, in [0, 1].

    Raises:
        UserError: `run` is no attack's folder, `where` is not understood, a part is damaged, `out` is not writable.
    """
    record = read_config(run)
    chosen = parse(where) if where is not None else None
    out = writable_folder(out or run, "the contact sheet")
    norm = _norm(record["config"])
    tell = on_share or (lambda share: None)
    ranked = _ranked(run, norm, count, chosen, lambda share: tell(share / 2))
    hardest = {row["name"] for row in ranked["hardest"]}
    bands = {
        "hardest": ranked["hardest"],
        "easiest": [row for row in ranked["easiest"] if row["name"] not in hardest],  # of few, all would be both
    }
    drawn = {title: [row | read_images(run, row) for row in rows] for title, rows in bands.items() if rows}
    if drawn:
        write_bytes(out / SHEET, contact_sheet(drawn, record["classes"]))
    return summarise(run, chosen, lambda share: tell((1 + share) / 2)) | {
        "out": str(run),
        "where": where,
        "finished": is_finished(record),
        "expected": record["inputs"],
        "norm": norm,
        **{title: [_without(row, PART) for row in rows] for title, rows in ranked.items()},
        "contact_sheet": str(out / SHEET) if drawn else None,
    }


def _norm(config: Mapping[str, Any]) -> str:
    """What the attack kept small: as it was asked to, else as it does by itself; L2 where it knows no other."""
    known = inspect.signature(ATTACKS[config["attack"]]).parameters if config.get("attack") in ATTACKS else {}
    return str(config["options"].get("norm", known["norm"].default if "norm" in known else "l2"))


def _ranked(
    run: Place, norm: str, count: int, where: pc.Expression | None, on_share: Callable[[float], None]
) -> dict[str, list[dict[str, Any]]]:
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
    for batch in scan(run, LISTED, where, on_share):
        table = pa.Table.from_batches([batch])
        for title, (counted, order) in orders.items():
            rows = pa.concat_tables([found[title], table.filter(counted)], promote_options="default")
            best = pc.select_k_unstable(rows, count, sort_keys=[*order, ("name", "ascending")])
            found[title] = rows.take(best)
    return {title: rows.to_pylist() for title, rows in found.items()}


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
