"""Who does what again when workers and nodes die, with workers in place of processes; and pieces of shards."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from dxray.orchestrator.attack import workers as actors
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.attack.sharding import Shard
from dxray.orchestrator.attack.shards import Ended, Job, failed_row, part
from dxray.orchestrator.attack.workers import ASKED, LOST, TRIES, Piece, WorkerPool, join
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import read_rows, write_part


def item(number: int) -> Input:
    return Input(f"{number}", b"", None, "", None)


class Workers:
    """In place of `ray`: actors that end a shard when they take the next, and die with an image that kills.

    death: how that is told. asked_again: what those answer that were ready and are asked again.
    given: the images that each was given, all shards of the same at a time in a list.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.kills: set[int] = set()
        self.node: Callable[[], str] = lambda: "here"
        self.death: Callable[[], Exception] = ActorDiedError
        self.asked_again: list[str | Exception] = []
        self.given: list[list[range]] = []
        self.at_once = 0

    def put(self, content: bytes) -> bytes:
        return content

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=self._actor)

    def wait(self, doing: list[Any], *, num_returns: int) -> Any:
        return doing[:num_returns], doing[num_returns:]

    def get(self, ended: Any) -> Any:
        if isinstance(ended, Exception):
            raise ended
        return ended

    def kill(self, actor: Any) -> None:
        self.at_once -= 1

    def _actor(self, *_: Any) -> Any:
        self.at_once += 1
        within: list[tuple[Shard, range, Path | None]] = []
        node, asked = self.node(), 0

        def ready() -> str | Exception:
            nonlocal asked
            asked += 1
            within.clear()
            return node if asked == 1 else self.asked_again.pop(0)

        def ended(few: list[tuple[Shard, range, Path | None]]) -> Iterator[Any]:
            for shard, images, piece in few:
                rows = [failed_row(item(i), "ab", "in place of an attack") for i in images]
                write_part(piece or part(self.out, shard.index), rows)
                yield Ended(shard.index, Counter(failed=len(rows)))

        def attack(shard: Shard, start: int, stop: int, piece: Path | None) -> Iterator[Any]:
            within.append((shard, range(start, stop), piece))
            self.given.append([images for _, images, _ in within])
            if any(image in self.kills for image in range(start, stop)):
                return iter([self.death()])
            before, within[:] = within[:-1], within[-1:]
            return ended(before)

        def finish() -> Iterator[Any]:
            left, within[:] = list(within), []
            return ended(left)

        calls = {"ready": ready, "attack": attack, "finish": finish}
        return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    found = Workers(tmp_path)
    monkeypatch.setattr(actors, "ray", found)
    monkeypatch.setattr(actors, "living", lambda: {"here"})
    monkeypatch.setattr(actors, "cpus", lambda: 2)
    monkeypatch.setattr(actors, "read_list", lambda _, __, start, stop: iter([item(i) for i in range(start, stop)]))
    return found


def worked_off(out: Path, *sizes: int, at_once: int = 1) -> Counter[str]:
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    shards = iter([Shard(i, 0, starts[i], starts[i + 1]) for i in range(len(sizes))])
    team = WorkerPool(Job(out), (b"", b""), net_sha256="ab", say=lambda _: None)
    with team.hired(at_once):
        return sum(team.work_off(lambda: next(shards, None)), Counter())


def test_a_worker_is_given_the_next_shard_while_the_last_images_of_one_are_with_it(
    workers: Workers, tmp_path: Path
) -> None:
    assert worked_off(tmp_path, 4, 4, 2) == {"failed": 10}
    assert workers.given == [[range(4)], [range(4), range(4, 8)], [range(4, 8), range(8, 10)]]
    assert workers.at_once == 0, "workers were left"


def test_what_was_with_a_worker_that_died_is_done_alone_and_what_does_not_kill_is_not_halved(
    workers: Workers, tmp_path: Path
) -> None:
    workers.kills = {6}
    assert worked_off(tmp_path, 4, 4, 2) == {"failed": 10}
    rows = list(read_rows(tmp_path))
    assert [row["name"] for row in rows] == [f"{i}" for i in range(10)]
    killed = [row["name"] for row in rows if row["reason"] != "in place of an attack"]
    assert killed == ["6"]
    assert rows[6]["reason"] == f"it killed its worker {TRIES} times"
    together = [given for given in workers.given if len(given) > 1]
    assert together == [[range(4), range(4, 8)]], "what may kill was given beside others"
    alone = Counter(given[0] for given in workers.given if len(given) == 1)
    assert alone.pop(range(4)) == 2  # at first, and after the death that was not its own
    assert alone == {range(4, 8): TRIES, range(4, 6): 1, range(6, 8): 1, range(6, 7): TRIES, range(7, 8): 1} | {
        range(8, 10): 1
    }


def test_no_more_are_hired_than_there_is_work_for(workers: Workers, tmp_path: Path) -> None:
    team = WorkerPool(Job(tmp_path), (b"", b""), net_sha256="ab")
    with team.hired(1):
        assert workers.at_once == 1
    with team.hired(64):
        assert workers.at_once == 2
    assert workers.at_once == 0


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
            assert all(half.alone and not half.whole for half in piece.halves())
    assert sorted(alone) == list(range(10, 21))


def test_pieces_become_the_part_of_their_shard_in_order(tmp_path: Path) -> None:
    shard = Shard(7, 0, 98, 103)
    pieces = [Piece(shard, start, stop) for start, stop in ((101, 103), (98, 99), (99, 101))]
    for piece in pieces:
        rows = [failed_row(item(i), "ab", "it") for i in range(piece.start, piece.stop)]
        write_part(piece.place(tmp_path), rows)
    write_part(Piece(shard, 98, 101).place(tmp_path), [])  # of a driver that was killed
    assert join(tmp_path, pieces) == {"failed": 5}
    assert [row["name"] for row in read_rows(tmp_path)] == ["98", "99", "100", "101", "102"]
    assert part(tmp_path, 7).exists()
    assert len(list((tmp_path / "pieces").iterdir())) == 1


@pytest.mark.parametrize("too_many", [0, 1])
def test_a_node_that_is_lost_is_no_fault_of_its_shards(too_many: int, workers: Workers, tmp_path: Path) -> None:
    """It comes back each time: no shard is given up, or halved, before it was lost more often than may be."""
    nodes = iter(["gone"] * (LOST + too_many))
    workers.kills = {1}

    def node() -> str:
        if (name := next(nodes, "here")) == "here":
            workers.kills = set()
        return name

    workers.node = node
    if too_many:
        with pytest.raises(
            UserError, match=r"more than 10 nodes, or connections to them, were lost with the same shard; .* --resume"
        ):
            worked_off(tmp_path, 4)
        assert workers.at_once == 0
    else:
        assert worked_off(tmp_path, 4) == {"failed": 4}
        assert {row["reason"] for row in read_rows(tmp_path)} == {"in place of an attack"}
        assert workers.given == [[range(4)]] * (LOST + 1)


UNREACHABLE = ActorUnavailableError("for a while", None)


@pytest.mark.parametrize(
    ("answers", "living", "reason"),
    [
        ([UNREACHABLE, UNREACHABLE, "here"], {"here"}, "in place of an attack"),
        ([UNREACHABLE, ActorDiedError()], set(), "in place of an attack"),
        ([UNREACHABLE] * ASKED, {"here"}, "in place of an attack"),
        ([UNREACHABLE, ActorDiedError()], {"here"}, f"it killed its worker {TRIES} times"),
    ],
)
def test_a_worker_that_cannot_be_reached_is_asked_again_before_its_shard_is_blamed(
    answers: list[str | Exception],
    living: set[str],
    reason: str,
    workers: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray says that for two seconds or more before it tells that a worker or its node is gone, or that it is back."""
    monkeypatch.setattr(actors, "living", lambda: living)
    deaths = 0

    def death() -> Exception:
        nonlocal deaths
        deaths += 1
        if deaths == TRIES:
            workers.kills = set()
        return UNREACHABLE

    workers.kills, workers.death, workers.asked_again = {0}, death, answers * TRIES
    assert worked_off(tmp_path, 1) == {"failed": 1}
    assert workers.asked_again == []
    assert [row["reason"] for row in read_rows(tmp_path)] == [reason]
    assert workers.given == [[range(1)]] * (deaths + ("attack" in reason))
    assert deaths == TRIES


def test_workers_that_never_begin_are_said(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any) -> Any:
        workers.at_once += 1
        return SimpleNamespace(ready=SimpleNamespace(remote=ActorDiedError))

    monkeypatch.setattr(workers, "_actor", dead)
    said = r"21 workers in a row died before they could begin \(The actor died .* --resume"
    with pytest.raises(UserError, match=said):
        worked_off(tmp_path, 4, at_once=2)
    assert workers.at_once == 0
