"""Labelled faces in memory, one reader per kind of source.

``read("utkface:~/UTKFace")`` gives ``Faces``: uint8 images, labels, unique names and a split for each. The kinds:

    synthetic[:N]             drawn faces, no files needed (10,000 unless told)
    utkface:DIR               UTKFace images, labelled by their names: age_gender_race_datetime.jpg
    folder:DIR                one sub-folder per class, images anywhere below it
    parquet:FILE              columns image, gender or label, and perhaps name and split
    hf:NAME[@CONFIG][:SPLIT]  a Hugging Face data set by name, or a directory of one saved by save_to_disk

Rows are sorted by name. Splits are the source's own, where it has them; what it lacks of validation and test is taken
from its training rows by the hash of the name, so a face keeps its split whatever else is added. ``limit`` takes a
random sample, by another hash of the name: the same faces every time, and a larger limit only adds to them.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from math import isqrt
from pathlib import Path
from re import compile as regex
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from models.images import IMAGE_SUFFIXES, UnreadableImage, decode, fit_to, height_width, looks_encoded, quiet_pillow

CLASSES = ("male", "female")
SPLITS = ("train", "validation", "test")

_MEANINGS = dict.fromkeys(("male", "man", "men", "m"), "male") | dict.fromkeys(
    ("female", "woman", "women", "f", "w"), "female"
)
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_UTKFACE = regex(r"\d{1,3}_([01])_[0-4]_\d{8,}(?![\d_])")  # some published names lack the dot after the time
_LABEL_COLUMNS = ("gender", "label")
_HELD_OUT = 0.1  # of the training rows, for a validation or test split the source lacks
_THREADS = 8
_BATCH = 2048  # rows of a table in memory at a time
_CHUNK = 64  # images a thread decodes at a time: one future for each image would cost more memory than its name


class FacesError(ValueError):
    """Faces that cannot be read: one sentence with what came, what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces sorted by name, and what was left out of their source.

    ``images`` uint8 ``(N, C, H, W)`` in 0..255, ``labels`` int64 ``(N,)`` into ``classes``, ``names`` unique str
    ``(N,)``, ``splits`` ``(N,)`` of ``SPLITS``, ``source`` the spec they were read from, ``skipped`` pairs of a name
    and the reason it is not among them.
    """

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, name: str) -> "Faces":
        """The faces of one split, perhaps none; ``skipped`` stays with the whole. An unknown split is a FacesError."""
        if name not in SPLITS:
            raise FacesError(f"no split {name!r}: expected one of {', '.join(SPLITS)}")
        rows = self.splits == name
        return Faces(
            self.images[rows], self.labels[rows], self.names[rows], self.splits[rows], self.classes, self.source
        )

    def summary(self) -> str:
        """A few lines for people: how many were read and skipped, why, and how many of each class in each split."""
        lines = [f"{self.source}: {len(self):,} faces, {len(self.skipped):,} skipped"]
        for reason, count in Counter(reason for _, reason in self.skipped).most_common():
            names = [name for name, why in self.skipped if why == reason]
            lines.append(f"  skipped {count:,}, {reason}: {', '.join(names[:3])}{', ...' if count > 3 else ''}")
        for split in SPLITS:
            counts = np.bincount(self.labels[self.splits == split], minlength=len(self.classes))
            per_class = ", ".join(f"{name} {count:,}" for name, count in zip(self.classes, counts, strict=True))
            lines.append(f"  {split:<10} {counts.sum():>7,}  ({per_class})")
        return "\n".join(lines)

    def sha256(self) -> str:
        """The hash of the images, labels and names, to record with what was made from them."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        digest.update("\0".join(self.names.tolist()).encode())
        return digest.hexdigest()


class Wanted(NamedTuple):
    """What ``read`` asks of a reader. ``classes`` is None where the caller named none."""

    size: tuple[int, int]
    channels: int
    seed: int
    classes: tuple[str, ...] | None
    label: str | None
    limit: int | None


# Rows of the listing -> their images uint8 (len(rows), C, H, W), and a reason for each position that has none.
Loader = Callable[[np.ndarray], tuple[np.ndarray, dict[int, str]]]


class Listing(NamedTuple):
    """What a source holds, before any image is decoded. ``splits`` is None where the source has none of its own."""

    names: list[str]
    labels: np.ndarray
    splits: np.ndarray | None
    classes: tuple[str, ...]
    load: Loader
    skipped: list[tuple[str, str]]


def read(
    spec: str,
    *,
    size: tuple[int, int] | int = 48,
    channels: int = 1,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    label: str | None = None,
    limit: int | None = None,
) -> Faces:
    """Read the faces of ``spec`` (see the top of this file) as ``channels`` x ``size``, ``(H, W)`` or a side.

    ``classes`` names the classes in the order of their labels, where they are not male and female. ``label`` is the
    label column of a Parquet file or Hugging Face data set. ``limit`` is the most faces to read. ``seed`` is for
    synthetic faces only. Raises ``FacesError``; a single image that cannot be read is put in ``skipped`` instead.
    """
    kind, _, place = spec.partition(":")
    if kind not in READERS:
        raise FacesError(_unknown_reader(spec, kind))
    if channels not in (1, 3):
        raise FacesError(f"channels={channels}: expected 1 (grey) or 3 (RGB)")
    if limit is not None and limit < 1:
        raise FacesError(f"limit={limit}: expected at least 1 face; leave it out for all of them")
    if label is not None and kind not in ("parquet", "hf"):
        raise FacesError(f"{kind} has no columns, so label={label!r} means nothing there: leave it out")
    try:
        height, width = height_width(size)
    except ValueError as error:
        raise FacesError(str(error)) from error
    wanted = Wanted((height, width), channels, seed, _checked_classes(classes), label, limit)

    try:
        return _read(spec, READERS[kind](place, wanted), limit)
    except (OSError, pa.ArrowException) as error:
        raise FacesError(f"{spec} cannot be read ({_one_line(error)}): repair it or its permissions") from error


def split_of(name: str, *, validation: float = _HELD_OUT, test: float = _HELD_OUT) -> str:
    """The split of the face called ``name``: fixed by its sha256, the same everywhere, whatever other faces exist."""
    at = _fraction(name)
    return "test" if at < test else "validation" if at < test + validation else "train"


def label_of_utkface(filename: str) -> int | None:
    """0 male or 1 female by a UTKFace file name; None unless age, gender, race and time are all there."""
    match = _UTKFACE.match(filename)
    return int(match[1]) if match else None


def _read(spec: str, listing: Listing, limit: int | None) -> Faces:
    """The faces of a listing: checked, sorted by name, given splits, sampled, decoded."""
    names = np.array(listing.names, dtype=np.str_)
    rows = np.argsort(names, kind="stable")
    if (twice := np.flatnonzero(names[rows][1:] == names[rows][:-1])).size:
        name = str(names[rows[twice[0]]])
        raise FacesError(f"{spec} has more than one row named {name!r}, expected unique names: rename or remove one")
    _need_all_classes(spec, listing.labels, listing.classes)
    splits = _splits(names, listing.splits)
    if limit is not None and limit < len(rows):
        draws = np.array([_fraction(f"limit/{name}") for name in listing.names])
        rows = rows[np.sort(np.argsort(draws[rows], kind="stable")[:limit])]

    images, reasons = listing.load(rows)
    skipped = listing.skipped + [(listing.names[rows[at]], reason) for at, reason in reasons.items()]
    if reasons:
        if len(reasons) == len(rows):
            raise FacesError(f"none of the {len(rows):,} images of {spec} can be read (the first: {skipped[-1][1]})")
        kept = np.delete(np.arange(len(rows)), list(reasons))
        images, rows = images[kept], rows[kept]
        if limit is None:
            _need_all_classes(spec, listing.labels[rows], listing.classes)
    return Faces(images, listing.labels[rows], names[rows], splits[rows], listing.classes, spec, tuple(sorted(skipped)))


def class_index(text: str, classes: tuple[str, ...]) -> int | None:
    """The label that ``text`` means: a class by name, by number, or by another word for the same gender."""
    word = text.strip().casefold()
    names = [name.casefold() for name in classes]
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    meanings = [_MEANINGS.get(name) for name in names]
    return meanings.index(_MEANINGS[word]) if _MEANINGS.get(word) in meanings and word in _MEANINGS else None


# ---- readers: (what follows the colon, what is wanted) -> Listing


def _synthetic(place: str, wanted: Wanted) -> Listing:
    from models.synthetic_faces import draw

    if not (place or "10000").isdecimal() or (count := int(place or 10_000)) < 2:
        raise FacesError(f"synthetic:{place}: expected a number of faces, at least 2, such as synthetic:1000")
    height, width = wanted.size
    if height != width:
        raise FacesError(f"size {height} x {width}: synthetic faces are square, so give one number")
    # They are independent of each other, so the first `limit` are as random a sample as any, and the rest need no ink.
    count = min(count, max(2, wanted.limit or count))
    try:
        drawn, genders = draw(range(count), seed=wanted.seed, size=height)
    except ValueError as error:
        raise FacesError(f"synthetic:{place} cannot be drawn: {error}") from error
    names = [f"seed{wanted.seed}/{index:07d}" for index in range(count)]

    def load(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        return np.repeat(drawn[rows], wanted.channels, axis=1), {}

    labels, classes = _gender_labels("synthetic", np.asarray(genders), wanted.classes)
    return Listing(names, labels, None, classes, load, [])


def _utkface(place: str, wanted: Wanted) -> Listing:
    root = _existing("utkface", place, folder=True)
    files, skipped = _image_files(root, root)
    genders = [label_of_utkface(file.rpartition("/")[2]) for file in files]
    if not files:
        raise FacesError(f"utkface:{place} holds no images, expected files such as .jpg: check the path")
    if all(gender is None for gender in genders):
        raise FacesError(
            f"utkface:{place} holds {len(files):,} images, none named age_gender_race_datetime.jpg: "
            f"for one sub-folder per class use folder:{place}"
        )
    skipped += [
        (_printable(file), "the file name is not age_gender_race_datetime")
        for file, gender in zip(files, genders, strict=True)
        if gender is None
    ]
    labelled = [(file, gender) for file, gender in zip(files, genders, strict=True) if gender is not None]
    labels, classes = _gender_labels(
        f"utkface:{place}", np.array([gender for _, gender in labelled], np.int64), wanted.classes
    )
    return _file_listing(root, [file for file, _ in labelled], labels, classes, skipped, wanted)


def _folder(place: str, wanted: Wanted) -> Listing:
    root = _existing("folder", place, folder=True)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name))
    classes = wanted.classes or CLASSES
    if not folders:
        loose, _ = _image_files(root, root)
        named = any(label_of_utkface(file) is not None for file in loose)
        remedy = f"they are named as in UTKFace, so use utkface:{place}" if named else "make one for each class"
        raise FacesError(f"folder:{place} has no sub-folders ({len(loose):,} images), expected one per class: {remedy}")
    files: list[str] = []
    labels: list[int] = []
    skipped = [
        (_printable(entry.name), "not in the sub-folder of a class")
        for entry in root.iterdir()
        if not entry.is_dir() and not _hidden(entry.name)
    ]
    for folder in folders:
        index = class_index(folder.name, classes)
        if index is None:
            raise FacesError(
                f"folder:{place} has a sub-folder {folder.name!r}, expected {' or '.join(classes)}: rename it, or name "
                f"all classes in the order of their labels with --classes {','.join(f.name for f in folders)}"
            )
        found, others = _image_files(root, folder)
        files += found
        labels += [index] * len(found)
        skipped += others
    if not files:
        raise FacesError(
            f"folder:{place} has sub-folders ({', '.join(f.name for f in folders)}) but no images in them: "
            f"expected files such as .jpg or .png"
        )
    return _file_listing(root, files, np.array(labels, np.int64), classes, skipped, wanted)


def _parquet(place: str, wanted: Wanted) -> Listing:
    spec, file = f"parquet:{place}", _existing("parquet", place, folder=False)
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise FacesError(
            f"{spec} is not a Parquet file that can be read ({_one_line(error)}): write it again"
        ) from error
    with parquet:
        columns = parquet.schema_arrow.names
        label = _label_column(spec, columns, wanted.label)
        if "image" not in columns:
            raise FacesError(f"{spec} has no column 'image', only {', '.join(columns)}: rename the column of images")
        table = parquet.read(columns=[name for name in ("name", "split", label) if name in columns])

    def batches() -> Iterator[pa.Array]:
        with pq.ParquetFile(file) as again:
            for group in range(again.num_row_groups):  # each on its own: together they are all read at once
                for batch in again.iter_batches(batch_size=_BATCH, row_groups=[group], columns=["image"]):
                    yield batch.column(0)

    return _table_listing(spec, table, label, None, batches, file.parent, wanted)


def _hf(place: str, wanted: Wanted) -> Listing:
    try:
        import datasets
    except ImportError as error:
        raise FacesError("hf: needs the package datasets, which is missing: pip install 'dxray[hf]'") from error

    spec = f"hf:{place}"
    parts, root = _hf_load(datasets, place)
    image = label = ""
    class_names = None
    tables = []
    for split, part in parts.items():
        images = [name for name, feature in part.features.items() if isinstance(feature, datasets.Image)]
        if not images:
            raise FacesError(
                f"{spec} has no column of type Image, only {', '.join(part.features)}: "
                f"cast one with cast_column('image', datasets.Image())"
            )
        image = "image" if "image" in images else images[0]
        label = _label_column(spec, list(part.features), wanted.label)
        if isinstance(feature := part.features[label], datasets.ClassLabel):
            class_names = tuple(feature.names)
        kept = [name for name in ("name", "split", label) if name in part.features]
        table = part.select_columns(kept).with_format("arrow")[:]
        columns = {name: table.column(name) for name in kept}
        columns.setdefault("name", pa.array([f"{split or 'row'}/{row:07d}" for row in range(len(part))]))
        if split is not None:
            columns["split"] = pa.repeat(split, len(part))
        tables.append(pa.table(dict(sorted(columns.items()))))

    def batches() -> Iterator[pa.Array]:
        for part in parts.values():
            for table in part.select_columns([image]).with_format("arrow").iter(batch_size=_BATCH):
                yield table.column(0).combine_chunks()

    return _table_listing(spec, pa.concat_tables(tables), label, class_names, batches, root, wanted)


READERS: dict[str, Callable[[str, Wanted], Listing]] = {
    "synthetic": _synthetic,
    "utkface": _utkface,
    "folder": _folder,
    "parquet": _parquet,
    "hf": _hf,
}


# ---- places


def _unknown_reader(spec: str, kind: str) -> str:
    known = "synthetic[:N], utkface:DIR, folder:DIR, parquet:FILE or hf:NAME"
    path = _path(spec)
    if path.is_dir():
        return f"{spec} is a path without a kind: write folder:{spec}, utkface:{spec} or hf:{spec}"
    if path.exists():
        return f"{spec} is a path without a kind: write parquet:{spec}"
    return f"no reader {kind!r} for {spec!r}: expected {known}"


def _path(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError:  # "~name" of no known user: then it is the name itself
        return Path(place)


def _existing(kind: str, place: str, *, folder: bool) -> Path:
    """The folder or file ``place``, or a FacesError that says what is there instead."""
    expected = "folder" if folder else "file"
    if not place:
        raise FacesError(f"{kind}: names no {expected}: write {kind}:PATH")
    path = _path(place)
    if not path.exists():
        raise FacesError(f"{kind}:{place} does not exist: expected a {expected}, check the path")
    if path.is_dir() != folder:
        found = "folder" if path.is_dir() else "file"
        raise FacesError(f"{kind}:{place} is a {found}, expected a {expected}: check the path or the kind")
    if not os.access(path, os.R_OK):
        raise FacesError(f"{kind}:{place} may not be read by this user: change its permissions")
    return path


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


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


def _printable(file: str) -> str:
    """``file`` itself, or with escapes for bytes that are no UTF-8: names go into tables that must be."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


# ---- classes and splits


def _checked_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    named = tuple(name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes))
    if len(named) < 2 or not all(named) or len({name.casefold() for name in named}) < len(named):
        raise FacesError(f"classes {','.join(named)!r}: expected at least 2 different names, as in --classes man,woman")
    return named


def _gender_labels(
    spec: str, genders: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """0 male and 1 female as labels into ``classes``, whose order the caller may have turned round."""
    if classes is None:
        return genders, CLASSES
    indices = [class_index(name, classes) for name in CLASSES]
    if len(classes) != 2 or None in indices:
        raise FacesError(f"{spec} has the classes male and female, not {', '.join(classes)}: leave --classes out")
    return np.array(indices, np.int64)[genders], classes


def _need_all_classes(spec: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 0).any():
        missing = ", ".join(name for name, count in zip(classes, counts, strict=True) if count == 0)
        there = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True) if count)
        raise FacesError(
            f"{spec} has no faces of class {missing} (there are {there or 'none at all'}): "
            f"expected some of each of {', '.join(classes)}, so add them or name other --classes"
        )


def _fraction(text: str) -> float:
    """A number in [0, 1) that is spread evenly over texts and always the same for one."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _splits(names: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """The split of each row: the source's own, and from its training rows whatever it lacks of the other two."""
    splits = np.full(len(names), "train", dtype="<U10") if own is None else own.astype("<U10")
    validation = 0.0 if "validation" in splits else _HELD_OUT
    test = 0.0 if "test" in splits else _HELD_OUT
    for row in np.flatnonzero(splits == "train"):
        splits[row] = split_of(str(names[row]), validation=validation, test=test)
    return splits


# ---- image files


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
        return images, _decode_into(images, range(len(rows)), lambda at: root / files[rows[at]])

    return Listing([_printable(file) for file in files], labels, None, classes, load, skipped)


def _decode_into(
    images: np.ndarray, positions: Sequence[int], source: Callable[[int], bytes | Path | None]
) -> dict[int, str]:
    """Decode ``source(position)`` into ``images[position]``, in threads: Pillow lets go of the lock while it decodes.

    Returns the reason for each position that has no readable image.
    """
    channels, height, width = images.shape[1:]

    def chunk(start: int) -> list[tuple[int, str]]:
        reasons = []
        for position in positions[start : start + _CHUNK]:
            data = source(position)
            try:
                if data is None:
                    raise UnreadableImage("no image stored")
                images[position] = decode(data, size=(height, width), channels=channels)
            except UnreadableImage as error:
                reasons.append((int(position), str(error)))
        return reasons

    starts = range(0, len(positions), _CHUNK)
    workers = max(1, min(_THREADS, os.cpu_count() or 1, len(starts)))
    with quiet_pillow(), ThreadPoolExecutor(workers) as pool:
        return dict(chain.from_iterable(pool.map(chunk, starts)))


# ---- tables


def _label_column(spec: str, columns: list[str], label: str | None) -> str:
    for name in (label,) if label is not None else _LABEL_COLUMNS:
        if name in columns:
            return name
    expected = repr(label) if label is not None else " or ".join(map(repr, _LABEL_COLUMNS))
    raise FacesError(f"{spec} has no column {expected}, only {', '.join(columns)}: name the one of labels with --label")


def _table_listing(
    spec: str,
    table: pa.Table,
    label: str,
    class_names: tuple[str, ...] | None,
    batches: Callable[[], Iterator[pa.Array]],
    root: Path,
    wanted: Wanted,
) -> Listing:
    """A listing of a table with the column ``label`` and perhaps name and split, and of the images that go with it.

    ``class_names`` are what integer labels stand for, where the source says so. ``root`` is where relative paths of
    images stored outside the table begin.
    """
    if table.num_rows == 0:
        raise FacesError(f"{spec} has no rows: expected at least one face of each class")
    labels, classes = _table_labels(spec, table.column(label), label, class_names, wanted.classes)
    if "name" in table.column_names:
        names = table.column("name").cast(pa.string()).to_pylist()
        if None in names:
            raise FacesError(f"{spec} has no name in row {names.index(None)}: fill the column 'name', or leave it out")
    else:
        names = [f"row/{row:07d}" for row in range(table.num_rows)]
    splits = _table_splits(spec, table.column("split")) if "split" in table.column_names else None

    labelled = np.flatnonzero(labels >= 0)
    skipped = [(names[row], f"no {label}") for row in np.flatnonzero(labels < 0)]

    def load(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        positions = np.full(table.num_rows, -1)
        positions[labelled[rows]] = np.arange(len(rows))
        return _load_cells(spec, batches(), positions, names, root, wanted)

    return Listing(
        [names[row] for row in labelled],
        labels[labelled],
        None if splits is None else splits[labelled],
        classes,
        load,
        skipped,
    )


def _table_labels(
    spec: str,
    column: pa.ChunkedArray,
    label: str,
    class_names: tuple[str, ...] | None,
    wanted: tuple[str, ...] | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 ``(N,)`` of a column of numbers or words, -1 where it is empty, and the classes they stand for."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if class_names is not None:  # Hugging Face writes -1 where there is no label
        column = pc.if_else(pc.equal(column, -1), None, column)
    if pa.types.is_floating(column.type):  # what became of integers with gaps
        column = pc.if_else(pc.is_nan(column), None, column)
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowException as error:
            raise FacesError(
                f"{spec} has a column {label!r} of type {column.type}, expected whole numbers or words: "
                f"name another with --label"
            ) from error
    values = column.unique().drop_null().to_pylist()
    if class_names is not None:
        words = {value: class_names[value] if 0 <= value < len(class_names) else str(value) for value in values}
    else:
        words = {value: str(value) for value in values}
    classes = wanted or CLASSES
    indices = {value: class_index(word, classes) for value, word in words.items()}
    if wanted is None and class_names is not None and len(class_names) > 1 and None in indices.values():
        # The source names its classes itself, and they are not genders.
        classes, indices = class_names, {value: value if value >= 0 else None for value in values}
    if unknown := [value for value, index in indices.items() if index is None]:
        raise FacesError(
            f"{spec} has {', '.join(sorted(map(repr, unknown))[:5])} in its column {label!r}, expected "
            f"{', '.join(classes)} or their numbers from 0: name all classes in the order of their labels: --classes"
        )
    codes = pc.index_in(column, value_set=pa.array(values, column.type)).fill_null(len(values)).to_numpy()
    return np.array([*(indices[value] for value in values), -1], np.int64)[codes], classes


def _table_splits(spec: str, column: pa.ChunkedArray) -> np.ndarray:
    values = column.unique().to_pylist()
    words = [_SPLIT_WORDS.get(str(value).casefold()) for value in values]
    if None in words:
        raise FacesError(
            f"{spec} has a split {values[words.index(None)]!r}, expected {', '.join(SPLITS)}: rename it in those rows"
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return np.array(words)[pc.index_in(column, value_set=pa.array(values, column.type)).to_numpy()]


def _load_cells(
    spec: str, batches: Iterable[pa.Array], positions: np.ndarray, names: list[str], root: Path, wanted: Wanted
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of the rows with a position >= 0, a batch of cells at a time, and the reasons of those without.

    The cells are encoded image files, structs of bytes and path, or raw grey pixels, row-major, of one square size.
    """
    images = np.empty((int(positions.max()) + 1, wanted.channels, *wanted.size), np.uint8)
    reasons: dict[int, str] = {}
    decided, side = False, 0
    start = 0
    for column in batches:
        stop = start + len(column)
        cells, paths = _bytes_and_paths(spec, column)
        if not decided and cells.null_count < len(cells):
            decided, side = True, _raw_side(spec, cells, names[start:stop])
        if side:
            reasons |= _raw_into(spec, images, positions[start:stop], cells, side, names[start:stop])
        else:
            reasons |= _encoded_into(images, positions[start:stop], cells, paths, root)
        start = stop
    return images, dict(sorted(reasons.items()))


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
            return bytes(cells[row].as_py())
        path = None if paths is None else paths[row].as_py()
        return None if path is None else root / path

    return _decode_into(images, list(row_at), source)


# ---- Hugging Face


def _hf_load(datasets: Any, place: str) -> tuple[dict[str | None, Any], Path]:
    """The parts of a Hugging Face data set by their split, None for one without, and where its relative paths begin."""
    if not place:
        raise FacesError("hf: names no data set: write hf:DIR or hf:OWNER/NAME")
    name, split = (place, "") if _path(place).exists() or ":" not in place else place.rsplit(":", 1)
    path = _path(name)
    try:
        if path.is_dir():
            saved = any((path / file).exists() for file in ("dataset_dict.json", "state.json"))
            data = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))
        elif path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
            # Never asked of the network: the hub's names are NAME or OWNER/NAME.
            raise FacesError(f"hf:{name} is no directory: expected one saved by save_to_disk, or OWNER/NAME on the hub")
        else:
            hub, _, config = name.partition("@")
            data = datasets.load_dataset(hub, config or None)
    except FacesError:
        raise
    except Exception as error:  # the package raises its own, its network library's and plain errors alike
        raise FacesError(
            f"hf:{name} cannot be loaded ({_one_line(error)}): expected a directory saved by save_to_disk, "
            f"or OWNER/NAME[@CONFIG] on the hub"
        ) from error
    own = data if isinstance(data, dict) else {str(data.split) if data.split else "": data}
    if split:
        if split not in own:
            raise FacesError(f"hf:{name} has no split {split!r}, only {', '.join(filter(None, own)) or 'unnamed'}")
        own = {split: own[split]}
    parts: dict[str | None, Any] = {}
    for key, part in own.items():
        word = _SPLIT_WORDS.get(key.casefold())  # None, where one odd part is all there is: its rows have no split yet
        if word is None and len(own) > 1:
            raise FacesError(f"hf:{name} has a split {key!r}, expected {', '.join(SPLITS)}: choose one with :SPLIT")
        parts[word] = part
    return parts, path if path.is_dir() else Path()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
