"""`dxray verify`: does each saved image still fool? Re-read from its file, by the path that `dxray predict` takes."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from dxray.models.data.images import UnreadableImage
from dxray.models.victims.checkpoint import ModelCard
from dxray.models.victims.predict import Prediction, predict
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.rows import CONFIG
from dxray.orchestrator.runs.store import parts, read_json, read_rows, writable_folder, write_records
from dxray.orchestrator.runs.working_copy import load_net

STILL_FOOLS = "still fools"
NOT_COUNTED = "not counted: it was not fooled"


def verify(out: Place, console: Console, *, model: str | None = None, report: Place | None = None) -> dict[str, Any]:
    """Look at every saved image of the run in `out` again; returns counts, and the names of those that failed.

    Of each row that the run calls `fooled`: the modified image must be taken for the target (without one, for another
    class than the label), the original for the label. Where the run saved PNG files, the files are read, else the
    bytes in the Arrow parts.

    Args:
        model: another net than the one attacked, to see whether the images fool that one too (transfer).
        report: a folder for `verified.parquet`: a row for each image of the run, with what was found.

    Raises:
        UserError: there is no finished part, or the other net takes images of another size than were saved.
    """
    record = read_json(out / CONFIG)
    net, attacked = load_net(out / "model")
    card = attacked
    if model:
        net, card = load_net(model)
    if (card.size, card.channels) != (attacked.size, attacked.channels):
        raise UserError(
            f"'{model}' takes {_form(card)} images, but those in '{out}' were saved for {_form(attacked)}; "
            "resizing them would undo the change; choose a net of the same input"
        )
    if not parts(out):
        raise UserError(f"'{out}' holds no finished part yet; finish it first: dxray attack --resume '{out}'")
    from_files = bool(record["config"]["png"])
    report = writable_folder(report, "the report") if report else None
    found: list[dict[str, str]] = []
    with console.bar("verifying", record["inputs"], "images") as bar:
        for row in read_rows(out, ["name", "status", "label", "target", "original", "modified"]):
            verdict = _check(row, net, card, out if from_files else None)
            found.append({"name": row["name"], "status": row["status"], "verdict": verdict})
            bar.advance()
    if report:
        write_records(report / "verified.parquet", found)
    counts = Counter(row["verdict"] for row in found)
    fooled = len(found) - counts[NOT_COUNTED]
    failed = [f"{row['name']}: {row['verdict']}" for row in found if row["verdict"] not in (STILL_FOOLS, NOT_COUNTED)]
    same_net = card.sha256 == record["net_sha256"]
    return {
        "out": str(out),
        "net_sha256": card.sha256,
        "same_net": same_net,
        "read": "PNG files" if from_files else "PNG bytes in the Arrow parts",
        "rows": len(found),
        "inputs": record["inputs"],
        "fooled": fooled,
        "still_fools": counts[STILL_FOOLS],
        "failed": failed,
        # With another net the count is a measurement (transfer), not a promise that was kept or broken.
        "success": len(found) == record["inputs"] and not (same_net and failed),
    }


def _check(row: dict[str, Any], net: nn.Module, card: ModelCard, folder: Place | None) -> str:
    """`folder`: where the PNG files are; None: look at the bytes in the row."""
    if row["status"] != "fooled":
        return NOT_COUNTED
    try:
        before, after = (predict(net, card, _saved(row[which], folder)) for which in ("original", "modified"))
    except (UnreadableImage, OSError) as wrong:
        return f"its saved image cannot be read: {wrong}"
    if before.label != row["label"]:
        return f"the original is taken for {before.name} even before the change"
    return STILL_FOOLS if _reached(after, row) else f"the saved image is taken for {after.name}: not fooled"


def _saved(image: dict[str, Any], folder: Place | None) -> Path | bytes:
    if folder is None:
        return bytes(image["bytes"])
    file = folder / image["path"]
    return file if isinstance(file, Path) else file.read_bytes()


def _reached(after: Prediction, row: dict[str, Any]) -> bool:
    return after.label != row["label"] if row["target"] is None else after.label == row["target"]


def _form(card: ModelCard) -> str:
    return f"{card.size[0]}x{card.size[1]} {'grey' if card.channels == 1 else 'RGB'}"
