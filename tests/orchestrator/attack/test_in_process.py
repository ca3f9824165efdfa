"""Few images are attacked without Ray: the same rows, stopped and gone on with either way, and no eternal death."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from dxray.models.victims.checkpoint import read
from dxray.orchestrator.attack import in_process, run, sharding
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.attack.in_process import MARK, SMALL, Compute, InProcess
from dxray.orchestrator.attack.input_lists import write_list
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.sharding import Shard
from dxray.orchestrator.attack.shards import Job
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError
from dxray.orchestrator.runs.store import parts, read_rows
from tests.orchestrator.attack.test_attack_faults import asks_for, command, settings

CODE = Path(__file__).resolve().parents[3]


def rows(out: Path) -> dict[str, Any]:
    return {row["name"]: row for row in read_rows(out)}


def files(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in (out / "triples").rglob("*.png")}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "MOST"):
        monkeypatch.setattr(sharding, name, 3)


@pytest.fixture
def config(face_folder: Path, trained: Path) -> AttackConfig:
    return AttackConfig(paths=[str(face_folder)], model=str(trained))


@pytest.mark.parametrize("by", ["dx", "pgd"])
def test_this_process_and_rays_workers_write_the_same_rows_to_the_bit(
    by: str, many: Path, trained: Path, tmp_path: Path, local_ray: None, console: Console
) -> None:
    shutil.copytree(many, tmp_path / "faces")
    (tmp_path / "faces" / "17-broken.png").write_bytes(b"\x89PNG but no picture")
    made = {}
    for workers in ("local", "ray"):
        asked = AttackConfig([str(tmp_path / "faces")], str(trained), attack=by)
        result = attack(asked, tmp_path / workers, console, workers=workers)
        assert (result["ray_seconds"] is None) == (workers == "local")
        made[workers] = rows(tmp_path / workers), files(tmp_path / workers)
    assert made["local"] == made["ray"]
    assert len(made["local"][0]) == 49
    assert made["local"][0]["17-broken.png"]["status"] == "unreadable"


@pytest.mark.parametrize("then", ["local", "ray"])
@pytest.mark.usefixtures("small_shards", "local_ray")
def test_ctrl_c_keeps_finished_shards_and_either_way_goes_on(
    then: Any, config: AttackConfig, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(config, tmp_path / "whole", console, workers="local")
    with monkeypatch.context() as patch:
        ended: list[Counter[str]] = []

        def pressed(counts: Counter[str], out: Path) -> None:
            ended.append(counts)
            if len(ended) == 2:
                raise KeyboardInterrupt

        patch.setattr(run, "_must_work", pressed)
        with pytest.raises(Interrupted, match=r"stopped by Ctrl-C; \d of 10 images are finished and kept; .*--resume"):
            attack(config, tmp_path / "out", console, workers="local")
    assert not (tmp_path / "out" / MARK).exists()
    kept = {part: part.stat().st_mtime_ns for part in parts(tmp_path / "out")}
    assert 2 <= len(kept) < 4
    resume(tmp_path / "out", console, workers=then)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards", "local_ray")
def test_what_would_take_long_here_is_handed_to_rays_workers(
    config: AttackConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack(config, tmp_path / "whole", Console(), workers="local")
    monkeypatch.setattr(in_process, "PATIENCE", 0.0)
    monkeypatch.setattr(Compute, "in_process", lambda *_: True)  # though Ray is connected
    attack(config, tmp_path / "out", Console())
    assert "the other 7 images would take" in capsys.readouterr().out
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_what_takes_long_stays_here_where_nobody_else_is_to_work(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "PATIENCE", 0.0)
    write_list(tmp_path, 0, list_inputs([face_folder], classes=("male", "female")))
    shards = [Shard(0, 0, 0, 4), Shard(1, 0, 4, 8), Shard(2, 0, 8, 10)]

    def made(others: Any) -> int:
        left = iter(shards)
        pool = InProcess(Job(tmp_path), read(trained), images=10, others=others, say=lambda _: None)
        with pool.hired(1):
            return sum(pool.work_off(lambda: next(left, None)), Counter()).total()

    assert made(None) == 10
    hired = Mock()
    hired.return_value.work_off.return_value = iter([])
    assert made(hired) == 4
    hired.assert_called_once_with(6)


def test_an_attack_on_few_faces_never_imports_ray(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from dxray.orchestrator.cli.app import main; code = main(sys.argv[1:]); "
        "heavy = {'ray', 'matplotlib', 'transformers', 'datasets', 'mlflow', 'optuna'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else code)"
    )
    faces = sorted(face_folder.rglob("*.png"))[:5]
    words = ["attack", *faces, "--model", trained, "--out", tmp_path / "out"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(CODE)},
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "5 of 5 images by 'dx', in this process" in ended.stdout
    assert len(rows(tmp_path / "out")) == 5


def test_an_image_that_kills_the_process_does_not_kill_it_for_ever(
    many: Path, trained: Path, tmp_path: Path, console: Console
) -> None:
    """The same command again starts Ray, whose workers find the image; the others are as if it had not been there."""
    folder, out = tmp_path / "faces", tmp_path / "out"
    folder.mkdir()
    for face in sorted(many.iterdir())[:6]:
        shutil.copy(face, folder)
    attack(AttackConfig([str(folder)], str(trained), attack="fgsm", png=False), tmp_path / "whole", console)
    asks_for(folder / "03-fault.png", 1)
    words = command("attack", folder, "--model", trained, "--out", out, "--attack", "planted", "--no-png")
    # Ray's own way to say how the workers of a Ray that is not started yet are to begin.
    hook = json.dumps({"runtime_env": {"worker_process_setup_hook": "planted_attack.register"}})
    asked = settings(ALONE=1, RAY_JOB_CONFIG_JSON_ENV_VAR=hook)
    died = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, **asked)
    assert died.returncode < 0
    assert (out / MARK).exists()
    ended = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, **asked)
    assert ended.returncode == 0, ended.stderr
    assert "the last process that attacked these images was killed" in ended.stdout
    found = rows(out)
    assert found.pop("03-fault.png")["reason"] == "it killed its worker 2 times"
    assert found == rows(tmp_path / "whole")
    assert not (out / MARK).exists()


def test_torch_has_as_many_threads_after_an_attack_as_before(
    config: AttackConfig, tmp_path: Path, console: Console
) -> None:
    torch.set_num_threads(3)
    try:
        attack(config, tmp_path / "out", console, workers="local")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


class TestWhoWorks:
    @pytest.fixture(autouse=True)
    def _no_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))

    def chosen(self, out: Path, images: int = 5, **given: Any) -> str:
        said: list[str] = []
        return "local" if Compute(**given).in_process(out, images, said.append) else f"ray {''.join(said)}".strip()

    def test_few_images_are_for_this_process_many_are_for_ray(self, tmp_path: Path) -> None:
        assert self.chosen(tmp_path, SMALL) == "local"
        assert self.chosen(tmp_path, SMALL + 1) == "ray"

    def test_what_asks_for_ray_gets_it(self, tmp_path: Path) -> None:
        assert self.chosen(tmp_path, workers="ray") == "ray"
        assert self.chosen(tmp_path, address="auto") == "ray"
        assert self.chosen(tmp_path, gpus_per_worker=0.5) == "ray"

    def test_a_ray_that_is_connected_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
        assert self.chosen(tmp_path) == "ray"
        assert self.chosen(tmp_path, workers="local") == "local"

    def test_a_process_that_was_killed_is_followed_by_workers_unless_local_is_asked_for(self, tmp_path: Path) -> None:
        (tmp_path / MARK).touch()
        assert self.chosen(tmp_path).startswith("ray the last process that attacked these images was killed")
        assert self.chosen(tmp_path, workers="local") == "local"

    def test_what_contradicts_itself_is_said(self) -> None:
        with pytest.raises(UserError, match="local workers are this process alone; leave --address"):
            Compute(workers="local", address="auto")
        with pytest.raises(UserError, match="workers 'both' are not known; known are: auto, local, ray"):
            Compute(workers="both")  # type: ignore[arg-type]
