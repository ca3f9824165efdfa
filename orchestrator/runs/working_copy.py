"""Folders of a bucket as folders of this machine's disk, for what reads and writes plain files: nets and trainings."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from torch import nn

from dxray.defenses.victim import restore
from dxray.models.victims.checkpoint import ROUND, CheckpointError, ModelCard
from dxray.models.victims.victim import read
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import ObjectPath, Place, files
from dxray.orchestrator.runs.places import place

_NAME = "dxray-copy-"  # begins that of every copy
_SETTLED = 3600.0  # seconds after which a copy that nobody holds is one that a killed process has left


@contextmanager
def on_disk(net: Place) -> Iterator[Path]:
    """What `victim.read` is to read a net from; a copy as long as the block lasts, where it is in a bucket.

    Raises:
        UserError: there is nothing, or it cannot be read.
        CheckpointError: what the block raises, with the net's place in it for that of the copy.
    """
    if isinstance(net, Path):
        yield net
        return
    with _copy() as copy:
        try:
            folder, *wanted = _whereabouts(net)
            here = copy / folder.name
            here.mkdir()
            _fetch(folder, here, *wanted)
        except OSError as wrong:
            raise UserError(f"'{net}' cannot be read ({wrong.strerror}); give the folder of a net") from None
        try:
            yield Path(f"{here}{net.uri[len(folder.uri) :]}")
        except CheckpointError as wrong:
            raise CheckpointError(str(wrong).replace(str(here), str(folder))) from None


def _whereabouts(net: ObjectPath) -> tuple[Any, ...]:
    """The folder by which a net is named, and patterns of the files there that it may be made of.

    FileNotFoundError where there is no such folder.
    """
    run, mark, number = net.uri.rpartition(ROUND)
    if mark and number.isdecimal():
        return ObjectPath(run), f"rounds/{int(number):04d}/net/*"
    if net.exists():
        return net.parent, net.name, f"{net.stem}.*"  # what lies beside a file and describes it has its name
    net.must_be_there()
    return net, "*", "best/*", "current/*"


def read_net(at: Place | str) -> tuple[bytes, bytes]:
    """As `victim.read`, of a net that may be in a bucket; raises as that and `on_disk`."""
    with on_disk(place(at) if isinstance(at, str) else at) as net:
        return read(net)


def load_net(at: Place | str) -> tuple[nn.Module, ModelCard]:
    """As `victim.load_victim`, of a net that may be in a bucket; raises as that and `on_disk`."""
    return restore(*read_net(at))


@contextmanager
def worked_in(folder: Place, *wanted: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder to train in, and `keep()`, by which a bucket gets what has changed in it; at the block's end it does.

    What is in a bucket is worked on in a copy, and gets there in the order in which it was written, what vanished
    last: wherever that is cut off, the bucket holds what a kill could have left on a disk.

    Args:
        wanted: patterns of the files that the copy is to have.

    Raises:
        OSError: the bucket cannot be read or written to.
    """
    if isinstance(folder, Path):
        yield folder, _nothing
        return
    with _copy() as here:
        _fetch(folder, here, *wanted)
        kept = _stamps(here)

        def keep() -> None:
            now = _stamps(here)
            for name in sorted(now, key=now.__getitem__):
                if now[name] != kept.get(name):
                    try:
                        file = (here / name).open("rb")
                    except FileNotFoundError:
                        continue  # a training's state, which is gone at its end
                    with file:
                        (folder / name).upload(file)
                    kept[name] = now[name]
            for name in kept.keys() - now.keys():
                (folder / name).unlink(missing_ok=True)
                del kept[name]

        yield here, keep
        keep()


@contextmanager
def _copy() -> Iterator[Path]:
    """A temporary folder, this process's as long as the block lasts; what killed processes left of theirs goes."""
    for left in Path(gettempdir()).glob(f"{_NAME}*"):
        with suppress(OSError):  # gone, another account's, or in use
            if time.time() - left.stat().st_mtime > _SETTLED:  # none is taken from who is just about to hold it
                with _held(left):
                    shutil.rmtree(left)
    with TemporaryDirectory(prefix=_NAME) as copy, _held(Path(copy)):
        yield Path(copy)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Locked until the block or the process ends; OSError where another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _fetch(folder: ObjectPath, here: Path, *wanted: str) -> None:
    for pattern in wanted:
        for file in files(folder, pattern):
            with suppress(FileNotFoundError):  # gone since it was listed
                file.download(here / file.uri[len(folder.uri) + 1 :])


def _stamps(here: Path) -> dict[Path, tuple[int, bool, str]]:
    """File -> what tells its versions apart, and sorts them as they were written.

    Clocks of file systems are coarse. Of one moment, what describes a net is taken after the net: `model.json`, and
    then `result.json`.
    """
    found = {}
    for file in here.rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file() and not file.name.startswith("."):
                found[file.relative_to(here)] = (file.stat().st_mtime_ns, file.suffix == ".json", file.name)
    return found


def _nothing() -> None:
    return None
