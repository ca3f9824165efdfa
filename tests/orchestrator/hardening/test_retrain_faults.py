"""A retraining whose process is killed, again and again: started again it ends as if nothing had happened."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dxray.orchestrator.hardening import promotion
from dxray.orchestrator.runs.store import read_json, write_json
from tests.orchestrator.killing import kill_session

CODE = Path(__file__).resolve().parents[3]


def killed_once(there: Callable[[], bool], *words: object) -> None:
    """Start the command in a process of its own, with a Ray of its own, and kill it as soon as `there`."""
    command = [sys.executable, "-m", "dxray.orchestrator.cli.app", "retrain", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(CODE / "src"), "RAY_USAGE_STATS_ENABLED": "0"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, cwd=CODE, env=env, **quiet) as driver:  # type: ignore[call-overload]
        deadline = time.monotonic() + 240
        while not there() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert driver.poll() is None, "it was over before it was killed"
        assert there(), "it did not come so far in time"
        kill_session(driver.pid)


def put_back(run: Path, copy: Path) -> None:
    """Copy a run of one round as it was when only the measures of the net that it begins with were done."""
    shutil.copytree(run, copy, symlinks=True)
    shutil.rmtree(copy / "rounds" / "0001")
    (copy / "rounds.parquet").unlink()
    promotion.use(copy, 0)
    record = read_json(copy / "retrain.json")
    record["generations"] = [{name: record["generations"][0][name] for name in ("new", "first_round", "parent_round")}]
    record.pop("changes", None)
    write_json(copy / "retrain.json", record)


@pytest.mark.timeout(900)
def test_killed_in_attack_fit_and_judging_the_rounds_are_the_same(
    one_round: tuple[list[str], Path], trained: Path, tmp_path: Path, dxray: Callable[..., tuple[int, str, str]]
) -> None:
    """One round, killed three times, beside the same that nobody killed."""
    asked, whole = one_round
    out = tmp_path / "out"
    put_back(whole, out)
    first = out / "rounds" / "0001"
    attack, fit, judged = first / "attack" / "dx", first / "fit", first / "judged" / "square"
    killed_once((attack / "attack.json").exists, "--resume", out)
    assert not (first / "joined.parquet").exists()
    killed_once((fit / "state.safetensors").exists, "--resume", out)
    assert not (fit / "result.json").exists()
    killed_once((judged / "attack.json").exists, "--resume", out)
    assert (fit / "result.json").exists()
    assert not (first / "round.json").exists()
    assert dxray("retrain", *asked, "--model", trained, "--out", out)[0] == 0  # the same command goes on, too

    for table in ("rounds.parquet", "rounds/0001/sample.parquet", "rounds/0001/joined.parquet"):
        one, other = (pq.read_table(folder / table) for folder in (out, whole))
        assert one.num_rows
        assert one.equals(other), table
    assert pq.read_table(out / "rounds.parquet")["attacked"].to_pylist() == [None, 40]
    assert promotion.in_use(out) == promotion.in_use(whole)
