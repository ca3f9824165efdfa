"""Does every machine see the folder that the results go to? Asked before any work, not found out at its end."""

import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.ray.session import connected, machines
from dxray.orchestrator.runs.buckets import ObjectPath, Place, files
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.runs.store import writable_folder, write_bytes

_SEEN: list[str] = []  # the folders of the `joined` that are open: what is below one of them is not asked about again


@contextmanager
def joined(out: Place, address: str | None, *, readable: Sequence[Place] | None = None) -> Iterator[None]:
    """A cluster, as `connected` gives it, each machine of which sees `out`, an absolute folder or a place in a bucket.

    Args:
        readable: as `must_be_shared` takes them; where they are given, a single machine is asked too.

    Raises:
        UserError: as `connected` and `must_be_shared`.
    """
    with connected(address):
        seen = any(f"{out}/".startswith(f"{folder}/") for folder in _SEEN)
        if not seen and (readable is not None or isinstance(out, ObjectPath) or machines() > 1):
            must_be_shared(out, readable=readable or ())
        _SEEN.append(str(out))
        try:
            yield
        finally:
            _SEEN.pop()


def must_be_shared(folder: Place, *, readable: Sequence[Place] = (), seconds: float = 60.0) -> None:
    """Have every node of the connected cluster write to `folder` what this machine reads there, and the reverse.

    Args:
        readable: paths that every node must be able to read.
        seconds: that a node has to answer.

    Raises:
        UserError: names the first node that cannot, and what it cannot.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    writable_folder(folder, "the results")
    mark = uuid.uuid4().hex
    ours = folder / f".{mark}"
    paths = [str(path.expanduser().absolute()) for path in readable]
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    write_bytes(ours, mark.encode())
    try:
        ask = ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(ours, paths): node
            for node in nodes
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        if silent:
            raise UserError(
                f"node {nodes[asked[silent[0]]]} did not answer in {seconds:.0f} s whether it can write to '{folder}'; "
                "see by `ray status` whether it is well, and try again"
            )
        for answer in answered:
            _judge(answer, nodes[asked[answer]], folder, mark)
    finally:
        for left in files(folder, f".{mark}*"):
            left.unlink(missing_ok=True)


def _look(ours: Place, paths: Sequence[str]) -> tuple[str, str | None]:
    """On a node: the name of the file that it has written beside `ours`, or what it cannot do."""
    theirs = ours.with_name(f"{ours.name}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}")
    for path in paths:
        try:
            _read(place(path))
        except OSError as wrong:
            return "", f"read '{path}' ({wrong.strerror})"
    try:
        seen = ours.read_bytes().decode()
    except OSError as wrong:
        return "", f"see what the head writes to '{ours.parent}' ({wrong.strerror}): it is not the same folder there"
    try:
        theirs.write_bytes(seen.encode())
    except OSError as wrong:
        return "", f"write to '{ours.parent}' ({wrong.strerror})"
    return theirs.name, None


def _read(path: Place) -> None:
    """OSError where there is nothing, or nothing that may be read."""
    if isinstance(path, ObjectPath):
        path.must_be_there()
    elif path.is_dir():
        next(path.iterdir(), None)
    else:
        path.open("rb").close()


def _holds(file: Place, text: str) -> bool:
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def _judge(answer: Any, address: str, folder: Place, mark: str) -> None:
    import ray

    try:
        name, cannot = ray.get(answer)
    except ray.exceptions.RayError as wrong:
        raise UserError(
            f"node {address} could not be asked whether it sees '{folder}' ({type(wrong).__name__}); "
            "see by `ray status` whether it is well, and try again"
        ) from None
    if cannot is None:
        if _holds(folder / name, mark):
            return
        cannot = f"be seen to write to '{folder}': it is not the same folder there"
    raise UserError(
        f"node {address} cannot {cannot}; give a folder that every machine of the cluster sees under the same name"
    )
