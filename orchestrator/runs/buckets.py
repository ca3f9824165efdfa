"""Paths in an object store, `s3://` and `gs://`, for the results and inputs of runs: what these need of a path.

An object appears whole or not at all, and every reader finds it once it is written. So there are neither temporary
names nor renames; nor are there folders: names have slashes in them. What a store's client says becomes the same
OSError that a disk would have raised.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs

from dxray.models.data.images import one_line
from dxray.orchestrator.errors import UserError

SCHEMES = ("s3", "gs")
ENDPOINT = "AWS_ENDPOINT_URL"  # of a store that speaks S3 and is not Amazon's, as Amazon's own tools have it


def open_uri(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it; UserError where there is no such kind."""
    scheme, _, path = uri.partition("://")
    try:
        if scheme in SCHEMES:
            return _store(scheme, path.partition("/")[0]), path.rstrip("/")
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as wrong:
        raise UserError(
            f"'{uri}' cannot be opened ({one_line(wrong, 200)}); expected s3://BUCKET/FOLDER or gs://..."
        ) from None


@lru_cache(maxsize=16)  # to open one asks the network where the bucket is
def _store(scheme: str, bucket: str) -> Any:
    if not bucket or set(bucket) & set("@:?"):
        # Keys in a URI would be written to the record of the run.
        raise ValueError(f"a bucket's name alone comes after {scheme}://; keys come from the environment")
    if scheme != "s3":
        return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    kind, _, host = os.environ.get(ENDPOINT, "").rstrip("/").rpartition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return pyarrow.fs.S3FileSystem(
        scheme=kind or "https",
        endpoint_override=host or None,
        region=region or ("us-east-1" if host else pyarrow.fs.resolve_s3_region(bucket)),
        allow_delayed_open=True,  # what is small is written by one request, and not in parts that could be left over
    )


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or what would be a folder of such, by its URI; the methods are those of `pathlib.Path`.

    Raises:
        OSError: FileNotFoundError, or EIO with what the store said as `strerror`.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, below: str | Path) -> "ObjectPath":
        return ObjectPath(f"{self.uri}/{below}")

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.uri.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        return self.with_name(f"{self.stem}{suffix}")

    def expanduser(self) -> "ObjectPath":
        return self

    def absolute(self) -> "ObjectPath":
        return self

    def exists(self) -> bool:
        """Whether there is such an object."""
        with _told(self) as (system, path):
            return bool(system.get_file_info(path).type == pyarrow.fs.FileType.File)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """The objects whose names, as many levels below as the pattern has, match; folders are none."""
        above, names = self, pattern.split("/")
        while len(names) > 1 and not set(names[0]) & set("*?["):
            above /= names.pop(0)
        for name in above._below(recursive=len(names) > 1):
            # A sign for any text stands for slashes too; where there are as many as asked for, it stood for none.
            if name.count("/") + 1 == len(names) and fnmatchcase(name, "/".join(names)):
                yield above / name

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        """The objects whose last names match, at any level below."""
        return (self / name for name in self._below(recursive=True) if fnmatchcase(name.rpartition("/")[2], pattern))

    def _below(self, *, recursive: bool) -> list[str]:
        with _told(self) as (system, path):
            found = system.get_file_info(pyarrow.fs.FileSelector(path, recursive=recursive, allow_not_found=True))
        return [info.path[len(path) + 1 :] for info in found if info.type == pyarrow.fs.FileType.File]

    is_file = exists

    def must_be_there(self) -> None:
        """FileNotFoundError where there is neither such an object nor one below."""
        with _told(self) as (system, path):
            if system.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
                raise FileNotFoundError

    def download(self, file: Path) -> None:
        """Write what it holds to a file of this machine."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with _told(self) as (system, path), system.open_input_stream(path) as stream, file.open("wb") as here:
            shutil.copyfileobj(stream, here, 2**20)

    def read_bytes(self) -> bytes:
        with _told(self) as (system, path), system.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        with _told(self) as (system, path), system.open_output_stream(path) as stream:
            stream.write(content)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _told(self) as (system, path):
                system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_folder(self) -> None:
        """Delete all that lies below."""
        with _told(self) as (system, path):
            if system.get_file_info(path).type == pyarrow.fs.FileType.Directory:
                system.delete_dir(path)

    def upload(self, file: BinaryIO) -> None:
        """Make what is left of an open file the object."""
        with _told(self) as (system, path), system.open_output_stream(path) as stream:
            shutil.copyfileobj(file, stream, 2**20)

    @contextmanager
    def written(self) -> Iterator[BinaryIO]:
        """A file on this machine that becomes the object once the block has ended well."""
        with TemporaryFile() as file:
            yield file
            file.seek(0)
            self.upload(file)


Place = Path | ObjectPath


def files(folder: Place, pattern: str) -> list[Any]:
    """Those that lie in a folder, by name; each a `Place` as the folder is."""
    return sorted(folder.glob(pattern))


def in_arrow(place: Place) -> tuple[Any, str]:
    """The file system of a place and the path in it, as Arrow's readers take them."""
    return open_uri(place.uri) if isinstance(place, ObjectPath) else (pyarrow.fs.LocalFileSystem(), str(place))


@contextmanager
def _told(place: ObjectPath) -> Iterator[tuple[Any, str]]:
    try:
        yield open_uri(place.uri)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "it does not exist", place.uri) from None
    except OSError as wrong:
        said = re.sub(r"^.*?(?=AWS Error)| \(Request ID.*", "", one_line(wrong, 600))
        raise OSError(errno.EIO, said[:300], place.uri) from None
