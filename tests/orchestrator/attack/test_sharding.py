"""How inputs are cut into shards: every one once, the last small, and the same again."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dxray.orchestrator.attack.sharding import (
    FIRST,
    LITTLE,
    MEANWHILE,
    MOST,
    SHARE,
    SPARED,
    Shard,
    Sharding,
    bounds,
    cut,
    largest_shard,
    most_at_once,
)
from dxray.orchestrator.runs.store import write_bytes, write_table


@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 200, 2_000, 54_321])
@pytest.mark.parametrize("workers", [1, 2, 64])
@pytest.mark.parametrize(("most", "largest"), [(32, 32), (64, 64), (2048, 512), (2048, 2048)])
def test_every_input_is_in_one_shard_and_none_is_too_large(inputs: int, workers: int, most: int, largest: int) -> None:
    shards = list(cut(inputs, workers, most, lambda: largest))
    assert shards[0][0] == 0
    assert shards[-1][1] == inputs
    assert all(stop == start for (_, stop), (start, _) in pairwise(shards))
    sizes = [stop - start for start, stop in shards]
    first, second, rest = sizes[:workers], sizes[workers : 2 * workers], sizes[2 * workers :]
    assert min(sizes) >= 1
    assert all(size == FIRST for size in first[:-1])
    assert len(set(second[:-1])) <= 1
    assert second[:-1] == [] or second[0] in (MEANWHILE * FIRST, most, -(-inputs // workers) - FIRST)
    assert len(sizes) > 2 * workers or max(sizes) <= max(FIRST, -(-inputs // workers)), "a worker has more than others"
    assert max(rest, default=0) <= largest
    assert max(sizes) <= most
    assert rest == sorted(rest, reverse=True)
    # What a round leaves is taken with it only where that is little.
    little = LITTLE / (SPARED if inputs < workers * (LITTLE / SPARED + 1) else 1 - SHARE)
    assert not rest or sizes[-1] <= little + 1 or workers == 1


def test_the_last_rounds_are_smaller_and_none_is_too_small() -> None:
    def sizes(inputs: int) -> list[int]:
        return [stop - start for start, stop in cut(inputs, 2, 2048, lambda: 2048)]

    assert sizes(200) == [32, 32, 68, 68]
    assert sizes(400) == [32, 32, 96, 96, 62, 62, 10, 10]  # not 7, which would leave 3 for each
    assert sizes(2_000) == [32, 32, 96, 96, 822, 822, 35, 35, 11, 11, 4, 4]
    assert sizes(6_000) == [32, 32, 96, 96, 2048, 2048, 674, 674, 105, 105, 32, 32, 13, 13]


def test_a_shard_ends_in_time_and_fits_in_memory() -> None:
    most = most_at_once(48 * 48)
    assert most == MOST
    assert largest_shard(0.04, most) == 2048  # 82 s is nearer to the 60 s than 41 s, by ratio
    assert largest_shard(0.1, most) == 512
    assert largest_shard(1e-5, most) == MOST
    assert largest_shard(60.0, most) == FIRST
    assert most_at_once(3 * 96 * 96) == 256
    assert largest_shard(1e-5, 256) == 256
    assert most_at_once(3 * 1024 * 1024) == FIRST


def listed(**given: Any) -> dict[str, Any]:
    return {"inputs": 1_000, "first_part": 5, "workers": 2, "most": MOST, "largest": None} | given


def finish(out: Path, index: int, *, seconds: float | None) -> None:
    write_bytes(out / "images" / f"part-{index:05d}.parquet", b"")
    if seconds is not None:
        row = {"images": [FIRST], "attack_s": [seconds / 2], "save_s": [seconds / 2]}
        write_table(out / "timing" / f"part-{index:05d}.parquet", pa.table(row))


def test_no_shard_but_the_first_two_is_taken_before_the_cost_is_known(tmp_path: Path) -> None:
    entry = listed()
    sharding = Sharding(tmp_path, 3, entry)
    known = [Shard(5, 3, 0, 32), Shard(6, 3, 32, 64), Shard(7, 3, 64, 160), Shard(8, 3, 160, 256)]
    assert [sharding.take() for _ in range(5)] == [*known, None]
    assert not sharding.measure()
    finish(tmp_path, 4, seconds=0.001)  # of an earlier list
    assert not sharding.measure()
    finish(tmp_path, 6, seconds=FIRST * 0.4)  # 0.4 s an image
    assert sharding.measure()
    assert entry["largest"] == 128
    assert sharding.take() == Shard(9, 3, 256, 384)  # not 593, which would take longer than a shard may
    rest = list(iter(sharding.take, None))
    assert rest[-1].stop == 1_000
    assert sum(1 for _ in bounds(entry)) == 5 + len(rest)


def test_what_is_done_is_not_taken_again(tmp_path: Path) -> None:
    entry = listed(largest=128)
    whole = list(iter(Sharding(tmp_path, 0, entry).take, None))
    for shard in whole[1::2]:
        finish(tmp_path, shard.index, seconds=1.0)
    again = Sharding(tmp_path, 0, entry)
    assert again.left == sum(shard.stop - shard.start for shard in whole[::2])
    assert list(iter(again.take, None)) == whole[::2]


def test_a_run_killed_before_it_knew_the_cost_goes_on(tmp_path: Path) -> None:
    entry = listed(first_part=0)
    for index in range(2):
        finish(tmp_path, index, seconds=None)
    sharding = Sharding(tmp_path, 0, entry)
    assert not sharding.measure()
    assert sharding.take() == Shard(2, 0, 64, 160)
    finish(tmp_path, 2, seconds=1.0)
    assert sharding.measure()
    assert sum(shard.stop - shard.start for shard in iter(sharding.take, None)) == 1_000 - 160


def test_a_run_whose_first_shards_all_came_in_pieces_goes_on(tmp_path: Path) -> None:
    """A shard that is put together of pieces, for an image in it killed its worker, says not how long it took."""
    entry = listed()
    sharding = Sharding(tmp_path, 0, entry)
    for shard in iter(sharding.take, None):
        assert not sharding.measure()
        finish(tmp_path, shard.index, seconds=None)
    assert sharding.measure()
    assert sum(shard.stop - shard.start for shard in iter(sharding.take, None)) == 1_000 - 256
