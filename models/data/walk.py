"""What lies below a folder, for every source of images: links are followed, and each folder is entered once.

So loops of links end, and a folder that several links lead to is read under the first of its names. Hidden files and
folders are passed over, and so are the folders of attacks, whose images are results: a run may lie below its own data.
"""

import os
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from dxray.models.data.images import beginning_of, is_image_by_name, looks_encoded

RUN = "attack.json"  # what the folder of an attack holds
Identity = tuple[int, int]


class Folder(NamedTuple):
    """A folder, and what it is called from the first one down: nothing, `sub/` or `sub/deeper/`.

    entries: what is in it, each with whether it is a folder, as the system lists it, until the next folder is asked
    for. wrong: why it cannot be listed, if so.
    """

    path: Path
    name: str
    entries: Iterator[tuple[os.DirEntry[str], bool]]
    wrong: OSError | None = None


def walk(root: Path, entered: Collection[Identity] = ()) -> Iterator[Folder]:
    """The folder itself, which may be hidden or that of a run, then those below it: each after the one above, by name.

    Memory holds the names of folders that are yet to come, and never those of files. What is ``entered`` is left out.
    """
    return _walk(root, "", set(entered))


def _walk(path: Path, name: str, entered: set[Identity]) -> Iterator[Folder]:
    below: list[str] = []
    try:
        if (here := identity(path)) in entered or (name and is_run(path)):
            return
        entered.add(here)
        with os.scandir(path) as entries:
            found = _entries(entries, below)
            yield Folder(path, name, found)
            deque(found, maxlen=0)  # what its reader has left: there may be folders among it
    except OSError as wrong:
        yield Folder(path, name, iter(()), wrong)
    for folder in sorted(below):
        yield from _walk(path / folder, f"{name}{folder}/", entered)


def _entries(entries: Iterator[os.DirEntry[str]], below: list[str]) -> Iterator[tuple[os.DirEntry[str], bool]]:
    for entry in entries:
        folder = _is_folder(entry)
        if folder and not is_hidden(entry.name):
            below.append(entry.name)
        yield entry, folder


def identity(folder: Path) -> Identity:
    """What is the same for all names of a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def is_run(folder: Path) -> bool:
    return os.path.lexists(folder / RUN)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems keep for themselves."""
    return name.startswith((".", "__MACOSX"))


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is taken for an image: by the ending of its name, or where it has none by its first bytes."""
    known = is_image_by_name(entry.name)
    return looks_encoded(beginning_of(entry.path)) if known is None else known


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
