"""One shard of a batch attack: decode, attack, save, read back, score, store. A plain function; Ray is not needed.

What a row holds follows from the input, the configuration and the net alone: not from the shard that it falls in, the
worker that does it, or what was interrupted before.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from attacks import find
from attacks.lattice import from_levels, to_uint8
from attacks.outcome import amplify, score
from attacks.query import Answers, Query
from defenses.victim import restore
from models.checkpoint import ModelCard
from models.images import decode, encode_png, one_line, quiet_pillow
from orchestrator.contents import Content, contents
from orchestrator.inputs import Input
from orchestrator.object_store import Place
from orchestrator.stages import timed
from orchestrator.store import TRIPLE, write_image, write_part, write_table

STAGES = ("start", "decode", "attack", "save", "score", "store")  # of a shard, each with its seconds in timing/
FIXED = ("torch.export", "torchscript")  # nets that stay where they were loaded
SHORT = {"original": "ori", "modified": "mod", "amplified": "amp"}


@dataclass(frozen=True)
class Job:
    """What all shards of a run share.

    Attributes:
        out: the run's folder, absolute, or its place in a bucket.
        attack, options: a name in `ATTACKS` and its keyword arguments.
        target: the class to reach, or None: the wrong one of two, any other of more.
        seed: of the attack.
        png, raw: whether the three images are also written as files, and whether as bare bytes (row-major uint8) too.
        name: what the files of a single face are called, instead of after the input.
        threads: of torch in a worker.
    """

    out: Place
    attack: str = "dx"
    options: dict[str, Any] = field(default_factory=dict)
    target: int | None = None
    seed: int = 0
    png: bool = True
    raw: bool = False
    name: str | None = None
    threads: int = 1


def attack_shard(
    job: Job,
    index: int,
    inputs: Sequence[Input],
    card_bytes: bytes,
    weights: bytes,
    *,
    device: str = "cpu",
    piece: Place | None = None,
) -> Counter[str]:
    """Attack `inputs`, write `images/part-INDEX.parquet`, one row per input; returns how many rows of each status.

    Args:
        device: where the net runs.
        piece: a file to write instead, where the inputs are a piece of the shard.
    """
    torch.set_num_threads(job.threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
    clock = dict.fromkeys(STAGES, 0.0)
    began = time.time()
    with timed(clock, "start"):
        net, card = restored(card_bytes, weights, device)
    with timed(clock, "decode"):
        found = list(contents(inputs, card))
    rows = [_row(item, content, card) for item, content in zip(inputs, found, strict=True)]
    readable = [i for i, row in enumerate(rows) if row["status"] is None]
    if readable:
        work = Work(
            [rows[i] for i in readable],
            torch.from_numpy(np.stack([content.pixels for content in found if content.pixels is not None])),
            [inputs[i].triple for i in readable],
        )
        _attack_all(net, card, job, work, clock)
    with timed(clock, "store"):
        write_part(piece or part(job.out, index), rows)
    if piece is None:
        _write_timing(job, index, len(rows), began, clock)
    return Counter(row["status"] for row in rows)


def part(out: Place, index: int) -> Place:
    """Where the rows of a shard are."""
    return out / "images" / f"part-{index:05d}.parquet"


def failed_row(item: Input, net_sha256: str, reason: str) -> dict[str, Any]:
    """The row of an image that cannot be attacked: it killed its worker, or the net answered it with an error."""
    row = {"name": item.name, "label": item.label, "label_known": item.label is not None, "net_sha256": net_sha256}
    return row | {"status": "failed", "reason": reason}


@dataclass
class Work:
    """Readable images, uint8 (N, C, H, W), their rows, to be filled in, and where their triples go."""

    rows: list[dict[str, Any]]
    originals: Tensor
    triples: list[str]

    def halves(self) -> Iterator["Work"]:
        middle = len(self.rows) // 2
        for half in (slice(None, middle), slice(middle, None)):
            yield Work(self.rows[half], self.originals[half], self.triples[half])


def _attack_all(net: nn.Module, card: ModelCard, job: Job, work: Work, clock: dict[str, float]) -> None:
    """Fill in all rows; those of images at which attack or net raise an error say so, and the others are done.

    A row depends on its own image alone, so that halving changes none.
    """
    try:
        with timed(clock, "attack"):
            labels, targets = _aims(net, card, work, job.target)
            modified, ledger = _attacked(net, job, work.originals, labels, targets)
    except Exception as wrong:
        _attack_apart(net, card, job, work, clock, f"the attack '{job.attack}' cannot work on this: {one_line(wrong)}")
        return
    with timed(clock, "save"):
        saved = _saved(job, work, modified)
    try:
        with timed(clock, "score"):
            _score(net, job, work.rows, saved, labels, targets, ledger)
    except Exception as wrong:
        _attack_apart(net, card, job, work, clock, f"what the attack left cannot be scored: {one_line(wrong)}")


def _attack_apart(net: nn.Module, card: ModelCard, job: Job, work: Work, clock: dict[str, float], reason: str) -> None:
    """Each half by itself; an image that is alone has failed for this reason."""
    if len(work.rows) > 1:
        for half in work.halves():
            _attack_all(net, card, job, half, clock)
    else:
        work.rows[0] |= {"status": "failed", "reason": reason} | dict.fromkeys(TRIPLE)


@lru_cache(maxsize=1)
def restored(card_bytes: bytes, weights: bytes, device: str) -> tuple[nn.Module, ModelCard]:
    """The net, loaded once in a process."""
    net, card = restore(card_bytes, weights)
    return (net if card.net in FIXED else net.to(device)), card


def _row(item: Input, content: Content, card: ModelCard) -> dict[str, Any]:
    """The row so far; its status is open where the image could be read."""
    row: dict[str, Any] = {"name": item.name, "label": item.label, "label_known": item.label is not None}
    row |= {"net_sha256": card.sha256, "input_sha256": content.sha256, "reason": content.reason}
    return row | {"status": "unreadable" if content.pixels is None else None}


def _aims(net: nn.Module, card: ModelCard, work: Work, target: int | None) -> tuple[Tensor, Tensor | None]:
    """The class that each image is to leave, and the one it is to reach (None: any other)."""
    known = [-1 if row["label"] is None else row["label"] for row in work.rows]
    labels = torch.tensor(known)
    if (labels < 0).any():
        nothing = torch.zeros(len(labels), dtype=torch.int64)
        with Query(net, nothing) as query:
            said = query.logits(from_levels(work.originals), torch.arange(len(labels))).argmax(dim=1)
        labels = labels.where(labels >= 0, said)
    if target is not None:
        return labels, torch.full_like(labels, target)
    return labels, 1 - labels if len(card.classes) == 2 else None


def _attacked(
    net: nn.Module, job: Job, originals: Tensor, labels: Tensor, targets: Tensor | None
) -> tuple[Tensor, Answers]:
    """The modified images, uint8; an image that has nowhere to go, its label being the target, stays as it is."""
    inputs, modified = from_levels(originals), originals.clone()
    ledger = Answers.empty(len(originals))
    going = torch.arange(len(originals)) if targets is None else (labels != targets).nonzero().flatten()
    if len(going):
        spent = Answers.empty(len(going))
        found = find(job.attack)(
            net,
            inputs[going],
            labels[going],
            targets=None if targets is None else targets[going],
            seed=job.seed,
            ledger=spent,
            **job.options,
        )
        modified[going] = to_uint8(found)
        ledger.gradients[going], ledger.forwards[going] = spent.gradients, spent.forwards
        for i, kept in zip(going.tolist(), spent.kept, strict=True):
            ledger.kept[i] = kept
    return modified, ledger


def _logits(net: nn.Module, saved: Tensor, ledger: Answers) -> Tensor:
    """What the net says of images as they were read back: as it said to the attack, where that looked at the very same.

    Most attacks look at what they end at; asking again cost a twentieth of a shard's time.
    """
    inputs = from_levels(saved)
    said = ledger.at(inputs)
    rows = torch.tensor([i for i, answer in enumerate(said) if answer is None], dtype=torch.int64)
    if len(rows):
        with Query(net, torch.zeros(len(rows), dtype=torch.int64)) as query:
            asked = query.logits(inputs[rows], torch.arange(len(rows)))
        for i, answer in zip(rows.tolist(), asked.tolist(), strict=True):
            said[i] = answer
    return torch.tensor(said)


def _saved(job: Job, work: Work, modified: Tensor) -> tuple[Tensor, Tensor]:
    """Save the three images of each row; returns original and modified as they were read back from what was saved."""
    triple = {"original": work.originals, "modified": modified, "amplified": amplify(work.originals, modified)}
    images = {name: pictures.numpy() for name, pictures in triple.items()}
    read_back: dict[str, list[np.ndarray]] = {name: [] for name in TRIPLE}
    with quiet_pillow():  # or it is told anew for every image
        for i, (row, called) in enumerate(zip(work.rows, work.triples, strict=True)):
            for name, place in _places(job.name or called).items():
                picture = images[name][i]
                content = encode_png(picture)
                row[name] = {"bytes": content, "path": place}
                path = job.out / place
                if job.png:
                    write_image(path, content)
                if job.raw:
                    write_image(path.with_suffix(".raw"), picture.tobytes())
                if name != "amplified":  # which is for people to see
                    saved = path.read_bytes() if job.png else content
                    read_back[name].append(decode(saved, size=picture.shape[1:], channels=picture.shape[0]))
    return torch.from_numpy(np.stack(read_back["original"])), torch.from_numpy(np.stack(read_back["modified"]))


def _places(triple: str) -> dict[str, str]:
    """`triples/sub/adv_face_mod.png`, always below the run's folder, for the modified image of `sub/face.jpg`."""
    *folders, face = [part for part in triple.split("/") if part not in ("", ".", "..")] or ["_"]
    folder = "/".join(["triples", *folders])
    return {name: f"{folder}/adv_{face}_{SHORT[name]}.png" for name in TRIPLE}


def _score(
    net: nn.Module,
    job: Job,
    rows: Sequence[dict[str, Any]],
    saved: tuple[Tensor, Tensor],
    labels: Tensor,
    targets: Tensor | None,
    ledger: Answers,
) -> None:
    """Fill the rows in with what the saved images do."""
    said = _logits(net, saved[0], ledger), _logits(net, saved[1], ledger)
    outcome = score(net, *saved, labels, targets, said=said)
    for i, row in enumerate(rows):
        row |= {name: column[i].item() for name, column in vars(outcome).items()}
        row |= {"status": str(outcome.status[i]), "l0": int(outcome.l0[i])}
        row |= {"label": int(labels[i]), "seed": job.seed}
        row["target"] = None if targets is None else int(targets[i])
        row |= {"gradients": int(ledger.gradients[i]), "forwards": int(ledger.forwards[i])}
        if targets is not None and targets[i] == labels[i]:
            row["status"] = "is_target"


def _write_timing(job: Job, index: int, count: int, began: float, clock: dict[str, float]) -> None:
    """What differs from run to run stays out of `images/`. `began` is in seconds since 1970."""
    worker = f"{os.uname().nodename}:{os.getpid()}"
    columns = {"part": [index], "images": [count], "worker": [worker], "began": [began]}
    seconds = {f"{stage}_s": [taken] for stage, taken in clock.items()}
    write_table(job.out / "timing" / f"part-{index:05d}.parquet", pa.table(columns | seconds))
