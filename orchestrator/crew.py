"""The shards of an attack as Ray tasks: how many at a time, and what happens to those whose worker dies.

Ray's own retries would run the same shard into the same image for ever. Here a shard whose worker died is tried once
more, then halved, and so are its halves, until the image that does it stands alone and is recorded as failed.
"""

import gc
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError

from orchestrator.cutting import Shard
from orchestrator.errors import FULL, UserError
from orchestrator.listing import read_list
from orchestrator.object_store import Place
from orchestrator.ray_session import cpus, slots
from orchestrator.shards import Job, attack_shard, failed_row, part, restored
from orchestrator.store import read_table, write_part, write_table

TRIES = 2  # of a whole shard before it is halved, and of an image before it is recorded; halves have one
SEE_ALL = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
LOST = 10  # nodes that may be lost under one and the same shard: all that run on a node are lost with it at once


@dataclass
class Piece:
    """A shard, or inputs `start` to `stop` of one whose worker died."""

    shard: Shard
    start: int
    stop: int
    deaths: int = 0
    lost: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        return self.size == self.shard.stop - self.shard.start

    @property
    def tries(self) -> int:
        return TRIES if self.whole or self.size == 1 else 1

    def halves(self) -> list["Piece"]:
        middle = (self.start + self.stop) // 2
        return [Piece(self.shard, self.start, middle), Piece(self.shard, middle, self.stop)]

    def place(self, out: Place) -> Place:
        return out / "pieces" / f"{self.shard.index:05d}-{self.start}-{self.stop}.parquet"


class Crew:
    """Works off shards on all CPUs, or shares of GPUs, of the cluster that is connected.

    Args:
        net: card and weights, in Ray's object store once.
        net_sha256: what the rows of images that are not attacked say.
        gpu_share: of a GPU for each worker; 0: a CPU each. Several on one GPU decode and save while another attacks.
        say: told of what is out of the ordinary.
    """

    def __init__(
        self,
        job: Job,
        net: tuple[bytes, bytes],
        *,
        net_sha256: str,
        gpu_share: float = 0.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self.job, self.net_sha256, self.say = job, net_sha256, say
        self.net = [ray.put(content) for content in net]
        self.at_once = max(1, slots(1, gpu_share)) if gpu_share else cpus()
        self._how: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
        if gpu_share:
            # Ray would end a process after each task with a GPU, for torch looks but once which GPUs it may see. Here
            # it sees all of them, and each task takes the one that is set apart for it.
            self._how |= {"num_gpus": gpu_share, "max_calls": 0, "runtime_env": {"env_vars": {SEE_ALL: "1"}}}
        self._task = ray.remote(**self._how)(_attacked)
        self._again: deque[Piece] = deque()
        self._running: dict[ray.ObjectRef, Piece] = {}
        self._placed: dict[Shard, list[Piece]] = {}  # what is on disk of shards that were halved

    def warm_up(self) -> None:
        """Have the processes load torch and the net, while the driver does something else."""
        warm = ray.remote(**self._how)(_loaded)
        self._warm = [warm.remote(*self.net) for _ in range(self.at_once)]

    def work_off(self, take: Callable[[], Shard | None]) -> Iterator[Counter[str]]:
        """The rows by status of each shard once its part is on disk.

        Shards are taken as workers come free, and one waits for each: a worker never waits, and the driver knows few.
        Where `take` has none, it is asked again when a shard has ended.

        Raises:
            UserError: the disk is full or may not be written to, or nodes are lost time and again.
        """
        while True:
            while len(self._running) < 2 * self.at_once and (piece := self._next(take)):
                target = None if piece.whole else piece.place(self.job.out)
                task = self._task.remote(self.job, piece.shard, piece.start, piece.stop, target, *self.net)
                self._running[task] = piece
            if not self._running:
                return
            for done in ray.wait(list(self._running), num_returns=1)[0]:
                yield from self._ended(self._running.pop(done), done)

    def _next(self, take: Callable[[], Shard | None]) -> Piece | None:
        if self._again:
            return self._again.popleft()
        shard = take()
        return Piece(shard, shard.start, shard.stop) if shard else None

    def _ended(self, piece: Piece, task: ray.ObjectRef) -> Iterator[Counter[str]]:
        try:
            counts = ray.get(task)
        except RayTaskError as wrong:
            raise self._explained(wrong) from None
        except NodeDiedError:
            piece.lost += 1
            if piece.lost > LOST:
                raise UserError(
                    f"more than {LOST} nodes were lost with the same shard; finished shards are kept; see to the "
                    f"cluster, then go on with: dxray attack --resume '{self.job.out}'"
                ) from None
            self._again.append(piece)
            return
        except RayError as death:
            yield from self._died(piece, death)
            return
        if piece.whole:
            yield counts
        else:
            yield from self._add(piece)

    def _died(self, piece: Piece, death: RayError) -> Iterator[Counter[str]]:
        piece.deaths += 1
        if piece.deaths < piece.tries:
            self._again.append(piece)
            return
        if piece.size > 1:
            self._again.extend(piece.halves())
            return
        (item,) = read_list(self.job.out, piece.shard.list, piece.start, piece.stop)
        short = isinstance(death, OutOfMemoryError)
        reason = f"it killed its worker {piece.deaths} times" + (", for want of memory" if short else "")
        self.say(f"{item.name}: {reason}; recorded as failed")
        row = failed_row(item, self.net_sha256, reason)
        if piece.whole:
            write_part(part(self.job.out, piece.shard.index), [row])
            yield Counter(failed=1)
        else:
            write_part(piece.place(self.job.out), [row])
            yield from self._add(piece)

    def _add(self, piece: Piece) -> Iterator[Counter[str]]:
        """The rows of the shard, where this was the last of its pieces."""
        placed = self._placed.setdefault(piece.shard, [])
        placed.append(piece)
        if sum(one.size for one in placed) == piece.shard.stop - piece.shard.start:
            yield join(self.job.out, self._placed.pop(piece.shard))

    def _explained(self, wrong: RayTaskError) -> Exception:
        cause = wrong.cause
        if isinstance(cause, UserError):
            return UserError(str(cause))
        if isinstance(cause, OSError) and cause.errno in FULL:
            return UserError(
                f"a worker could not write to '{self.job.out}' ({cause.strerror}); finished shards are kept; "
                f"make room or give it the right to write, then go on with: dxray attack --resume '{self.job.out}'"
            )
        return wrong


def join(out: Place, pieces: Sequence[Piece]) -> Counter[str]:
    """Make the part of a shard of its pieces, in their order; returns its rows by status."""
    places = [piece.place(out) for piece in sorted(pieces, key=lambda piece: piece.start)]
    table = pa.concat_tables([read_table(place) for place in places])
    write_table(part(out, pieces[0].shard.index), table)
    for place in places:
        place.unlink()
    return Counter(table.column("status").to_pylist())


def _attacked(
    job: Job, shard: Shard, start: int, stop: int, piece: Place | None, card_bytes: bytes, weights: bytes
) -> Counter[str]:
    inputs = list(read_list(job.out, shard.list, start, stop))
    device = device_of(ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return attack_shard(job, shard.index, inputs, card_bytes, weights, device=device, piece=piece)


def device_of(gpu_ids: Sequence[int | str], visible: str | None) -> str:
    """The device of a task, as torch calls it: it counts those that CUDA_VISIBLE_DEVICES names, Ray names them."""
    if not gpu_ids:
        return "cpu"
    name = str(gpu_ids[0])
    return f"cuda:{visible.split(',').index(name) if visible else name}"


def _loaded(card_bytes: bytes, weights: bytes) -> None:
    restored(card_bytes, weights, device_of(ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    gc.freeze()  # what is loaded stays; to look through all of it time and again took 0.4 % of an attack
    time.sleep(0.2)  # or one process would do them all
