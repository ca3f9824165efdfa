"""What a command line names: folders, on a disk or, where a verb can work there, in a bucket; sources of faces."""

from pathlib import Path
from typing import TYPE_CHECKING

from dxray.orchestrator.errors import UserError

if TYPE_CHECKING:
    from dxray.orchestrator.runs.buckets import Place


def folder(text: str) -> Path:
    """A path; UserError for a URI, which would become a folder called `s3:`."""
    if "://" in text:
        raise UserError(
            f"'{text}' is no path; in a bucket can be the runs of sweep, attack and retrain, and the nets that --model "
            "names; here a folder is needed"
        )
    return Path(text)


def place(text: str) -> "Place":
    """A path, or `s3://` or `gs://` with a bucket; UserError for any other URI."""
    if "://" not in text:
        return Path(text)
    from dxray.orchestrator.runs import buckets  # it loads Arrow, which `--help` need not wait for

    if text.partition("://")[0] not in buckets.SCHEMES:
        raise UserError(f"'{text}' is of no kind that is known; give a folder, s3:// or gs://")
    return buckets.ObjectPath(text.rstrip("/"))


def absolute_source(text: str) -> str:
    """A source of faces, as `--data` takes it, under a name by which it is found from any folder."""
    from dxray.models.data.reading import path_of

    kind, _, where = text.partition(":")
    if not where or "://" in where or kind not in ("utkface", "folder", "parquet", "hf"):
        return text
    name = where
    if kind == "hf":  # a split may follow, and what is no folder here is a name on the hub
        name = where if path_of(where).exists() else where.rpartition(":")[0] or where
        if not path_of(name).is_dir():
            return text
    return f"{kind}:{path_of(name).absolute()}{where[len(name) :]}"
