"""Splits: fixed for all time by a face's name, unless its source has its own."""

from pathlib import Path

import numpy as np
import pytest

from dxray.models.data import faces
from dxray.models.data.faces import FacesError, read, split_of
from tests.models.data.sources import png, raw_table, write_folder


def test_splits_are_fixed_for_all_time() -> None:
    assert [split_of(f"face{i}") for i in (0, 1, 2, 3)] == ["train"] * 4
    assert [split_of(f"face{i}") for i in (15, 20, 24, 25)] == ["validation"] * 4
    assert [split_of(f"face{i}") for i in (39, 43, 53)] == ["test"] * 3


def test_splits_have_the_sizes_asked_for_and_nest() -> None:
    names = [f"{i}" for i in range(5000)]
    counts = {split: sum(split_of(name) == split for name in names) for split in faces.SPLITS}
    assert counts["train"] == pytest.approx(4000, abs=100)
    assert counts["validation"] == pytest.approx(500, abs=70)
    assert counts["test"] == pytest.approx(500, abs=70)
    assert {split_of(name, validation=0, test=0) for name in names} == {"train"}
    assert {split_of(name, validation=0, test=1) for name in names} == {"test"}


def test_a_face_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    root = write_folder(tmp_path, man=20, woman=20)
    before = read(f"folder:{root}")
    for i in range(20):
        (root / "man" / f"added{i}.png").write_bytes(png(i))
    after = read(f"folder:{root}")
    kept = np.isin(after.names, before.names)
    assert len(after) == 60
    np.testing.assert_array_equal(after.names[kept], before.names)
    np.testing.assert_array_equal(after.splits[kept], before.splits)


def test_a_limit_is_independent_of_the_split(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 2000, image=[bytes(16)] * 2000)
    few = read(spec, size=4, limit=300)
    assert len(few.split("train")) == pytest.approx(240, abs=30)
    assert len(few.split("test")) == pytest.approx(30, abs=20)


@pytest.mark.parametrize(
    ("own", "made"),
    [
        (("train", "test"), {"validation"}),
        (("train", "val"), {"test"}),
        (("training",), {"validation", "test"}),
        (("Train", "Validation", "Testing"), set()),
        (("test",), set()),
    ],
)
def test_splits_a_source_lacks_come_out_of_its_training_rows_only(
    own: tuple[str, ...], made: set[str], tmp_path: Path
) -> None:
    meant = {"val": "validation", "training": "train", "testing": "test"}
    names = [f"face{i:03d}" for i in range(300)]
    column = [own[i // 2 % len(own)] for i in range(300)]
    result = read(raw_table(tmp_path / "t.parquet", 300, name=names, split=column, image=[bytes(16)] * 300), size=4)
    for name, word, split in zip(names, column, result.splits.tolist(), strict=True):
        word = meant.get(word.casefold(), word.casefold())
        assert split == word or (word == "train" and split in made), name
    expected = {meant.get(word.casefold(), word.casefold()) for word in own} | made
    assert set(result.splits.tolist()) == expected


def test_a_split_of_another_name_is_an_error(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 2, split=["train", "holdout"])
    with pytest.raises(FacesError, match="a split 'holdout', expected train, validation, test"):
        read(spec)
