"""Folders as a command line names them: on a disk, or, where a verb can work there, in a bucket."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.object_store import Place


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
    from orchestrator import object_store  # it loads Arrow, which `--help` need not wait for

    if text.partition("://")[0] not in object_store.SCHEMES:
        raise UserError(f"'{text}' is of no kind that is known; give a folder, s3:// or gs://")
    return object_store.ObjectPath(text.rstrip("/"))
