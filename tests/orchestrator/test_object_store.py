"""Runs and inputs in a bucket of moto's S3 server, on loopback, which every process reaches by AWS_ENDPOINT_URL."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from models.faces import Faces
from models.images import encode_png
from orchestrator import lease, object_store
from orchestrator.cli import main
from orchestrator.errors import Busy, UserError
from orchestrator.inputs import list_inputs
from orchestrator.object_store import ObjectPath, on_disk
from orchestrator.store import parts
from tests.cluster.machines import wait_until
from tests.orchestrator.test_attack_faults import command, rows, run, settings

Said = tuple[int, str, str]
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
SHORT = json.dumps([0.2, 1.5, 0.1])  # beat, lease and settling, of the processes under test
READS = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
ANYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """The server's address, with a bucket called `lab`; as long as the tests of this file last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto,
    ):
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        object_store._store.cache_clear()
        try:
            wait_until(lambda: answers(address), 60)
            ask_amazon("s3", "create_bucket", Bucket="lab")
            yield address
        finally:
            moto.kill()
            object_store._store.cache_clear()


def answers(address: str, path: str = "/", content: bytes | None = None) -> bool:
    try:
        urlopen(Request(address + path, content, {"Content-Type": "text/plain"}), timeout=30).close()
    except OSError:
        return False
    return True


def ask_amazon(service: str, action: str, **words: Any) -> Any:
    """By Amazon's own client, in a process of its own, for it leaves sockets open."""
    script = "import boto3, json, sys; a = sys.argv; "
    script += "print(json.dumps(getattr(boto3.client(a[1]), a[2])(**json.loads(a[3])), default=str))"
    asked = [sys.executable, "-W", "ignore", "-c", script, service, action, json.dumps(words)]
    return json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in zip(("BEAT", "LEASE", "SETTLE"), json.loads(SHORT), strict=True):
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> Path:
    """24 faces on the disk, and the same in `s3://lab/faces`."""
    folder = tmp_path_factory.mktemp("faces")
    for i, image in enumerate(faces.images[:24]):
        image = image.copy()
        image[0, 0, 0] = 0
        (folder / f"{i:02}.png").write_bytes(encode_png(image))
        (ObjectPath("s3://lab/faces") / f"{i:02}.png").write_bytes(encode_png(image))
    return folder


def attack(place: object, net: object, out: object) -> list[object]:
    return ["attack", place, "--model", net, "--out", out, "--attack", "planted"]


@pytest.mark.usefixtures("local_ray")
def test_a_run_in_a_bucket_that_was_killed_goes_on_and_has_the_rows_of_one_on_disk(
    many: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    assert dxray("attack", many, "--model", trained, "--out", tmp_path / "out", "--attack", "fgsm")[0] == 0
    whole = rows(tmp_path / "out")  # the planted attack is FGSM that takes its time
    for file in trained.iterdir():
        (ObjectPath("s3://lab/net") / file.name).write_bytes(file.read_bytes())
    out = ObjectPath("s3://lab/runs/a run")
    words = attack("s3://lab/faces", "s3://lab/net", out)
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **settings(SHARD=1, MILLISECONDS=300, LEASE=SHORT),
    ) as driver:
        deadline = time.monotonic() + 120
        while len(parts(out)) < 3 and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    kept = {part: written(part) for part in parts(out)}
    assert 3 <= len(kept) < 24
    assert (out / ".lock").exists()
    said = run(*words, SHARD=1, LEASE=SHORT)
    assert "is marked as worked on" in said
    assert {part: written(part) for part in kept} == kept
    assert not (out / ".lock").exists()
    assert rows(out) == whole  # type: ignore[arg-type]  # read alike from both
    code, shown, _ = dxray("show", out, "--json")
    assert (code, json.loads(shown)["expected"], (out / "contact_sheet.png").exists()) == (0, 24, True)
    assert dxray("verify", out)[0] == 0
    assert dxray("export", out, "--out", tmp_path / "triples")[0] == 0
    assert len(list((tmp_path / "triples").rglob("*_mod.png"))) == 24
    assert dxray("export", out)[0] == 0
    assert len(object_store.files(out / "triples", "*.png")) == 3 * 24


def written(part: ObjectPath) -> Any:
    system, path = object_store.in_arrow(part)
    return system.get_file_info(path).mtime_ns


def test_inputs_in_a_bucket_have_the_names_below_the_place_and_their_folders_label() -> None:
    for name in ("a.png", "men/b 1.png", "men/notes.txt"):
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
    with lease.leased(out, said.append), busy, lease.leased(out, said.append):
        pass
    said.clear()
    (out / ".lock").write_bytes(b"somebody who died")
    with lease.leased(out, said.append):
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
    with lease.leased(out, print):
        (out / ".lock").write_bytes(b"somebody else")
        time.sleep(30)


def test_a_node_that_may_not_write_to_the_bucket_is_named_before_any_work(
    server: str, many: Path, trained: Path
) -> None:
    keys = {name: user(name, allowed) for name, allowed in (("head", ANYTHING), ("poor", READS))}
    assert answers(server, "/moto-api/reset-auth", b"0")  # from now on rights count
    try:
        said = run(
            *attack(many, trained, "s3://lab/denied"),
            code=1,
            LEASE=SHORT,
            SECOND_NODE=json.dumps(keys["poor"]),
            **keys["head"],
        )
    finally:
        assert answers(server, "/moto-api/reset-auth", b"1000000000")
    (line,) = [line for line in said.splitlines() if line.startswith("dxray: ")]
    assert "cannot write to 's3://lab/denied' (AWS Error ACCESS_DENIED" in line
    assert line.startswith("dxray: node ")
    assert not parts(ObjectPath("s3://lab/denied"))


def user(name: str, allowed: dict[str, Any]) -> dict[str, str]:
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    ask_amazon("iam", "create_user", UserName=name)
    ask_amazon("iam", "put_user_policy", UserName=name, PolicyName="all", PolicyDocument=policy)
    made = ask_amazon("iam", "create_access_key", UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("s3://no-such/run", "cannot be written to 's3://no-such/run' (AWS Error NO_SUCH_BUCKET"),
        ("s3://key:secret@lab/run", "keys come from the environment"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_before_the_work(
    out: str, sentence: str, trained: Path, many: Path, dxray: Callable[..., Said]
) -> None:
    code, _, said = dxray("attack", many, "--model", trained, "--out", out)
    assert code == 1
    assert sentence in said
    assert said.count("\n") == 1


def test_a_net_that_is_not_in_the_bucket_is_said() -> None:
    with pytest.raises(UserError, match="'s3://lab/no net' cannot be read"), on_disk(ObjectPath("s3://lab/no net")):
        pass


@pytest.mark.parametrize("words", [["sweep", "--out"], ["retrain", "--resume"], ["compact"]])
def test_what_cannot_be_in_a_bucket_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "s3://lab/run"])
    assert "runs of `dxray attack` alone can be in a bucket" in capsys.readouterr().err
