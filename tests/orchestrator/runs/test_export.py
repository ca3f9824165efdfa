"""`dxray export`: the files are those that the run would have written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dxray.models.victims.checkpoint import read
from dxray.orchestrator.attack.attack import AttackConfig
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, attack_shard
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs import export as exporting
from dxray.orchestrator.runs.export import export
from dxray.orchestrator.runs.store import parts, read_rows, write_image, write_json, write_part

Said = tuple[int, str, str]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_triples_are_those_of_a_run_with_png(
    face_folder: Path, trained: Path, tmp_path: Path, console: Console
) -> None:
    (face_folder / "empty.png").touch()
    (face_folder / "male" / "one\ntwo.png").write_bytes(next(face_folder.rglob("face*.png")).read_bytes())
    inputs = list(list_inputs([face_folder], classes=("male", "female")))
    for out, png in (("with", True), ("without", False)):
        attack_shard(Job(out=tmp_path / out, png=png), 0, inputs, *read(trained))
    config = AttackConfig([str(face_folder)], str(trained), png=False)
    write_json(tmp_path / "without" / "attack.json", {"config": vars(config)})
    result = export(tmp_path / "without", console)
    assert (result["rows"], result["triples"], result["written"], result["kept"]) == (12, 11, 33, 0)
    assert files(tmp_path / "with" / "triples") == files(tmp_path / "without" / "triples")


def test_a_stopped_export_goes_on(
    attacked: Callable[..., Path], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attacked()
    whole = export(run, console, out=run / "whole")
    real, left = write_image, iter(range(40))

    def stopped(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(exporting, "write_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        export(run, console)
    monkeypatch.undo()
    damaged = run / "triples" / "sub" / "adv_face0001_mod.png"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    untouched = run / "triples" / "sub" / "adv_face0001_ori.png"
    before = untouched.stat().st_mtime_ns
    again = export(run, console)
    assert (again["written"], again["kept"]) == (whole["written"] - 39, 39)
    assert untouched.stat().st_mtime_ns == before
    assert files(run / "triples") == files(run / "whole" / "triples")
    assert export(run, console)["written"] == 0


def test_a_filter_chooses_what_is_written_and_what_is_read(
    dxray: Callable[..., Said], attacked: Callable[..., Path], spoil_images: Callable[[Path], None]
) -> None:
    run = attacked()
    expected = {Path(row["modified"]["path"]).name for row in read_rows(run) if (row["l2"] or 0) > 0.245}
    for part in parts(run)[:6]:  # those of faces 0 to 23
        spoil_images(part)
    code, output, _ = dxray("export", run, "--where", "l2 > 0.245 and status == 'fooled'", "--json")
    assert code == 0
    found = json.loads(output)
    assert found["triples"] == len(expected) == 5
    assert {name for name in files(run / "triples") if "_mod" in name} == {f"sub/{name}" for name in expected}


def test_parts_are_no_way_out_of_the_folder(tmp_path: Path, attacked: Callable[..., Path], console: Console) -> None:
    run = attacked(images=2)
    rows = list(read_rows(run))
    for place in ("../../escaped.png", str(tmp_path / "escaped.png")):
        rows[1]["modified"]["path"] = place
        write_part(parts(run)[0], rows)
        with pytest.raises(UserError, match="outside of its folder"):
            export(run, console)
        assert not list(tmp_path.rglob("escaped.png"))


def test_a_full_disk_is_one_sentence(
    dxray: Callable[..., Said], attacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_image", full)
    code, _, errors = dxray("export", attacked())
    assert code == 1
    assert "No space left on device" in errors
    assert "make room" in errors
