"""Which images an attack works on: places to a stream of inputs, each under a name of its own, some with a label.

The order is that of the places given, within a folder first its images and then its subfolders, each by name. It
follows from the names alone, and only one folder's names are in memory at a time. Folders in which attacks wrote their
results (they hold an `attack.json`) are left out: a run may lie below its own inputs.
"""

import codecs
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs

from dxray.models.data.images import BEGINNING, IMAGE_SUFFIXES, is_image_by_name, looks_encoded, one_line, suffix_of
from dxray.models.data.labels import HOW, Labeller
from dxray.models.data.walk import Folder, is_hidden, is_image, is_run, walk
from dxray.orchestrator.attack.image_tables import Row, hugging_face_rows, parquet_rows
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import open_uri
from dxray.orchestrator.runs.rows import CONFIG, runs_below

SIZE = 4096  # names at a time as Python objects, which take several times the room of Arrow's


class Input(NamedTuple):
    """One image.

    name: what its row is called, unique in the run.
    path: an absolute path as the bytes that the file system knows, or a URI, or a table: `parquet:FILE`, `hf:NAME`.
    row: where it is in the table; None for a file.
    triple: the name, safe in the names of files.
    label: its class, or None where that is not known.
    """

    name: str
    path: bytes
    row: int | None
    triple: str
    label: int | None


def list_inputs(
    places: Sequence[str | Path],
    *,
    classes: Sequence[str],
    labels: str = "auto",
    label: str | None = None,
    labeller: Labeller | None = None,
    passed_over: Counter[str] | None = None,
) -> Iterator[Input]:
    """Every image of the places, without opening any but those whose names have no ending.

    Args:
        places: files and folders; patterns with `*`, `?` or `[`; URIs (`s3://`, `gs://`) of files or folders;
            `list:FILE`, a text file with a path on each line; `parquet:FILE_OR_FOLDER` and `hf:NAME[:SPLIT]`, tables
            with a column of images. A file named by itself is taken whatever it is; in folders the ending decides, and
            those of runs are left out. A run's folder, or one in it, is taken where it is named itself.
        classes: the net's classes; a face in a folder called like one of them has that label.
        labels: "utkface" (from the file name), "folder" (from the folder's name), "none", or "auto": the file name
            where it has the form of UTKFace's, else the folder's name where that is a class, else none; of a table
            its column of labels, where it has one.
        label: the column of labels; None: see `labels.label_column`.
        labeller: gives the labels, in place of these three, and says at the end by what.
        passed_over: comes to count the other files in folders and buckets, by the endings of their names.

    Raises:
        UserError: a place does not exist or cannot be listed, holds no image, or none was given; `labels` is unknown,
            or a table has no such column, or none that can be read.
    """
    labeller = labeller or Labeller(classes, how=labels, column=label)
    if labeller.how not in HOW:
        raise UserError(f"labels come from no '{labeller.how}'; known are: {', '.join(HOW)}")
    if not places:
        raise UserError("no image was given; name one or more files or folders")
    given = list(dict.fromkeys(map(absolute, places)))
    if labeller.column and (labeller.how != "auto" or not any(_kind(place) in _TABLES for place in given)):
        raise UserError(
            f"--label {labeller.column} names a column of parquet: or hf:, and labels are not taken of these; leave it "
            f"out, or --labels"
        )
    files = [place for place in given if _kind(place) == "file"]
    prefixes = _prefixes([place for place in given if place not in files], alone=len(given) == 1)
    for place, prefix in prefixes.items():
        others: Counter[str] = Counter()
        if rows := _TABLES.get(_kind(place)):
            found = _table(prefix, rows(place.partition(":")[2], labeller), labeller)
        else:
            found = _labelled(_LISTERS[_kind(place)](place, prefix, others), labeller)
        yield from _some(place, found, others)
        if passed_over is not None:
            passed_over += others
    often = Counter(Path(place).name for place in files)
    called = ((_text(Path(p).name if often[Path(p).name] == 1 else p), os.fsencode(p)) for p in files)
    yield from _labelled(_distinct(called), labeller)


def absolute(place: str | Path) -> str:
    """The place as it is understood from any folder."""
    kind, colon, rest = str(place).partition(":")
    if kind == "file" and rest.startswith("//"):
        return str(Path(rest[2:]))
    if colon and (kind == "hf" or rest.startswith("//") or (kind == "parquet" and "://" in rest)):
        return str(place)
    if colon and kind in ("list", "parquet"):
        return f"{kind}:{Path(rest).expanduser().absolute()}"
    return str(Path(place).expanduser().absolute())


_Found = tuple[str, bytes, str]  # name, path, triple


def _kind(place: str) -> str:
    if not place.startswith(os.sep):
        kind = place.partition(":")[0]
        return kind if kind in _LISTERS or kind in _TABLES else "uri"
    if Path(place).is_dir():
        return "folder"
    if os.path.lexists(place):
        return "file"
    return "pattern"


def _prefixes(places: Sequence[str], *, alone: bool) -> dict[str, str]:
    """What the names of each place begin with: nothing where one is given, else what it is called."""
    if alone:
        return dict.fromkeys(places, "")
    called = {place: (_root(place) if _kind(place) == "pattern" else Path(place)).name for place in places}
    often = Counter(called.values())
    return {place: f"{_text(name if often[name] == 1 else place).strip('/')}/" for place, name in called.items()}


def _some(place: str, found: Iterator[Input], others: Counter[str]) -> Iterator[Input]:
    """The same; UserError where there is nothing."""
    first = next(found, None)
    if first is None:
        raise UserError(f"{_nothing(place, others)}; give images, or a folder of them")
    yield first
    yield from found


def _nothing(place: str, others: Counter[str]) -> str:
    kind = _kind(place)
    if kind == "folder":
        held = f"{others.total():,} files of which none ends in" if others else "nothing; expected files that end in"
        if not others and any(is_run(Path(folder)) for folder, _, _ in os.walk(place)):
            held = "no images but those that runs wrote; expected files that end in"
        return f"folder '{place}' holds {held} {', '.join(sorted(IMAGE_SUFFIXES))}"
    if kind == "pattern":
        signs = any(sign in place for sign in "*?[")
        return f"'{place}' {'matches no file' if signs else 'does not exist'}"
    return f"'{place}' holds no image"


def _folder(place: str, prefix: str, others: Counter[str]) -> Iterator[_Found]:
    return chain.from_iterable(_distinct(images) for images in _images_of_folders(Path(place), prefix, others))


def _images_of_folders(root: Path, prefix: str, others: Counter[str]) -> Iterator[Iterable[tuple[str, bytes]]]:
    """The images of a folder, then those of each folder below it."""
    for folder in walk(root):
        above = f"{prefix}{_text(folder.name)}"
        if folder.wrong and not folder.name:
            said = folder.wrong.strerror
            raise UserError(f"folder '{root}' cannot be listed ({said}); check its permissions")
        # What cannot be listed is a row, which says so.
        yield [(above.rstrip("/"), os.fsencode(folder.path))] if folder.wrong else _images_of(folder, above, others)


def _images_of(folder: Folder, above: str, others: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for entry, is_folder in folder.entries:
        # A folder called like an image is a row too, which says that it is none.
        taken = is_image_by_name(entry.name) if is_folder else is_image(entry)
        if taken and not is_hidden(entry.name):
            yield f"{above}{_text(entry.name)}", os.fsencode(entry.path)
        elif not is_folder:
            others[_counted_as(entry.name)] += 1


def _counted_as(name: str) -> str:
    return "hidden" if is_hidden(name) else _text(suffix_of(name).lower()) or "without an ending"


def _pattern(place: str, prefix: str, others: Counter[str]) -> Iterator[_Found]:
    """The matches; of a folder among them its images."""
    root = _root(place)
    spelled = len([*takewhile(lambda part: part != "**", Path(place).parts)])  # levels; those below may be any

    def matches() -> Iterator[tuple[str, bytes]]:
        for path in _matches(Path(place)):
            name = f"{prefix}{_text(path.relative_to(root))}"
            if any(map(is_run, (path, *path.parents[: max(0, len(path.parts) - spelled - 1)]))):
                continue
            if path.is_dir():
                yield from chain.from_iterable(_images_of_folders(path, f"{name}/", others))
            else:
                yield name, os.fsencode(path)

    return _distinct(matches())


def _matches(pattern: Path) -> Iterator[Path]:
    """As `glob` finds them, but that `**` stands for what `walk` enters: where links lead back, `glob` finds no end."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.iglob(str(pattern)))  # noqa: PTH207  # Path.glob holds all of them
        return
    at = pattern.parts.index("**")
    for top in _matches(Path(*pattern.parts[:at])):
        for folder in walk(top) if top.is_dir() else ():
            yield from _matches(Path(glob.escape(str(folder.path)), *pattern.parts[at + 1 :]))


def _root(pattern: str) -> Path:
    """The folder of which all that matches is a part."""
    return Path(*takewhile(lambda part: not any(sign in part for sign in "*?["), Path(pattern).parts[:-1]))


def _list(place: str, prefix: str, others: Counter[str]) -> Iterator[_Found]:
    """The paths on the lines of a text file; relative ones begin at its folder."""
    file = Path(place.partition(":")[2])
    try:
        lines = _without_mark(file.read_bytes()).splitlines()
    except OSError as wrong:
        raise UserError(f"list:{file} cannot be read ({wrong.strerror}); expected a text file of paths") from None
    named = ((_text(os.fsdecode(line)), line) for line in map(bytes.strip, lines) if line)
    return _distinct((prefix + name.lstrip("/"), _from(file.parent, line)) for name, line in named)


def _without_mark(content: bytes) -> bytes:
    """The bytes of a text as UTF-8 without the byte-order mark that Windows' editors begin with."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def _from(folder: Path, path: bytes) -> bytes:
    return path if b"://" in path else os.fsencode(folder / Path(os.fsdecode(path)).expanduser())


def _uri(place: str, prefix: str, others: Counter[str]) -> Iterator[_Found]:
    """What lies below a URI; a bucket tells all of it at once."""
    system, root = open_uri(place)
    try:
        found = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    except FileNotFoundError:
        found = []
    except NotADirectoryError:
        found = [system.get_file_info(root)]
    except OSError as wrong:
        raise UserError(
            f"'{place}' cannot be listed ({one_line(wrong, 200)}); check its name and your right to it"
        ) from None
    above, root = place.rstrip("/")[: -len(root)], root.rstrip("/")
    runs = runs_below(root, (info.path for info in found if info.base_name == CONFIG))
    files = [info for info in found if info.type == pyarrow.fs.FileType.File and not info.path.startswith(runs)]
    below = {info.path: info.path[len(root) :].lstrip("/") or info.base_name for info in files}
    return _distinct(_images_of_bucket(partial(_beginning, system), below, above, prefix, others))


def _images_of_bucket(
    beginning: Callable[[str], bytes], below: dict[str, str], above: str, prefix: str, others: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Those of the paths in a bucket, each with what it is called `below` the place; `above` makes it a URI."""
    unsure = [path for path in below if not suffix_of(path)]
    with ThreadPoolExecutor(32) as pool:  # each look into a file is a request
        looks = dict(zip(unsure, map(looks_encoded, pool.map(beginning, unsure)), strict=True))
    for path, name in below.items():
        hidden = any(map(is_hidden, name.split("/")))
        if not hidden and looks.get(path, is_image_by_name(path)):
            yield f"{prefix}{name}", f"{above}{path}".encode()
        else:
            others["hidden" if hidden else _counted_as(name.rpartition("/")[2])] += 1


def _beginning(system: Any, path: str) -> bytes:
    try:
        with system.open_input_stream(path) as stream:
            return bytes(stream.read(BEGINNING))
    except OSError:
        return b""  # as a file that may not be read


_LISTERS: dict[str, Callable[[str, str, Counter[str]], Iterator[_Found]]] = {
    "folder": _folder,
    "pattern": _pattern,
    "list": _list,
    "uri": _uri,
}
_TABLES: dict[str, Callable[[str, Labeller], Iterator[Row]]] = {"parquet": parquet_rows, "hf": hugging_face_rows}


def _table(prefix: str, rows: Iterator[Row], labeller: Labeller) -> Iterator[Input]:
    for name, table, row, meaning, value in rows:
        # Names of a table are not sorted, so that none can be told apart from its neighbours.
        safe = _triple(name)
        triple = safe if safe == name else told_apart(safe, name)
        label = _by_name(name, labeller) if meaning is None else labeller.by_column(meaning, value)
        yield Input(f"{prefix}{name}", table.encode(), row, f"{prefix}{triple}", label)


def _labelled(found: Iterator[_Found], labeller: Labeller) -> Iterator[Input]:
    for name, path, triple in found:
        yield Input(name, path, None, triple, _by_name(os.fsdecode(path), labeller))


def _by_name(path: str, labeller: Labeller) -> int | None:
    above, _, file = path.rpartition("/")
    return labeller.by_name(above.rpartition("/")[2], file)


def _distinct(found: Iterable[tuple[str, bytes]]) -> Iterator[_Found]:
    """Names and paths sorted, each name once, with triples; inputs that would share one are told apart by a hash."""
    table = _in_arrow(found).sort_by([("triple", "ascending"), ("name", "ascending")])

    def rows() -> Iterator[tuple[str, bytes, str]]:
        before = None
        for batch in table.to_batches(max_chunksize=SIZE):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if row[0] != before:
                    yield row
                before = row[0]

    end: tuple[str | None, bytes, str | None] = (None, b"", None)
    before: str | None = None
    for (name, path, triple), (_, _, after) in pairwise(chain(rows(), [end])):
        assert name is not None
        assert triple is not None
        yield name, path, triple if triple not in (before, after) else told_apart(triple, name)
        before = triple


def _in_arrow(found: Iterable[tuple[str, bytes]]) -> pa.Table:
    schema = pa.schema([("name", pa.string()), ("path", pa.binary()), ("triple", pa.string())])
    batches, rest = [], iter(found)
    while some := [(name, path, _triple(name)) for name, path in islice(rest, SIZE)]:
        batches.append(pa.record_batch([*map(list, zip(*some, strict=True))], schema=schema))
    return pa.Table.from_batches(batches, schema)


def _triple(name: str) -> str:
    """Where the triple goes: `sub/face.jpg` -> `sub/face`; a path that leads up or from the root ends up below too."""
    stem = name.removesuffix(suffix_of(name)).lstrip("/")
    if stem.isprintable() and "\\" not in stem and ".." not in stem:
        return stem
    safe = "".join(c if c.isprintable() and c != "\\" else "_" for c in stem)
    return "/".join("_" if part == ".." else part for part in safe.split("/"))


def told_apart(triple: str, name: str) -> str:
    """The triple of an input that would share it with another."""
    return f"{triple}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _text(path: str | Path) -> str:
    """Bytes that are no UTF-8 become backslash escapes: Arrow strings are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
