"""The Arrow store: what a run leaves on disk or in a bucket; a kill at any moment leaves whole files or none."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, overload

import pyarrow as pa
import pyarrow.parquet as pq

from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.runs.buckets import ObjectPath, Place, files, in_arrow
from dxray.orchestrator.runs.leases import leased


def column(name: str, kind: pa.DataType, doc: str, unit: str = "") -> pa.Field:
    """A column that says in the file itself what it holds."""
    metadata = {"doc": doc} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what Hugging Face `datasets` reads as Image

# One row per input image, in the order of the list of inputs; in a part that a compaction has merged by name.
IMAGES = pa.schema(
    [
        column("name", pa.string(), "the input's path below the given folder; unique in a run"),
        column("status", pa.string(), "fooled, missed, already_wrong, is_target, unreadable or failed"),
        column("reason", pa.string(), "why the image could not be read, or attacked; null where it could"),
        column("label", pa.int32(), "true class, or the net's own answer where none is known"),
        column("label_known", pa.bool_(), "whether the label came with the data"),
        column("target", pa.int32(), "class to reach; null: any other than the label"),
        column("predicted_before", pa.int32(), "class of the original image"),
        column("predicted_after", pa.int32(), "class of the modified image as saved and read back"),
        column("probability_before", pa.float32(), "softmax probability of predicted_before", "[0, 1]"),
        column("probability_after", pa.float32(), "softmax probability of predicted_after", "[0, 1]"),
        column("margin_before", pa.float32(), "logit of the target less that of the label; above 0: fooled", "logits"),
        column("margin_after", pa.float32(), "the same of the modified image as saved and read back", "logits"),
        column("l0", pa.int32(), "changed pixels", "pixels"),
        column("l1", pa.float32(), "sum of absolute changes", "[0, 1] pixel units"),
        column("l2", pa.float32(), "root of the sum of squared changes", "[0, 1] pixel units"),
        column("linf", pa.float32(), "largest absolute change", "[0, 1] pixel units"),
        column("psnr", pa.float32(), "peak signal to noise ratio; infinite for no change", "dB"),
        column("ssim", pa.float32(), "structural similarity to the original (Wang et al. 2004)", "[-1, 1]"),
        column("gradients", pa.int32(), "gradients of the net that the attack took for this image"),
        column("forwards", pa.int32(), "further evaluations of the net, without gradient"),
        column("input_sha256", pa.string(), "of the input file's bytes"),
        column("net_sha256", pa.string(), "of the attacked net: architecture and weights"),
        column("seed", pa.int64(), "of the attack"),
        column("original", _IMAGE, "the image at the net's size, 8-bit PNG"),
        column("modified", _IMAGE, "original + DX, 8-bit PNG"),
        column("amplified", _IMAGE, "abs(DX) * 50, clipped, 8-bit PNG"),
    ]
)

TRIPLE = ("original", "modified", "amplified")

# Beside `images/` while a compaction replaces it: the new set, and the old one.
MERGED, REPLACED = ".images.merged", ".images.replaced"


def _hugging_face(schema: pa.Schema) -> pa.Schema:
    """The schema with the note by which Hugging Face `datasets` knows which columns are images."""
    names = {pa.string(): "string", pa.binary(): "binary", pa.float32(): "float32", pa.bool_(): "bool"}
    features = {
        field.name: {"_type": "Image"}
        if field.type == _IMAGE
        else {"_type": "Value", "dtype": names.get(field.type, str(field.type))}
        for field in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_part(path: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of the `IMAGES` schema as one Parquet file; columns that a row lacks are null."""
    columns = {name: [row.get(name) for row in rows] for name in IMAGES.names}
    write_table(path, pa.table(columns, schema=_hugging_face(IMAGES)))


def write_records(path: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of plain values, each with the same keys, as one Parquet file."""
    write_table(path, pa.Table.from_pylist(list(rows)))


def write_table(path: Place, table: pa.Table, *, group_rows: int | None = None) -> None:
    """One Parquet file, whole or not at all; `group_rows`: what is read at once by who wants a single image."""
    # PNG bytes do not shrink further, and no two are alike; the few numbers do, and are.
    squeeze = {leaf: "NONE" if leaf.endswith(".bytes") else "ZSTD" for leaf in _leaves(table.schema)}
    plain = [leaf for leaf, how in squeeze.items() if how == "ZSTD"]
    sink = pa.BufferOutputStream()
    # The smallest and largest PNG of a group help nobody to skip it, and would be in every reader's way.
    pq.write_table(
        table, sink, compression=squeeze, use_dictionary=plain, write_statistics=plain, row_group_size=group_rows
    )
    write_bytes(path, sink.getvalue())


def _leaves(schema: pa.Schema) -> list[str]:
    """Names of the columns as Parquet sees them: `original.bytes` for a field of a struct."""
    return [
        f"{field.name}.{inner.name}" if inner else field.name
        for field in schema
        for inner in (field.type if pa.types.is_struct(field.type) else [None])
    ]


def write_bytes(path: Place, content: bytes | pa.Buffer) -> None:
    """A file with this content, whole or not at all, see `finished_file`."""
    with finished_file(path) as file:
        file.write(content)


def write_image(path: Place, content: bytes) -> None:
    """A file that a part holds as well, so whoever writes it writes the same, and a power cut may take it.

    That takes half to a fifth of the time. What a kill left unfinished under this name is replaced.
    """
    if isinstance(path, ObjectPath):
        return write_bytes(path, content)
    try:
        try:
            file = path.open("xb", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb", buffering=0)
    except FileExistsError:
        if path.read_bytes() != content:
            write_bytes(path, content)
        return None
    with file:
        while content:  # a disk that is nearly full takes some of it, and says so at the next
            content = content[file.write(content) :]


@contextmanager
def finished_file(path: Place) -> Iterator[BinaryIO]:
    """A file that has its name only once it is whole: a reader sees all of it or none, after a power cut too.

    Two processes that write the same file (a task retried while its first copy still runs) do not meet: each has a
    temporary name of its own, and the last rename wins with the same content.
    """
    if isinstance(path, ObjectPath):
        with path.written() as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = f".{os.uname().nodename}.{os.getpid()}.partial"
    # A hash, for all of the name and this may be longer than a name can be.
    partial = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{ending}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """The new name of a file is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems know no such thing
    finally:
        os.close(handle)


def replace_folder(source: Place, target: Place, *, only: Sequence[str]) -> None:
    """Copy those files of a folder over another folder, which is whole or absent at any moment, never a mixture.

    In a bucket, where no two objects change at once, they are replaced in their order: the last is to tell a mixture.
    """
    if isinstance(source, ObjectPath) or isinstance(target, ObjectPath):
        for name in only:
            (target / name).write_bytes((source / name).read_bytes())
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in only:
        shutil.copy(source / name, partial / name)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def write_json(path: Place, value: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def read_json(path: Place) -> dict[str, Any]:
    """UserError where the file is missing or no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}; give the folder that a dxray command wrote") from None
    except OSError as wrong:
        raise UserError(f"{path} cannot be read ({wrong.strerror}); check your right to it") from None
    except ValueError as wrong:
        raise UserError(f"{path} cannot be read ({wrong}); the run must be started anew") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; the run must be started anew")
    return value


def must_be_asked_alike(
    then: Mapping[str, Any], now: Mapping[str, Any], holds: str, otherwise: str, *, but: Collection[str]
) -> None:
    """UserError, naming the first thing that differs, where a run is asked for by other words than it was begun with.

    Args:
        holds, otherwise: the sentence's beginning, which names the run, and its end, which says what to do.
        but: what may differ.
    """
    differ = next((name for name in now if name not in but and then[name] != now[name]), None)
    if differ is not None:
        raise UserError(f"{holds} with {differ} {then[differ]!r}, and {now[differ]!r} came; {otherwise}")


def read_table(file: Place, **options: Any) -> pa.Table:
    """A whole Parquet file, or what `pyarrow.parquet.read_table` is told of it."""
    system, path = in_arrow(file)
    return pq.read_table(path, filesystem=system, partitioning=None, **options)


def open_table(file: Place) -> pq.ParquetFile:
    system, path = in_arrow(file)
    return pq.ParquetFile(path, filesystem=system)


def parts(directory: Place) -> list[Any]:
    """The finished parts below a run's folder, in order; each a `Place` as the folder is."""
    images = directory / "images"
    if isinstance(directory, Path) and not images.exists():
        images = directory / REPLACED  # a compaction was killed between its two renames
    return files(images, "part-*.parquet")


def remove_folder(folder: Place) -> None:
    """And all that is in it, if it is there."""
    if isinstance(folder, ObjectPath):
        folder.remove_folder()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def settle(run: Path) -> None:
    """Undo what a killed compaction left; for who holds the run's lock."""
    if (run / REPLACED).exists() and not (run / "images").exists():
        (run / REPLACED).rename(run / "images")
    for leftover in (MERGED, REPLACED):
        shutil.rmtree(run / leftover, ignore_errors=True)


def read_rows(directory: Place, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a run in the order of its parts, a row group at a time: a few thousand, however large a part is."""
    names = list(columns) if columns else None
    for part in parts(directory):
        with open_table(part) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=names).to_pylist()


@overload
def writable_folder(path: Path, purpose: str) -> Path: ...
@overload
def writable_folder(path: Place, purpose: str) -> Place: ...
def writable_folder(path: Place, purpose: str) -> Place:
    """`path`, absolute, made if absent; UserError at once, not after the work, where it cannot be written to."""
    path = path.expanduser().absolute()
    try:
        if isinstance(path, Path):
            path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as wrong:
        raise UserError(
            f"{purpose} cannot be written to '{path}' ({wrong.strerror}); choose a folder of your own with --out"
        ) from None
    return path


@contextmanager
def locked(out: Place, *, patience: float = 0.0, say: Callable[[str], None] = print) -> Iterator[None]:
    """One process at a time works in a folder; the kernel frees the lock of one that dies, a bucket's lease runs out.

    Whoever has it finds `images/` in place, even where a compaction was killed.

    Args:
        say: told where a lease takes its time.

    Raises:
        Busy: another process has held it for `patience` seconds.
    """
    if isinstance(out, ObjectPath):
        with leased(out, say):
            yield
        return
    deadline = time.monotonic() + patience
    with (out / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                raise Busy(f"another dxray process works on '{out}' now; wait for it or choose another --out") from None
        settle(out)
        yield
