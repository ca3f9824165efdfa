"""`dxray verify`: each saved image is looked at again, as `predict` looks at it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard, load, save
from dxray.models.victims.predict import labels_of, predict
from dxray.orchestrator.attack.attack import AttackConfig, attack
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.reports import verify as verifying
from dxray.orchestrator.reports.verify import verify
from dxray.orchestrator.runs import store
from dxray.orchestrator.runs.store import read_rows, read_table

CLASSES = ("male", "female")


@pytest.fixture
def attacked(face_folder: Path, trained: Path, tmp_path: Path, console: Console) -> Path:
    attack(AttackConfig(paths=[str(face_folder)], model=str(trained)), tmp_path / "out", console)
    return tmp_path / "out"


def a_fooled_row(out: Path) -> dict[str, Any]:
    return next(row for row in read_rows(out) if row["status"] == "fooled")


def put_the_original_in_its_place(out: Path, row: dict[str, Any]) -> None:
    (out / row["modified"]["path"]).write_bytes((out / row["original"]["path"]).read_bytes())


def delete_it(out: Path, row: dict[str, Any]) -> None:
    (out / row["modified"]["path"]).unlink()


@pytest.mark.parametrize("spoil", [put_the_original_in_its_place, delete_it])
def test_verify_reads_the_files(
    attacked: Path, spoil: Callable[[Path, dict[str, Any]], None], console: Console
) -> None:
    """A file that no longer fools is found, though the Arrow row still holds the image that did."""
    row = a_fooled_row(attacked)
    spoil(attacked, row)
    checked = verify(attacked, console)
    assert not checked["success"]
    assert checked["still_fools"] == checked["fooled"] - 1
    assert [failure.split(":")[0] for failure in checked["failed"]] == [row["name"]]


def test_verify_looks_at_the_original_too(attacked: Path, faces: Faces, console: Console) -> None:
    row = a_fooled_row(attacked)
    other = faces.images[np.flatnonzero(faces.labels != row["label"])[:20]]
    net, card = load(attacked / "model")
    wrong = next(image for image in other if predict(net, card, encode_png(image)).label != row["label"])
    (attacked / row["original"]["path"]).write_bytes(encode_png(wrong))
    assert "even before the change" in verify(attacked, console)["failed"][0]


def test_verify_without_files_reads_the_parts(
    face_folder: Path, trained: Path, tmp_path: Path, console: Console
) -> None:
    attack(AttackConfig(paths=[str(face_folder)], model=str(trained), png=False), tmp_path / "out", console)
    assert not (tmp_path / "out" / "triples").exists()
    checked = verify(tmp_path / "out", console)
    assert checked["success"]
    assert checked["fooled"] >= 8
    assert "Arrow" in checked["read"]


def test_verify_of_an_unfinished_run_is_no_success(attacked: Path, console: Console) -> None:
    record = store.read_json(attacked / "attack.json")
    store.write_json(attacked / "attack.json", record | {"inputs": record["inputs"] + 1})
    assert not verify(attacked, console)["success"]


def test_another_net_of_the_same_input_measures_transfer(attacked: Path, tmp_path: Path, console: Console) -> None:
    card = ModelCard("convnet", {"filters": 2}, CLASSES)
    save(card.build(), card, tmp_path / "other")
    checked = verify(attacked, console, model=str(tmp_path / "other"))
    assert checked["success"]
    assert not checked["same_net"]


def test_a_net_of_another_input_is_refused(attacked: Path, tmp_path: Path, console: Console) -> None:
    card = ModelCard("convnet", {"filters": 2}, CLASSES, size=(64, 64))
    save(card.build(), card, tmp_path / "other")
    with pytest.raises(UserError, match="takes 64x64 grey images, but those"):
        verify(attacked, console, model=str(tmp_path / "other"))


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_told_in_their_order_however_many_are_looked_at_together(
    threads: int, attacked: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verify(attacked, console, report=tmp_path / "whole")
    rows = list(read_rows(attacked))
    spoilt = [row for row in rows if row["status"] == "fooled"][::3]
    for row, spoil in zip(spoilt, [delete_it, put_the_original_in_its_place] * 5, strict=False):
        spoil(attacked, row)
    monkeypatch.setattr(verifying, "ROWS", 2)
    monkeypatch.setattr(verifying, "THREADS", threads)
    checked = verify(attacked, console, report=tmp_path / "report")
    assert [failure.split(":")[0] for failure in checked["failed"]] == [row["name"] for row in spoilt]
    assert checked["still_fools"] == whole["still_fools"] - len(spoilt)
    told = read_table(tmp_path / "report" / "verified.parquet").column("name").to_pylist()
    assert told == [row["name"] for row in rows]


def test_a_large_net_is_asked_about_few_images_at_a_time(
    attacked: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = labels_of

    def noted(net: Any, card: Any, images: np.ndarray, **given: Any) -> list[int]:
        asked.append(len(images))
        return ask(net, card, images, **given)

    monkeypatch.setattr(verifying, "labels_of", noted)
    monkeypatch.setattr(verifying, "VALUES", 3 * 48 * 48)
    assert verify(attacked, console)["success"]
    assert max(asked) == 3
