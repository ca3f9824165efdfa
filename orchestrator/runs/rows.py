"""The rows of a run, finished or running: only the columns and images asked for are read, a few parts at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dxray.models.data.walk import RUN
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place, in_arrow
from dxray.orchestrator.runs.store import IMAGES, TRIPLE, parts, read_json

if TYPE_CHECKING:
    import pyarrow.dataset as ds

CONFIG = RUN
PART = "__filename"  # Arrow's own name for the file that a row comes from


def read_config(run: Place) -> dict[str, Any]:
    """What `attack.json` says; UserError where `run` is no attack's folder."""
    return read_json(run / CONFIG)


def is_finished(record: dict[str, Any]) -> bool:
    return "counts" in record


def runs_below(top: str, configs: Iterable[str]) -> tuple[str, ...]:
    """What the paths begin with of all that runs have written below `top`; not of what `top` itself holds as a run."""
    return tuple(config.removesuffix(CONFIG) for config in configs if config != f"{top}/{CONFIG}")


def _is_compacted(record: dict[str, Any]) -> bool:
    """Whether a part may hold the rows of several shards, so that a resume does not do them again where it is gone."""
    return any(one.get("compacted") for one in (record, *record.get("lists", [])))


def scan(
    run: Place,
    columns: Sequence[str],
    where: pc.Expression | None = None,
    on_share: Callable[[float], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of `columns` and, as `PART`, the file that each row is in; in the order of the parts.

    Args:
        on_share: told now and then which share of the parts is read, in (0, 1].

    Raises:
        UserError: a part is damaged, or was replaced meanwhile.
    """
    with _readable(run):
        for few, share in _datasets(run):
            yield from few.to_batches(columns=[*columns, PART], filter=where)
            if on_share:
                on_share(share)


def rows_with_images(run: Place, where: pc.Expression | None = None) -> Iterator[dict[str, Any]]:
    """Name and the three images of each row, a part at a time; parts without a row that counts stay closed.

    Raises:
        UserError: as `scan`.
    """
    with _readable(run):
        small = {"batch_size": 256, "batch_readahead": 1}
        for part in (part for few, _ in _datasets(run) for part in few.get_fragments()):
            if where is None or part.scanner(schema=IMAGES, columns=[], filter=where).count_rows():
                for batch in part.to_batches(schema=IMAGES, columns=["name", *TRIPLE], filter=where, **small):
                    yield from batch.to_pylist()


def read_images(run: Place, row: dict[str, Any]) -> dict[str, Any]:
    """The three images of a row that `scan` found with its name; of its part, only the group with that name is read."""
    import pyarrow.dataset as ds

    with _readable(run):
        named = pc.field("name") == row["name"]
        part = ds.dataset(row[PART], format="parquet", filesystem=in_arrow(run)[0])
        return dict(part.to_table(columns=list(TRIPLE), filter=named).to_pylist()[0])


def _datasets(run: Place, *, together: int = 64) -> "Iterator[tuple[ds.Dataset, float]]":
    """Some parts after the other, and the share of all that they end: a data set keeps each footer that it has read."""
    import pyarrow.dataset as ds  # it loads pandas, which most commands do without

    system, _ = in_arrow(run)
    files = [in_arrow(part)[1] for part in parts(run)]
    for first in range(0, len(files), together):
        few = files[first : first + together]
        yield ds.dataset(few, schema=IMAGES, format="parquet", filesystem=system), (first + len(few)) / len(files)


@contextmanager
def _readable(run: Place) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"the parts of '{run}' were replaced while they were read; give the command again") from None
    except (OSError, pa.ArrowException) as wrong:
        reason = str(wrong).splitlines()[0]
        otherwise = f"delete it and go on with: dxray attack --resume '{run}'"
        if _is_compacted(read_config(run)):
            otherwise = "start a run in another folder"
        raise UserError(
            f"a part in '{run / 'images'}' cannot be read ({reason}); put it back from a copy, or {otherwise}"
        ) from None
