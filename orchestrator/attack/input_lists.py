"""The list of a run's inputs, in `inputs/` of its folder: the driver never holds it, and workers read their rows.

One file holds what was listed when the run was begun; each update adds a file with the inputs that were new then.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dxray.models.data.images import one_line
from dxray.orchestrator.attack.inputs import Input, told_apart
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import column, finished_file, open_table, read_table

_GROUP = 4096  # rows of a row group: what a worker reads of a list to find its own
_SCHEMA = pa.schema(
    [
        column("name", pa.string(), "what its row is called"),
        column("path", pa.binary(), "an absolute path, a URI or a table, as bytes: file names need not be UTF-8"),
        column("row", pa.int64(), "in the table; null for a file"),
        column("triple", pa.string(), "what its three images are called, below triples/"),
        column("label", pa.int32(), "class that came with the data"),
    ]
)


@dataclass(frozen=True)
class Listed:
    """How many inputs a list holds, how many of them with a label, and the sha256 over names, places and labels."""

    inputs: int
    labelled: int
    sha256: str


def list_file(out: Place, number: int) -> Place:
    return out / "inputs" / f"list-{number:05d}.parquet"


def write_list(out: Place, number: int, inputs: Iterable[Input]) -> Listed:
    """Write the list, whole or not at all."""
    digest, total, labelled = hashlib.sha256(), 0, 0
    with finished_file(list_file(out, number)) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        for some in _batches(inputs):
            writer.write_batch(pa.record_batch([list(values) for values in zip(*some, strict=True)], schema=_SCHEMA))
            digest.update(repr([_key(item) for item in some]).encode())
            total += len(some)
            labelled += sum(item.label is not None for item in some)
    return Listed(total, labelled, digest.hexdigest())


def read_list(out: Place, number: int, start: int = 0, stop: int | None = None) -> Iterator[Input]:
    """The inputs from number `start` on, before number `stop`; memory holds one row group.

    Raises:
        UserError: the list is missing or damaged.
    """
    try:
        with open_table(list_file(out, number)) as file:
            at = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                first, last = max(0, start - at), size if stop is None else min(size, stop - at)
                if first < last:
                    rows = file.read_row_group(group).slice(first, last - first)
                    yield from map(Input, *(values.to_pylist() for values in rows.columns))
                at += size
    except (OSError, pa.ArrowException) as wrong:
        said = one_line(wrong, 200)
        raise UserError(f"'{list_file(out, number)}' cannot be read ({said}); start the run anew") from None


def difference(out: Place, lists: int, inputs: Iterable[Input], *, moved: bool = False) -> str | None:
    """What sets the inputs that are there now apart from those in a run's lists; None: nothing.

    The order of inputs follows from their names, so each list is a part of what is there now, in the same order.

    Args:
        moved: whether their places may be others.
    """
    key = _moved_key if moved else _key
    left = [read_list(out, number) for number in range(lists)]
    heads = [next(one, None) for one in left]
    for now in inputs:
        at = next((i for i, head in enumerate(heads) if head and key(head) == key(now)), None)
        if at is None:
            return _told_apart(now, heads, out, key)
        heads[at] = next(left[at], None)
    gone = next((head for head in heads if head), None)
    return f"'{gone.name}' is gone" if gone else None


def _told_apart(now: Input, heads: Sequence[Input | None], out: Place, key: Callable[[Input], object]) -> str:
    for number, head in enumerate(heads):
        for then in read_list(out, number):
            if then.name == now.name and key(then) == key(now) and head:
                return f"'{head.name}' is gone"
            if then.name == now.name:
                return f"'{now.name}' has another {'label' if then.label != now.label else 'place'}"
    return f"'{now.name}' is new"


def placed(listed: Iterable[Input], now: Iterable[Input]) -> Iterator[Input]:
    """The inputs of a list with the places that they have now; `now` holds them all, and perhaps others, in order."""
    there = iter(now)
    for item in listed:
        path = next(one.path for one in there if one.name == item.name)
        yield item._replace(path=path)


def fresh(out: Place, lists: int, inputs: Iterable[Input]) -> Iterator[Input]:
    """Those of the inputs whose names are in none of a run's lists, with triples that are in none either.

    What is known is held in memory, in Arrow.
    """
    names, triples = _columns(out, lists, "name", "triple")
    for some in _batches(inputs):
        old = _in([item.name for item in some], names)
        new = [item for item, known in zip(some, old, strict=True) if not known]
        taken = _in([item.triple for item in new], triples)
        for item, known in zip(new, taken, strict=True):
            yield item._replace(triple=told_apart(item.triple, item.name)) if known else item


def already_listed(out: Place, lists: int, inputs: Iterable[Input]) -> Iterator[Input]:
    """Those of the inputs whose names are in one of a run's lists, which are held in memory, in Arrow."""
    (names,) = _columns(out, lists, "name")
    for some in _batches(inputs):
        yield from compress(some, _in([item.name for item in some], names))


def _columns(out: Place, lists: int, *names: str) -> list[pa.ChunkedArray]:
    return pa.concat_tables([read_table(list_file(out, i), columns=list(names)) for i in range(lists)]).columns


def _in(texts: Sequence[str], known: pa.ChunkedArray) -> list[bool]:
    return pc.is_in(pa.array(texts, pa.string()), value_set=known).to_pylist()


def _key(item: Input) -> tuple[object, ...]:
    """All but the triple, which may depend on what was there when the list was made."""
    return item.name, item.path, item.row, item.label


def _moved_key(item: Input) -> tuple[object, ...]:
    return item.name, item.row, item.label


def _batches(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    rest = iter(inputs)
    while some := list(islice(rest, _GROUP)):
        yield some
