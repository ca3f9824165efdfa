"""Retrainings whose process is killed: started again they end as if nothing had happened."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

CODE = Path(__file__).resolve().parents[2]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", "retrain", *map(str, words)]


def settings() -> dict[str, object]:
    return {"cwd": CODE, "env": os.environ | {"PYTHONPATH": str(CODE), "RAY_USAGE_STATS_ENABLED": "0"}}


def run(*words: object) -> None:
    ended = subprocess.run(command(*words), capture_output=True, text=True, timeout=280, check=False, **settings())  # type: ignore[call-overload]
    assert ended.returncode == 0, ended.stderr[-4000:]


def killed_once(there: Callable[[], bool], *words: object) -> None:
    """Start the command, and kill it as soon as `there`."""
    with subprocess.Popen(
        command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings()
    ) as driver:  # type: ignore[call-overload]
        deadline = time.monotonic() + 240
        while not there() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert driver.poll() is None, "it was over before it was killed"
        driver.kill()


@pytest.mark.timeout(900)
def test_killed_in_attack_fit_and_judging_the_rounds_are_the_same(
    face_table: Path, trained: Path, tmp_path: Path
) -> None:
    asked = ["--data", f"parquet:{face_table}", "--model", trained, "--rounds", 1, "--held-out", 60, "--epochs", 20]
    run(*asked, "--out", tmp_path / "whole")

    out = tmp_path / "out"
    first = out / "rounds" / "0001"
    attack, fit, judged = first / "attack" / "dx", first / "fit", first / "judged" / "square"
    killed_once((attack / "attack.json").exists, *asked, "--out", out)
    assert not (first / "joined.parquet").exists()
    killed_once((fit / "state.safetensors").exists, "--resume", out)
    assert not (fit / "result.json").exists()
    killed_once((judged / "attack.json").exists, "--resume", out)
    assert (fit / "result.json").exists()
    assert not (first / "round.json").exists()
    run(*asked, "--out", out)  # the same command goes on, too

    one, other = (pq.read_table(folder / "rounds.parquet") for folder in (out, tmp_path / "whole"))
    assert one.num_rows == 2
    assert one.equals(other)
    for table in ("joined.parquet",):
        assert pq.read_table(first / table).equals(pq.read_table(tmp_path / "whole" / "rounds" / "0001" / table))
