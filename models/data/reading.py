"""What the readers of faces share: the listing each of them returns, its splits and errors, places, and decoding.

A reader lists its source first, ``reader(place, wanted) -> Listing``, where ``place`` is what follows the colon of a
spec; only the rows that are wanted in the end are then loaded.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from dxray.models.data.images import UnreadableImage, quiet_pillow
from dxray.models.errors import InputError

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {  # what the folders, columns and data sets of others call them, in lower case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

_THREADS = 8
_CHUNK = 64  # images a thread decodes at a time: one future for each image would cost more memory than its name


class FacesError(InputError):
    """Faces that cannot be read."""


class Wanted(NamedTuple):
    """What ``read`` asks of a reader. ``classes`` is None where the caller named none; see there for the others."""

    size: tuple[int, int]
    channels: int
    seed: int
    classes: tuple[str, ...] | None
    label: str | None
    limit: int | None
    unlabelled: bool = False
    auxiliary: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


Decoded = Callable[[int], None]  # told that so many more images have been looked at

# Rows of the listing -> their images uint8 (len(rows), C, H, W), and a reason for each position that has none.
Loader = Callable[[np.ndarray, Decoded], tuple[np.ndarray, dict[int, str]]]


class Listing(NamedTuple):
    """What a source holds, before any image is decoded; a label of -1 is none.

    ``splits`` is None where the source has none of its own. ``auxiliary`` holds what else was wanted and is told, as
    classes from 0 up, -1 for unknown. ``told`` says by what the labels were told, ``numbers`` the names that numbers
    count among them.
    """

    names: list[str]
    labels: np.ndarray
    splits: np.ndarray | None
    classes: tuple[str, ...]
    load: Loader
    skipped: list[tuple[str, str]]
    auxiliary: Mapping[str, np.ndarray] = MappingProxyType({})
    told: str = ""
    numbers: tuple[str, ...] = ()


def path_of(place: str) -> Path:
    """``place`` with a leading ~ or ~user replaced by that home."""
    try:
        return Path(place).expanduser()
    except RuntimeError:  # "~name" of no known user: then it is the name itself
        return Path(place)


def existing(kind: str, place: str, *, folder: bool) -> Path:
    """The folder or file ``place``, or a FacesError that says what is there instead."""
    expected = "folder" if folder else "file"
    if not place:
        raise FacesError(f"{kind}: names no {expected}: write {kind}:PATH")
    path = path_of(place)
    if not path.exists():
        raise FacesError(f"{kind}:{place} does not exist: expected a {expected}, check the path")
    if path.is_dir() != folder:
        found = "folder" if path.is_dir() else "file"
        raise FacesError(f"{kind}:{place} is a {found}, expected a {expected}: check the path or the kind")
    if not os.access(path, os.R_OK):
        raise FacesError(f"{kind}:{place} may not be read by this user: change its permissions")
    return path


def decode_into(
    images: np.ndarray, positions: Sequence[int], pixels: Callable[[int], np.ndarray], decoded: Decoded
) -> dict[int, str]:
    """Put ``pixels(position)`` into ``images[position]``, in threads: Pillow lets go of the lock while it decodes.

    Returns the reason for each position where that raised ``UnreadableImage``.
    """

    def chunk(start: int) -> list[tuple[int, str]]:
        reasons = []
        for position in positions[start : start + _CHUNK]:
            try:
                images[position] = pixels(position)
            except UnreadableImage as error:
                reasons.append((position, str(error)))
        return reasons

    starts = range(0, len(positions), _CHUNK)
    workers = max(1, min(_THREADS, os.cpu_count() or 1, len(starts)))
    found: dict[int, str] = {}
    with quiet_pillow(), ThreadPoolExecutor(workers) as pool:
        for start, reasons in zip(starts, pool.map(chunk, starts), strict=True):
            found.update(reasons)
            decoded(min(_CHUNK, len(positions) - start))
    return found
