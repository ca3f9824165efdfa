"""From inputs to pixels: files, and cells of tables in any form, each row its own."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack import image_tables
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.inputs import list_inputs

CARD = ModelCard("convnet", {}, ("male", "female"))


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (9, 1, 48, 48), dtype=np.uint8)


def read(place: object) -> list[Any]:
    return list(contents(list(list_inputs([str(place)], classes=CARD.classes)), CARD))


def same(found: list[Any], pictures: np.ndarray) -> bool:
    return all(np.array_equal(one.pixels, picture) for one, picture in zip(found, pictures, strict=True))


def test_a_file_is_decoded_and_hashed(tmp_path: Path, pictures: np.ndarray) -> None:
    for i, picture in enumerate(pictures):
        (tmp_path / f"{i}.png").write_bytes(encode_png(picture))
    found = read(tmp_path)
    assert same(found, pictures)
    assert found[0].sha256 == hashlib.sha256(encode_png(pictures[0])).hexdigest()


@pytest.mark.parametrize("form", ["raw", "encoded", "struct"])
def test_a_table_in_any_form_is_read_by_row(tmp_path: Path, pictures: np.ndarray, form: str) -> None:
    cells: list[Any] = [encode_png(picture) if form != "raw" else picture.tobytes() for picture in pictures]
    cells = [{"bytes": cell, "path": None} for cell in cells] if form == "struct" else cells
    pq.write_table(pa.table({"image": cells}), tmp_path / "faces.parquet", row_group_size=4)
    assert same(read(f"parquet:{tmp_path / 'faces.parquet'}"), pictures)


def test_any_rows_of_a_table_can_be_asked_for(
    tmp_path: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tables, "_BATCH", 2)
    pq.write_table(pa.table({"image": [p.tobytes() for p in pictures]}), tmp_path / "f.parquet", row_group_size=4)
    items = list(list_inputs([f"parquet:{tmp_path / 'f.parquet'}"], classes=CARD.classes))
    for chosen in ([8], [3, 4], [0, 7, 2]):
        assert same(list(contents([items[i] for i in chosen], CARD)), pictures[chosen])


def test_tables_and_files_may_stand_side_by_side(tmp_path: Path, pictures: np.ndarray) -> None:
    for i in range(2):
        pq.write_table(pa.table({"image": [pictures[i].tobytes()]}), tmp_path / f"{i}.parquet")
    (tmp_path / "2.png").write_bytes(encode_png(pictures[2]))
    places: list[Any] = [f"parquet:{tmp_path / '0.parquet'}", f"parquet:{tmp_path / '1.parquet'}", tmp_path / "2.png"]
    items = list(list_inputs(places, classes=CARD.classes))
    assert same(list(contents(items, CARD)), pictures[:3])


def test_a_cell_that_is_broken_has_a_reason_and_the_others_are_read(tmp_path: Path, pictures: np.ndarray) -> None:
    (tmp_path / "there.png").write_bytes(encode_png(pictures[0]))
    cells = [
        {"bytes": encode_png(pictures[1]), "path": None},
        {"bytes": None, "path": "there.png"},
        {"bytes": None, "path": "nowhere.png"},
        {"bytes": None, "path": None},
        {"bytes": encode_png(pictures[1])[:-1300], "path": None},
        {"bytes": b"odd", "path": None},
        None,
    ]
    pq.write_table(pa.table({"image": cells}), tmp_path / "f.parquet")
    found = read(f"parquet:{tmp_path / 'f.parquet'}")
    assert same(found[:2], pictures[[1, 0]])
    reasons = [one.reason for one in found[2:]]
    assert reasons[0] == "does not exist"
    assert reasons[1] == reasons[4] == "no image stored"
    assert "truncated" in reasons[2]
    assert "not an image" in reasons[3]


def test_raw_pixels_that_begin_like_a_bmp_are_pixels(tmp_path: Path, pictures: np.ndarray) -> None:
    pictures[0, 0, 0, :2] = list(b"BM")
    pq.write_table(pa.table({"image": [pictures[0].tobytes()]}), tmp_path / "f.parquet")
    assert same(read(f"parquet:{tmp_path / 'f.parquet'}"), pictures[:1])


def test_a_hugging_face_data_set_is_listed_and_read(tmp_path: Path, pictures: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["female", "male"])})
    rows = {"image": [{"bytes": encode_png(p), "path": None} for p in pictures], "label": [0, 1, -1] * 3}
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made.select([4])}).save_to_disk(str(tmp_path / "data"))
    items = list(list_inputs([f"hf:{tmp_path / 'data'}"], classes=CARD.classes))
    assert [item.label for item in items] == [1, 0, None] * 3 + [0]
    assert items[-1].name == "test/000000000"
    assert same(list(contents(items, CARD)), np.concatenate([pictures, pictures[4:5]]))
    (alone,) = list_inputs([f"hf:{tmp_path / 'data'}:test"], classes=CARD.classes)
    assert same(list(contents([alone], CARD)), pictures[4:5])
