"""Which device a task uses, told by what Ray and CUDA say, for there may be no GPU here; and pieces of shards."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import NodeDiedError

from orchestrator import crew
from orchestrator.crew import LOST, TRIES, Crew, Piece, device_of, join
from orchestrator.cutting import Shard
from orchestrator.errors import UserError
from orchestrator.inputs import Input
from orchestrator.shards import Job, failed_row, part
from orchestrator.store import read_rows, write_part


@pytest.mark.parametrize(
    ("ids", "visible", "device"),
    [
        ([], None, "cpu"),
        ([], "0,1", "cpu"),
        ([2], None, "cuda:2"),
        (["2"], "", "cuda:2"),
        (["3"], "2,3", "cuda:1"),
        (["GPU-abc"], "GPU-xyz,GPU-abc", "cuda:1"),
    ],
)
def test_a_task_uses_the_gpu_that_ray_set_apart_for_it(ids: list[int | str], visible: str | None, device: str) -> None:
    assert device_of(ids, visible) == device


def test_a_shard_is_halved_down_to_single_images() -> None:
    pieces, alone = [Piece(Shard(3, 0, 10, 21), 10, 21)], []
    assert pieces[0].whole
    assert pieces[0].tries == TRIES
    while pieces:
        piece = pieces.pop(0)
        if piece.size == 1:
            alone.append(piece.start)
            assert piece.tries == TRIES
        else:
            pieces += piece.halves()
            assert sum(half.size for half in piece.halves()) == piece.size
            assert all(not half.whole for half in piece.halves())
    assert sorted(alone) == list(range(10, 21))


def test_pieces_become_the_part_of_their_shard_in_order(tmp_path: Path) -> None:
    shard = Shard(7, 0, 98, 103)
    pieces = [Piece(shard, start, stop) for start, stop in ((101, 103), (98, 99), (99, 101))]
    for piece in pieces:
        rows = [failed_row(Input(f"{i}", b"", None, "", None), "ab", "it") for i in range(piece.start, piece.stop)]
        write_part(piece.place(tmp_path), rows)
    write_part(Piece(shard, 98, 101).place(tmp_path), [])  # of a driver that was killed
    assert join(tmp_path, pieces) == {"failed": 5}
    assert [row["name"] for row in read_rows(tmp_path)] == ["98", "99", "100", "101", "102"]
    assert part(tmp_path, 7).exists()
    assert len(list((tmp_path / "pieces").iterdir())) == 1


def test_a_node_that_is_lost_with_many_shards_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 CPUs, that come back each time: no shard is given up before it was lost more often than may be."""
    lost = 0

    def get(task: object) -> Counter[str]:
        nonlocal lost
        lost += 1
        if lost <= nodes * 32:
            raise NodeDiedError("a node with 32 CPUs")
        return Counter(fooled=1)

    tasks = SimpleNamespace(remote=lambda *_: object())
    local = SimpleNamespace(put=bool, remote=lambda **_: lambda _: tasks, wait=lambda all, **_: (all[:1], []), get=get)
    monkeypatch.setattr(crew, "ray", local)
    monkeypatch.setattr(crew, "cpus", lambda: 16)

    def worked_off() -> list[Counter[str]]:
        shards = iter([Shard(index, 0, index, index + 1) for index in range(32)])
        return list(Crew(Job(tmp_path), (b"", b""), net_sha256="ab").work_off(lambda: next(shards, None)))

    nodes = LOST
    assert sum(worked_off(), Counter()) == {"fooled": 32}
    lost, nodes = 0, LOST + 1
    with pytest.raises(UserError, match=r"more than 10 nodes were lost with the same shard; .* --resume"):
        worked_off()
