"""Labelled faces in memory, one reader per kind of source.

``read("utkface:~/UTKFace")`` gives ``Faces``: uint8 images, labels, unique names and a split for each. The kinds:

    synthetic[:N]             drawn faces, no files needed (10,000 unless told)
    utkface:DIR               UTKFace images, labelled by their names: age_gender_race_datetime.jpg
    folder:DIR                one sub-folder per class, images anywhere below it
    parquet:FILE              columns image, gender, label, sex or one named for a class, and perhaps name and split
    hf:NAME[@CONFIG][:SPLIT]  a Hugging Face data set by name, or a directory of one saved by save_to_disk

Rows are sorted by name. Splits are the source's own, where it has them; what it lacks of validation and test is taken
from its training rows by the hash of the name, so a face keeps its split whatever else is added. ``limit`` takes a
random sample, by another hash of the name: the same faces every time, and a larger limit only adds to them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dxray.models.data.folders import list_folder, list_utkface
from dxray.models.data.images import height_width, one_line
from dxray.models.data.labels import CLASSES, checked_classes, gender_labels, need_all_classes
from dxray.models.data.reading import SPLITS, Decoded, FacesError, Listing, Wanted, path_of
from dxray.models.data.synthetic import BLOCK, draw, labels_of
from dxray.models.data.tables import list_hf, list_parquet

__all__ = ["READERS", "SPLITS", "Faces", "FacesError", "read", "split_of"]

_HELD_OUT = 0.1  # of the training rows, for a validation or test split the source lacks


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces, sorted by name as they are read, and what was left out of their source.

    ``images`` uint8 ``(N, C, H, W)`` in 0..255, ``labels`` int64 ``(N,)`` into ``classes``, ``names`` unique str
    ``(N,)``, ``splits`` ``(N,)`` of ``SPLITS``, ``source`` the spec they were read from, ``skipped`` pairs of a name
    and the reason it is not among them, ``auxiliary`` what else was asked and is told of each face: int64 ``(N,)`` by
    name, classes from 0 up, -1 for unknown; ``told`` by what the labels were told, ``numbers`` the names that numbers
    count among them, see ``labels``.
    """

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    auxiliary: Mapping[str, np.ndarray] = field(default_factory=dict)
    told: str = ""
    numbers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, name: str) -> "Faces":
        """The faces of one split, perhaps none; ``skipped`` stays with the whole. An unknown split is a FacesError."""
        if name not in SPLITS:
            raise FacesError(f"no split {name!r}: expected one of {', '.join(SPLITS)}")
        return self._rows(self.splits == name)

    def shuffled(self, name: str) -> "Faces":
        """The faces of one split in an order of its own, the same each time: a training on few takes the first."""
        split = self.split(name)
        return split._rows(np.random.default_rng(0).permutation(len(split)))

    def _rows(self, rows: np.ndarray) -> "Faces":
        """Those of the numbers, or where `rows` is true."""
        return Faces(
            self.images[rows],
            self.labels[rows],
            self.names[rows],
            self.splits[rows],
            self.classes,
            self.source,
            auxiliary={name: values[rows] for name, values in self.auxiliary.items()},
            told=self.told,
            numbers=self.numbers,
        )

    @property
    def labelled_by(self) -> str:
        """A line that says what the labels were taken to mean."""
        return f"labels: {self.told}"

    def summary(self) -> str:
        """A few lines for people: how many were read and skipped, why, and how many of each class in each split."""
        lines = [f"{self.source}: {len(self):,} faces, {len(self.skipped):,} skipped"]
        for reason, count in Counter(reason for _, reason in self.skipped).most_common():
            names = [name for name, why in self.skipped if why == reason]
            lines.append(f"  skipped {count:,}, {reason}: {', '.join(names[:3])}{', ...' if count > 3 else ''}")
        lines += [f"  {self.labelled_by}"] if self.told else []
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


def read(
    spec: str,
    *,
    size: tuple[int, int] | int = 48,
    channels: int = 1,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    label: str | None = None,
    limit: int | None = None,
    unlabelled: bool = False,
    known: Collection[str] | None = None,
    auxiliary: Sequence[str] = (),
    numbers: Sequence[str] | None = None,
    on_share: Callable[[float], None] | None = None,
) -> Faces:
    """Read the faces of ``spec`` (see the top of this file) as ``channels`` x ``size``, ``(H, W)`` or a side.

    ``classes`` names the classes in the order of their labels, where they are not male and female. ``label`` is the
    label column of a Parquet file or Hugging Face data set. ``limit`` is the most faces to read. ``seed`` is for
    synthetic faces only. ``unlabelled`` also takes images without a label, as -1. ``known`` are names of faces that the
    caller has: only others are opened, of which there may be none, or none of some class. ``auxiliary`` names further
    columns (UTKFace: age and race) that are read where the source has them, as classes: `labels.groups`. ``numbers``
    are the names that a number counts where one is the label, 0 the first; () none, None those of the classes.
    ``on_share`` is told, as images are decoded, the share of them that are, in (0, 1].

    Raises ``FacesError``; a single image that cannot be read is put in ``skipped`` instead.
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
    named = checked_classes(classes)
    counted = tuple(numbers) if numbers is not None else named or CLASSES
    wanted = Wanted((height, width), channels, seed, named, label, limit, unlabelled, tuple(auxiliary), counted)

    try:
        return _load(spec, READERS[kind](place, wanted), limit, known, on_share)
    except (OSError, pa.ArrowException) as error:
        raise FacesError(f"{spec} cannot be read ({one_line(error)}): repair it or its permissions") from error


def split_of(name: str, *, validation: float = _HELD_OUT, test: float = _HELD_OUT) -> str:
    """The split of the face called ``name``: fixed by its sha256, the same everywhere, whatever other faces exist."""
    at = _fraction(name)
    return "test" if at < test else "validation" if at < test + validation else "train"


def _list_synthetic(place: str, wanted: Wanted) -> Listing:
    if not (place or "10000").isdecimal() or (count := int(place or 10_000)) < 2:
        raise FacesError(f"synthetic:{place}: expected a number of faces, at least 2, such as synthetic:1000")
    height, width = wanted.size
    if height != width:
        raise FacesError(f"size {height} x {width}: synthetic faces are square, so give one number")
    # They are independent of each other, so the first `limit` are as random a sample as any, and the rest need no ink.
    count = min(count, max(2, wanted.limit or count))
    names = [f"seed{wanted.seed}/{index:07d}" for index in range(count)]

    def load(rows: np.ndarray, decoded: Decoded) -> tuple[np.ndarray, dict[int, str]]:
        images = np.empty((len(rows), wanted.channels, height, width), np.uint8)
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            try:
                images[some] = draw(rows[some], seed=wanted.seed, size=height)[0]
            except ValueError as error:
                raise FacesError(f"synthetic:{place} cannot be drawn: {error}") from error
            decoded(len(rows[some]))
        return images, {}

    labels, classes = gender_labels("synthetic", labels_of(range(count), wanted.seed), wanted.classes)
    return Listing(names, labels, None, classes, load, [], told="as they were drawn")


READERS: dict[str, Callable[[str, Wanted], Listing]] = {
    "synthetic": _list_synthetic,
    "utkface": list_utkface,
    "folder": list_folder,
    "parquet": list_parquet,
    "hf": list_hf,
}


def _unknown_reader(spec: str, kind: str) -> str:
    path = path_of(spec)
    if path.is_dir():
        return f"{spec} is a path without a kind: write folder:{spec}, utkface:{spec} or hf:{spec}"
    if path.exists():
        return f"{spec} is a path without a kind: write parquet:{spec}"
    known = "synthetic[:N], utkface:DIR, folder:DIR, parquet:FILE or hf:NAME"
    return f"no reader {kind!r} for {spec!r}: expected {known}"


def _load(
    spec: str,
    listing: Listing,
    limit: int | None,
    known: Collection[str] | None,
    on_share: Callable[[float], None] | None,
) -> Faces:
    """The faces of a listing: checked, sorted by name, given splits, sampled, decoded."""
    names = np.array(listing.names, dtype=np.str_)
    rows = np.argsort(names, kind="stable")
    if (twice := np.flatnonzero(names[rows][1:] == names[rows][:-1])).size:
        name = str(names[rows[twice[0]]])
        raise FacesError(f"{spec} has more than one row named {name!r}, expected unique names: rename or remove one")
    if known is None:
        need_all_classes(spec, listing.labels[listing.labels >= 0], listing.classes)
    else:
        rows = rows[[name not in known for name in names[rows]]] if len(rows) else rows
    splits = _splits(names, listing.splits)
    if limit is not None and limit < len(rows):
        draws = [_fraction(f"limit/{name}") for name in names[rows]]
        rows = rows[np.sort(np.argsort(draws, kind="stable")[:limit])]

    done = 0

    def decoded(count: int) -> None:
        nonlocal done
        done += count
        if on_share and count:
            on_share(done / len(rows))

    images, reasons = listing.load(rows, decoded)
    skipped = listing.skipped + [(listing.names[rows[at]], reason) for at, reason in reasons.items()]
    if reasons:
        if len(reasons) == len(rows) and known is None:
            raise FacesError(f"none of the {len(rows):,} images of {spec} can be read (the first: {reasons[0]})")
        kept = np.delete(np.arange(len(rows)), list(reasons))
        images, rows = images[kept], rows[kept]
        if limit is None and known is None:
            need_all_classes(spec, listing.labels[rows][listing.labels[rows] >= 0], listing.classes)
    auxiliary = {name: values[rows] for name, values in listing.auxiliary.items()}
    skipped.sort()
    return Faces(
        images,
        listing.labels[rows],
        names[rows],
        splits[rows],
        listing.classes,
        spec,
        tuple(skipped),
        auxiliary=auxiliary,
        told=listing.told,
        numbers=listing.numbers,
    )


def _splits(names: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """The split of each row: the source's own, and from its training rows whatever it lacks of the other two."""
    splits = np.full(len(names), "train", dtype="<U10") if own is None else own.astype("<U10")
    validation = 0.0 if "validation" in splits else _HELD_OUT
    test = 0.0 if "test" in splits else _HELD_OUT
    for row in np.flatnonzero(splits == "train"):
        splits[row] = split_of(names[row], validation=validation, test=test)
    return splits


def _fraction(text: str) -> float:
    """A number in [0, 1) that is spread evenly over texts and always the same for one."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
