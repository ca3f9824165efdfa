"""From an input to its pixels, on the worker that attacks it: the one place that opens what `inputs` has listed."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image

from dxray.models.data.images import UnreadableImage, decode, fit_to, looks_encoded, one_line, open_source
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.image_tables import read_cells
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.runs.buckets import open_uri

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
    for table, rows in groupby(inputs, key=lambda item: item.path if item.row is not None else None):
        items = list(rows)
        cells = read_cells(table.decode(), [item.row for item in items if item.row is not None]) if table else None
        for i, item in enumerate(items):
            yield _content(item, cells[i] if cells else None, card)


def _content(item: Input, cell: bytes | Path | None, card: ModelCard) -> Content:
    found = Content()
    try:
        encoded = cell if isinstance(cell, bytes) else _read(item, cell)
        found.sha256 = hashlib.sha256(encoded).hexdigest()
        found.pixels = _pixels(encoded, card, raw=item.row is not None)
    except UnreadableImage as wrong:
        found.reason = str(wrong)
    return found


def _read(item: Input, cell: Path | None) -> bytes:
    if item.row is not None and cell is None:
        raise UnreadableImage("no image stored")
    if b"://" in item.path and cell is None:
        return _fetched(item.path.decode())
    path = cell or Path(os.fsdecode(item.path))
    try:
        with open_source(path) as file:
            content = file.read(MOST + 1)
    except UnreadableImage:
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
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


def _pixels(encoded: bytes, card: ModelCard, *, raw: bool) -> np.ndarray:
    """The pixels of an encoded image; or, of a cell of a table, of the row-major grey square that it may be."""
    side = isqrt(len(encoded))
    # Two bytes, with which a BMP begins, are found in one raw image of 65,536: those are tried as what they say first.
    if not raw or side < 2 or side * side != len(encoded) or (looks_encoded(encoded) and encoded[:2] != b"BM"):
        return decode(encoded, size=card.size, channels=card.channels)
    try:
        return decode(encoded, size=card.size, channels=card.channels)
    except UnreadableImage:
        grey = np.frombuffer(encoded, np.uint8).reshape(side, side)
        return fit_to(Image.fromarray(grey), size=card.size, channels=card.channels)
