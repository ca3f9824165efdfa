"""Copies of a bucket's folders: what gets to the bucket, in which order, and what is fetched to read a net from."""

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from dxray.models.victims.checkpoint import CARD, WEIGHTS, CheckpointError
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import ObjectPath
from dxray.orchestrator.runs.working_copy import load_net, on_disk, worked_in
from tests.orchestrator.amazon import put_folder, written

pytestmark = pytest.mark.usefixtures("bucket")


def write(folder: Path, *names: str, moment: int) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {moment}")
        os.utime(folder / name, (moment, moment))


def test_a_folder_of_this_machine_is_worked_in_itself(tmp_path: Path) -> None:
    with worked_in(tmp_path, "*") as (folder, keep):
        assert folder == tmp_path
        keep()


def test_a_bucket_gets_what_changed_in_the_order_in_which_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that wherever it is cut off no result lacks its net; what vanished goes last."""
    out, done = ObjectPath("s3://lab/trial"), list[str]()
    for name in ("state.safetensors", "kept.txt", "other.bin"):
        (out / name).write_bytes(b"of before")
    kept = written(out / "kept.txt")
    upload, unlink = ObjectPath.upload, ObjectPath.unlink

    def uploaded(place: ObjectPath, file: BinaryIO) -> None:
        done.append(place.name)
        upload(place, file)

    def unlinked(place: ObjectPath, **how: bool) -> None:
        done.append(f"less {place.name}")
        unlink(place, **how)

    monkeypatch.setattr(ObjectPath, "upload", uploaded)
    monkeypatch.setattr(ObjectPath, "unlink", unlinked)
    with worked_in(out, "*.safetensors", "*.txt") as (folder, keep):
        assert {file.name for file in folder.iterdir()} == {"state.safetensors", "kept.txt"}
        write(folder, "z/late.txt", moment=3)
        write(folder, "result.json", "model.safetensors", "model.json", ".half-written", moment=2)
        write(folder, "b.txt", moment=1)
        (folder / "state.safetensors").unlink()
        keep()
        assert done == ["b.txt", "model.safetensors", "model.json", "result.json", "late.txt", "less state.safetensors"]
        done.clear()
        write(folder, "b.txt", moment=4)
    assert done == ["b.txt"]
    assert (out / "b.txt").read_bytes() == b"b.txt 4"
    assert (out / "z" / "late.txt").exists()
    assert written(out / "kept.txt") == kept
    assert (out / "other.bin").exists()  # which was not asked for
    assert not folder.exists()


def test_what_fails_gives_the_bucket_nothing_more() -> None:
    out = ObjectPath("s3://lab/failed")
    with pytest.raises(RuntimeError):
        fail_half_way(out)
    assert (out / "a").exists()
    assert not (out / "b").exists()


def fail_half_way(out: ObjectPath) -> None:
    with worked_in(out, "*") as (folder, keep):
        write(folder, "a", moment=1)
        keep()
        write(folder, "b", moment=2)
        raise RuntimeError


def test_a_net_is_found_in_a_bucket_as_it_is_on_a_disk(trained: Path) -> None:
    run = ObjectPath("s3://lab/some run")
    for below in ("best", "rounds/0003/net"):
        put_folder(trained, run / below)
    sha256 = load_net(trained)[1].sha256
    for place in (run, run / "best", run / "best" / CARD, run / "rounds/0003/net", f"{run}#round=3"):
        assert load_net(str(place))[1].sha256 == sha256, place
    with pytest.raises(CheckpointError, match=r"s3://lab/some run has no net of a round 4"):
        load_net(f"{run}#round=4")
    with pytest.raises(CheckpointError, match=r"s3://lab/some run/rounds has no model.json"):
        load_net(run / "rounds")
    (run / "best" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"s3://lab/some run/best/model.safetensors cannot be read"):
        load_net(run)


def test_a_net_that_is_not_in_the_bucket_is_said() -> None:
    with pytest.raises(UserError, match="'s3://lab/no net' cannot be read"), on_disk(ObjectPath("s3://lab/no net")):
        pass


def test_what_a_killed_process_left_goes_and_what_another_works_in_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, fresh, others = (tmp_path / f"dxray-copy-{name}" for name in ("left", "fresh", "others"))
    for folder in (left, fresh, others):
        folder.mkdir()
        (folder / "state").write_bytes(b"of a training")
    for folder in (left, others):
        os.utime(folder, (1e9, 1e9))
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, others], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with worked_in(ObjectPath("s3://lab/left")) as (here, _):
            assert set(tmp_path.iterdir()) == {fresh, others, here}
        other.communicate("\n")
    assert set(tmp_path.iterdir()) == {fresh, others}
