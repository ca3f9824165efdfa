"""moto's S3 server on loopback, which every process reaches by AWS_ENDPOINT_URL, and Amazon's own client for it."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest

from dxray.orchestrator.runs import buckets
from dxray.orchestrator.runs.buckets import ObjectPath, Place
from tests.cluster.machines import wait_until

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
# Beat, lease and settling, of the processes under test. On a busy machine a holder was seen to write nothing for the
# better part of a second, and half a lease without a beat is the end of it.
SHORT = json.dumps([0.2, 6.0, 0.1])
READS = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
ANYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@contextmanager
def serving() -> Iterator[str]:
    """The server's address, with a bucket called `lab`; as long as the block lasts."""
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
        buckets._store.cache_clear()
        try:
            wait_until(lambda: answers(address), 60)
            ask_amazon("s3", "create_bucket", Bucket="lab")
            yield address
        finally:
            moto.kill()
            buckets._store.cache_clear()


@contextmanager
def rights_count(server: str) -> Iterator[None]:
    """As long as the block lasts the server asks who may do what."""
    assert answers(server, "/moto-api/reset-auth", b"0")
    try:
        yield
    finally:
        assert answers(server, "/moto-api/reset-auth", b"1000000000")


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


def user(name: str, allowed: dict[str, Any]) -> dict[str, str]:
    """The keys of a new account that is allowed this."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    ask_amazon("iam", "create_user", UserName=name)
    ask_amazon("iam", "put_user_policy", UserName=name, PolicyName="all", PolicyDocument=policy)
    made = ask_amazon("iam", "create_access_key", UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}


def written(place: Place) -> Any:
    """When a file, or object, was last written."""
    system, path = buckets.in_arrow(place)
    return system.get_file_info(path).mtime_ns


def put_folder(source: Any, target: ObjectPath) -> None:
    """Copy the files of a folder into the bucket."""
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
