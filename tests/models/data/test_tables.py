"""Parquet tables: their images, labels, names and further columns in any form."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import FacesError, read
from dxray.models.data.labels import FEW
from tests.models.data.sources import REAL_FACES, check_contract, image, needs_real_faces, png, raw_table, write_table


def test_raw_images_come_through_bit_for_bit_in_any_order_of_rows(tmp_path: Path) -> None:
    names = [f"face{i:04d}" for i in range(4500)]  # more than one batch
    order = np.random.default_rng(0).permutation(4500)
    pixels = np.random.default_rng(1).integers(0, 256, (4500, 6, 6), dtype=np.uint8)
    pixels[order[3], 0, :2] = np.frombuffer(b"BM", np.uint8)  # as a BMP file begins
    spec = write_table(
        tmp_path / "t.parquet",
        name=[names[i] for i in order],
        gender=[int(i % 2) for i in order],
        image=[pixels[i].tobytes() for i in order],
    )
    result = read(spec, size=6)
    assert result.names.tolist() == names
    np.testing.assert_array_equal(result.images[:, 0], pixels)
    np.testing.assert_array_equal(result.labels, np.arange(4500) % 2)


@pytest.mark.parametrize("form", ["bytes", "struct", "struct without path", "large", "fixed"])
def test_images_may_be_stored_in_any_of_these_forms(form: str, tmp_path: Path) -> None:
    data = [png(i) for i in range(10)]
    column: Any = {
        "bytes": lambda: data,
        "struct": lambda: [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(data)],
        "struct without path": lambda: [{"bytes": cell} for cell in data],
        "large": lambda: pa.array(data, pa.large_binary()),
        "fixed": lambda: pa.array([image(i).tobytes() for i in range(10)], pa.binary(2304)),
    }[form]()
    result = read(raw_table(tmp_path / "t.parquet", image=column))
    np.testing.assert_array_equal(result.images, np.stack([image(i) for i in range(10)]))


def test_an_image_stored_as_a_path_is_found_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3))
    cells = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    result = read(raw_table(tmp_path / "t.parquet", 3, image=cells))
    np.testing.assert_array_equal(result.images[1], image(3))
    assert result.skipped == (("face002", "does not exist"),)


@pytest.mark.parametrize("raw", [True, False])
def test_rows_without_image_or_label_are_listed(raw: bool, tmp_path: Path) -> None:
    cells: list[bytes | None] = [image(i).tobytes() if raw else png(i) for i in range(10)]
    cells[0] = cells[6] = None
    genders = [None, 1, 0, 1, 0, 1, 0, 1, 0, None]
    result = read(raw_table(tmp_path / "t.parquet", image=cells, gender=genders))
    assert result.names.tolist() == [f"face{i:03d}" for i in (1, 2, 3, 4, 5, 7, 8)]
    assert result.labels.tolist() == [1, 0, 1, 0, 1, 1, 0]
    np.testing.assert_array_equal(result.images[5], image(7))
    assert result.skipped == (("face000", "no gender"), ("face006", "no image stored"), ("face009", "no gender"))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([30, None, 7, 7], pa.int8()), [1, -1, 0, 0]),
        (pa.array([0.5, float("nan"), 7, -1]), [1, -1, 2, 0]),
        (pa.array(["old", None, "young", "old"]), [0, -1, 1, 0]),
        (pa.array(["b", "a", "b", "c"]).dictionary_encode(), [1, 0, 1, 2]),
        (pa.array([True, False, None, True]), [1, 0, -1, 1]),
    ],
)
def test_further_columns_are_read_where_they_are_asked_for(values: pa.Array, found: list[int], tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 4, age=values)
    assert read(spec).auxiliary == {}
    result = read(spec, auxiliary=("age", "height"))
    assert {name: told.tolist() for name, told in result.auxiliary.items()} == {"age": found}
    gaps = raw_table(tmp_path / "u.parquet", 4, age=values, gender=[0, None, 1, 0])
    assert read(gaps, auxiliary=("age",)).auxiliary["age"].tolist() == [found[0], found[2], found[3]]


def test_of_many_words_the_most_frequent_are_classes_and_the_others_unknown(tmp_path: Path) -> None:
    words = [f"{i:02d}" for i in range(FEW + 3)] * 2
    del words[5], words[0]  # so that 00 and 05 are there once, as is the very last
    words.append("last")
    told = read(raw_table(tmp_path / "t.parquet", len(words), place=words), auxiliary=("place",)).auxiliary["place"]
    frequent = [f"{i:02d}" for i in range(FEW + 3) if i not in (0, 5)][:FEW]
    assert told.tolist() == [frequent.index(word) if word in frequent else -1 for word in words]


def test_the_label_may_be_asked_for_again(tmp_path: Path) -> None:
    result = read(raw_table(tmp_path / "t.parquet", 4), auxiliary=("gender", "name"))
    assert result.auxiliary["gender"].tolist() == result.labels.tolist()


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["male", "Woman", "man", "F"]),
        pa.array(["male", "female", "male", "female"]).dictionary_encode(),
        pa.array([0, 1, 0, 1], pa.uint8()),
        pa.array([0.0, 1.0, 0.0, 1.0]),
        pa.array([False, True, False, True]),
        pa.array(["0", "1", "0", "1"], pa.large_string()),
    ],
)
def test_labels_may_be_numbers_or_words(values: pa.Array, tmp_path: Path) -> None:
    assert read(raw_table(tmp_path / "t.parquet", 4, gender=values)).labels.tolist() == [0, 1, 0, 1]


def test_another_column_may_hold_the_labels(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 6, race=["b", "a", "c", "a", "b", "c"], label=[1, 0, 1, 0, 1, 0])
    assert read(spec).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert read(spec, label="label").labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert read(spec, label="race", classes=["a", "b", "c"]).labels.tolist() == [1, 0, 2, 0, 1, 2]
    spec = raw_table(tmp_path / "u.parquet", 6, gender=None, label=[1, 0, 1, 0, 1, 0])
    assert read(spec).labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_rows_without_names_are_numbered(tmp_path: Path) -> None:
    assert read(raw_table(tmp_path / "t.parquet", 3, name=None)).names.tolist() == [
        "row/0000000",
        "row/0000001",
        "row/0000002",
    ]


def test_names_that_occur_twice_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FacesError, match="more than one row named 'b', expected unique names"):
        read(raw_table(tmp_path / "t.parquet", 4, name=["b", "a", "c", "b"]))


def test_a_damaged_encoded_image_is_skipped_not_fatal(tmp_path: Path) -> None:
    cells = [png(i) for i in range(10)]
    cells[0], cells[4] = b"", cells[4][:100]
    result = read(raw_table(tmp_path / "t.parquet", image=cells))
    assert len(result) == 8
    assert result.skipped == (
        ("face000", "empty: 0 bytes"),
        ("face004", "truncated: the file ends before the picture does"),
    )


@needs_real_faces
def test_the_utkface_table_tells_age_and_race() -> None:
    result = read(f"parquet:{REAL_FACES / 'utkface48.parquet'}", limit=2_000, auxiliary=("age", "race"))
    assert sorted(set(result.auxiliary["race"].tolist())) == [0, 1, 2, 3, 4]
    counts = np.bincount(result.auxiliary["age"])
    assert len(counts) == 10
    assert counts.min() > 50  # of 2,000: many are 26 and 1 year old


@needs_real_faces
def test_the_utkface_table_is_read_whole() -> None:
    result = read(f"parquet:{REAL_FACES / 'utkface48.parquet'}")
    check_contract(result)
    table = pq.read_table(REAL_FACES / "utkface48.parquet", columns=["name", "split", "gender"])
    assert len(result) == table.num_rows == 21371
    own = dict(zip(table["name"].to_pylist(), table["split"].to_pylist(), strict=True))
    held_out = {name for name, split in own.items() if split == "test"}
    assert set(result.names[result.splits == "test"].tolist()) == held_out
    assert len(result.split("validation")) == pytest.approx(1902, abs=100)
