"""One cell of a sweep: train one net, measure it, write down what came of it. A plain function; Ray is not needed.

A cell's folder is its memory: `state.safetensors` while it trains (a killed cell goes on from its last epoch),
`result.json` once it has ended, well or not, and the net beside it. A cell with a result is never done again.
"""

import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoint import ModelCard, save
from models.train import Diverged, fit, logits_of
from orchestrator.grid import FIT_PARAMETERS, NET_PARAMETERS
from orchestrator.store import read_json, write_json

RESULT, STATE = "result.json", "state.safetensors"


def train_cell(
    cell: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    *,
    threads: int = 1,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The result of a cell: from its folder where it has ended before, else after training it.

    A training that fails is a result too: `status` "KO" with its `reason`.

    Args:
        cell: the parameters, see `grid.cells`.
        data: `train`, `validation`, `test` (images uint8 `(N, C, H, W)`, labels int64 `(N,)`), `classes`, `sha256`.
        folder: of this cell alone.
        time_limit: seconds after which the process is ended, for a training that hangs cannot end itself.
        memory_limit: GiB that the training may take beyond what the process has at its start (CPU only).
    """
    if (folder / RESULT).exists():
        return read_json(folder / RESULT)
    torch.set_num_threads(threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
    try:
        with _ended_after(time_limit, folder), _bounded_memory(memory_limit):
            result = _train(cell, data, folder, on_epoch)
    except Exception as wrong:
        result = {"status": "KO", "reason": _reason(wrong, memory_limit)}
    write_json(folder / RESULT, result)
    (folder / STATE).unlink(missing_ok=True)
    return result


def _train(
    cell: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    images, labels = (array[: cell.get("train_size")] for array in data["train"])
    card = ModelCard(
        net=cell["net"],
        parameters={name: cell[name] for name in NET_PARAMETERS if name in cell},
        classes=data["classes"],
        channels=images.shape[1],
        size=images.shape[2:],
    )
    torch.manual_seed(cell["seed"])
    net = card.build()
    history = fit(
        net,
        images,
        labels,
        validation=data["validation"],
        seed=cell["seed"],
        state=folder / STATE,
        on_epoch=on_epoch,
        **{name: cell[name] for name in FIT_PARAMETERS if name in cell},
    )
    last = history[-1]
    test_images, test_labels = data["test"]
    answers = logits_of(net, test_images).argmax(1).numpy()
    measured = {
        "accuracy": float((answers == test_labels).mean()),
        **{name: last[name] for name in ("validation_accuracy", "validation_loss", "train_accuracy", "loss")},
        "majority_share": float(np.bincount(test_labels).max() / len(test_labels)),
        "largest_answer_share": float(np.bincount(answers).max() / len(answers)),
        "parameter_count": sum(p.numel() for p in net.parameters()),
        "train_images": len(images),
    }
    card.trained = {"cell": dict(cell), "data": data["source"], "data_sha256": data["sha256"], **measured}
    saved = save(net, card, folder)
    seconds = sum(row["seconds"] for row in history)
    return {"status": "ok", "reason": None, **measured, "sha256": saved.sha256, "seconds": seconds, "epochs": history}


def _reason(wrong: Exception, memory_limit: float | None) -> str:
    text = " ".join(str(wrong).split())[:300] or type(wrong).__name__
    if isinstance(wrong, Diverged):
        return f"diverged: {text}"
    short_of_memory = ("can't allocate memory", "bad_alloc", "out of memory", "could not create a memory")
    if isinstance(wrong, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in short_of_memory):
        return "out of memory" + (f": it needs more than the {memory_limit:g} GiB allowed" if memory_limit else "")
    return f"failed: {text}"


@contextmanager
def _ended_after(seconds: float | None, folder: Path) -> Iterator[None]:
    """End this process when the time is over. Nothing gentler stops a thread that hangs in native code."""

    def end() -> None:
        write_json(folder / RESULT, {"status": "KO", "reason": f"timed out after {seconds:g} s"})
        os._exit(1)

    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _bounded_memory(gib: float | None) -> Iterator[None]:
    """Let an allocation beyond `gib` GiB fail in this process.

    The alternative is that Ray's memory monitor kills a worker, and with it the whole sweep.
    """
    if gib is None or torch.cuda.is_available():  # CUDA reserves address space freely, and says itself when it is full
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (min(limit, before[1]) if before[1] >= 0 else limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA now: private writable memory, `VmData` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
