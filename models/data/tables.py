"""Faces as rows of a table: ``parquet:FILE`` and ``hf:NAME``.

Both become one Arrow table without its images, from which labels, names and splits are taken; the images follow a
batch at a time (``table_images``), because all of them at once may not fit in memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dxray.models.data.images import one_line
from dxray.models.data.labels import (
    CLASSES,
    FEW,
    Meaning,
    groups,
    label_column,
    meaning_of,
    must_be_readable,
    no_column,
)
from dxray.models.data.reading import SPLIT_WORDS, SPLITS, Decoded, FacesError, Listing, Wanted, existing, path_of
from dxray.models.data.table_images import load_cells

_BATCH = 2048  # rows of a table in memory at a time


def list_parquet(place: str, wanted: Wanted) -> Listing:
    spec, file = f"parquet:{place}", existing("parquet", place, folder=False)
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise FacesError(
            f"{spec} is not a Parquet file that can be read ({one_line(error)}): write it again"
        ) from error
    with parquet:
        columns = parquet.schema_arrow.names
        label = _label_column(spec, columns, wanted)
        if "image" not in columns:
            raise FacesError(f"{spec} has no column 'image', only {', '.join(columns)}: rename the column of images")
        table = parquet.read(columns=[name for name in _asked(label, wanted) if name in columns])

    def batches() -> Iterator[pa.Array]:
        with pq.ParquetFile(file) as again:
            for group in range(again.num_row_groups):  # each on its own: together they are all read at once
                for batch in again.iter_batches(batch_size=_BATCH, row_groups=[group], columns=["image"]):
                    yield batch.column(0)

    return _table_listing(spec, table, label, None, batches, file.parent, wanted)


def list_hf(place: str, wanted: Wanted) -> Listing:
    try:
        import datasets
    except ImportError as error:
        raise FacesError("hf: needs the package datasets, which is missing: pip install 'dxray[hf]'") from error

    spec = f"hf:{place}"
    parts, root = hf_parts(datasets, place)
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
        label = _label_column(spec, list(part.features), wanted)
        if isinstance(feature := part.features[label], datasets.ClassLabel):
            class_names = tuple(feature.names)
        kept = [name for name in _asked(label, wanted) if name in part.features]
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


def hf_parts(datasets: Any, place: str) -> tuple[dict[str | None, Any], Path]:
    """The parts of a Hugging Face data set by their split, None for one without, and where its relative paths begin."""
    if not place:
        raise FacesError("hf: names no data set: write hf:DIR or hf:OWNER/NAME")
    name, split = (place, "") if path_of(place).exists() or ":" not in place else place.rsplit(":", 1)
    path = path_of(name)
    if not path.is_dir() and (path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name):
        # Never asked of the network: the hub's names are NAME or OWNER/NAME.
        raise FacesError(f"hf:{name} is no directory: expected one saved by save_to_disk, or OWNER/NAME on the hub")
    try:
        if any((path / file).exists() for file in ("dataset_dict.json", "state.json")):
            data = datasets.load_from_disk(str(path))
        elif path.is_dir():
            data = datasets.load_dataset(str(path))
        else:
            hub, _, config = name.partition("@")
            data = datasets.load_dataset(hub, config or None)
    except Exception as error:  # the package raises its own, its network library's and plain errors alike
        raise FacesError(
            f"hf:{name} cannot be loaded ({one_line(error)}): expected a directory saved by save_to_disk, "
            f"or OWNER/NAME[@CONFIG] on the hub"
        ) from error
    own = data if isinstance(data, dict) else {str(data.split) if data.split else "": data}
    if split:
        if split not in own:
            raise FacesError(f"hf:{name} has no split {split!r}, only {', '.join(filter(None, own)) or 'unnamed'}")
        own = {split: own[split]}
    parts: dict[str | None, Any] = {}
    for key, part in own.items():
        word = SPLIT_WORDS.get(key.casefold())  # None, where one odd part is all there is: its rows have no split yet
        if word is None and len(own) > 1:
            raise FacesError(f"hf:{name} has a split {key!r}, expected {', '.join(SPLITS)}: choose one with :SPLIT")
        if word in parts:
            raise FacesError(f"hf:{name} has two splits for {word!r}, of which {key!r} is one: choose one with :SPLIT")
        parts[word] = part
    return parts, path if path.is_dir() else Path()


def _label_column(spec: str, columns: list[str], wanted: Wanted) -> str:
    found = label_column(columns, wanted.classes or CLASSES, wanted.label)
    if found is None:
        raise FacesError(no_column(spec, columns, wanted.label))
    return found


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
    labels, classes, meaning = _labels(spec, table.column(label), label, class_names, wanted)
    if "name" in table.column_names:
        names = table.column("name").cast(pa.string()).to_pylist()
        if None in names:
            raise FacesError(f"{spec} has no name in row {names.index(None)}: fill the column 'name', or leave it out")
    else:
        names = [f"row/{row:07d}" for row in range(table.num_rows)]
    splits = _splits(spec, table.column("split")) if "split" in table.column_names else None

    taken = np.arange(len(labels)) if wanted.unlabelled else np.flatnonzero(labels >= 0)
    skipped = [(names[row], f"no {label}") for row in np.setdiff1d(np.arange(len(labels)), taken)]

    def load(rows: np.ndarray, decoded: Decoded) -> tuple[np.ndarray, dict[int, str]]:
        positions = np.full(table.num_rows, -1)
        positions[taken[rows]] = np.arange(len(rows))
        return load_cells(spec, batches(), positions, names, root, wanted, decoded)

    return Listing(
        [names[row] for row in taken],
        labels[taken],
        None if splits is None else splits[taken],
        classes,
        load,
        skipped,
        {name: _groups(table.column(name))[taken] for name in wanted.auxiliary if name in table.column_names},
        meaning.said,
        meaning.numbers,
    )


def _labels(
    spec: str, column: pa.ChunkedArray, label: str, class_names: tuple[str, ...] | None, wanted: Wanted
) -> tuple[np.ndarray, tuple[str, ...], Meaning]:
    """Labels int64 ``(N,)`` of a column, -1 where they are unknown, the classes they stand for, and how."""
    must_be_readable(spec, label, column.type)
    column = _plain(column)
    if pa.types.is_floating(column.type):  # what became of integers with gaps
        column = pc.if_else(pc.is_nan(column), None, column)
    values, at = _distinct(column)
    classes = wanted.classes or CLASSES
    meaning = meaning_of(spec, label, values, classes, wanted.numbers, class_names)
    if wanted.classes is None and class_names is not None and len(class_names) > 1 and meaning.unread:
        # The source names its classes itself, and they are not genders.
        classes = class_names
        meaning = meaning_of(spec, label, values, classes, (), class_names)
    if meaning.unread:
        raise FacesError(
            f"{spec} has {', '.join(sorted(map(repr, meaning.unread))[:5])} in its column {label!r}, expected "
            f"{', '.join(classes)} or their numbers from 0: name all classes in the order of their labels: --classes"
        )
    found = [meaning.classes[value] for value in values]
    return np.array([-1 if one is None else one for one in found], np.int64)[at], classes, meaning


def _asked(label: str, wanted: Wanted) -> list[str]:
    return list(dict.fromkeys(("name", "split", label, *wanted.auxiliary)))


def _groups(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as classes, see `groups`, or of words, the `FEW` most frequent of which are a class each."""
    values, at = _distinct(_plain(column))
    counted = zip(-np.bincount(at, minlength=len(values)), values, strict=True)
    frequent = sorted((count, word) for count, word in counted if isinstance(word, str))[:FEW]
    numbers = {word: number for number, word in enumerate(sorted(word for _, word in frequent))}
    named = [numbers.get(value) if isinstance(value, str) else value for value in values]
    return groups(np.array(named, np.float64)[at])


def _splits(spec: str, column: pa.ChunkedArray) -> np.ndarray:
    """The splits ``(N,)`` that a column of words means."""
    values, at = _distinct(_plain(column))
    words = [SPLIT_WORDS.get(str(value).casefold()) for value in values]
    if None in words:
        raise FacesError(
            f"{spec} has a split {values[words.index(None)]!r}, expected {', '.join(SPLITS)}: rename it in those rows"
        )
    return np.array(words)[at]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _distinct(column: pa.ChunkedArray) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column, None among them if it has gaps, and for each row which of them is its own."""
    values = column.unique()
    return values.to_pylist(), pc.index_in(column, value_set=values).to_numpy()
