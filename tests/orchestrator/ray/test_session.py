"""What fits on a cluster's nodes at a time; what a Ray of our own is told."""

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
