"""The workers of an attack, Ray actors: which shard each gets, and what happens to those whose worker dies.

Where the attack takes images as a stream, a worker asks for the next shard while the last images of the one before
still fill a part of its batch, so several may be with a worker that dies. They are then done one at a time. A shard
whose worker dies while it is alone is tried once more, then halved, and so are its halves, until the image that does it
stands alone and is recorded as failed. Ray's own retries would run the same shard into the same image for ever.
"""

import gc
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError

from dxray.models.data.images import one_line
from dxray.orchestrator.attack.input_lists import read_list
from dxray.orchestrator.attack.sharding import Shard
from dxray.orchestrator.attack.shards import Ended, Job, Shards, failed_row, part
from dxray.orchestrator.errors import FULL, UserError, cannot_write
from dxray.orchestrator.ray.session import capacity, cpus, living
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import read_table, write_part, write_table

TRIES = 2  # of a whole shard before it is halved, and of an image before it is recorded; halves have one
LOST = 10  # nodes that may be lost under one and the same shard; workers in each place before the first could begin
ASKED = 100  # times, of two seconds or more, that a worker which cannot be reached is asked whether it is there


@dataclass
class Piece:
    """A shard, or inputs `start` to `stop` of one whose worker died.

    alone: it was with a worker that died, and is to be with no other.
    """

    shard: Shard
    start: int
    stop: int
    deaths: int = 0
    lost: int = 0
    alone: bool = False

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
        return [Piece(self.shard, *ends, alone=True) for ends in ((self.start, middle), (middle, self.stop))]

    def place(self, out: Place) -> Place:
        return out / "pieces" / f"{self.shard.index:05d}-{self.start}-{self.stop}.parquet"


@dataclass(eq=False)
class Worker:
    """One of the pool.

    doing: what it has been asked for and has not ended, None: nothing. Until it is `ready` that is the id of its node,
    then what `AttackActor` yields.
    with_it: pieces by the number of their shard.
    """

    actor: Any
    doing: Any
    ready: bool = False
    node: str | None = None
    asked: int = 0
    with_it: dict[int, Piece] = field(default_factory=dict)


class WorkerPool:
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
        self.at_once = max(1, capacity(1, gpu_share)) if gpu_share else cpus()
        self._new: Callable[..., Any] = ray.remote(num_cpus=1, num_gpus=gpu_share)(AttackActor).remote
        self._given: tuple[Any, ...] = (job, "cuda" if gpu_share else "cpu", *(ray.put(content) for content in net))
        self._workers: list[Worker] = []
        self._never_ready = 0
        self._waiting: deque[Piece] = deque()
        self._placed: dict[Shard, list[Piece]] = {}  # what is on disk of shards that were halved

    @contextmanager
    def hired(self, count: int) -> Iterator[None]:
        """So many workers, or fewer where the cluster holds no more; they load torch and the net at once."""
        try:
            for _ in range(min(count, self.at_once)):
                self._hire()
            yield
        finally:
            while self._workers:
                self._dismiss(self._workers[0])

    def work_off(self, take: Callable[[], Shard | None]) -> Iterator[Counter[str]]:
        """The rows by status of each shard once its part is on disk.

        Shards are taken as workers ask for them. Where `take` has none, it is asked again when a shard has ended.

        Raises:
            UserError: the disk is full or may not be written to, nodes are lost time and again, or no worker begins.
        """
        while True:
            for worker in self._workers:
                if worker.doing is None:
                    self._set_to_work(worker, take)
            busy = {worker.doing: worker for worker in self._workers if worker.doing is not None}
            if not self._next(take) and not any(worker.with_it for worker in self._workers):
                return
            for done in ray.wait(list(busy), num_returns=1)[0]:
                yield from self._heard(busy[done])

    def _next(self, take: Callable[[], Shard | None]) -> Piece | None:
        """What is to be done next; it stays the next one."""
        if not self._waiting and (shard := take()):
            self._waiting.append(Piece(shard, shard.start, shard.stop))
        return self._waiting[0] if self._waiting else None

    def _set_to_work(self, worker: Worker, take: Callable[[], Shard | None]) -> None:
        piece = self._next(take)
        with_it = worker.with_it.values()
        if with_it and (piece is None or piece.alone or any(other.alone for other in with_it)):
            worker.doing = worker.actor.finish.remote()
        elif piece is not None:
            self._waiting.popleft()
            worker.with_it[piece.shard.index] = piece
            target = None if piece.whole else piece.place(self.job.out)
            worker.doing = worker.actor.attack.remote(piece.shard, piece.start, piece.stop, target)

    def _heard(self, worker: Worker) -> Iterator[Counter[str]]:
        """What a worker has done of what it is doing."""
        try:
            if not worker.ready:
                worker.node, worker.doing, worker.ready = ray.get(worker.doing), None, True
                self._never_ready = worker.asked = 0
                self._lost(worker)  # where it was only the connection that broke
                return
            number, rows, said = ray.get(next(worker.doing))
        except StopIteration:
            worker.doing = None
            return
        except ActorUnavailableError:  # whether it, its node or the connection is gone, Ray tells who asks again
            worker.asked += 1
            if worker.asked > ASKED:
                self._replace(worker)
                self._lost(worker)
            else:
                worker.doing, worker.ready = worker.actor.ready.remote(), False
            return
        except RayTaskError as wrong:
            raise self._explained(wrong) from None
        except RayError as death:
            yield from self._bereft(worker, death)
            return
        if said:
            self.say(said)
        piece = worker.with_it.pop(number)
        if piece.whole:
            yield rows
        else:
            yield from self._add(piece)

    def _bereft(self, worker: Worker, death: RayError) -> Iterator[Counter[str]]:
        """Another takes the place of a worker that died, and what was with it is done again."""
        self._replace(worker)
        pieces = list(worker.with_it.values())
        if worker.node is None:
            self._never_ready += 1
            if self._never_ready > LOST * len(self._workers) and not any(other.ready for other in self._workers):
                raise UserError(
                    f"{self._never_ready} workers in a row died before they could begin ({one_line(death, 200)}); "
                    f"finished shards are kept; see to the cluster and its memory, then go on with: "
                    f"dxray attack --resume '{self.job.out}'"
                )
        elif worker.node not in living():
            self._lost(worker)
        elif len(pieces) == 1:
            yield from self._died(pieces[0], death)
        else:
            for piece in pieces:
                piece.alone = True
            self._waiting.extend(pieces)

    def _lost(self, worker: Worker) -> None:
        """What was with the worker is done again, for which it is not to blame."""
        for piece in worker.with_it.values():
            piece.lost += 1
            if piece.lost > LOST:
                raise UserError(
                    f"more than {LOST} nodes, or connections to them, were lost with the same shard; finished shards "
                    f"are kept; see to the cluster, then go on with: dxray attack --resume '{self.job.out}'"
                )
        self._waiting.extend(worker.with_it.values())
        worker.with_it.clear()

    def _replace(self, worker: Worker) -> None:
        self._dismiss(worker)
        self._hire()

    def _hire(self) -> None:
        actor: Any = self._new(*self._given)
        self._workers.append(Worker(actor, actor.ready.remote()))

    def _dismiss(self, worker: Worker) -> None:
        self._workers.remove(worker)
        with suppress(RayError):
            ray.kill(worker.actor)

    def _died(self, piece: Piece, death: RayError) -> Iterator[Counter[str]]:
        piece.deaths, piece.alone = piece.deaths + 1, True
        if piece.deaths < piece.tries:
            self._waiting.append(piece)
            return
        if piece.size > 1:
            self._waiting.extend(piece.halves())
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
            kept = f"finished shards are kept; go on with: dxray attack --resume '{self.job.out}'"
            return cannot_write(self.job.out, str(cause.strerror), kept)
        return wrong


def join(out: Place, pieces: Sequence[Piece]) -> Counter[str]:
    """Make the part of a shard of its pieces, in their order; returns its rows by status."""
    places = [piece.place(out) for piece in sorted(pieces, key=lambda piece: piece.start)]
    table = pa.concat_tables([read_table(place) for place in places])
    write_table(part(out, pieces[0].shard.index), table)
    for place in places:
        place.unlink()
    return Counter(table.column("status").to_pylist())


class AttackActor:
    """What a worker is, in a process of its own.

    Args:
        device: "cpu", or "cuda" where Ray has set a GPU apart, which is then the only one that torch sees.
    """

    def __init__(self, job: Job, device: str, card_bytes: bytes, weights: bytes) -> None:
        self._job, self._load = job, partial(Shards, job, card_bytes, weights, device=device)

    def ready(self) -> str:
        """Load what is needed; returns the id of the node."""
        self._shards = self._load()
        gc.freeze()  # what is loaded stays; to look through all of it time and again took 0.4 % of an attack
        return str(ray.get_runtime_context().get_node_id())

    def attack(self, shard: Shard, start: int, stop: int, piece: Place | None) -> Iterator[Ended]:
        """See `Shards.attack`."""
        inputs = list(read_list(self._job.out, shard.list, start, stop))
        # Not `yield from`: Ray sends something in, which would reach iterators that take nothing.
        for ended in self._shards.attack(shard.index, inputs, piece):  # noqa: UP028
            yield ended

    def finish(self) -> Iterator[Ended]:
        """See `Shards.finish`."""
        for ended in self._shards.finish():  # noqa: UP028
            yield ended
