"""How inputs are cut into shards: every one once, the last small, and the same again."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.cutting import FIRST, LITTLE, MOST, SHARE, SPARED, Cutting, Shard, bounds, cut, largest_shard
from orchestrator.store import write_bytes, write_table


@pytest.mark.parametrize("inputs", [1, 63, 64, 65, 200, 2_000, 54_321])
@pytest.mark.parametrize("workers", [1, 2, 64])
@pytest.mark.parametrize("largest", [64, 512, 2048])
def test_every_input_is_in_one_shard_and_none_is_too_large(inputs: int, workers: int, largest: int) -> None:
    shards = list(cut(inputs, workers, lambda: largest))
    assert shards[0][0] == 0
    assert shards[-1][1] == inputs
    assert all(stop == start for (_, stop), (start, _) in pairwise(shards))
    sizes = [stop - start for start, stop in shards]
    assert min(sizes) >= 1
    assert max(sizes) <= largest
    assert all(size == FIRST for size in sizes[:workers][:-1])
    assert sizes[workers:] == sorted(sizes[workers:], reverse=True)
    # What a round leaves is taken with it only where that is little.
    little = LITTLE / (SPARED if inputs < workers * (LITTLE / SPARED + 1) else 1 - SHARE)
    assert sizes[-1] <= little + 1 or workers == 1


def test_the_last_rounds_are_smaller_and_none_is_too_small() -> None:
    def sizes(inputs: int) -> list[int]:
        return [stop - start for start, stop in cut(inputs, 2, lambda: 2048)]

    assert sizes(300) == [64, 64, 86, 86]  # not 79, which would leave 7 for each
    assert sizes(1_560) == [64, 64, 677, 677, 39, 39]  # not 28, which would leave 11
    assert sizes(2_000) == [64, 64, 886, 886, 35, 35, 15, 15]
    assert sizes(6_000) == [64, 64, 2048, 2048, 738, 738, 105, 105, 32, 32, 13, 13]


def test_a_shard_ends_in_time_and_fits_in_memory() -> None:
    assert largest_shard(0.04, 48 * 48) == 2048  # 82 s is nearer to the 60 s than 41 s, by ratio
    assert largest_shard(0.1, 48 * 48) == 512
    assert largest_shard(1e-5, 48 * 48) == MOST
    assert largest_shard(60.0, 48 * 48) == FIRST
    assert largest_shard(1e-5, 3 * 224 * 224) == FIRST


def listed(**given: Any) -> dict[str, Any]:
    return {"inputs": 1_000, "first_part": 5, "workers": 2, "largest": None} | given


def finish(out: Path, index: int, *, seconds: float | None) -> None:
    write_bytes(out / "images" / f"part-{index:05d}.parquet", b"")
    if seconds is not None:
        row = {"images": [64], "start_s": [100.0], "attack_s": [seconds / 2], "save_s": [seconds / 2]}
        write_table(out / "timing" / f"part-{index:05d}.parquet", pa.table(row))


def test_no_shard_but_the_first_is_taken_before_the_cost_is_known(tmp_path: Path) -> None:
    entry = listed()
    cutting = Cutting(tmp_path, 3, entry)
    assert cutting.take() == Shard(5, 3, 0, 64)
    assert cutting.take() == Shard(6, 3, 64, 128)
    assert cutting.take() is None
    assert not cutting.measure(48 * 48)
    finish(tmp_path, 4, seconds=0.001)  # of an earlier list
    assert not cutting.measure(48 * 48)
    finish(tmp_path, 6, seconds=64 * 0.4)  # 0.4 s an image, the start of the process left out
    assert cutting.measure(48 * 48)
    assert entry["largest"] == 128
    assert cutting.take() == Shard(7, 3, 128, 256)  # not 436, which would take longer than a shard may
    rest = list(iter(cutting.take, None))
    assert rest[-1].stop == 1_000
    assert sum(1 for _ in bounds(entry)) == 3 + len(rest)


def test_what_is_done_is_not_taken_again(tmp_path: Path) -> None:
    entry = listed(largest=128)
    whole = list(iter(Cutting(tmp_path, 0, entry).take, None))
    for shard in whole[1::2]:
        finish(tmp_path, shard.index, seconds=1.0)
    again = Cutting(tmp_path, 0, entry)
    assert again.left == sum(shard.stop - shard.start for shard in whole[::2])
    assert list(iter(again.take, None)) == whole[::2]


def test_a_run_killed_before_it_knew_the_cost_goes_on(tmp_path: Path) -> None:
    entry = listed(first_part=0)
    for index in range(2):
        finish(tmp_path, index, seconds=None)
    cutting = Cutting(tmp_path, 0, entry)
    assert cutting.measure(48 * 48)
    assert sum(shard.stop - shard.start for shard in iter(cutting.take, None)) == 1_000 - 128


def test_a_run_whose_first_shards_all_came_in_pieces_goes_on(tmp_path: Path) -> None:
    """A shard that is put together of pieces, for an image in it killed its worker, says not how long it took."""
    entry = listed()
    cutting = Cutting(tmp_path, 0, entry)
    for shard in iter(cutting.take, None):
        assert not cutting.measure(48 * 48)
        finish(tmp_path, shard.index, seconds=None)
    assert cutting.measure(48 * 48)
    assert sum(shard.stop - shard.start for shard in iter(cutting.take, None)) == 1_000 - 128
