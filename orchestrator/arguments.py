"""Folders as a command line names them: on a disk, or, where a verb can work there, in a bucket."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.object_store import Place


def folder(text: str) -> Path:
    """A path; a URI is refused, which would become a folder called `s3:`."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no path; runs of `dxray attack` alone can be in a bucket, all else is in a folder that every "
            "machine sees, such as an NFS share"
        )
    return Path(text)


def place(text: str) -> "Place":
    """A path, or `s3://` or `gs://` with a bucket."""
    if "://" not in text:
        return Path(text)
    from orchestrator import object_store  # it loads Arrow, which `--help` need not wait for

    if text.partition("://")[0] not in object_store.SCHEMES:
        raise argparse.ArgumentTypeError(f"'{text}' is of no kind that is known; give a folder, s3:// or gs://")
    return object_store.place(text)
