"""Sweeps on a Ray of their own, in which things go wrong: each KO has its reason, and none hides another trial."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from dxray.orchestrator.runs.buckets import Place

PLANTED = Path(__file__).parents[1] / "planted"
SMALL: dict[str, list[Any]] = {"net": ["convnet"], "convs": [1], "filters": [2], "epochs": [1], "dropout": [0.0]}


def planted(verb: str, out: Place, asked: dict[str, Any], ray: dict[str, Any], **environment: str) -> str:
    """Run a sweep by the script of planted faults; what it said."""
    code = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join(map(str, (PLANTED, code / "src")))
    ended = subprocess.run(
        [sys.executable, PLANTED / "planted_sweep.py", verb, str(out), json.dumps(asked), json.dumps(ray)],
        env=os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"} | environment,
        cwd=code,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout + ended.stderr


def test_five_ways_to_fail_are_five_reasons_and_every_other_trial_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    grids = [
        SMALL | {"seed": [0, 1]},
        SMALL | {"filters": [64], "convs": [4], "batch_size": [512]},
        SMALL | {"lr": [1e3]},
        SMALL | {"net": ["raising", "exiting", "sleeping"]},
    ]
    limits = {"memory_limit": 0.9, "time_limit": 20, "cpus_per_trial": 1}
    said = planted("sweep", out, {"data": "synthetic:800", "grid": grids, **limits}, {"num_cpus": 3})
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"] + ["KO"] * 5
    memory, rate, *others = (row["reason"] for row in rows[2:])
    assert memory.startswith("out of memory: it needs ")
    assert rate.startswith("diverged: the loss of epoch 1 is ")
    assert others == [
        "failed: the planted fault",
        "crashed: its process ended itself with exit code 3",
        "timed out after 20 s",
    ]
    assert all(row["accuracy"] is not None for row in rows[:2])
    assert "Traceback" not in said


def most_at_a_time(out: Path) -> int:
    """How many trials were trained at a time: from when each took its lock to when it wrote its result."""
    moments = []
    for trial in (out / "trials").iterdir():
        moments += [((trial / ".lock").stat().st_mtime_ns, 1), ((trial / "result.json").stat().st_mtime_ns, -1)]
    at_once = [sum(step for _, step in sorted(moments)[: i + 1]) for i in range(len(moments))]
    return max(at_once)


class Meeting(NamedTuple):
    """A sweep of five nets, of which each waits until `at_once` have come."""

    at_once: int
    folder: Path
    said: str


@pytest.fixture(
    scope="module",
    params=[
        ({"max_concurrent": 2}, 0, 2),
        ({"gpus_per_trial": 0.25}, 1, 4),
    ],
    ids=["two", "four on a GPU"],
)
def meeting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Meeting:
    """On 4 CPUs, and a GPU that Ray alone believes in."""
    asked, gpus, at_once = request.param
    grid = SMALL | {"net": ["meeting"], "seed": [0, 1, 2, 3, 4]}
    folder = tmp_path_factory.mktemp("meeting")
    for name in ("meet", "spy"):
        (folder / name).mkdir()
    said = planted(
        "sweep",
        folder / "out",
        {"data": "synthetic:600", "grid": grid, "cpus_per_trial": 1, **asked},
        {"num_cpus": 4, "num_gpus": gpus},
        MEET=str(folder / "meet"),
        MEETING=str(at_once),
        SPY=str(folder / "spy"),
    )
    return Meeting(at_once, folder, said)


def test_as_many_nets_are_trained_at_a_time_as_asked_for_and_no_more(meeting: Meeting) -> None:
    assert f"{meeting.at_once} at a time with 1 CPU each" in meeting.said
    assert most_at_a_time(meeting.folder / "out") == meeting.at_once


def test_all_trainings_read_the_faces_where_the_object_store_holds_them(meeting: Meeting) -> None:
    """One file, mapped by each worker and never copied; none can change them for the others."""
    seen = [json.loads(path.read_text()) for path in sorted((meeting.folder / "spy").iterdir())]
    assert len(seen) == 5
    assert {("/dev/shm" in one["file"], one["writeable"]) for one in seen} == {(True, False)}


def test_a_node_that_dies_takes_no_trial_with_it(tmp_path: Path, two_nets: tuple[dict[str, Any], Path]) -> None:
    asked, whole = two_nets
    said = planted("lose_a_node", tmp_path / "out", asked, {})
    assert "killed in epochs" in said
    for table in ("trials.parquet", "epochs.parquet"):
        assert pq.read_table(tmp_path / "out" / table).equals(pq.read_table(whole / table)), table
