"""The command as a person meets it: exit codes, one JSON object, and one clear sentence for each mistake."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.orchestrator.attack import attack as runs
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import parts, read_rows
from tests.cluster.machines import wait_until

Said = tuple[int, str, str]


def one_sentence(said: Said) -> str:
    """Standard error of a command that failed for a reason that a person can put right."""
    code, _, errors = said
    assert code == 1
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1, errors
    assert lines[0].startswith("dxray: ")
    assert "Traceback" not in errors
    return lines[0]


DEAF = """
import os, signal, sys, time
from dxray.orchestrator.cli import app
app.ORDERLY = float(sys.argv[2])

def deaf():
    for _ in range(int(sys.argv[1])):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1000)
        except KeyboardInterrupt:
            pass
    time.sleep(1000)

app.guarded(deaf)
"""


@pytest.mark.parametrize(
    ("times", "orderly", "sentence"),
    [
        (1, 0.1, "stopped by Ctrl-C, at once after 0.1 s of ending; what was finished before is kept"),
        (2, 60, "stopped at once by a second Ctrl-C; what was finished before is kept"),
    ],
)
def test_a_stop_that_does_not_end_is_cut_short(times: int, orderly: float, sentence: str) -> None:
    """As where Ray has lost the interrupt, or waits for ever in its own end."""
    words = [sys.executable, "-c", DEAF, str(times), str(orderly)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stderr) == (130, f"dxray: {sentence}\n")


CAUGHT = """
import sys
from dxray.orchestrator.cli.app import guarded

sys.exit(guarded(lambda: exec("raise KeyboardInterrupt")))
"""


def test_ctrl_c_within_a_string_that_is_executed_ends_with_our_code(tmp_path: Path) -> None:
    """CPython 3.11 ends `python -m` by SIGINT then, though it was caught: a shell's `trap` would see it."""
    (tmp_path / "caught.py").write_text(CAUGHT)
    words = [sys.executable, "-m", "caught"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stderr) == (130, "dxray: stopped by Ctrl-C\n")


def test_commands_in_one_process_leave_no_threads(trained: Path, face_folder: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        main(["predict", str(next(face_folder.rglob("*.png"))), "--model", str(trained)])
    wait_until(lambda: threading.active_count() <= before, 10)


def test_predict_prints_the_class_and_its_probability(
    dxray: Callable[..., Said], trained: Path, face_folder: Path
) -> None:
    face = next(face_folder.rglob("*.png"))
    code, text, _ = dxray("predict", face, "--model", trained)
    assert code == 0
    name, share = text.rsplit(": ", 1)[1].split(" ")
    assert name == face.parent.name
    assert 50 < float(share.strip("(%)\n")) <= 100
    code, output, errors = dxray("predict", face, "--model", trained, "--json", "--out", face_folder)
    assert pq.read_table(face_folder / "predictions.parquet")["class"].to_pylist() == [name]
    read = json.loads(output)
    assert read["images"][0]["class"] == name
    assert str(face) in errors


def test_predict_goes_on_after_an_image_that_cannot_be_read(
    dxray: Callable[..., Said], trained: Path, face_folder: Path
) -> None:
    code, text, errors = dxray("predict", face_folder / "nowhere.png", *face_folder.rglob("*.png"), "--model", trained)
    assert code == 1
    assert len(text.splitlines()) == 10
    assert "nowhere.png" in errors


@pytest.mark.usefixtures("local_ray")
def test_attack_and_verify_speak_json_alone_on_standard_output(
    dxray: Callable[..., Said], trained: Path, face_folder: Path, tmp_path: Path
) -> None:
    (face_folder / "broken.png").write_text("no picture")
    code, output, errors = dxray("attack", face_folder, "--model", trained, "--out", tmp_path / "out", "--json")
    result = json.loads(output)
    assert code == 0
    assert result["inputs"] == 11
    assert result["counts"]["unreadable"] == 1
    assert "that the net had right" in errors
    code, output, _ = dxray("verify", tmp_path / "out", "--json", "--out", tmp_path / "report")
    assert code == 0
    found = pq.read_table(tmp_path / "report" / "verified.parquet").to_pylist()
    assert len(found) == 11
    assert sum(row["verdict"] == "still fools" for row in found) == result["counts"]["fooled"]
    assert json.loads(output)["still_fools"] == result["counts"]["fooled"]
    code, _, _ = dxray("attack", face_folder, "--model", trained, "--out", tmp_path / "strict", "--strict")
    assert code == 1


@pytest.mark.usefixtures("local_ray")
def test_verify_fails_where_a_file_no_longer_fools(
    dxray: Callable[..., Said], trained: Path, face_folder: Path, tmp_path: Path
) -> None:
    dxray("attack", face_folder, "--model", trained, "--out", tmp_path / "out")
    row = next(row for row in read_rows(tmp_path / "out") if row["status"] == "fooled")
    (tmp_path / "out" / row["modified"]["path"]).write_bytes(row["original"]["bytes"])
    code, text, _ = dxray("verify", tmp_path / "out")
    assert code == 1
    assert f"does not fool: {row['name']}" in text


def test_each_mistake_gets_one_sentence(
    dxray: Callable[..., Said], trained: Path, face_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "net.pt").write_bytes(b"\x80\x02}")
    out = ["--out", tmp_path / "out"]
    a_face = next(face_folder.rglob("*.png"))
    mistakes: list[tuple[Sequence[object], str]] = [
        (["attack", tmp_path / "nowhere", "--model", trained, *out], "nowhere' does not exist"),
        (["attack", tmp_path / "empty", "--model", trained, *out], "holds nothing"),
        (["attack", tmp_path / "texts", "--model", trained, *out], "1 files of which none ends in"),
        (["attack", face_folder, "--model", tmp_path / "nowhere", *out], "does not exist, so there is no model.json"),
        (["attack", face_folder, "--model", tmp_path / "net.pt", *out], "pickled files"),
        (["attack", face_folder, *out], "needs --model"),
        (["attack", face_folder, "--model", trained, "--out", tmp_path / "file" / "x"], "cannot be written to"),
        (["attack", face_folder, "--model", trained, "--name", "a_b", *out], "several were given"),
        (["attack", a_face, "--model", trained, "--name", "../a_b", *out], "no plain name"),
        (["attack", face_folder, "--model", trained, "--target", "cat", *out], "no class 'cat'"),
        (["attack", "--resume", tmp_path / "empty"], "holds no attack.json"),
        (["attack", "--resume", tmp_path / "empty", "--norm", "l1"], "leave --norm out"),
        (
            ["attack", "--update", "x", "--attack", "pgd", "--eps", "8/255", "--no-png"],
            "leave --attack, --eps, --png out",
        ),
        (["attack", "--resume", tmp_path / "empty", "--strict", "--gpus-per-worker", 0, "--json"], "no attack.json"),
        (["verify", tmp_path / "empty"], "holds no attack.json"),
        (["predict", tmp_path / "nowhere.png", "--model", trained], "nowhere.png"),
        (["sweep", "--data", f"folder:{tmp_path / 'nowhere'}", *out], "nowhere"),
        (["sweep", "--data", "faces:x", *out], "synthetic"),
        (["sweep", "--data", "synthetic:60", "--net", "alexnet", *out], "known are"),
        (["demo", "--out", face_folder], "is not empty"),
    ]
    for words, expected in mistakes:
        assert expected in one_sentence(dxray(*words)), words
    assert not (tmp_path / "out" / "attack.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_said(
    dxray: Callable[..., Said], trained: Path, face_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    said = one_sentence(dxray("attack", face_folder, "--model", trained, "--out", tmp_path / "locked" / "out"))
    assert "cannot be written to" in said


@pytest.mark.usefixtures("local_ray")
def test_a_net_of_another_size_attacks_at_its_own(
    dxray: Callable[..., Said], face_folder: Path, tmp_path: Path
) -> None:
    card = ModelCard("convnet", {"filters": 2}, ("male", "female"), size=(32, 40))
    save(card.build(), card, tmp_path / "net")
    code, _, _ = dxray("attack", face_folder, "--model", tmp_path / "net", "--out", tmp_path / "out")
    assert code == 0
    saved = next((tmp_path / "out" / "triples").rglob("*_mod.png"))
    with Image.open(saved) as picture:
        assert picture.size == (40, 32)


def test_show_without_a_desktop_is_said(
    dxray: Callable[..., Said], trained: Path, face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    face = next(face_folder.rglob("*.png"))
    assert "needs a desktop" in one_sentence(dxray("predict", face, "--model", trained, "--show"))


def test_an_address_where_no_ray_answers_is_said(trained: Path, face_folder: Path, tmp_path: Path) -> None:
    """A process of its own: in this one a Ray may be connected already."""
    command = [sys.executable, "-m", "dxray.orchestrator.cli.app", "attack", face_folder, "--model", trained]
    command += ["--out", tmp_path / "out", "--address", "127.0.0.1:1"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "no Ray cluster could be joined at '127.0.0.1:1'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("local_ray")
def test_a_running_cluster_is_joined_by_its_address(trained: Path, face_folder: Path, tmp_path: Path) -> None:
    """The tests' own Ray is the cluster; the command is a process of its own that knows its address alone."""
    ray = sys.modules["ray"]  # the fixture has loaded it
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "dxray.orchestrator.cli.app", "attack", face_folder, "--model", trained]
    command += ["--out", tmp_path / "out", "--address", address]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(list(read_rows(tmp_path / "out", ["name"]))) == 10
    assert ray.is_initialized()  # and the cluster runs on


def test_ctrl_c_keeps_finished_shards_and_says_how_to_go_on(trained: Path, faces: object, tmp_path: Path) -> None:
    """A real process, stopped as a person stops it; the command that it prints then ends the run."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, image in enumerate(faces.images[:140]):  # type: ignore[attr-defined]  # a first shard has 64
        (folder / f"{i:03}.png").write_bytes(encode_png(image))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dxray.orchestrator.cli.app", "attack", str(folder), "--model", str(trained)]
    command += ["--out", str(out), "--steps", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not parts(out) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"go on with: dxray attack --resume '{out}'" in said
    kept = {part: part.stat().st_mtime_ns for part in parts(out)}
    assert kept
    assert f"; {len(list(read_rows(out, ['name'])))} of 140 images are finished and kept" in said
    ended = subprocess.run(
        [*command[:4], "--resume", str(out)], capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list(read_rows(out, ["name"]))) == 140
    assert len(kept) < len(parts(out))
    assert all(part.stat().st_mtime_ns == when for part, when in kept.items())


@pytest.mark.parametrize("words", [["faces/", "--model", "net"], ["--resume", "runs/attack"]])
def test_an_attack_is_told_by_whom_to_be_worked_off(
    words: list[str], dxray: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def attack(*_: Any, workers: str, **__: Any) -> None:
        asked.append(workers)
        raise UserError("enough")

    monkeypatch.setattr(runs, "attack", attack)
    monkeypatch.setattr(runs, "resume", attack)
    one_sentence(dxray("attack", *words, "--workers", "local"))
    assert asked == ["local"]


def test_a_run_in_a_bucket_is_understood_where_pydantic_is_loaded(
    dxray: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the head of a cluster, where Ray loads it: cyclopts then has it check the types."""
    importlib.import_module("pydantic")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "s3://nowhere/sweep" in one_sentence(dxray("sweep", "--show", "s3://nowhere/sweep"))


@pytest.mark.parametrize("verb", ["sweep", "attack", "retrain"])
def test_a_run_in_a_bucket_is_one_option(verb: str, dxray: Callable[..., Said]) -> None:
    code, _, said = dxray(verb, "--resume", "s3://lab/run", "--seed", 3)
    assert code == 1
    assert said.rstrip().endswith("leave --seed out")
