"""Shards of a batch attack in one process: decode, attack, save, read back, score, store. Ray is not needed.

What a row holds follows from the input, the configuration and the net alone: not from the shard that it falls in, the
worker that does it, or what was interrupted before.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dxray.attacks import STREAMS, find
from dxray.attacks.engine.lattice import from_levels, to_uint8
from dxray.attacks.engine.query import Answers, Query
from dxray.attacks.engine.scoring import score
from dxray.attacks.engine.stream import Group, Stream
from dxray.defenses.victim import restore
from dxray.models.data.images import one_line
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.decoding import Content, contents
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.attack.triples import save_triples
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import TRIPLE, write_part, write_table
from dxray.orchestrator.runs.timing import timed

STAGES = ("decode", "attack", "save", "score", "store")  # of a shard, each with its seconds in timing/
FIXED = ("torch.export", "torchscript")  # nets that stay where they were loaded


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


class Ended(NamedTuple):
    """Number of a shard, its rows by status, and what is out of the ordinary, if anything is."""

    number: int
    rows: Counter[str]
    said: str = ""


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


@dataclass
class Aims:
    """The class int64 (N,) that each image is to leave, and the one that it is to reach; None: any other."""

    labels: Tensor
    targets: Tensor | None

    @property
    def going(self) -> Tensor:
        """Numbers of the images that have somewhere to go: their label is not the target."""
        if self.targets is None:
            return torch.arange(len(self.labels))
        return (self.labels != self.targets).nonzero().flatten()


@dataclass
class Begun:
    """A shard at work: its rows so far, when it began, in seconds since 1970, and the seconds of each stage.

    work: what of it can be read. aims, group: of that, once it is in a stream.
    """

    index: int
    piece: Place | None
    rows: list[dict[str, Any]]
    began: float
    clock: dict[str, float]
    work: Work = field(default_factory=lambda: Work([], torch.zeros(0), []))
    aims: Aims = field(default_factory=lambda: Aims(torch.zeros(0), None))
    group: Group | None = None


class Shards:
    """Attacks shards that come one after the other.

    Where the attack takes its images as a stream, a shard mostly ends while the next one is at work.

    Args:
        device: where the net runs.
    """

    def __init__(self, job: Job, card_bytes: bytes, weights: bytes, *, device: str = "cpu") -> None:
        torch.set_num_threads(job.threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
        self._job = job
        self._net, self._card = restored(card_bytes, weights, device)
        self._stream: Stream | None = None
        self._begun: list[Begun] = []  # those that are in the stream

    def attack(self, index: int, inputs: Sequence[Input], piece: Place | None = None) -> Iterator[Ended]:
        """Take a shard; the shards that end meanwhile, as they end, until the next one should be taken.

        What has ended is on disk, in `images/part-INDEX.parquet`, one row per input.

        Args:
            piece: a file to write instead, where the inputs are a piece of the shard.
        """
        began, clock = time.time(), dict.fromkeys(STAGES, 0.0)
        with timed(clock, "decode"):
            found = list(contents(inputs, self._card))
        rows = [_row(item, content, self._card) for item, content in zip(inputs, found, strict=True)]
        begun = Begun(index, piece, rows, began, clock)
        readable = [i for i, row in enumerate(rows) if row["status"] is None]
        if not readable:
            yield self._stored(begun)
            return
        begun.work = Work(
            [rows[i] for i in readable],
            torch.from_numpy(np.stack([content.pixels for content in found if content.pixels is not None])),
            [inputs[i].triple for i in readable],
        )
        self._begun.append(begun)
        if self._job.attack in STREAMS:
            yield from self._ended(self._entered(begun))
        else:
            yield from self._apart()

    def finish(self) -> Iterator[Ended]:
        """The shards that are left, as they end."""
        if self._stream is not None:
            yield from self._ended(self._stream.finish())

    def _entered(self, begun: Begun) -> Iterator[Group]:
        """Have the images that there is something to do about enter the stream; the groups that end meanwhile."""
        with timed(begun.clock, "attack"):
            aims = begun.aims = _aims(self._net, self._card, begun.work, self._job.target)
            inputs = from_levels(begun.work.originals[aims.going])
            if self._stream is None:
                begin, targeted = STREAMS[self._job.attack], aims.targets is not None
                self._stream = Stream(self._net, begin, inputs.shape[1:], targeted=targeted, **self._job.options)
        if not len(inputs):
            begun.group = Group(aims.going)
            yield begun.group
            return
        targets = None if aims.targets is None else aims.targets[aims.going]
        begun.group, groups = self._stream.take(inputs, aims.labels[aims.going], targets)
        yield from groups

    def _ended(self, groups: Iterator[Group]) -> Iterator[Ended]:
        while True:
            try:
                group = next(groups, None)
            except Exception as wrong:  # at some image, which is found by halving
                *before, last = self._apart()
                yield from before
                blamed = sum(ended.rows["failed"] for ended in (*before, last))
                said = f"images were attacked anew, for their stream ended with: {one_line(wrong)}"
                yield last if blamed else last._replace(said=said)
                return
            if group is None:
                return
            (begun,) = (begun for begun in self._begun if begun.group is group)
            self._begun.remove(begun)
            begun.clock["attack"] += group.seconds
            modified, answers = _spread(begun.work.originals, begun.aims, group.changed, group.answers)
            self._fill_in(begun.work, begun.clock, begun.aims, modified, answers)
            yield self._stored(begun)

    def _apart(self) -> Iterator[Ended]:
        """Each shard that is in the stream by itself."""
        left, self._begun, self._stream = self._begun, [], None
        for begun in left:
            self._attack_all(begun.work, begun.clock)
            yield self._stored(begun)

    def _attack_all(self, work: Work, clock: dict[str, float]) -> None:
        """Fill in all rows; those of images at which attack or net raise an error say so, and the others are done.

        A row depends on its own image alone, so that halving changes none.
        """
        try:
            with timed(clock, "attack"):
                aims = _aims(self._net, self._card, work, self._job.target)
                modified, answers = _attacked(self._net, self._job, work.originals, aims)
        except Exception as wrong:
            self._halve(work, clock, f"the attack '{self._job.attack}' cannot work on this: {one_line(wrong)}")
            return
        self._fill_in(work, clock, aims, modified, answers)

    def _fill_in(self, work: Work, clock: dict[str, float], aims: Aims, modified: Tensor, answers: Answers) -> None:
        """Save what was found, and fill in the rows with what the saved images do."""
        with timed(clock, "save"):
            names = [self._job.name or triple for triple in work.triples]
            saved = save_triples(
                self._job.out, names, work.rows, work.originals, modified, png=self._job.png, raw=self._job.raw
            )
        try:
            with timed(clock, "score"):
                _score(self._net, self._job, work.rows, saved, aims, answers)
        except Exception as wrong:
            self._halve(work, clock, f"what the attack left cannot be scored: {one_line(wrong)}")

    def _halve(self, work: Work, clock: dict[str, float], reason: str) -> None:
        """Each half by itself; an image that is alone has failed for this reason."""
        if len(work.rows) > 1:
            for half in work.halves():
                self._attack_all(half, clock)
        else:
            work.rows[0] |= {"status": "failed", "reason": reason} | dict.fromkeys(TRIPLE)

    def _stored(self, begun: Begun) -> Ended:
        with timed(begun.clock, "store"):
            write_part(begun.piece or part(self._job.out, begun.index), begun.rows)
        if begun.piece is None:
            _write_timing(self._job, begun.index, len(begun.rows), begun.began, begun.clock)
        return Ended(begun.index, Counter(row["status"] for row in begun.rows))


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
    """Attack a single shard, see `Shards`; returns how many rows of each status it has."""
    shards = Shards(job, card_bytes, weights, device=device)
    (ended,) = [*shards.attack(index, inputs, piece), *shards.finish()]
    return ended.rows


def part(out: Place, index: int) -> Place:
    """Where the rows of a shard are."""
    return out / "images" / f"part-{index:05d}.parquet"


def failed_row(item: Input, net_sha256: str, reason: str) -> dict[str, Any]:
    """The row of an image that cannot be attacked: it killed its worker, or the net answered it with an error."""
    row = {"name": item.name, "label": item.label, "label_known": item.label is not None, "net_sha256": net_sha256}
    return row | {"status": "failed", "reason": reason}


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


def _aims(net: nn.Module, card: ModelCard, work: Work, target: int | None) -> Aims:
    known = [-1 if row["label"] is None else row["label"] for row in work.rows]
    labels = torch.tensor(known)
    unknown = (labels < 0).nonzero().flatten()
    if len(unknown):
        with Query(net, torch.zeros_like(unknown)) as query:
            said = query.logits(from_levels(work.originals[unknown]), torch.arange(len(unknown)))
        labels[unknown] = said.argmax(dim=1)
    if target is not None:
        return Aims(labels, torch.full_like(labels, target))
    return Aims(labels, 1 - labels if len(card.classes) == 2 else None)


def _attacked(net: nn.Module, job: Job, originals: Tensor, aims: Aims) -> tuple[Tensor, Answers]:
    """The modified images, uint8, and what the net answered."""
    going = aims.going
    changed, answers = torch.zeros(0), Answers.empty(len(going))
    if len(going):
        changed = find(job.attack)(
            net,
            from_levels(originals[going]),
            aims.labels[going],
            targets=None if aims.targets is None else aims.targets[going],
            seed=job.seed,
            ledger=answers,
            **job.options,
        )
    return _spread(originals, aims, changed, answers)


def _spread(originals: Tensor, aims: Aims, changed: Tensor, answers: Answers) -> tuple[Tensor, Answers]:
    """What was found of the images that had somewhere to go, among all; the others stay as they are."""
    going, modified, spread = aims.going, originals.clone(), Answers.empty(len(originals))
    if len(going):
        modified[going] = to_uint8(changed)
        spread.gradients[going], spread.forwards[going] = answers.gradients, answers.forwards
        for i, kept in zip(going.tolist(), answers.kept, strict=True):
            spread.kept[i] = kept
    return modified, spread


def _logits(net: nn.Module, saved: Tensor, answers: Answers) -> Tensor:
    """What the net says of images as they were read back: as it said to the attack, where that looked at the very same.

    Most attacks look at what they end at; asking again cost a twentieth of a shard's time.
    """
    inputs = from_levels(saved)
    said = answers.at(inputs)
    rows = torch.tensor([i for i, answer in enumerate(said) if answer is None], dtype=torch.int64)
    if len(rows):
        with Query(net, torch.zeros(len(rows), dtype=torch.int64)) as query:
            asked = query.logits(inputs[rows], torch.arange(len(rows)))
        for i, answer in zip(rows.tolist(), asked.tolist(), strict=True):
            said[i] = answer
    return torch.tensor(said)


def _score(
    net: nn.Module,
    job: Job,
    rows: Sequence[dict[str, Any]],
    saved: tuple[Tensor, Tensor],
    aims: Aims,
    answers: Answers,
) -> None:
    """Fill the rows in with what the saved images do."""
    labels, targets = aims.labels, aims.targets
    said = _logits(net, saved[0], answers), _logits(net, saved[1], answers)
    outcome = score(net, *saved, labels, targets, said=said)
    for i, row in enumerate(rows):
        row |= {name: column[i].item() for name, column in vars(outcome).items()}
        row |= {"status": str(outcome.status[i]), "l0": int(outcome.l0[i])}
        row |= {"label": int(labels[i]), "seed": job.seed}
        row["target"] = None if targets is None else int(targets[i])
        row |= {"gradients": int(answers.gradients[i]), "forwards": int(answers.forwards[i])}
        if targets is not None and targets[i] == labels[i]:
            row["status"] = "is_target"


def _write_timing(job: Job, index: int, count: int, began: float, clock: dict[str, float]) -> None:
    """What differs from run to run stays out of `images/`. `began` is in seconds since 1970."""
    worker = f"{os.uname().nodename}:{os.getpid()}"
    columns = {"part": [index], "images": [count], "worker": [worker], "began": [began]}
    seconds = {f"{stage}_s": [taken] for stage, taken in clock.items()}
    write_table(job.out / "timing" / f"part-{index:05d}.parquet", pa.table(columns | seconds))
