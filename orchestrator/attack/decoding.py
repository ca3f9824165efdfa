"""From an input to its pixels, on the worker that attacks it: the one place that opens what `inputs` has listed."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from dxray.models.data.images import UnreadableImage, one_line, open_source
from dxray.models.data.table_images import file_at, pixels_of
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.image_tables import read_cells
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.runs.buckets import Place, open_uri

MOST = 512 * 2**20  # bytes of a file: what is larger is no picture of a face, and would not fit in memory
_FETCHES = 4  # a bucket that does not answer is asked so often


@dataclass
class Content:
    """pixels: uint8 `(C, H, W)` at the net's size; None where there are none, with the reason. sha256: of the bytes."""

    pixels: np.ndarray | None = None
    reason: str | None = None
    sha256: str | None = None


def contents(inputs: Sequence[Input], card: ModelCard) -> Iterator[Content]:
    """What each input holds, in their order."""
    for read, side in _readers(inputs):
        found = Content()
        try:
            encoded = read()
            found.sha256 = hashlib.sha256(encoded).hexdigest()
            found.pixels = pixels_of(encoded, side, size=card.size, channels=card.channels)
        except UnreadableImage as wrong:
            found.reason = str(wrong)
        yield found


def digests(inputs: Sequence[Input]) -> list[str | None]:
    """The sha256 of each input's bytes, in their order; None where they cannot be read."""
    found: list[str | None] = []
    for read, _ in _readers(inputs):
        try:
            found.append(hashlib.sha256(read()).hexdigest())
        except UnreadableImage:
            found.append(None)
    return found


def _readers(inputs: Sequence[Input]) -> Iterator[tuple[Callable[[], bytes], int]]:
    """What reads the bytes of each input, and the side of a square of raw pixels; 0: the bytes are an encoded image."""
    for table, rows in groupby(inputs, key=lambda item: item.path if item.row is not None else None):
        items = list(rows)
        if table is None:
            for item in items:
                yield partial(_read, _place(item.path)), 0
        else:
            stored = read_cells(table.decode(), [item.row for item in items if item.row is not None])
            for cell in stored.cells:
                yield partial(_bytes_of, cell, stored.root), stored.side


def _bytes_of(cell: bytes | str | None, root: Place) -> bytes:
    if cell is None:
        raise UnreadableImage("no image stored")
    return cell if isinstance(cell, bytes) else _read(file_at(cell, root))


def _place(path: bytes) -> Path | str:
    """A file, or a URI."""
    return path.decode() if b"://" in path else Path(os.fsdecode(path))


def _read(place: Place | str) -> bytes:
    if not isinstance(place, Path):
        return _fetched(str(place))
    try:
        with open_source(place) as file:
            content = file.read(MOST + 1)
    except UnreadableImage:
        if place.is_dir() and not os.access(place, os.R_OK | os.X_OK):
            raise UnreadableImage("a folder whose images may not be listed (permission denied)") from None
        raise
    except OSError as wrong:
        raise UnreadableImage(f"cannot be read ({wrong.strerror})") from wrong
    return _not_too_large(content)


def _fetched(uri: str) -> bytes:
    for again in range(_FETCHES):
        try:
            system, path = open_uri(uri)
            with system.open_input_stream(path) as stream:
                return _not_too_large(stream.read(MOST + 1))
        except FileNotFoundError:
            raise UnreadableImage("does not exist") from None
        except OSError as wrong:
            said = one_line(wrong, 200)
            time.sleep(0.5 * 2**again)
    raise UnreadableImage(f"cannot be fetched ({said})")


def _not_too_large(content: bytes) -> bytes:
    if len(content) > MOST:
        raise UnreadableImage(f"more than {MOST // 2**20} MiB, the limit for a file")
    return content
