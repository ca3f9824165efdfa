"""Runs and inputs of an attack in a bucket of moto's S3 server."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.runs import buckets, leases
from dxray.orchestrator.runs.buckets import ObjectPath
from dxray.orchestrator.runs.store import parts
from tests.orchestrator.amazon import ANYTHING, READS, SHORT, put_folder, rights_count, user, written
from tests.orchestrator.attack.test_attack_faults import command, rows, run, settings

Said = tuple[int, str, str]
pytestmark = pytest.mark.usefixtures("bucket")


SWEEP = ["sweep", "--data", "synthetic:100", "--filters", "2", "--epochs", "1"]


def attack(place: object, net: object, out: object) -> list[object]:
    return ["attack", place, "--model", net, "--out", out, "--attack", "planted"]


@pytest.mark.usefixtures("local_ray")
def test_a_run_in_a_bucket_that_was_killed_goes_on_and_has_the_rows_of_one_on_disk(
    many: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    assert dxray("attack", many, "--model", trained, "--out", tmp_path / "out", "--attack", "fgsm")[0] == 0
    whole = rows(tmp_path / "out")  # the planted attack is FGSM that takes its time
    put_folder(trained, ObjectPath("s3://lab/net"))
    put_folder(many, ObjectPath("s3://lab/faces"))
    out = ObjectPath("s3://lab/runs/a run")
    words = attack("s3://lab/faces", "s3://lab/net", out)
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **settings(SHARD=2, MILLISECONDS=150, LEASE=SHORT),
    ) as driver:
        deadline = time.monotonic() + 120
        while len(parts(out)) < 3 and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    kept = {part: written(part) for part in parts(out)}
    assert 3 <= len(kept) < 24
    assert (out / ".lock").exists()
    said = run(*words, SHARD=2, LEASE=SHORT)
    assert "is marked as worked on" in said
    assert {part: written(part) for part in kept} == kept
    assert not (out / ".lock").exists()
    assert rows(out) == whole  # type: ignore[arg-type]  # read alike from both
    code, shown, _ = dxray("show", out, "--json")
    assert (code, json.loads(shown)["expected"], (out / "contact_sheet.png").exists()) == (0, 48, True)
    assert dxray("verify", out)[0] == 0
    assert dxray("export", out, "--out", tmp_path / "triples")[0] == 0
    assert len(list((tmp_path / "triples").rglob("*_mod.png"))) == 48
    assert dxray("export", out)[0] == 0
    assert len(buckets.files(out / "triples", "*.png")) == 3 * 48


def test_objects_without_an_ending_are_looked_into_and_others_are_counted() -> None:
    held = {"a.png": b"x", "face": b"\xff\xd8\xff\xe0", "_SUCCESS": b"", "b.txt": b"", ".c/d.png": b""}
    for name, content in held.items():
        (ObjectPath("s3://lab/mixed") / name).write_bytes(content)
    passed_over: Counter[str] = Counter()
    items = list(list_inputs(["s3://lab/mixed"], classes=("male", "female"), passed_over=passed_over))
    assert [item.name for item in items] == ["a.png", "face"]
    assert passed_over == {"without an ending": 1, ".txt": 1, "hidden": 1}


def test_a_folder_of_tables_in_a_bucket_is_listed_once_and_its_paths_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"image": ["faces/a.png", "faces/none.png"]}), tmp_path / "f.parquet")
    top = ObjectPath("s3://lab/tables")
    (top / "f.parquet").write_bytes((tmp_path / "f.parquet").read_bytes())
    (top / "faces/a.png").write_bytes(encode_png(np.zeros((48, 48), np.uint8)))
    (top / "run/attack.json").write_bytes(b"")
    (top / "run/images/part-00000.parquet").write_bytes(b"a part")
    below, listings = ObjectPath._below, []

    def counted(path: ObjectPath, *, recursive: bool) -> list[str]:
        listings.append(path)
        return below(path, recursive=recursive)

    monkeypatch.setattr(ObjectPath, "_below", counted)
    items = list(list_inputs(["parquet:s3://lab/tables"], classes=("male", "female")))
    assert [item.name for item in items] == ["f/row/000000000", "f/row/000000001"]
    assert len(listings) == 1
    found = list(contents(items, ModelCard("convnet", {}, ("male", "female"))))
    assert found[0].pixels is not None
    assert found[1].reason == "does not exist"


def test_inputs_in_a_bucket_have_the_names_below_the_place_and_their_folders_label() -> None:
    for name in ("a.png", "men/b 1.png", "men/notes.txt", "runs/attack/attack.json", "runs/attack/triples/a.png"):
        (ObjectPath("s3://lab/some faces") / name).write_bytes(b"x")
    found = list(list_inputs(["s3://lab/some faces/"], classes=("male", "female")))
    assert [(one.name, one.path.decode(), one.label) for one in found] == [
        ("a.png", "s3://lab/some faces/a.png", None),
        ("men/b 1.png", "s3://lab/some faces/men/b 1.png", 0),
    ]
    with pytest.raises(UserError, match="'s3://lab/nothing' holds no image"):
        list(list_inputs(["s3://lab/nothing"], classes=("male", "female")))


@pytest.mark.usefixtures("short_lease")
def test_one_process_at_a_time_has_a_run_and_a_dead_ones_is_taken_over() -> None:
    out, said = ObjectPath("s3://lab/leased"), list[str]()
    busy = pytest.raises(Busy, match="another dxray process works on 's3://lab/leased'")
    with leases.leased(out, said.append), busy, leases.leased(out, said.append):
        pass
    said.clear()
    (out / ".lock").write_bytes(b"somebody who died")
    with leases.leased(out, said.append):
        assert (out / ".lock").read_bytes().startswith(os.uname().nodename.encode())
    assert len(said) == 1
    assert not (out / ".lock").exists()


@pytest.mark.usefixtures("short_lease")
def test_who_has_lost_a_run_to_another_stops() -> None:
    out = ObjectPath("s3://lab/lost")
    with pytest.raises(UserError, match="was lost to another process"):
        work_while_another_takes(out)
    assert (out / ".lock").read_bytes() == b"somebody else"


def work_while_another_takes(out: ObjectPath) -> None:
    with leases.leased(out, print):
        (out / ".lock").write_bytes(b"somebody else")
        time.sleep(30)


@pytest.mark.parametrize("verb", ["attack", "sweep"])
def test_a_node_that_may_not_write_to_the_bucket_is_named_before_any_work(
    bucket: str, many: Path, trained: Path, verb: str
) -> None:
    keys = {name: user(f"{name} of {verb}", allowed) for name, allowed in (("head", ANYTHING), ("poor", READS))}
    out = ObjectPath(f"s3://lab/denied/{verb}")
    words = attack(many, trained, out) if verb == "attack" else [*SWEEP, "--out", out]
    with rights_count(bucket):
        said = run(*words, code=1, LEASE=SHORT, SECOND_NODE=json.dumps(keys["poor"]), **keys["head"])
    (line,) = [line for line in said.splitlines() if line.startswith("dxray: ")]
    assert f"cannot write to '{out}' (AWS Error ACCESS_DENIED" in line
    assert line.startswith("dxray: node ")
    assert not parts(out)
    assert not (out / "sweep.json").exists()


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("s3://no-such/run", "cannot be written to 's3://no-such/run' (AWS Error NO_SUCH_BUCKET"),
        ("s3://key:secret@lab/run", "keys come from the environment"),
    ],
)
@pytest.mark.parametrize("verb", ["attack", "sweep"])
def test_a_bucket_that_cannot_be_used_is_said_before_the_work(
    out: str, sentence: str, verb: str, trained: Path, many: Path, dxray: Callable[..., Said]
) -> None:
    words = ["attack", many, "--model", trained] if verb == "attack" else SWEEP
    code, _, said = dxray(*words, "--out", out)
    assert code == 1
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [["compact"], ["doctor"], ["robustness", "net", "--data", "x", "--out"]])
def test_what_cannot_be_in_a_bucket_says_so(words: list[str], dxray: Callable[..., Said]) -> None:
    code, _, said = dxray(*words, "s3://lab/run")
    assert (code, said.count("\n")) == (1, 1)
    assert "'s3://lab/run' is no path; in a bucket can be the runs of sweep, attack and retrain" in said
    assert "of no kind that is known" in dxray("sweep", "--out", "ftp://lab/run")[2]
