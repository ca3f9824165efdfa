"""`dxray compact`: the same rows in fewer files, and at whatever moment it is killed nothing is lost or doubled."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dxray.models.data.images import encode_png
from dxray.orchestrator.attack import sharding
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs import compact as compacting
from dxray.orchestrator.runs.compact import compact
from dxray.orchestrator.runs.store import locked, parts, read_rows, write_part

Said = tuple[int, str, str]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return list(read_rows(run))


def test_the_rows_and_the_schema_stay(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked()
    before, schema = rows_of(run), pq.read_schema(parts(run)[0])
    code, output, _ = dxray("compact", run, "--json")
    assert code == 0
    assert json.loads(output) | {"bytes": 0} == {"out": str(run), "parts_before": 8, "parts": 1, "rows": 30, "bytes": 0}
    assert [part.name for part in parts(run)] == ["part-00000.parquet"]
    assert rows_of(run) == before
    assert pq.read_schema(parts(run)[0]).equals(schema, check_metadata=True)
    assert json.loads((run / "attack.json").read_text())["compacted"] is True
    assert json.loads((run / "attack.json").read_text())["inputs"] == 30
    assert {path.name for path in run.iterdir()} == {"images", "attack.json", ".lock"}


def test_parts_grow_to_a_size_and_no_further(
    attacked: Callable[..., Path], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attacked()
    before = rows_of(run)
    size = parts(run)[0].stat().st_size
    monkeypatch.setattr(compacting, "LARGE", 3 * size)
    monkeypatch.setattr(compacting, "ROWS", 5)
    result = compact(run, console)
    assert 3 <= result["parts"] <= 4
    assert rows_of(run) == before
    assert pq.read_metadata(parts(run)[0]).row_group(0).num_rows == 5
    kept = [part.stat().st_mtime_ns for part in parts(run)]
    again = compact(run, console)  # nothing left to merge is nothing done
    assert again["parts"] == again["parts_before"] == result["parts"]
    assert [part.stat().st_mtime_ns for part in parts(run)] == kept


def test_parts_of_added_inputs_come_to_lie_by_name(attacked: Callable[..., Path], console: Console, rng: Any) -> None:
    run = attacked()
    png = {"bytes": encode_png(rng.integers(0, 256, (1, 48, 48)).astype("uint8")), "path": "x"}
    added = [{"name": f"sub/face{i:04d}+.jpg", "status": "fooled", "modified": png} for i in range(0, 30, 5)]
    write_part(run / "images" / "part-00008.parquet", added)
    before = rows_of(run)
    compact(run, console)
    assert rows_of(run) == sorted(before, key=lambda row: row["name"])


@pytest.mark.usefixtures("local_ray")
def test_a_compacted_run_is_resumed_and_updated(
    face_folder: Path, trained: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "FIRST", 3)  # ten faces are more than one part
    out = tmp_path / "out"
    attack(AttackConfig([str(face_folder)], str(trained), attack="fgsm"), out, console)
    before = rows_of(out)
    assert compact(out, console)["parts_before"] > 1
    assert len(parts(out)) == 1
    assert resume(out, console)["inputs"] == 10
    assert rows_of(out) == before
    assert len(parts(out)) == 1
    face = next(face_folder.rglob("*.png"))
    for added in range(2):
        (face.parent / f"new{added}.png").write_bytes(face.read_bytes())
        assert resume(out, console, update=True)["inputs"] == 11 + added
        assert len(parts(out)) == 2
        assert len({row["name"] for row in rows_of(out)}) == len(rows_of(out)) == 11 + added
        assert compact(out, console)["parts"] == 1
        assert [row for row in rows_of(out) if "new" not in row["name"]] == before
    parts(out)[0].write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(UserError, match="put it back from a copy, or start a run in another folder"):
        resume(out, console)
    parts(out)[0].unlink()
    with pytest.raises(UserError, match="holds 0 rows for 12 inputs; put its parts back from a copy"):
        resume(out, console)
    (face.parent / "new2.png").write_bytes(face.read_bytes())
    with pytest.raises(UserError, match="holds 1 rows for 13 inputs"):
        resume(out, console, update=True)
    assert [row["name"] for row in rows_of(out)] == [f"{face.parent.name}/new2.png"]


def test_an_unfinished_run_is_left_alone(dxray: Callable[..., Said], attacked: Callable[..., Path]) -> None:
    run = attacked(finished=False)
    code, _, errors = dxray("compact", run)
    assert code == 1
    assert errors == (
        f"dxray: '{run}' is not finished, so it cannot be compacted; first: dxray attack --resume '{run}'\n"
    )
    assert len(parts(run)) == 8


def test_a_folder_that_is_no_run_stays_as_it_is(dxray: Callable[..., Said], tmp_path: Path) -> None:
    code, _, errors = dxray("compact", tmp_path)
    assert code == 1
    assert "holds no attack.json" in errors
    assert not list(tmp_path.iterdir())


def test_a_run_in_use_is_left_alone(attacked: Callable[..., Path], console: Console) -> None:
    run = attacked()
    with locked(run), pytest.raises(UserError, match="another dxray process works on"):
        compact(run, console)
    assert len(parts(run)) == 8


# Forks for each moment that it is told, since its imports take seconds, and says how the fork ended.
KILLED = """
import os, signal, sys
from pathlib import Path
from dxray.orchestrator.runs import compact as compacting
from dxray.orchestrator.console import Console

def killed_instead(event, args):
    global left
    # Whatever changes the disk is a moment to be killed at; an "open" for reading is not.
    changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
    changes = changes or (event == "open" and isinstance(args[1], str) and "w" in args[1])
    if changes and args[0] and str(args[0]).startswith(sys.argv[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

compacting.LARGE = int(sys.argv[2])
for moment in sys.stdin:
    child = os.fork()
    if child == 0:
        left = int(moment)
        sys.addaudithook(killed_instead)
        compacting.compact(Path(sys.argv[1]), Console())
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_any_moment_it_loses_and_doubles_nothing(
    attacked: Callable[..., Path], console: Console, tmp_path: Path
) -> None:
    run = attacked(images=12)
    large = sum(part.stat().st_size for part in parts(run)[:2])  # two and one
    before = rows_of(run)
    original = tmp_path / "original"
    run.rename(original)
    seen = set()
    words = [sys.executable, "-c", KILLED, str(run), str(large)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as compacts:
        assert compacts.stdin
        assert compacts.stdout
        for moment in range(100):
            subprocess.run(["rm", "-rf", run], check=True)
            subprocess.run(["cp", "-r", original, run], check=True)
            print(moment, file=compacts.stdin, flush=True)
            ended = int(compacts.stdout.readline())
            assert ended in (0, -signal.SIGKILL)
            assert rows_of(run) == before
            # What others see in `images/` is whole, or the folder is not there.
            if (run / "images").exists():
                assert pq.read_table(run / "images", columns=["name"], partitioning=None).num_rows == len(before)
            seen.add(((run / "images").exists(), len(parts(run))))
            if ended == 0:
                break
            compact(run, console)
            assert rows_of(run) == before
            assert len(list((run / "images").glob("part-*"))) == 1
            left = {path.name for path in run.iterdir() if path.suffix != ".partial"}
            assert left == {"images", "attack.json", ".lock"}
    assert ended == 0
    assert seen == {(True, 3), (False, 3), (True, 2)}, "it was not killed before, between and after the two renames"


def test_who_works_on_a_run_finds_its_parts_in_place(attacked: Callable[..., Path]) -> None:
    run = attacked()
    (run / "images").rename(run / ".images.replaced")
    (run / ".images.merged").mkdir()
    with locked(run):
        assert sorted(path.name for path in run.iterdir()) == [".lock", "attack.json", "images"]
        assert len(list((run / "images").iterdir())) == 8


def test_a_full_disk_leaves_the_parts_as_they_were(
    dxray: Callable[..., Said], attacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attacked()
    before = {part: part.read_bytes() for part in parts(run)}

    def full(*_: object, **__: object) -> None:
        (run / ".images.merged").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compacting, "write_table", full)
    code, _, errors = dxray("compact", run)
    assert code == 1
    assert "No space left on device" in errors
    assert "as they were" in errors
    assert {part: part.read_bytes() for part in parts(run)} == before
    assert not (run / ".images.merged").exists()
