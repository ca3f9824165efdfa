"""Faces as image files: ``utkface:DIR``, labelled by their own names, and ``folder:DIR``, by those of its folders.

Folders at the top that are called like splits, such as ``Training`` and ``Validation``, are the splits of what lies
below them.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from dxray.models.data.images import decode, suffix_of
from dxray.models.data.labels import (
    CLASSES,
    FOLDERS,
    UTKFACE,
    class_of,
    gender_labels,
    groups,
    label_of_utkface,
    told_by_utkface,
)
from dxray.models.data.reading import SPLIT_WORDS, Decoded, FacesError, Listing, Wanted, decode_into, existing
from dxray.models.data.walk import Identity, identity, is_hidden, is_image, is_run, walk


def list_utkface(place: str, wanted: Wanted) -> Listing:
    spec, root = f"utkface:{place}", existing("utkface", place, folder=True)
    files, skipped = _image_files(root, root)
    if not files:
        raise FacesError(f"{spec} holds no images, expected files such as .jpg: check the path")
    genders = {file: label_of_utkface(file.rpartition("/")[2]) for file in files}
    labelled = {file: gender for file, gender in genders.items() if gender is not None}
    unlabelled = [file for file in files if file not in labelled]
    if not labelled and not wanted.unlabelled:
        raise FacesError(
            f"{spec} holds {len(files):,} images, none named age_gender_race_datetime.jpg: "
            f"for one sub-folder per class use folder:{place}"
        )
    labels, classes = gender_labels(spec, np.array(list(labelled.values()), np.int64), wanted.classes)
    taken = list(labelled)
    if wanted.unlabelled:
        labels = np.append(labels, np.full(len(unlabelled), -1))
        taken += unlabelled
    else:
        skipped += [(_printable(file), "the file name is not age_gender_race_datetime") for file in unlabelled]
    splits = _splits(taken, filter(_is_split, _sub_folders(root)))
    return _with_told(_file_listing(root, taken, labels, splits, classes, skipped, wanted), wanted)


def _with_told(listing: Listing, wanted: Wanted) -> Listing:
    """A listing of UTKFace with what its names tell, beside the gender as far as it is wanted."""
    listing = listing._replace(told=UTKFACE)
    names = [name for name in wanted.auxiliary if name in ("age", "race")]
    if not names:
        return listing
    told = [told_by_utkface(file.rpartition("/")[2]) for file in listing.names]
    columns = {name: [one.get(name, np.nan) for one in told] for name in names}
    return listing._replace(auxiliary={name: groups(np.array(values, np.float64)) for name, values in columns.items()})


def list_folder(place: str, wanted: Wanted) -> Listing:
    spec, root = f"folder:{place}", existing("folder", place, folder=True)
    classes = wanted.classes or CLASSES
    top = _sub_folders(root)
    splits = [folder for folder in top if _is_split(folder) and class_of(folder.name, classes, wanted.numbers) is None]
    folders = [folder for folder in top if folder not in splits]
    folders += [folder for split in splits for folder in _sub_folders(split)]
    if not folders and not wanted.unlabelled:
        images, _ = _image_files(root, root)
        named = any(label_of_utkface(file.rpartition("/")[2]) is not None for file in images)
        remedy = f"they are named as in UTKFace, so use utkface:{place}" if named else "make one for each class"
        raise FacesError(f"{spec} has no sub-folders ({len(images):,} images), expected one per class: {remedy}")
    files: list[str] = []
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    full, unknown = {}, []
    entered = {identity(folder) for folder in (root, *splits, *folders)}
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        found, others = _image_files(root, folder, entered - {identity(folder)})
        if not found:
            skipped.append((f"{_printable(name)}/", "a folder without an image"))
            continue
        full[folder.name] = name
        index = class_of(folder.name, classes, wanted.numbers)
        if index is None:
            unknown.append(folder.name)
            continue
        files += found
        labels += [index] * len(found)
        skipped += others
    if unknown:
        raise FacesError(_unknown_class(spec, unknown[0], full, classes))
    for folder in (root, *splits):
        images, others = _image_files(root, folder, deep=False)
        if wanted.unlabelled:
            files += images
            labels += [-1] * len(images)
        else:
            others += [(_printable(file), "") for file in images]
        skipped += [(file, "not in the sub-folder of a class") for file, _ in others]
    if not files:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in folders)
        raise FacesError(f"{spec} has sub-folders ({names}) but no images in them: expected files such as .jpg or .png")
    array = np.array(labels, np.int64)
    listing = _file_listing(root, files, array, _splits(files, splits), classes, skipped, wanted)
    return listing._replace(told=FOLDERS, numbers=wanted.numbers if any(map(str.isdecimal, full)) else ())


def _unknown_class(spec: str, name: str, full: dict[str, str], classes: tuple[str, ...]) -> str:
    """What to do about a sub-folder that is none of the classes; ``full`` are those with images, names and paths."""
    if len(full) > 1:
        remedy = f"rename it, or name all classes in the order of their labels with --classes {','.join(full)}"
    else:
        remedy = f"rename it, or where its own sub-folders are the classes write {spec}/{full[name]}"
    return f"{spec} has a sub-folder {name!r}, expected {' or '.join(classes)}: {remedy}"


def _sub_folders(folder: Path) -> list[Path]:
    """Those of classes or splits, sorted."""
    below = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in below if not is_hidden(path.name) and not is_run(path))


def _is_split(folder: Path) -> bool:
    return folder.name.casefold() in SPLIT_WORDS


def _splits(files: list[str], folders: Iterable[Path]) -> np.ndarray | None:
    """The splits ``(N,)`` of files below the folders of splits, if there are any; others are for training."""
    words = {folder.name: SPLIT_WORDS[folder.name.casefold()] for folder in folders}
    return np.array([words.get(file.partition("/")[0], "train") for file in files]) if words else None


def _file_listing(
    root: Path,
    files: list[str],
    labels: np.ndarray,
    splits: np.ndarray | None,
    classes: tuple[str, ...],
    skipped: list[tuple[str, str]],
    wanted: Wanted,
) -> Listing:
    """A listing of image files, named by their paths relative to ``root``."""

    def load(rows: np.ndarray, decoded: Decoded) -> tuple[np.ndarray, dict[int, str]]:
        images = np.empty((len(rows), wanted.channels, *wanted.size), np.uint8)
        size, channels = wanted.size, wanted.channels
        return images, decode_into(
            images, range(len(rows)), lambda at: decode(root / files[rows[at]], size=size, channels=channels), decoded
        )

    return Listing([_printable(file) for file in files], labels, splits, classes, load, skipped)


def _image_files(
    root: Path, folder: Path, entered: Collection[Identity] = (), *, deep: bool = True
) -> tuple[list[str], list[tuple[str, str]]]:
    """Paths relative to ``root`` of the images in ``folder``, and the other files there with the reason.

    ``entered`` are folders that are not gone into; with ``deep`` also what lies below the folder is taken.
    """
    images: list[str] = []
    others: list[tuple[str, str]] = []
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    for below in walk(folder, entered):
        if below.wrong:
            raise below.wrong  # its images would be missed by nobody
        for entry, is_folder in below.entries:
            if is_folder or is_hidden(entry.name):
                continue
            file = f"{above}{below.name}{entry.name}"
            if is_image(entry):
                images.append(file)
            else:
                ending = suffix_of(entry.name).lower()
                others.append((_printable(file), f"not an image file name ({ending})" if ending else "not an image"))
        if not deep:
            break
    return images, others


def _printable(file: str) -> str:
    """``file`` itself, or with escapes for bytes that are no UTF-8: names go into tables that must be."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
