"""Attacks on a Ray of their own, in which things die: every image has one row in the end, the same as without."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dxray.models.data.images import encode_png
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.runs.store import parts, read_rows

PLANTED = Path(__file__).parents[1] / "planted"
MARK = 201


def asks_for(path: Path, deed: int) -> None:
    image = np.full((1, 48, 48), 128, np.uint8)
    image[0, 0, :2] = MARK, deed
    path.write_bytes(encode_png(image))


def command(*words: object) -> list[str]:
    return [sys.executable, str(PLANTED / "planted_attack.py"), *map(str, words)]


def settings(**environment: object) -> dict[str, Any]:
    """For a process of the script: shards of 4 images, on 2 CPUs."""
    code = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join(map(str, (PLANTED, code / "src")))
    given = {"PYTHONPATH": paths, "SHARD": "4", "RAY": json.dumps({"num_cpus": 2}), "RAY_USAGE_STATS_ENABLED": "0"}
    return {"env": os.environ | given | {name: str(value) for name, value in environment.items()}, "cwd": code}


def run(*words: object, code: int = 0, **environment: object) -> str:
    asked = settings(**environment)
    ended = subprocess.run(command(*words), capture_output=True, text=True, timeout=240, check=False, **asked)
    assert ended.returncode == code, ended.stderr[-4000:]
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def attack(folder: Path, net: Path, out: Path, *, by: str = "planted") -> list[object]:
    return ["attack", folder, "--model", net, "--out", out, "--attack", by, "--no-png"]


PLAIN = {"planted": "fgsm", "planted_stream": "dx"}  # what planted attacks are where no image asks for anything


@pytest.fixture(scope="module")
def wholes(
    many: Path, trained: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The rows of a run by each planted attack in which nothing dies."""
    found = {}
    for planted, plain in PLAIN.items():
        out = tmp_path_factory.mktemp("whole") / "out"
        assert main([str(word) for word in attack(many, trained, out, by=plain)]) == 0
        found[planted] = rows(out)
    return found


@pytest.fixture
def whole(wholes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return wholes["planted"]


def rows(out: Path) -> dict[str, Any]:
    found = list(read_rows(out))
    assert len({row["name"] for row in found}) == len(found)
    return {row["name"]: row for row in found}


@pytest.mark.parametrize("by", PLAIN)
def test_an_image_that_kills_its_worker_is_recorded_and_no_other_suffers(
    by: str, many: Path, trained: Path, wholes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(many, folder)
    for name in ("01-fault.png", "05-fault.png"):  # in the first shard of each worker
        asks_for(folder / name, 1)
    asks_for(folder / "20-fail.png", 2)
    asks_for(folder / "99-exit.png", 3)  # in a shard of its own but for the one before
    run(*attack(folder, trained, tmp_path / "out", by=by))
    found = rows(tmp_path / "out")
    bad = {name: found.pop(name) for name in list(found) if "-" in name}
    assert found == wholes[by]
    assert {name: row["status"] for name, row in bad.items()} == dict.fromkeys(bad, "failed")
    assert bad["20-fail.png"]["reason"] == f"the attack '{by}' cannot work on this: the planted fault"
    assert {row["reason"] for name, row in bad.items() if name != "20-fail.png"} == {"it killed its worker 2 times"}
    assert not (tmp_path / "out" / "pieces").exists()


def test_a_net_or_attack_that_fails_at_everything_is_said_at_once(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for i in range(200):
        asks_for(tmp_path / "faces" / f"{i:03}.png", 2)
    said = run(*attack(tmp_path / "faces", trained, tmp_path / "out"), code=1, SHARD=64)
    assert "images failed, as in: the attack 'planted' cannot work on this: the planted fault" in said
    assert len(parts(tmp_path / "out")) < 4


@pytest.mark.parametrize(("by", "kills"), [("planted", 2), ("planted_stream", 5)])
def test_killed_at_random_moments_and_resumed_the_table_is_the_same(
    by: str, kills: int, many: Path, trained: Path, wholes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    out, rng = tmp_path / "out", random.Random(0)
    words = attack(many, trained, out, by=by)
    kept: dict[Path, int] = {}
    for _ in range(kills):
        wanted = len(parts(out)) + rng.randint(0, 3)
        with subprocess.Popen(
            command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings(SHARD=1, MILLISECONDS=300)
        ) as driver:
            deadline = time.monotonic() + 120
            while len(parts(out)) < wanted and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.random() / 2)
            driver.kill()
        assert {part: part.stat().st_mtime_ns for part in kept} == kept  # what was finished is not done again
        kept = {part: part.stat().st_mtime_ns for part in parts(out)}
        if (out / "attack.json").exists():
            words = ["attack", "--resume", out]
    assert len(kept) < 48, "the run was over before the last kill"
    run(*words, SHARD=1)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert rows(out) == wholes[by]


def test_a_second_ctrl_c_ends_it_at_once(many: Path, trained: Path, tmp_path: Path) -> None:
    """Between the two each of the workers is in the middle of a shard of half a minute, half of the images."""
    (tmp_path / "spy").mkdir()
    slow = settings(SHARD=24, MILLISECONDS=1_500, SPY=tmp_path / "spy")
    words = command(*attack(many, trained, tmp_path / "out"))
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **slow) as driver:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "spy").iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)  # the driver, which tries the options on an image of its own, and two workers
        assert driver.stderr
        driver.send_signal(signal.SIGINT)
        time.sleep(0.2)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=30)
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    assert "Ctrl-C" in said


@pytest.mark.parametrize("by", PLAIN)
def test_a_worker_that_is_killed_takes_no_image_with_it(
    by: str, many: Path, trained: Path, wholes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "spy").mkdir()
    with subprocess.Popen(
        command(*attack(many, trained, tmp_path / "out", by=by)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **settings(MILLISECONDS=250, SPY=tmp_path / "spy"),
    ) as driver:
        deadline = time.monotonic() + 120
        workers: set[int] = set()
        while not workers and time.monotonic() < deadline:
            # The driver tries the options on an image of its own.
            workers = {int(path.name) for path in (tmp_path / "spy").iterdir()} - {driver.pid}
            time.sleep(0.02)
        os.kill(workers.pop(), signal.SIGKILL)
        _, said = driver.communicate(timeout=240)
    assert driver.returncode == 0, said
    assert rows(tmp_path / "out") == wholes[by]
    assert len(list((tmp_path / "spy").iterdir())) == 4, "no worker took the place of the one that was killed"


@pytest.mark.parametrize("by", PLAIN)
def test_a_node_that_is_lost_takes_no_image_with_it(
    by: str, many: Path, trained: Path, wholes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    said = run(*attack(many, trained, tmp_path / "out", by=by), LOSE_A_NODE=1, MILLISECONDS=200)
    assert "killed after" in said
    assert rows(tmp_path / "out") == wholes[by]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    many: Path, trained: Path, whole: dict[str, Any], tmp_path: Path, small_disk: Path
) -> None:
    out = small_disk / "out"
    (small_disk / "ballast").write_bytes(bytes(430_000))
    said = run(*attack(many, trained, out), code=1)
    assert "No space left on device" in said
    assert f"go on with: dxray attack --resume '{out}'" in said
    kept = {part: part.stat().st_mtime_ns for part in parts(out)}
    assert 0 < len(kept) < 12
    assert all(pq.read_table(part).num_rows == 4 for part in kept)
    (small_disk / "ballast").unlink()
    run("attack", "--resume", out)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert rows(out) == whole
