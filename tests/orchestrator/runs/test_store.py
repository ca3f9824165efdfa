"""What is on disk: whole files or none, and columns that say what they hold."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dxray.models.data.images import encode_png
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs import store


def a_row(rng: Any, name: str = "face.png") -> dict[str, Any]:
    png = encode_png(rng.integers(0, 256, (1, 48, 48)).astype("uint8"))
    return {"name": name, "status": "fooled", "label": 0, "l2": 0.25} | {
        which: {"bytes": png, "path": f"{which}.png"} for which in store.TRIPLE
    }


def test_rows_come_back_as_they_were_written(tmp_path: Path, rng: Any) -> None:
    rows = [a_row(rng), {"name": "b", "status": "unreadable", "reason": "it is empty"}]
    store.write_part(tmp_path / "images" / "part-00000.parquet", rows)
    read = list(store.read_rows(tmp_path))
    assert [{key: value for key, value in row.items() if value is not None} for row in read] == rows
    assert [row["name"] for row in store.read_rows(tmp_path, ["name"])] == ["face.png", "b"]


def test_every_column_says_what_it_holds(tmp_path: Path, rng: Any) -> None:
    path = tmp_path / "part.parquet"
    store.write_part(path, [a_row(rng)])
    schema = pq.read_schema(path)
    for field in schema:
        if field.name not in store.TRIPLE:
            assert len(field.metadata[b"doc"]) > 10, field.name
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(schema.names)
    assert features["modified"] == {"_type": "Image"}


def test_readers_skip_groups_by_the_figures_and_are_not_shown_images(tmp_path: Path, rng: Any) -> None:
    path = tmp_path / "part.parquet"
    store.write_part(path, [a_row(rng), a_row(rng, "other.png")])
    group = pq.read_metadata(path).row_group(0)
    columns = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert columns["name"].statistics.max == "other.png"
    for which in store.TRIPLE:
        assert columns[f"{which}.bytes"].statistics is None


def test_hugging_face_datasets_opens_the_images(tmp_path: Path, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra dxray[hf] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    row = a_row(rng)
    store.write_part(tmp_path / "images" / "part-00000.parquet", [row])
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "images" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert read[0]["modified"].size == (48, 48)
    assert read[0]["l2"] == pytest.approx(0.25)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, rng: Any) -> None:
    row = a_row(rng)
    store.write_part(tmp_path / "a", [row])
    store.write_part(tmp_path / "b", [row])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    store.write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_is_written_once_and_again_where_it_was_left_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "adv_face_mod.png"
    store.write_image(path, b"picture")
    assert path.read_bytes() == b"picture"
    there = path.stat()
    store.write_image(path, b"picture")
    assert path.stat() == there
    path.write_bytes(b"pict")  # a kill
    store.write_image(path, b"picture")
    assert path.read_bytes() == b"picture"
    assert list(path.parent.iterdir()) == [path]


def test_an_image_is_whole_where_the_system_takes_a_little_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little(io.FileIO):
        def write(self, content: Any) -> int:
            return super().write(content[:3])

    path = tmp_path / "adv_face_mod.png"
    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Little(path, mode))
    store.write_image(path, b"picture")
    assert path.read_bytes() == b"picture"


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        store.writable_folder(tmp_path / "file" / "out", "the results")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_record_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "attack.json").write_bytes(content)
    with pytest.raises(UserError, match=r"attack\.json"):
        store.read_json(tmp_path / "attack.json")
