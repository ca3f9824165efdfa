"""Which folders every machine of a cluster is asked about, and what a node says of a folder that it does not share."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.ray import shared_storage
from dxray.orchestrator.ray.shared_storage import joined, must_be_shared
from dxray.orchestrator.runs.buckets import ObjectPath, Place

BUCKET = ObjectPath("s3://lab/run")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Place]]:
    """Of so many machines; the places that they are asked about."""

    def of(machines: int) -> list[Place]:
        asked: list[Place] = []
        monkeypatch.setattr(shared_storage, "connected", lambda address: nullcontext())
        monkeypatch.setattr(shared_storage, "machines", lambda: machines)
        monkeypatch.setattr(shared_storage, "must_be_shared", lambda place, readable: asked.append(place))
        return asked

    return of


def test_several_machines_are_asked_for_a_folder_and_one_is_not(
    cluster: Callable[[int], list[Place]], tmp_path: Path
) -> None:
    for machines, place, expected in ((1, tmp_path, []), (2, tmp_path, [tmp_path]), (1, BUCKET, [BUCKET])):
        asked = cluster(machines)
        with joined(place, None):
            assert asked == expected


def test_what_lies_in_a_folder_that_was_asked_about_is_not_asked_about_again(
    cluster: Callable[[int], list[Place]], tmp_path: Path
) -> None:
    asked = cluster(2)
    run = tmp_path / "run"
    with (
        joined(run, "auto", readable=[]),
        joined(run, None),
        joined(run / "rounds", None),
        joined(tmp_path / "ru", None),
    ):
        assert asked == [run, tmp_path / "ru"]
    with joined(run, None):  # another cluster may have been joined since
        assert len(asked) == 3


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_does_not_see_the_folder_is_named_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This machine then writes to another folder than the node looks into, as where `/out` is a disk of each.
    monkeypatch.setattr(shared_storage, "write_bytes", lambda file, content: None)
    with pytest.raises(UserError, match=r"^node [\d.]+ cannot see what the head writes to '.*out' \(No such file.*"):
        must_be_shared(tmp_path / "out")
