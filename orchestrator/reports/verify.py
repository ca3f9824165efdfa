"""`dxray verify`: does each saved image still fool? Re-read from its file, and answered as `dxray predict` answers."""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dxray.models.data.images import UnreadableImage, decode, open_source
from dxray.models.nets import MODELS
from dxray.models.training.train import has_fast_bf16
from dxray.models.victims.checkpoint import ModelCard
from dxray.models.victims.predict import labels_of
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.rows import CONFIG
from dxray.orchestrator.runs.store import parts, read_json, read_rows, writable_folder, write_records
from dxray.orchestrator.runs.working_copy import load_net
from dxray.orchestrator.threads import torch_threads

STILL_FOOLS = "still fools"
NOT_COUNTED = "not counted: it was not fooled"
ROWS = 64  # at a time, of whose originals, and then of whose modified images, the net is asked at once
VALUES = 600_000  # of large images fewer: so many values at most, for what a net makes of them takes many times as much
# Each reads, decodes and asks on one thread of torch's: two of these take half the time of two threads inside the net.
THREADS = min(8, os.cpu_count() or 1)

Row = dict[str, Any]
T = TypeVar("T")


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
    files = out if from_files else None
    found: list[dict[str, str]] = []
    with console.bar("verifying", record["inputs"], "images") as bar, torch_threads(1):
        for verdicts in _in_threads(partial(_verdicts, net=net, card=card, files=files), _some_rows(out, card, files)):
            found += verdicts
            bar.advance(len(verdicts))
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


def _some_rows(out: Place, card: ModelCard, files: Place | None) -> Iterator[list[Row]]:
    """The rows of a run, some at a time; without the images' bytes where their files are read."""
    at_once = max(1, min(ROWS, VALUES // math.prod((card.channels, *card.size))))
    what = "bytes" if files is None else "path"
    rows = read_rows(out, ["name", "status", "label", "target", f"original.{what}", f"modified.{what}"])
    while some := list(islice(rows, at_once)):
        yield some


def _in_threads(work: Callable[[list[Row]], T], given: Iterator[list[Row]]) -> Iterator[T]:
    """`work` of each that is given, in its order; only a few are in memory at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        begun: deque[Future[T]] = deque()
        for one in given:
            begun.append(pool.submit(work, one))
            if len(begun) > 2 * THREADS:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _verdicts(rows: Sequence[Row], *, net: nn.Module, card: ModelCard, files: Place | None) -> list[dict[str, str]]:
    """`files`: the folder of the PNG files; None: look at the bytes in the rows."""
    verdicts = [NOT_COUNTED if row["status"] != "fooled" else "" for row in rows]
    asked, originals, modified = [], [], []
    for i, row in enumerate(rows):
        if not verdicts[i]:
            try:
                before, after = (_pixels(row[which], files, card) for which in ("original", "modified"))
            except (UnreadableImage, OSError) as wrong:
                verdicts[i] = f"its saved image cannot be read: {wrong}"
            else:
                asked.append(i)
                originals.append(before)
                modified.append(after)
    if asked:
        # Most originals are far from the border; what an attack left is as near to it as it could be.
        fast = card.net in MODELS and has_fast_bf16(torch.device("cpu"))
        said_before = labels_of(net, card, np.stack(originals), low_precision=fast)
        said_after = labels_of(net, card, np.stack(modified))
        for i, label_before, label_after in zip(asked, said_before, said_after, strict=True):
            verdicts[i] = _judged(label_before, label_after, rows[i], card)
    return [
        {"name": row["name"], "status": row["status"], "verdict": said}
        for row, said in zip(rows, verdicts, strict=True)
    ]


def _pixels(image: dict[str, Any], files: Place | None, card: ModelCard) -> np.ndarray:
    """The pixels that `predict` would see."""
    if files is None:
        content = image["bytes"]
    elif isinstance(file := files / image["path"], Path):
        with open_source(file) as opened:
            content = opened.read()
    else:
        content = file.read_bytes()
    return decode(content, size=card.size, channels=card.channels)


def _judged(before: int, after: int, row: Row, card: ModelCard) -> str:
    if before != row["label"]:
        return f"the original is taken for {card.classes[before]} even before the change"
    return STILL_FOOLS if _reached(after, row) else f"the saved image is taken for {card.classes[after]}: not fooled"


def _reached(label: int, row: Row) -> bool:
    return label != row["label"] if row["target"] is None else label == row["target"]


def _form(card: ModelCard) -> str:
    return f"{card.size[0]}x{card.size[1]} {'grey' if card.channels == 1 else 'RGB'}"
