"""The images in a column of a table: encoded image files, structs of bytes and path, or raw grey pixels.

Raw pixels are row-major, of one square size. Which of them a column holds is told by its first batch that is not empty.
"""

from collections import Counter
from collections.abc import Iterable
from math import isqrt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dxray.models.data.images import fit_to, looks_encoded
from dxray.models.data.reading import FacesError, Wanted, decode_into


def load_cells(
    spec: str, batches: Iterable[pa.Array], positions: np.ndarray, names: list[str], root: Path, wanted: Wanted
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of the rows with a position >= 0, a batch of cells at a time, and the reasons of those without.

    ``positions`` and ``names`` have one entry for each row of the table; ``root`` is where relative paths begin.
    """
    images = np.empty((int(positions.max()) + 1, wanted.channels, *wanted.size), np.uint8)
    reasons: dict[int, str] = {}
    side = None
    start = 0
    for column in batches:
        rows = slice(start, start + len(column))
        cells, paths = _bytes_and_paths(spec, column)
        if side is None and cells.null_count < len(cells):
            side = _raw_side(spec, cells, names[rows])
        if side:
            reasons |= _raw_into(spec, images, positions[rows], cells, side, names[rows])
        else:
            reasons |= _encoded_into(images, positions[rows], cells, paths, root)
        start = rows.stop
    return images, reasons


def _bytes_and_paths(spec: str, column: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """The bytes of a column of images, and where it is a struct with paths those too."""
    cells, paths = column, None
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        cells = pc.struct_field(column, "bytes")
        paths = pc.struct_field(column, "path") if column.type.get_field_index("path") >= 0 else None
    try:
        return cells.cast(pa.large_binary()), paths
    except pa.ArrowException as error:
        raise FacesError(
            f"{spec} has images of type {column.type}, expected bytes or a struct of bytes and path: write it again"
        ) from error


def _raw_side(spec: str, cells: pa.Array, names: list[str]) -> int:
    """The side of the square raw images that ``cells`` are, or 0 if they are encoded image files."""
    data = [cell or b"" for cell in cells.to_pylist()]
    present = [cell for cell in data if cell]
    encoded = sum(map(looks_encoded, present))
    # By chance raw pixels can begin like an encoded file, but not all of them will, and encoded files differ in length.
    if encoded == len(present) or (encoded * 2 >= len(present) and len(set(map(len, present))) > 1):
        return 0
    length = Counter(map(len, present)).most_common(1)[0][0]
    side = isqrt(length)
    if side * side != length:
        name = next(name for name, cell in zip(names, data, strict=True) if len(cell) == length)
        raise FacesError(
            f"{spec} has {length:,} bytes as the image {name!r}, expected H x H grey pixels (2,304 for 48 x 48) "
            f"or an encoded image such as PNG: write the images again"
        )
    return side


def _raw_into(
    spec: str, images: np.ndarray, positions: np.ndarray, cells: pa.Array, side: int, names: list[str]
) -> dict[int, str]:
    """Put the raw grey ``cells`` of ``side`` x ``side`` at their ``positions`` of ``images``, at its size."""
    there = np.asarray(cells.is_valid())
    lengths = np.asarray(pc.fill_null(pc.binary_length(cells), side * side))
    if (wrong := np.flatnonzero(lengths != side * side)).size:
        raise FacesError(
            f"{spec} has {lengths[wrong[0]]:,} bytes as the image {names[wrong[0]]!r}, expected {side * side:,} "
            f"({side} x {side} grey pixels) as in its first rows: write that row again"
        )
    pixels = np.frombuffer(b"".join(cells.drop_null().to_pylist()), np.uint8).reshape(-1, 1, side, side)
    pixels, at = pixels[positions[there] >= 0], positions[there & (positions >= 0)]
    channels, height, width = images.shape[1:]
    if (side, side) == (height, width):
        images[at] = pixels
    else:
        for position, image in zip(at, pixels, strict=True):
            images[position] = fit_to(Image.fromarray(image[0]), size=(height, width), channels=channels)
    return dict.fromkeys(positions[~there & (positions >= 0)].tolist(), "no image stored")


def _encoded_into(
    images: np.ndarray, positions: np.ndarray, cells: pa.Array, paths: pa.Array | None, root: Path
) -> dict[int, str]:
    """Decode ``cells``, or where they are empty the files ``paths`` names, into their ``positions`` of ``images``."""
    row_at = {int(positions[row]): int(row) for row in np.flatnonzero(positions >= 0)}

    def source(position: int) -> bytes | Path | None:
        row = row_at[position]
        if cells[row].is_valid:
            return cells[row].as_py()
        path = None if paths is None else paths[row].as_py()
        return None if path is None else root / path

    return decode_into(images, list(row_at), source)
