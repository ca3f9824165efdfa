"""The images in a column of a table: encoded image files, raw grey pixels, or paths of files beside the table.

A column of bytes, or of structs of bytes and path, holds encoded files, or row-major pixels of one square size; which
of them is told by its first cells. A column of text holds paths. Training and attacks read cells by this file only.
"""

from base64 import b64decode
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from math import isqrt
from pathlib import Path
from re import compile as regex
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dxray.models.data.images import IMAGE_SUFFIXES, UnreadableImage, decode, fit_to, looks_encoded, suffix_of
from dxray.models.data.reading import Decoded, FacesError, Wanted, decode_into

SAMPLE = 64  # cells that tell what a column holds
SMALLEST = 64  # bytes of an image as raw pixels: fewer are no picture

_URL = regex(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


class Form(NamedTuple):
    """How a column stores its images: as raw squares of ``side`` pixels, as paths, or else as encoded files."""

    side: int = 0
    paths: bool = False


def form_of(spec: str, column: pa.Array) -> Form | None:
    """How the images are stored of which these are the first, or None where no cell is filled.

    Raises ``FacesError`` for what is no image, nor a path: another type, text that holds the image itself or a URL,
    and bytes that are all of one length which is no square.
    """
    column = _plain(column)
    if _is_text(column.type):
        return _of_texts(spec, column.drop_null()[:SAMPLE].to_pylist())
    try:
        cells = _bytes_of(column).drop_null()[:SAMPLE]
    except pa.ArrowException as error:
        raise FacesError(
            f"{spec} has images of type {column.type}, expected binary (encoded images, or the grey pixels of squares, "
            f"row by row), structs of bytes and path, or paths as text: write it again"
        ) from error
    first = [cell for cell in cells.to_pylist() if cell]
    if not first:
        return None
    texts = [text for text in map(_text_in, first) if text is not None]
    if len(texts) == len(first) and not pa.types.is_struct(column.type):
        return _of_texts(spec, texts)
    return Form(_raw_side(spec, first))


def cells_of(column: pa.Array, form: Form) -> tuple[pa.Array, pa.Array | None]:
    """The bytes of a column, and the paths, if it has any, of the cells that have none."""
    column = _plain(column)
    if form.paths:
        return pa.nulls(len(column), pa.large_binary()), column.cast(pa.large_string())
    with_path = pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0
    return _bytes_of(column), pc.struct_field(column, "path") if with_path else None


def pixels_of(cell: bytes, side: int, *, size: tuple[int, int], channels: int) -> np.ndarray:
    """A cell as uint8 ``(channels, H, W)``; ``side`` is that of raw pixels, 0 where they are none.

    Raises ``UnreadableImage``.
    """
    if side and len(cell) == side * side:
        grey = np.frombuffer(cell, np.uint8).reshape(side, side)
        return fit_to(Image.fromarray(grey), size=size, channels=channels)
    if side and cell and not looks_encoded(cell):
        raise UnreadableImage(f"{len(cell):,} bytes, expected {side * side:,} ({side} x {side} grey pixels)")
    return decode(cell, size=size, channels=channels)


def file_at(text: str, root: Any) -> Any:
    """The place that a path in a table means, a relative one from ``root`` (a `Path`, or what joins as one does).

    Raises ``UnreadableImage`` for text that is no path.
    """
    if kind := _no_path(text):
        raise UnreadableImage(f"{kind}, not the path of a file")
    if "\\" in text and "/" not in text:  # as Windows writes it
        text = text.replace("\\", "/")
    return Path(text) if text.startswith("/") else root / text


def load_cells(
    spec: str,
    batches: Iterable[pa.Array],
    positions: np.ndarray,
    names: list[str],
    root: Path,
    wanted: Wanted,
    decoded: Decoded,
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of the rows with a position >= 0, a batch of cells at a time, and the reasons of those without.

    ``positions`` and ``names`` have one entry for each row of the table; ``root`` is where relative paths begin.
    """
    images = np.empty((int(positions.max()) + 1, wanted.channels, *wanted.size), np.uint8)
    reasons: dict[int, str] = {}
    form = None
    start = 0
    for column in batches:
        rows = slice(start, start + len(column))
        form = form or form_of(spec, column)
        cells, paths = cells_of(column, form or Form())
        reasons |= _into(images, positions[rows], cells, paths, (form or Form()).side, root, decoded)
        start = rows.stop
    return images, reasons


def _into(
    images: np.ndarray,
    positions: np.ndarray,
    cells: pa.Array,
    paths: pa.Array | None,
    side: int,
    root: Path,
    decoded: Decoded,
) -> dict[int, str]:
    """Put ``cells``, or where they are empty the files ``paths`` names, at their ``positions`` of ``images``."""
    channels, height, width = images.shape[1:]
    left = positions >= 0
    if side and (side, side) == (height, width):  # all at once, which is what makes large tables of pixels quick
        whole = np.asarray(pc.fill_null(pc.equal(pc.binary_length(cells), side * side), False))
        if whole.any():
            raw = cells.filter(pa.array(whole))
            _, ends, data = raw.buffers()
            begins = int(np.frombuffer(ends, np.int64)[raw.offset])
            pixels = np.frombuffer(data, np.uint8, len(raw) * side * side, begins).reshape(-1, 1, side, side)
            images[positions[whole & left]] = pixels[left[whole]]
            decoded(int((whole & left).sum()))
        left &= ~whole
    row_at = {int(positions[row]): int(row) for row in np.flatnonzero(left)}

    def pixels_at(position: int) -> np.ndarray:
        row = row_at[position]
        if cells[row].is_valid:
            return pixels_of(cells[row].as_py(), side, size=(height, width), channels=channels)
        path = None if paths is None else paths[row].as_py()
        if path is None:
            raise UnreadableImage("no image stored")
        return decode(file_at(path, root), size=(height, width), channels=channels)

    return decode_into(images, list(row_at), pixels_at, decoded)


def _plain(column: pa.Array) -> pa.Array:
    """The same, without indices and views: Arrow computes little with those."""
    if pa.types.is_dictionary(column.type):
        return _plain(column.cast(column.type.value_type))
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return column.cast(views.get(column.type, column.type))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _bytes_of(column: pa.Array) -> pa.Array:
    """The bytes of a column that is no text; an ArrowException where it has none."""
    with_bytes = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
    cells = pc.struct_field(column, "bytes") if with_bytes else column
    if _is_text(cells.type):
        raise pa.ArrowNotImplementedError("text is never taken for bytes")
    return cells.cast(pa.large_binary())


def _of_texts(spec: str, texts: list[str]) -> Form:
    kinds = [_no_path(text) for text in texts]
    if kinds and None not in kinds:
        raise FacesError(f"{spec} has {kinds[0]} in its column of images: expected encoded images or paths of files")
    return Form(paths=True)


def _raw_side(spec: str, first: list[bytes]) -> int:
    """The side of the square raw images that ``first`` are, or 0 if they are encoded image files."""
    encoded = sum(map(looks_encoded, first))
    lengths = Counter(map(len, first))
    # By chance raw pixels can begin like an encoded file, but not all of them will, and encoded files differ in length.
    if encoded == len(first) or (encoded * 2 >= len(first) and len(lengths) > 1):
        return 0
    length, often = lengths.most_common(1)[0]
    side = isqrt(length)
    if length >= 4 and side * side == length and often * 2 > len(first):
        return side
    if len(lengths) == 1 < len(first) and length >= SMALLEST:
        raise FacesError(
            f"{spec} has {length:,} bytes as each image, expected H x H grey pixels (2,304 for 48 x 48) "
            f"or an encoded image such as PNG: write the images again"
        )
    return 0  # damaged, each in a way of its own


def _text_in(cell: bytes) -> str | None:
    """The path or URL that bytes are, or the image written out as text: some writers keep text so."""
    try:
        text = cell.decode()
    except UnicodeDecodeError:
        return None
    known = text.isprintable() and (suffix_of(text).lower() in IMAGE_SUFFIXES or _no_path(text))
    return text if known else None


def _no_path(text: str) -> str | None:
    """What a text is that cannot be the path of an image: a URL, or the image itself written out as text."""
    if _URL.match(text):
        return f"a URL ({text[:40]!r}), which is not opened"
    start = text[:64]
    if len(start) == 64:
        with suppress(ValueError):
            if looks_encoded(b64decode(start.replace("-", "+").replace("_", "/"), validate=True)):
                return "an image written out as base64"
        with suppress(ValueError):
            if looks_encoded(bytes.fromhex(start)):
                return "an image written out as hexadecimal digits"
    return "bytes written out as text" if start.startswith(("b'", 'b"')) else None
