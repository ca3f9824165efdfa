"""How a list of inputs is cut into shards: chosen once, written to `attack.json`, the same on every resume.

Factoring (Hummel, Schonberg and Flynn 1992, doi:10.1145/135226.135232): in each round all workers get shards of one
size, together a share of what is left, so the first are large and the last small, and all workers end together. But
each shard costs: a part to be written, and where the attack takes its images in batches, a last one that is not full.
So the rounds take all that is not needed to even out what the workers may differ by, and only then a share.
"""

import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import parts, read_table

FIRST = 32  # images of each worker's first shard, by which the cost of an image is measured
MEANWHILE = 3  # times as many are in its second, which fills the batch until the first has ended
# Of all images, for the last rounds: workers on one machine were seen to differ by 1 to 4 %, and shards of one class
# and of another, for inputs are listed by folder, by 8 %.
SPARED = 0.05
SHARE = 0.7  # of what is left, to be taken in each of those
LITTLE = 4  # images for each worker: a round of them would cost more than it evens out
SECONDS = 60.0  # of a shard, about: a kill may undo one to three for each worker
MOST = 2048
_BYTES = 256 * 2**20  # of memory for the images of a shard
_COPIES = 8  # float32 tensors of its images that an attack holds at a time


@dataclass(frozen=True)
class Shard:
    """Inputs `start` to `stop` of a list; its rows are in the part with its number."""

    index: int
    list: int
    start: int
    stop: int


def cut(inputs: int, workers: int, most: int, largest: Callable[[], int]) -> Iterator[tuple[int, int]]:
    """First and last number of each shard, of at most `most` images, or `FIRST`.

    The size of each worker's first two is fixed; then `largest` is asked for that of all others.
    """
    start = 0
    for size in _known(inputs, workers, most):
        for _ in range(workers):
            if start < inputs:
                yield start, (start := min(inputs, start + size))
    spared = int(SPARED * inputs / workers)
    while start < inputs:
        fair = math.ceil((inputs - start) / workers)
        size = fair - spared if fair > 2 * spared else math.ceil(SHARE * fair)
        if workers == 1 or fair - size < LITTLE:
            size = fair
        size = min(size, largest())
        for _ in range(workers):
            if start < inputs:
                yield start, (start := min(inputs, start + size))


def _known(inputs: int, workers: int, most: int) -> tuple[int, int]:
    """Images of each worker's first shards, which do not depend on what is measured."""
    fair = max(1, math.ceil(inputs / workers) - FIRST)
    return FIRST, min(MEANWHILE * FIRST, most, fair)


def most_at_once(pixels: int) -> int:
    """Images of a shard that fits in memory, a power of two, or `FIRST`.

    Args:
        pixels: values of an image, channels x height x width.
    """
    most = min(MOST, _BYTES // (4 * _COPIES * pixels))
    return max(FIRST, 1 << max(0, most.bit_length() - 1))


def largest_shard(seconds_per_image: float, most: int) -> int:
    """Images of the largest shard, `most` or less: a power of two, for then a run seldom differs by chance."""
    # The nearest power: what was measured on a first shard is too much by what the net needs at its first call.
    return max(FIRST, min(2 ** round(math.log2(SECONDS / seconds_per_image)), most))


def bounds(listed: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """First and last number of each shard of a list, as `Sharding` has it.

    While `largest` is not known, only the first are as they will be, and may be done.
    """
    most = listed["most"]
    return cut(listed["inputs"], listed["workers"], most, lambda: listed["largest"] or most)


def finished(out: Place) -> Set[int]:
    """Numbers of the shards, of all lists of a run, that are done by now."""
    return {int(file.stem[5:]) for file in parts(out)}


class Sharding:
    """The shards of one list of a run that are still to be done, in order.

    Args:
        listed: its entry in `attack.json`: `inputs`, `first_part`, `workers` (as many as when it was begun), `most`
            (images that fit in memory) and `largest`, None until it is measured.
        there: the parts that are on disk, see `finished`; looked up unless told.
    """

    def __init__(self, out: Place, number: int, listed: dict[str, Any], *, there: Set[int] | None = None) -> None:
        self._out, self._number, self._listed = out, number, listed
        self._cuts = enumerate(bounds(listed), listed["first_part"])
        self._there = finished(out) if there is None else there
        self._taken, self._known = 0, 2 * listed["workers"]

    def take(self) -> Shard | None:
        """The next shard; None where there is none, or none before the cost of an image is measured."""
        while self._taken < self._known or self._listed["largest"] is not None:
            self._taken += 1
            index, (start, stop) = next(self._cuts, (0, (0, 0)))
            if start == stop:
                return None
            if index not in self._there:
                return Shard(index, self._number, start, stop)
        return None

    def measure(self) -> bool:
        """Set `largest` by what a shard that is done took, if it is not set and there is one; whether it was set."""
        if self._listed["largest"] is not None:
            return False
        for file in files(self._out / "timing", "part-*.parquet"):
            if int(file.stem[5:]) >= self._listed["first_part"]:
                row = read_table(file).to_pylist()[0]
                seconds = sum(value for name, value in row.items() if name.endswith("_s"))
                self._listed["largest"] = largest_shard(seconds / row["images"], self._listed["most"])
                return True
        there = finished(self._out)
        if all(self._listed["first_part"] + known in there for known in range(self._known)):
            # How long they took was not written: the run was killed before, or each was put together of pieces.
            self._listed["largest"] = FIRST
            return True
        return False

    @property
    def left(self) -> int:
        """Images whose shard is to be done."""
        shards = enumerate(bounds(self._listed), self._listed["first_part"])
        return sum(stop - start for index, (start, stop) in shards if index not in self._there)
