"""Pictures and tables for people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.checkpoint import read
from models.images import encode_png
from orchestrator.console import Console
from orchestrator.errors import UserError
from orchestrator.inputs import list_inputs
from orchestrator.report import contact_sheet
from orchestrator.shards import Job, attack_shard
from orchestrator.store import read_rows, write_part


def test_the_contact_sheet_shows_the_saved_pixels(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    inputs = list(list_inputs([face_folder], classes=("male", "female")))
    attack_shard(Job(out=tmp_path), 0, inputs, *read(trained))
    assert contact_sheet(tmp_path, tmp_path / "sheet.png", ("male", "female"), triples=1) == 1
    smallest = min((r for r in read_rows(tmp_path) if r["status"] == "fooled"), key=lambda row: row["l2"])
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    for i, which in enumerate(("original", "modified", "amplified")):
        saved = np.array(Image.open(tmp_path / smallest[which]["path"]).resize((120, 120), Image.Resampling.NEAREST))
        assert np.array_equal(sheet[6:126, 6 + 126 * i : 126 + 126 * i, 0], saved), which


def test_nothing_fooled_is_nothing_to_draw(tmp_path: Path) -> None:
    png = {"bytes": encode_png(np.zeros((1, 48, 48), np.uint8)), "path": "x.png"}
    row = {"name": "a", "status": "missed", "l2": 0.0, "original": png, "modified": png, "amplified": png}
    write_part(tmp_path / "images" / "part-00000.parquet", [row])
    with pytest.raises(UserError, match="nothing to draw"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", ("male", "female"))
    assert not (tmp_path / "sheet.png").exists()


def test_a_bar_that_is_no_terminal_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("attacking", 10, "images") as bar:
        bar.advance(4)
        bar.advance(6, "10 fooled")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("attacking: 10/10 images")
    assert captured.err.endswith("10 fooled\n")


def test_text_leaves_standard_output_to_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        console = Console(as_json=as_json)
        console.say("a sentence")
        console.table("table", ["n"], [["1"]])
        console.result({"x": 1})
        captured = capsys.readouterr()
        assert ("a sentence" in captured.out) is not as_json
        assert (captured.out == '{"x": 1}\n') is as_json
        assert ("table" in captured.err) is as_json
