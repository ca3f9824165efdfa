"""Images in the rows of a table: `parquet:FILE_OR_FOLDER` and `hf:NAME[:SPLIT]`, listed without them, read by row."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dxray.models.data.images import one_line
from dxray.models.data.labels import FEW, Labeller, Meaning, meaning_of, must_be_readable, no_column
from dxray.models.data.reading import FacesError
from dxray.models.data.table_images import SAMPLE, Form, cells_of, form_of
from dxray.models.data.walk import is_hidden, walk
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import ObjectPath, Place
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.runs.rows import CONFIG, runs_below
from dxray.orchestrator.runs.store import open_table

_IMAGE, _NAME = "image", "name"
_BATCH = 4096  # rows at a time

# Name, table, number within the table, what the column of labels means (None: there is none), the value there.
Row = tuple[str, str, int, Meaning | None, Any]


def parquet_rows(place: str, labeller: Labeller) -> Iterator[Row]:
    """The rows of a Parquet file, or of all below a folder that no run wrote.

    Their names are those of a column `name`, if they differ; else they are called by their file and their number in it,
    whatever files come to lie beside it.

    Raises:
        UserError: there is no such file, it is no Parquet, it has no column `image`, or its labels cannot be read.
    """
    files = _parquet_files(place)
    called = _all_differ(files)
    meanings = _meanings(files, labeller)
    for file in files:
        above = "" if file == place else f"{file[len(place.rstrip('/')) :].lstrip('/').removesuffix('.parquet')}/"
        with _open(file) as parquet:
            _form(file, parquet)  # or it is refused by each worker
            label = labeller.column_of(parquet.schema_arrow.names)
            meaning = meanings.get(label)
            wanted = [name for name in (_NAME if called else None, label) if name]
            row = 0
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=wanted) if wanted else []:
                names = batch.column(_NAME).cast(pa.string()).to_pylist() if called else None
                said = batch.column(label).to_pylist() if label else None
                for i in range(batch.num_rows):
                    name = names[i] if names else above + _numbered(row)
                    yield name, f"parquet:{file}", row, meaning, said and said[i]
                    row += 1
            if not wanted:
                for row in range(parquet.metadata.num_rows):
                    yield above + _numbered(row), f"parquet:{file}", row, None, None


def hugging_face_rows(place: str, labeller: Labeller) -> Iterator[Row]:
    """The rows of a Hugging Face data set, by split; class names where its labels have them.

    Raises:
        UserError: it cannot be loaded, has no column of images, or its labels cannot be read.
    """
    for split, part in _loaded(place)[0].items():
        _image_column(place, part)
        label = labeller.column_of(list(part.features))
        if labeller.column and not label:
            raise UserError(no_column(f"hf:{place}", list(part.features), labeller.column))
        table = f"hf:{place}" if split is None or place.endswith(f":{split}") else f"hf:{place}:{split}"
        values = part.select_columns([label]).with_format("arrow") if label else None
        meaning = None
        if values is not None:
            assert label is not None
            names = getattr(part.features[label], "names", None)
            meaning = _meaning(f"hf:{place}", label, [values[:].column(0)], labeller, names)
        for start in range(0, len(part), _BATCH):
            said = values[start : start + _BATCH].column(0).to_pylist() if values else None
            for i in range(min(_BATCH, len(part) - start)):
                yield _numbered(start + i, split or "row"), table, start + i, meaning, said and said[i]


def _meanings(files: Sequence[str], labeller: Labeller) -> dict[str | None, Meaning]:
    """What the values of each column of labels mean, all files taken together."""
    columns: dict[str, list[pa.ChunkedArray]] = {}
    for file in files:
        with _open(file) as parquet:
            names = parquet.schema_arrow.names
            label = labeller.column_of(names)
            if labeller.column and not label:
                raise UserError(no_column(f"parquet:{file}", names, labeller.column))
            if label:
                kind = parquet.schema_arrow.field(label).type
                _readable(must_be_readable, f"parquet:{file}", label, kind)
                columns.setdefault(label, []).append(parquet.read(columns=[label]).column(0).unique())
    return {label: _meaning(f"parquet:{files[0]}", label, values, labeller) for label, values in columns.items()}


def _meaning(
    spec: str, label: str, values: Sequence[Any], labeller: Labeller, names: Sequence[str] | None = None
) -> Meaning:
    for column in values:
        _readable(must_be_readable, spec, label, column.type)
    different = dict.fromkeys(value for column in values for value in column.unique().to_pylist())
    meaning: Meaning = _readable(meaning_of, spec, label, different, labeller.classes, labeller.numbers, names)
    if labeller.column and meaning.unread and not any(one is not None for one in meaning.classes.values()):
        unread = ", ".join(sorted(map(repr, meaning.unread))[:5])
        raise UserError(
            f"{spec} has {unread} in {meaning.said}: none of them means a class of the net, which has "
            f"{', '.join(labeller.classes[:FEW])}; name another column by --label, or what numbers count by --classes"
        )
    return meaning


def _readable(read: Callable[..., Any], *given: Any) -> Any:
    """What `read` gives, its FacesError as a UserError."""
    try:
        return read(*given)
    except FacesError as wrong:
        raise UserError(str(wrong)) from None


class Cells(NamedTuple):
    """Rows of a table: each an encoded image, raw grey pixels, the path of a file, or nothing.

    side: of the squares that raw pixels are, 0 where they are none. root: where relative paths begin.
    """

    cells: list[bytes | str | None]
    side: int
    root: Place


def read_cells(table: str, rows: Sequence[int]) -> Cells:
    """What the rows of a table hold, as it is listed."""
    kind, _, place = table.partition(":")
    return _hugging_face_cells(place, rows) if kind == "hf" else _parquet_cells(place, rows)


def _parquet_cells(file: str, rows: Sequence[int]) -> Cells:
    found: dict[int, bytes | str | None] = {}
    with _open(file) as parquet:
        form = _form(file, parquet)
        start = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            here = [row for row in rows if start <= row < start + size]
            at = start
            for batch in parquet.iter_batches(batch_size=256, row_groups=[group], columns=[_IMAGE]) if here else []:
                inside = [row for row in here if at <= row < at + batch.num_rows]
                taken = pa.array([row - at for row in inside], pa.int64())
                found |= zip(inside, _cells(batch.column(0), form, taken), strict=True)
                at += batch.num_rows
            start += size
    return Cells([found.get(row) for row in rows], form.side, place(file).parent)


def _hugging_face_cells(place: str, rows: Sequence[int]) -> Cells:
    parts, root = _loaded(place)
    (part,) = parts.values()
    column = part.select_columns([_image_column(place, part)]).with_format("arrow")
    return Cells(_cells(column[list(rows)].column(0).combine_chunks(), Form(), pa.array(range(len(rows)))), 0, root)


def _cells(column: pa.Array, form: Form, taken: pa.Array) -> list[bytes | str | None]:
    contents, paths = cells_of(column, form)
    cells: list[bytes | str | None] = contents.take(taken).to_pylist()
    if paths is None:
        return cells
    return [path if cell is None else cell for cell, path in zip(cells, paths.take(taken).to_pylist(), strict=True)]


def _form(file: str, parquet: pq.ParquetFile) -> Form:
    """How the images of a table are stored; UserError for what is refused."""
    groups = range(parquet.num_row_groups)
    batches = (parquet.iter_batches(batch_size=SAMPLE, row_groups=[group], columns=[_IMAGE]) for group in groups)
    try:
        forms = (form_of(f"parquet:{file}", batch.column(0)) for batch in chain.from_iterable(batches))
        return next(filter(None, forms), Form())
    except FacesError as wrong:
        raise UserError(str(wrong)) from None


def _parquet_files(text: str) -> list[str]:
    path = place(text)
    try:
        found = sorted(name for name in _files_below(path) if name.endswith(".parquet"))
        found = found or ([text] if path.is_file() else [])
        there = path.exists()
    except OSError as wrong:
        raise UserError(
            f"parquet:{text} cannot be read ({wrong.strerror}); check its name and your right to it"
        ) from None
    if not found:
        lacks = "holds no file that ends in .parquet" if there else "does not exist"
        raise UserError(f"parquet:{text} {lacks}; expected a Parquet file or a folder of them")
    return found


def _files_below(path: Place) -> Iterator[str]:
    """The files that no run wrote; a bucket is asked once for all of it."""
    if isinstance(path, ObjectPath):
        names = [str(file) for file in path.rglob("*")]
        runs = runs_below(str(path), (name for name in names if name.endswith(f"/{CONFIG}")))
        yield from (name for name in names if not name.startswith(runs))
    elif path.is_dir():
        for folder in walk(path):
            if folder.wrong:
                raise folder.wrong
            yield from (entry.path for entry, below in folder.entries if not (below or is_hidden(entry.name)))


def _open(file: str) -> pq.ParquetFile:
    try:
        parquet = open_table(place(file))
    except (pa.ArrowException, OSError) as wrong:
        said = one_line(wrong, 200)
        raise UserError(f"parquet:{file} is not a Parquet file that can be read ({said}); write it again") from None
    if _IMAGE not in parquet.schema_arrow.names:
        columns = ", ".join(parquet.schema_arrow.names)
        raise UserError(f"parquet:{file} has no column '{_IMAGE}', only {columns}; rename the column of images")
    return parquet


def _all_differ(files: Sequence[str]) -> bool:
    """Whether all rows have a name, and no two the same."""
    names = []
    for file in files:
        with _open(file) as parquet:
            if _NAME not in parquet.schema_arrow.names:
                return False
            names.append(parquet.read(columns=[_NAME]).column(0).cast(pa.string()))
    column = pa.chunked_array([chunk for name in names for chunk in name.chunks], pa.string())
    return column.null_count == 0 and pc.count_distinct(column).as_py() == len(column)


def _numbered(row: int, what: str = "row") -> str:
    return f"{what}/{row:09d}"


@lru_cache(maxsize=4)  # a worker reads many shards of one data set
def _loaded(place: str) -> tuple[dict[str | None, Any], Path]:
    try:
        import datasets
    except ImportError:
        raise UserError("hf: needs the package datasets, which is missing: pip install 'dxray[hf]'") from None
    from dxray.models.data.tables import hf_parts

    try:
        return hf_parts(datasets, place)
    except FacesError as wrong:
        raise UserError(str(wrong)) from None


def _image_column(place: str, part: Any) -> str:
    import datasets

    images = [name for name, feature in part.features.items() if isinstance(feature, datasets.Image)]
    if not images:
        columns = ", ".join(part.features)
        raise UserError(f"hf:{place} has no column of type Image, only {columns}; cast one with cast_column")
    return _IMAGE if _IMAGE in images else images[0]
