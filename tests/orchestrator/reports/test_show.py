"""`dxray show`: the summary is that of the rows, images are read only where they are drawn, memory is bounded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dxray.orchestrator.runs import rows
from dxray.orchestrator.runs.store import parts, read_json, read_rows, write_json

Said = tuple[int, str, str]


def asked(dxray: Callable[..., Said], *words: object) -> dict[str, Any]:
    code, output, _ = dxray("show", *words, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(output)
    return found


def names(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["name"].removeprefix("sub/face").removesuffix(".jpg")) for row in rows]


def test_the_summary_is_that_of_the_rows(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked()
    found = asked(dxray, run)
    read = list(read_rows(run))
    assert found["inputs"] == found["expected"] == 30
    for status, count in found["counts"].items():
        assert count == sum(row["status"] == status for row in read)
    assert found["counts"]["unreadable"] == 4
    assert found["reasons"] == {"it is empty": 2, "it is truncated": 2}
    distances = [row["l2"] for row in read if row["status"] == "fooled"]
    assert found["distances"]["l2"] == pytest.approx(
        {"min": min(distances), "max": max(distances), "mean": np.mean(distances), "median": np.median(distances)}
        | {"q10": np.quantile(distances, 0.1), "q90": np.quantile(distances, 0.9)}
    )
    assert found["gradients_per_image"] == sum(row["gradients"] or 0 for row in read) / found["right"]


def test_hard_is_what_was_missed_then_what_took_most(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked()
    found = asked(dxray, run, "--count", 5)
    assert names(found["hardest"]) == [20, 0, 29, 28, 27]  # 10 could not be read
    assert names(found["easiest"]) == [1, 2, 4, 5, 6]
    assert names(found["slowest"]) == [29, 28, 27, 26, 25]
    assert all("bytes" not in json.dumps(found[which]) for which in ("hardest", "easiest", "slowest"))


def test_hard_is_measured_in_the_norm_that_was_kept_small(
    dxray: Callable[..., Said], attacked: Callable[..., Path]
) -> None:
    found = asked(dxray, attacked(options={"norm": "linf"}), "--where", "status == 'fooled'", "--count", 2)
    assert found["norm"] == "linf"
    assert names(found["hardest"]) == [1, 2]


@pytest.mark.parametrize(("attack", "norm"), [("dx", "l2"), ("pgd", "linf"), ("fgsm", "linf"), ("ddn", "l2")])
def test_that_norm_is_the_attacks_own_where_none_was_asked_for(
    attack: str, norm: str, dxray: Callable[..., Said], attacked: Callable[..., Path]
) -> None:
    run = attacked()
    record = read_json(run / "attack.json")
    write_json(run / "attack.json", record | {"config": record["config"] | {"attack": attack}})
    assert asked(dxray, run)["norm"] == norm


def test_a_filter_holds_for_all_that_is_said(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked()
    found = asked(dxray, run, "--where", "0.055 < l2 and l2 < 0.095")
    assert found["inputs"] == found["counts"]["fooled"] == 4
    assert found["distances"]["l2"]["max"] == pytest.approx(0.09)
    assert names(found["hardest"]) == [9, 8, 7, 6]
    assert names(found["easiest"]) == [6, 7, 8, 9]
    with Image.open(found["contact_sheet"]) as sheet:
        assert sheet.height == 28 + 2 * 150  # four among the hardest, none of them once more among the easiest


def test_the_sheet_shows_the_hardest_above_the_easiest(
    dxray: Callable[..., Said], attacked: Callable[..., Path], tmp_path: Path
) -> None:
    run = attacked()
    found = asked(dxray, run, "--count", 2, "--out", tmp_path / "elsewhere")
    assert found["contact_sheet"] == str(tmp_path / "elsewhere" / "contact_sheet.png")
    assert not (run / "contact_sheet.png").exists()
    sheet = np.array(Image.open(found["contact_sheet"]))
    saved = {row["name"]: row for row in read_rows(run)}
    for top, row in ((28, found["hardest"][0]), (28 + 150 + 28, found["easiest"][0])):
        (tmp_path / "mod.png").write_bytes(saved[row["name"]]["modified"]["bytes"])
        modified = np.array(Image.open(tmp_path / "mod.png").resize((120, 120), Image.Resampling.NEAREST))
        assert np.array_equal(sheet[top + 6 : top + 126, 132:252, 0], modified)


def test_images_are_read_of_drawn_rows_alone(
    dxray: Callable[..., Said], attacked: Callable[..., Path], spoil_images: Callable[[Path], None]
) -> None:
    run = attacked()
    for part in parts(run)[1:-1]:
        spoil_images(part)
    found = asked(dxray, run, "--where", "status == 'fooled'", "--count", 2)
    assert names(found["hardest"] + found["easiest"]) == [29, 28, 1, 2]  # of the last part and the first
    assert found["inputs"] == 24
    assert dxray("show", run, "--where", "status == 'fooled'", "--count", 3)[0] == 1


def test_a_run_that_goes_on_is_said_to_be_unfinished(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked(finished=False)
    (run / "images" / ".part-00099.parquet.node.1.partial").write_bytes(b"half a part")
    parts(run)[-1].unlink()
    code, text, _ = dxray("show", run)
    assert code == 0
    assert "28 images" in text
    assert "not finished: it was asked for 30 images" in text
    assert f"dxray attack --resume '{run}'" in text


def test_nothing_to_draw_is_no_mistake(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked(finished=False)
    for where in ("status == 'unreadable'", "l2 > 1000"):
        code, text, _ = dxray("show", run, "--where", where)
        assert code == 0
        assert "nothing to draw" in text
    for part in parts(run):
        part.unlink()
    assert asked(dxray, run)["inputs"] == 0
    assert not (run / "contact_sheet.png").exists()


def test_none_listed_is_a_summary_alone(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    found = asked(dxray, attacked(), "--count", 0)
    assert found["inputs"] == 30
    assert found["hardest"] == found["easiest"] == found["slowest"] == []
    assert found["contact_sheet"] is None


def test_mistakes_are_one_sentence(dxray: Callable[..., Said], attacked: Callable[..., Path], tmp_path: Path) -> None:
    run = attacked()
    for words, said in (
        ((run, "--where", "l2 = 3"), "expected something like"),
        ((tmp_path,), "holds no attack.json"),
        ((run, "--out", run / "attack.json"), "cannot be written to"),
    ):
        code, _, errors = dxray("show", *words)
        assert code == 1
        assert errors.count("\n") == 1
        assert said in errors
    parts(run)[2].write_bytes(b"PAR1 no more PAR1")
    code, _, errors = dxray("show", run)
    assert code == 1
    assert "part-00002.parquet" in errors
    assert errors.count("\n") == 1


def test_a_run_that_is_compacted_meanwhile_is_said(
    dxray: Callable[..., Said], attacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attacked()
    listed = parts(run)
    listed[-1].unlink()
    monkeypatch.setattr(rows, "parts", lambda run: listed)
    code, _, errors = dxray("show", run)
    assert code == 1
    assert "replaced while they were read; give the command again" in errors
