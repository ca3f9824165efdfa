"""The word of a worker on how far its training is, for whoever waits: a small file in the training's folder.

The folder is shared already, on a disk or in a bucket; Ray's own ways would take an actor, or end with the driver.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import read_json, write_json

WORD = "progress.json"


@contextmanager
def telling(folder: Place) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What is told, in place of what was told before; it is gone when the block ends.

    A file that cannot be written is left out: what it says is not needed.
    """

    def tell(word: dict[str, Any]) -> None:
        with suppress(OSError):
            write_json(folder / WORD, word)

    try:
        yield tell
    finally:
        with suppress(OSError):
            (folder / WORD).unlink(missing_ok=True)


def told(folder: Place) -> dict[str, Any]:
    """The last word from a folder; empty where there is none."""
    with suppress(UserError, OSError):
        return read_json(folder / WORD)
    return {}
