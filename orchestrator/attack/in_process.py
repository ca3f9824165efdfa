"""Few images are attacked in this very process, for they take less time than Ray's start; the rows are the same.

An image at which attack or net raise an error is a row, here as on a worker. One that kills the process is not to do so
for ever: a mark tells that the process did not end by itself, and the run is then for Ray's workers, which isolate it.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dxray.models.training.train import device_of_choice
from dxray.orchestrator.attack.input_lists import read_list
from dxray.orchestrator.attack.sharding import Shard
from dxray.orchestrator.attack.shards import Ended, Job, Shards
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place

if TYPE_CHECKING:
    from dxray.orchestrator.attack.workers import WorkerPool

MARK = ".in-process"  # a file in the run's folder while a process attacks its images itself
# Ray and its workers take 6 to 8 s to start. On two CPUs they then do in half the time what is left, so they are worth
# it where that is more than about twice these seconds; on more CPUs a little sooner, which is not worth a rule.
PATIENCE = 15.0
SMALL = 1_000  # images that take so long on one CPU at the speed of `dx`, 70 images/s: more are Ray's from the first on

Workers = Literal["auto", "local", "ray"]


@dataclass(frozen=True)
class Compute:
    """By what images are attacked; no row depends on it.

    Attributes:
        workers: "ray"; "local", this process alone; or "auto": this process where the images are few and nothing of
            Ray is asked for, neither here nor by a connection that the process already has.
        address: of a running Ray cluster; None: the one that this process is connected to, or a Ray of its own.
        gpus_per_worker: share of a GPU for each worker of Ray (0.25 where there is one).
    """

    workers: Workers = "auto"
    address: str | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if self.workers not in get_args(Workers):
            raise UserError(f"workers '{self.workers}' are not known; known are: {', '.join(get_args(Workers))}")
        if self.workers == "local" and self._of_ray:
            raise UserError("local workers are this process alone; leave --address and --gpus-per-worker out")

    @property
    def _of_ray(self) -> bool:
        return self.address is not None or self.gpus_per_worker is not None

    def in_process(self, out: Place, images: int, say: Callable[[str], None]) -> bool:
        """Whether so many images, of the run in `out`, are for this process."""
        if self.workers != "auto":
            return self.workers == "local"
        ray = sys.modules.get("ray")
        if self._of_ray or images > SMALL or (ray is not None and ray.is_initialized()):
            return False
        if (out / MARK).exists():
            say("the last process that attacked these images was killed, perhaps by one of them; Ray's workers find it")
            return False
        return True


class InProcess:
    """Works off shards as `WorkerPool` does, one after the other on one thread, or on the GPU.

    Args:
        net: card and weights.
        images: how many all shards hold that are to come.
        others: hires Ray's workers for so many images, where the rest would take more than `PATIENCE` here; None: all
            are attacked here.
        say: told of what is out of the ordinary.
    """

    def __init__(
        self,
        job: Job,
        net: tuple[bytes, bytes],
        *,
        images: int,
        others: "Callable[[int], WorkerPool] | None" = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.job, self.say = job, say
        self.at_once = os.cpu_count() or 1  # workers that may have to go on: shards are cut for them
        self._net, self._images, self._others = net, images, others
        self._mark = job.out / MARK

    @contextmanager
    def hired(self, count: int) -> Iterator[None]:
        """However many are asked for, it is this process."""
        self._mark.write_bytes(b"")
        try:
            yield
        finally:
            self._mark.unlink(missing_ok=True)

    def work_off(self, take: Callable[[], Shard | None]) -> Iterator[Counter[str]]:
        """The rows by status of each shard once its part is on disk; `take` as for `WorkerPool.work_off`."""
        shards = Shards(self.job, *self._net, device=str(device_of_choice()))
        began, left = time.perf_counter(), self._images
        seconds = 0.0
        while seconds <= PATIENCE or self._others is None:
            shard = take()
            inputs = [] if shard is None else list(read_list(self.job.out, shard.list, shard.start, shard.stop))
            ended = False
            for rows in self._heard(shards.finish() if shard is None else shards.attack(shard.index, inputs)):
                ended = True  # and may have told how the rest is cut
                yield rows
            if shard is None and not ended:
                return
            left -= len(inputs)
            seconds = (time.perf_counter() - began) / (self._images - left) * left
        yield from self._heard(shards.finish())
        self._mark.unlink(missing_ok=True)
        self.say(f"the other {left:,} images would take {seconds:.0f} s in this process; Ray's workers go on")
        yield from self._others(left).work_off(take)

    def _heard(self, ended: Iterator[Ended]) -> Iterator[Counter[str]]:
        for one in ended:
            if one.said:
                self.say(one.said)
            yield one.rows
