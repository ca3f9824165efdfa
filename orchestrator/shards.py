"""One shard of a batch attack: decode, attack, save, read back, score, store. A plain function; Ray is not needed.

What a row holds follows from the input, the configuration and the net alone: not from the shard that it falls in, the
worker that does it, or what was interrupted before.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from attacks import find
from attacks.lattice import from_levels, to_uint8
from attacks.outcome import amplify, score
from attacks.query import Ledger, Query
from defenses.victim import restore
from models.checkpoint import ModelCard
from models.images import UnreadableImage, decode, encode_png
from orchestrator.errors import UserError
from orchestrator.inputs import Input
from orchestrator.store import TRIPLE, write_bytes, write_part, write_table

SHORT = {"original": "ori", "modified": "mod", "amplified": "amp"}


@dataclass(frozen=True)
class Job:
    """What all shards of a run share.

    Attributes:
        out: the run's folder, absolute.
        attack, options: a name in `ATTACKS` and its keyword arguments.
        target: the class to reach, or None: the wrong one of two, any other of more.
        seed: of the attack.
        png, raw: whether the three images are also written as files, and whether as bare bytes (row-major uint8) too.
        name: what the files of a single face are called, instead of after the input.
        threads: of torch in a worker.
    """

    out: Path
    attack: str = "dx"
    options: dict[str, Any] = field(default_factory=dict)
    target: int | None = None
    seed: int = 0
    png: bool = True
    raw: bool = False
    name: str | None = None
    threads: int = 1


def attack_shard(job: Job, index: int, inputs: Sequence[Input], card_bytes: bytes, weights: bytes) -> Counter[str]:
    """Attack `inputs`, write `images/part-INDEX.parquet`, one row per input; returns how many rows of each status."""
    torch.set_num_threads(job.threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
    clock = {"started": time.time()}
    net, card = _restored(card_bytes, weights)
    rows, pictures = _decoded(inputs, card)
    clock["decoded"] = time.time()
    readable = [row for row in rows if row["status"] is None]
    if readable:
        originals = torch.from_numpy(np.stack(pictures))
        labels, targets = _aims(net, card, readable, originals, job.target)
        modified, ledger = _attacked(net, job, originals, labels, targets)
        clock["attacked"] = time.time()
        saved = _saved(job, readable, originals, modified, {item.name: item.triple for item in inputs})
        _score(net, card, job, readable, saved, labels, targets, ledger)
        clock["saved"] = time.time()
    write_part(job.out / "images" / f"part-{index:05d}.parquet", rows)
    _write_timing(job, index, len(rows), clock)
    return Counter(row["status"] for row in rows)


@lru_cache(maxsize=1)
def _restored(card_bytes: bytes, weights: bytes) -> tuple[nn.Module, ModelCard]:
    return restore(card_bytes, weights)


def _decoded(inputs: Sequence[Input], card: ModelCard) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """A row per input, in which `status` is still open where the image could be read, and those images."""
    rows: list[dict[str, Any]] = []
    pictures: list[np.ndarray] = []
    for item in inputs:
        row: dict[str, Any] = {"name": item.name, "label": item.label, "status": None}
        row |= {"label_known": item.label is not None, "net_sha256": card.sha256}
        try:
            try:
                content = Path(item.path).read_bytes()
            except OSError:
                pictures.append(decode(Path(item.path), size=card.size, channels=card.channels))  # says why, in words
            else:
                row["input_sha256"] = hashlib.sha256(content).hexdigest()
                pictures.append(decode(content, size=card.size, channels=card.channels))
        except UnreadableImage as wrong:
            row |= {"status": "unreadable", "reason": str(wrong)}
        rows.append(row)
    return rows, pictures


def _aims(
    net: nn.Module, card: ModelCard, rows: Sequence[dict[str, Any]], originals: Tensor, target: int | None
) -> tuple[Tensor, Tensor | None]:
    """The class that each image is to leave, and the one it is to reach (None: any other)."""
    nothing = torch.zeros(len(originals), dtype=torch.int64)
    with Query(net, nothing) as query:
        said = query.logits(from_levels(originals), torch.arange(len(originals))).argmax(dim=1)
    labels = torch.tensor(
        [int(answer) if row["label"] is None else row["label"] for row, answer in zip(rows, said, strict=True)]
    )
    if target is not None:
        return labels, torch.full_like(labels, target)
    return labels, 1 - labels if len(card.classes) == 2 else None


def _attacked(
    net: nn.Module, job: Job, originals: Tensor, labels: Tensor, targets: Tensor | None
) -> tuple[Tensor, Ledger]:
    """The modified images, uint8; an image that has nowhere to go, its label being the target, stays as it is."""
    modified = originals.clone()
    ledger = Ledger.empty(len(originals))
    going = torch.arange(len(originals)) if targets is None else (labels != targets).nonzero().flatten()
    if len(going):
        spent = Ledger.empty(len(going))
        try:
            found = find(job.attack)(
                net,
                from_levels(originals[going]),
                labels[going],
                targets=None if targets is None else targets[going],
                seed=job.seed,
                ledger=spent,
                **job.options,
            )
        except ValueError as wrong:  # an option out of range, a net that answers with NaN
            raise UserError(f"the attack '{job.attack}' cannot work on this: {wrong}") from None
        modified[going] = to_uint8(found)
        ledger.gradients[going], ledger.forwards[going] = spent.gradients, spent.forwards
    return modified, ledger


def _saved(
    job: Job, rows: Sequence[dict[str, Any]], originals: Tensor, modified: Tensor, triples: dict[str, str]
) -> tuple[Tensor, Tensor]:
    """Save the three images of each row; returns original and modified as they were read back from what was saved."""
    images = {"original": originals, "modified": modified, "amplified": amplify(originals, modified)}
    read_back: dict[str, list[np.ndarray]] = {name: [] for name in TRIPLE}
    for i, row in enumerate(rows):
        for name in TRIPLE:
            picture = images[name][i].numpy()
            saved: bytes | Path = encode_png(picture)
            place = _place(job.name or triples[row["name"]], name)
            row[name] = {"bytes": saved, "path": str(place)}
            path = job.out / place
            if job.png:
                write_bytes(path, saved, durable=False)  # the part holds it too
                saved = path
            if job.raw:
                write_bytes(path.with_suffix(".raw"), picture.tobytes(), durable=False)
            read_back[name].append(decode(saved, size=picture.shape[1:], channels=picture.shape[0]))
    return torch.from_numpy(np.stack(read_back["original"])), torch.from_numpy(np.stack(read_back["modified"]))


def _place(triple: str, which: str) -> Path:
    """`triples/sub/adv_face_mod.png`, below the run's folder, for the modified image of `sub/face.jpg`."""
    face = Path(triple)
    return Path("triples", face.parent, f"adv_{face.name}_{SHORT[which]}.png")


def _score(
    net: nn.Module,
    card: ModelCard,
    job: Job,
    rows: Sequence[dict[str, Any]],
    saved: tuple[Tensor, Tensor],
    labels: Tensor,
    targets: Tensor | None,
    ledger: Ledger,
) -> None:
    """Fill the rows in with what the saved images do."""
    outcome = score(net, *saved, labels, targets)
    for i, row in enumerate(rows):
        row |= {name: column[i].item() for name, column in vars(outcome).items()}
        row |= {"status": str(outcome.status[i]), "l0": int(outcome.l0[i])}
        row |= {"label": int(labels[i]), "seed": job.seed}
        row["target"] = None if targets is None else int(targets[i])
        row |= {"gradients": int(ledger.gradients[i]), "forwards": int(ledger.forwards[i])}
        if targets is not None and targets[i] == labels[i]:
            row["status"] = "is_target"


def _write_timing(job: Job, index: int, count: int, clock: dict[str, float]) -> None:
    """What differs from run to run stays out of `images/`: seconds since the epoch at the end of each stage."""
    columns = {"part": [index], "images": [count]} | {name: [at] for name, at in clock.items()}
    columns["stored"] = [time.time()]
    write_table(job.out / "timing" / f"part-{index:05d}.parquet", pa.table(columns))
