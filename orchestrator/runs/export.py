"""`dxray export`: the three images of each face as PNG files, of a run that kept them in its parts only."""

from pathlib import Path
from typing import Any

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, UserError, cannot_write
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.filters import parse
from dxray.orchestrator.runs.rows import read_config, rows_with_images, scan
from dxray.orchestrator.runs.store import TRIPLE, writable_folder, write_image


def export(run: Place, console: Console, *, where: str | None = None, out: Place | None = None) -> dict[str, Any]:
    """Write `triples/**/adv_*_ori.png`, `_mod.png` and `_amp.png`, named and filled as `dxray attack --png` does.

    A file that is there with the same content is left alone, so a stopped export goes on when it is given again. One
    that cannot be written for its own name's sake is counted in the result, `unwritten`, the first of them told with
    why, `reason`, and the others follow.

    Args:
        where: only the rows for which this holds, see `runs.filters`; rows without images have nothing to write.
        out: the folder that gets `triples/` (the run's own).

    Raises:
        UserError: `run` is no attack's folder, `where` is not understood, a part is damaged, `out` is not writable.
    """
    read_config(run)
    chosen = parse(where) if where is not None else None
    out = writable_folder(out or run, "the triples")
    written = kept = triples = unwritten = 0
    reason = None
    total = sum(batch.num_rows for batch in scan(run, [], chosen))
    with console.bar("exporting", total, "images") as bar:
        for row in rows_with_images(run, chosen):
            bar.advance()
            if row["original"] is None:
                continue
            triples += 1
            for which in TRIPLE:
                path, content = _inside(out, row[which]["path"], run), row[which]["bytes"]
                if _holds(path, content):
                    kept += 1
                    continue
                try:
                    write_image(path, content)
                except OSError as wrong:
                    if wrong.errno not in FULL:
                        unwritten += 1
                        reason = reason or f"'{path}' ({wrong.strerror})"
                        continue
                    again = "what is written is kept; give the command again, or choose another --out"
                    raise cannot_write(path, str(wrong.strerror), again) from None
                written += 1
    counts = {"rows": total, "triples": triples, "written": written, "kept": kept, "unwritten": unwritten}
    return {"out": str(out / "triples"), **counts, "reason": reason}


def _inside(out: Place, place: str, run: Place) -> Place:
    """A part may come from anyone, and must not choose where on this machine it is written to."""
    path = Path(place)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"'{run}' names a file outside of its folder ('{place}'), so nothing of it is to be trusted")
    return out / path


def _holds(path: Place, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
