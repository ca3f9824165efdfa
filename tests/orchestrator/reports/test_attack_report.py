"""Pictures and tables for people."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dxray.models.victims.checkpoint import read
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, attack_shard
from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.attack_report import contact_sheet
from dxray.orchestrator.runs.store import read_rows


def test_the_contact_sheet_shows_the_saved_pixels(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    inputs = list(list_inputs([face_folder], classes=("male", "female")))
    attack_shard(Job(out=tmp_path), 0, inputs, *read(trained))
    rows = [row for row in read_rows(tmp_path) if row["status"] == "fooled"]
    drawn = contact_sheet({"first": rows[:4], "last": rows[-1:]}, ("male", "female"))
    sheet = np.array(Image.open(io.BytesIO(drawn)))
    tile = sheet.shape[1] // 3
    # Three in a row, the fourth below them; then the next band, below its title.
    places = [(28, 0), (28, tile), (28, 2 * tile), (28 + 150, 0), (28 + 300 + 28, 0)]
    assert sheet.shape[0] == places[-1][0] + 150
    for row, (top, left) in zip([*rows[:4], rows[-1]], places, strict=True):
        for i, which in enumerate(("original", "modified", "amplified")):
            saved = np.array(Image.open(tmp_path / row[which]["path"]).resize((120, 120), Image.Resampling.NEAREST))
            x = left + 6 + 126 * i
            assert np.array_equal(sheet[top + 6 : top + 126, x : x + 120, 0], saved), (row["name"], which)


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
