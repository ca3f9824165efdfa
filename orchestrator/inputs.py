"""Which images an attack works on: paths to a sorted list of inputs, each with a unique name, some with a label."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.face_classes import class_index, label_of_utkface
from models.images import IMAGE_SUFFIXES
from orchestrator.errors import UserError

LABELS = ("auto", "utkface", "folder", "none")


@dataclass(frozen=True)
class Input:
    """name: unique in the run, what its row is called. triple: the same, safe in the names of files. label: or None."""

    name: str
    path: str
    triple: str
    label: int | None


def list_inputs(paths: Sequence[str | Path], *, classes: Sequence[str], labels: str = "auto") -> list[Input]:
    """Every image below `paths` (files as given, folders recursively), sorted by name, without opening any.

    Args:
        paths: files and folders. A file named by itself is taken whatever it is; in folders the ending decides.
        classes: the net's classes; a face in a folder called like one of them has that label.
        labels: "utkface" (from the file name), "folder" (from the folder's name), "none", or "auto": the file name
            where it has the form of UTKFace's, else the folder's name where that is a class, else none.

    Raises:
        UserError: a path does not exist, a folder is empty or holds no image, or nothing was given.
    """
    if not paths:
        raise UserError("no image was given; name one or more files or folders")
    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given).expanduser().absolute()
        if path.is_dir():
            prefix = "" if len(paths) == 1 else f"{path.name}/"
            found |= {prefix + _printable(file.relative_to(path)): file for file in _images_below(path)}
        elif path.exists() or path.is_symlink():
            found[_printable(Path(path.name)) if path.name not in found else _printable(path)] = path
        else:
            raise UserError(f"'{given}' does not exist; expected an image or a folder of images")
    triples = Counter(_triple(name) for name in found)
    return [
        Input(name, str(path), _triple(name, unique=triples[_triple(name)] == 1), _label(path, classes, labels))
        for name, path in sorted(found.items())
    ]


def fingerprint(inputs: Sequence[Input]) -> str:
    """sha256 over names and labels: what a resumed run compares to know that it goes on with the same inputs."""
    digest = hashlib.sha256()
    for item in inputs:
        digest.update(f"{item.name}\0{item.label}\n".encode())
    return digest.hexdigest()


def _images_below(folder: Path) -> list[Path]:
    files = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        held = f"{len(files):,} files of which none ends in" if files else "nothing; expected files that end in"
        raise UserError(f"folder '{folder}' holds {held} {', '.join(sorted(IMAGE_SUFFIXES))}; give a folder of images")
    return images


def _printable(path: Path) -> str:
    """Bytes that are no UTF-8 become backslash escapes: Arrow strings are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _triple(name: str, *, unique: bool = True) -> str:
    """Where the triple goes: `sub/face.jpg` -> `sub/face`; inputs that would share it are told apart by a hash."""
    stem = "".join(c if c.isprintable() and c != "\\" else "_" for c in str(Path(name).with_suffix("")))
    return stem if unique else f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _label(path: Path, classes: Sequence[str], labels: str) -> int | None:
    label = None
    if labels in ("auto", "utkface"):
        label = label_of_utkface(path.name)
    if label is None and labels in ("auto", "folder"):
        # A folder called "0" or "1" is more often a batch than a class.
        label = None if path.parent.name.isdigit() else class_index(path.parent.name, tuple(classes))
    return label if label is not None and label < len(classes) else None
