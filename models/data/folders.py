"""Faces as image files: ``utkface:DIR``, labelled by their own names, and ``folder:DIR``, by those of its folders."""

import os
from pathlib import Path

import numpy as np

from dxray.models.data.images import IMAGE_SUFFIXES
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
from dxray.models.data.reading import FacesError, Listing, Wanted, decode_into, existing


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
    if wanted.unlabelled:
        labels = np.append(labels, np.full(len(unlabelled), -1))
        return _with_told(_file_listing(root, [*labelled, *unlabelled], labels, classes, skipped, wanted), wanted)
    skipped += [(_printable(file), "the file name is not age_gender_race_datetime") for file in unlabelled]
    return _with_told(_file_listing(root, list(labelled), labels, classes, skipped, wanted), wanted)


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
    entries = sorted(entry for entry in root.iterdir() if not _hidden(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    classes = wanted.classes or CLASSES
    if not folders and not wanted.unlabelled:
        images, _ = _image_files(root, root)
        named = any(label_of_utkface(file) is not None for file in images)
        remedy = f"they are named as in UTKFace, so use utkface:{place}" if named else "make one for each class"
        raise FacesError(f"{spec} has no sub-folders ({len(images):,} images), expected one per class: {remedy}")
    there = [folder.name for folder in folders]
    files: list[str] = []
    labels: list[int] = []
    loose = [entry.name for entry in entries if not entry.is_dir()]
    if wanted.unlabelled:
        files = [name for name in loose if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        labels = [-1] * len(files)
    left = sorted(set(loose) - set(files))
    skipped = [(_printable(name), "not in the sub-folder of a class") for name in left]
    for folder in folders:
        index = class_of(folder.name, classes, wanted.numbers)
        if index is None:
            raise FacesError(
                f"{spec} has a sub-folder {folder.name!r}, expected {' or '.join(classes)}: rename it, or name "
                f"all classes in the order of their labels with --classes {','.join(there)}"
            )
        found, others = _image_files(root, folder)
        files += found
        labels += [index] * len(found)
        skipped += others
    if not files:
        raise FacesError(
            f"{spec} has sub-folders ({', '.join(there)}) but no images in them: expected files such as .jpg or .png"
        )
    numbers = wanted.numbers if any(name.isdecimal() for name in there) else ()
    listing = _file_listing(root, files, np.array(labels, np.int64), classes, skipped, wanted)
    return listing._replace(told=FOLDERS, numbers=numbers)


def _file_listing(
    root: Path,
    files: list[str],
    labels: np.ndarray,
    classes: tuple[str, ...],
    skipped: list[tuple[str, str]],
    wanted: Wanted,
) -> Listing:
    """A listing of image files, named by their paths relative to ``root``."""

    def load(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        images = np.empty((len(rows), wanted.channels, *wanted.size), np.uint8)
        return images, decode_into(images, range(len(rows)), lambda at: root / files[rows[at]])

    return Listing([_printable(file) for file in files], labels, None, classes, load, skipped)


def _image_files(root: Path, folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Paths relative to ``root`` of the images below ``folder``, and the other files there with the reason."""
    images: list[str] = []
    others: list[tuple[str, str]] = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not _hidden(name)]
        inside = Path(parent).relative_to(root)
        for name in files:
            file = (inside / name).as_posix()
            suffix = Path(name).suffix.lower()
            if _hidden(name):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(file)
            else:
                others.append((_printable(file), f"not an image file name ({suffix or 'no suffix'})"))
    return images, others


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder it may not open, and its images would be missed by nobody


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _printable(file: str) -> str:
    """``file`` itself, or with escapes for bytes that are no UTF-8: names go into tables that must be."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
