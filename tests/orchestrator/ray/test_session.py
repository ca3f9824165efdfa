"""What fits on a cluster's nodes at a time; what a Ray of our own is told."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from dxray.orchestrator.ray import session
from dxray.orchestrator.ray.session import _UNWATCHED, BASE, capacity, memory_for_each

SMALL = {"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * 2**30}
LARGE = {"CPU": 16.0, "memory": 64.0 * 2**30}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *has: monkeypatch.setattr(session, "_nodes", lambda: list(has))


@pytest.mark.parametrize(
    ("threads", "gpu_share", "gib", "held"),
    [
        (1, 0, None, 4 + 16),
        (3, 0, None, 1 + 5),  # a training never spans two nodes
        (1, 0.25, None, 4),
        (1, 0.1, None, 4),  # 10 on the GPU, but 4 CPUs
        (2, 1, None, 1),
        (1, 0, 8 - BASE, 1 + 8),
        (32, 0, None, 0),
    ],
)
def test_trainings_at_a_time_are_what_each_node_holds_by_itself(
    nodes: Callable[..., None], threads: int, gpu_share: float, gib: float | None, held: int
) -> None:
    nodes(SMALL, LARGE)
    assert capacity(threads, gpu_share, gib) == held


def test_memory_is_shared_out_so_that_no_node_is_promised_more_than_it_has(nodes: Callable[..., None]) -> None:
    nodes(SMALL, LARGE)
    each = memory_for_each(1, 0, at_once=20)
    assert each == 8 / 4 - BASE
    assert capacity(1, 0, each) >= 4 + 16
    assert memory_for_each(1, 0, at_once=1) == 8 - BASE  # it may be put on either node


@pytest.mark.parametrize("name", _UNWATCHED)
def test_what_a_ray_of_our_own_is_told_is_a_setting_of_this_ray(name: str) -> None:
    # One that is misspelt, or that another Ray no longer has, would be ignored without a word.
    package = Path(ray.__file__).parent
    if name.startswith("RAY_") and name[4:].islower():
        known = (package / "core/src/ray/raylet/raylet").read_bytes()
        assert name[4:].encode() in known
    else:
        sources = (package / place for place in ("_private", "dashboard", "autoscaler"))
        assert any(f'"{name}"' in file.read_text() for source in sources for file in source.rglob("*.py"))


# Prints the address, as /proc has it, of each socket that listens in this process's session.
ALONE = """
import os, sys
from contextlib import suppress
from pathlib import Path
from dxray.orchestrator.cli.app import guarded
from dxray.orchestrator.ray.session import connected

def look():
    with connected():
        import ray
        ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(2)])
        rows = [line.split() for table in ("tcp", "tcp6") for line in open(f"/proc/net/{table}")]
        listening = {row[9]: row[1].split(":")[0] for row in rows if row[3] == "0A"}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getsid(int(process.name)) == os.getsid(0):
                    for handle in (process / "fd").iterdir():
                        inode = os.readlink(handle).removeprefix("socket:[").removesuffix("]")
                        if inode in listening:
                            print(listening[inode])
    return 0

sys.exit(guarded(look))
"""


def alone(**environment: str) -> subprocess.CompletedProcess[str]:
    """A process that starts a Ray of its own, as a verb does on one machine."""
    return subprocess.run(
        [sys.executable, "-c", ALONE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are looked up in Linux's /proc")
def test_a_local_ray_listens_on_the_loopback_address_alone() -> None:
    ended = alone()
    assert ended.returncode == 0, ended.stderr
    addresses = ended.stdout.split()
    assert len(addresses) > 5
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(addresses) <= loopback


def test_only_the_session_starts_a_ray() -> None:
    """So that what holds of its local Ray holds of every verb's."""
    room = Path(session.__file__).resolve().parents[1]
    assert [file.name for file in room.rglob("*.py") if "ray.init(" in file.read_text()] == ["session.py"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"TMPDIR": f"/tmp/{'x' * 90}"}, "is too long; set RAY_TMPDIR to a folder with a shorter one"),
        ({"HOME": "/proc/nobody"}, "'/proc/nobody/.ray', which cannot be written to"),
        ({"RAY_TMPDIR": "/proc/nowhere"}, "no Ray could be started on this machine: "),
    ],
)
def test_a_local_ray_that_cannot_start_is_one_sentence(setting: dict[str, str], sentence: str) -> None:
    ended = alone(**setting)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("dxray: no Ray could be started on this machine: ")
    assert sentence in line
