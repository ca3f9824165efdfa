"""`dxray compact`: the many small parts of a finished attack as a few large ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.rows import CONFIG, is_finished, read_config
from dxray.orchestrator.runs.store import MERGED, REPLACED, locked, parts, settle, write_json, write_table

LARGE = 64 * 2**20  # bytes of a part; several times this is the memory that merging takes
ROWS = 1_024  # of a group: about 6 MB of 48x48 images, what reading a single one of them costs


def compact(run: Path, console: Console) -> dict[str, Any]:
    """Merge neighbouring parts up to `LARGE` bytes, each sorted by name; the rows, the schema and its metadata stay.

    The large parts are called like the small ones and lie in the same folder. Since their numbers are then no longer
    those of shards, `attack.json` gets `"compacted": true` first: who goes on with the run must not look for the parts
    of its shards, and begins those of an update with a number past all of these.

    The new set is written beside the old one, and two renames put it in its place. Killed between them, `images/` is
    missing: the old set is read from where it is (`store.parts`), and whoever next locks the run brings
    it back.

    Raises:
        UserError: `run` is no attack's folder, is not finished or in use, cannot be written to, or a part is damaged.
    """
    read_config(run)  # a folder that is no run gets no lock file either
    try:
        with locked(run):
            record = read_config(run)
            if not is_finished(record):
                raise UserError(
                    f"'{run}' is not finished, so it cannot be compacted; first: dxray attack --resume '{run}'"
                )
            before = parts(run)
            groups = list(_neighbours(before))
            if len(groups) < len(before):
                try:
                    _write(groups, run, console)
                    write_json(run / CONFIG, record | {"compacted": True})
                    (run / "images").rename(run / REPLACED)
                    (run / MERGED).rename(run / "images")
                finally:
                    settle(run)
    except (OSError, pa.ArrowException) as wrong:
        reason = getattr(wrong, "strerror", None) or str(wrong).splitlines()[0]
        raise UserError(f"'{run}' could not be compacted ({reason}); its parts are as they were") from None
    after = parts(run)
    return {
        "out": str(run),
        "parts_before": len(before),
        "parts": len(after),
        "rows": sum(pq.read_metadata(part).num_rows for part in after),
        "bytes": sum(part.stat().st_size for part in after),
    }


def _neighbours(parts: list[Path]) -> Iterator[list[Path]]:
    """Runs of parts that are `LARGE` together; a part that is so by itself stands alone."""
    group: list[Path] = []
    room = LARGE
    for part in parts:
        size = part.stat().st_size
        if group and size > room:
            yield group
            group, room = [], LARGE
        group.append(part)
        room -= size
    if group:
        yield group


def _write(groups: list[list[Path]], run: Path, console: Console) -> None:
    with console.bar("compacting", sum(map(len, groups)), "parts") as bar:
        for index, group in enumerate(groups):
            table = pa.concat_tables([pq.read_table(part, partitioning=None) for part in group])
            # Who wants the images of one row reads the groups between whose first and last name its own lies: one.
            write_table(run / MERGED / f"part-{index:05d}.parquet", table.sort_by("name"), group_rows=ROWS)
            bar.advance(len(group))
