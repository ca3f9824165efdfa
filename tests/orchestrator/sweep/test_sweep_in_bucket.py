"""Sweeps in a bucket: the tables of one in a folder, whoever is killed, and whichever machine goes on."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from dxray.orchestrator.runs import leases
from dxray.orchestrator.runs.buckets import ObjectPath, Place, files
from dxray.orchestrator.runs.store import read_json, read_table
from dxray.orchestrator.sweep import tuning
from dxray.orchestrator.sweep.callbacks import folder_of
from dxray.orchestrator.sweep.trial import STATE
from tests.cluster.machines import wait_until
from tests.orchestrator.amazon import SHORT, written
from tests.orchestrator.attack.test_attack_faults import command, run, settings
from tests.orchestrator.sweep.test_sweep_faults import planted

Said = tuple[int, str, str]
EPOCHS = 60
ASKED = ["--data", "synthetic:300", "--net", "convnet", "--convs", "1", "--filters", "2", "--epochs", str(EPOCHS)]
ASKED += ["--seed", "0", "1", "2", "--cpus-per-trial", "1", "--max-concurrent", "1"]
pytestmark = pytest.mark.usefixtures("bucket")


def assert_same(one: Place, other: Place) -> None:
    for table in ("trials.parquet", "epochs.parquet"):
        assert read_table(one / table).equals(read_table(other / table)), table
    weights = "best/model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


def epochs_of(state: ObjectPath, copy: Path) -> list[dict[str, Any]]:
    state.download(copy)
    with safe_open(copy, framework="pt") as file:
        return list(json.loads(file.metadata()["history"]))


@pytest.mark.usefixtures("local_ray")
def test_a_killed_sweep_goes_on_from_the_bucket_alone_and_has_the_tables_of_one_in_a_folder(
    tmp_path: Path, many: Path, dxray: Callable[..., Said]
) -> None:
    assert dxray("sweep", *ASKED, "--out", tmp_path / "whole")[0] == 0
    out = ObjectPath("s3://lab/a sweep")

    def in_their_midst() -> list[ObjectPath]:
        ended = files(out, "trials/*/result.json")
        found = [
            state for state in files(out, "trials/*/state.safetensors") if state.parent / "result.json" not in ended
        ]
        return found if ended else []

    with subprocess.Popen(
        command("sweep", *ASKED, "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **settings(LEASE=SHORT),
    ) as driver:
        wait_until(in_their_midst, 120)
        driver.send_signal(signal.SIGKILL)
    (state,) = in_their_midst()
    done = epochs_of(state, tmp_path / "state")
    assert 0 < len(done) < EPOCHS
    ended = {file: written(file) for file in files(out, "trials/*/result.json")}
    said = run("sweep", "--resume", out, LEASE=SHORT)
    assert f"{3 - len(ended)} of 3 nets to train" in said
    assert {file: written(file) for file in ended} == ended
    assert read_json(state.parent / "result.json")["epochs"][: len(done)] == done  # with the seconds that each took
    assert not files(out, "trials/*/state.safetensors")
    assert_same(out, tmp_path / "whole")
    assert files(out, "tune-*/*/events.out.tfevents.*")

    code, shown, _ = dxray("sweep", "--show", out, "--json")
    assert (code, [row["status"] for row in json.loads(shown)["trials"]]) == (0, ["ok"] * 3)
    for model in (tmp_path / "whole", out, out / "best", out / "trials" / "0001"):
        assert dxray("predict", many / "00.png", "--model", model)[0] == 0
    code, _, wrong = dxray("predict", many / "00.png", "--model", out / "trials")
    assert (code, wrong.count("\n")) == (1, 1)
    assert f"{out / 'trials'} has no model.json" in wrong


@pytest.mark.usefixtures("short_lease")
def test_a_sweep_that_another_process_works_on_is_refused(dxray: Callable[..., Said]) -> None:
    out = ObjectPath("s3://lab/held")
    with leases.leased(out, print):
        code, _, said = dxray("sweep", *ASKED, "--out", out)
    assert code == 1
    assert said == "dxray: another dxray process works on 's3://lab/held' now; wait for it or choose another --out\n"


def test_a_node_that_dies_takes_no_trial_with_it(two_nets: tuple[dict[str, Any], Path]) -> None:
    asked, whole = two_nets
    out = ObjectPath("s3://lab/lost node")
    assert "killed in epochs" in planted("lose_a_node", out, asked, {})
    assert_same(out, whole)


def test_a_trial_that_is_stopped_early_is_measured_from_what_it_left_in_the_bucket() -> None:
    out = ObjectPath("s3://lab/stopped")
    asked = ["--data", "synthetic:300", "--net", "convnet", "--convs", "1", "--filters", "2", "--epochs", "18"]
    asked += ["--seed", *"012345", "--lr", "0.01", "1e-7", "--stop-early", "--cpus-per-trial", "1"]
    run("sweep", *asked, "--out", out)
    rows = read_table(out / "trials.parquet").to_pylist()
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert stopped
    assert {row["status"] for row in rows} <= {"ok", "stopped"}
    assert all(row["accuracy"] is not None for row in stopped)


def test_the_state_is_in_the_bucket_before_its_epoch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops a training by what it reports finds the state that it reported of."""
    out, reported = ObjectPath("s3://lab/order"), list[tuple[int | None, bytes]]()

    def trained(_: Any, __: Any, folder: Path, *, on_epoch: Callable[[dict[str, Any]], None], **___: Any) -> None:
        for epoch in (1, 2):
            (folder / STATE).write_bytes(f"epoch {epoch}".encode())
            on_epoch({"epoch": epoch})

    monkeypatch.setattr(tuning, "run_trial", trained)
    monkeypatch.setattr("ray.get", lambda _: {})

    def report(row: dict[str, Any]) -> None:
        reported.append((row.get("epoch"), (folder_of(out, 3) / STATE).read_bytes()))

    monkeypatch.setattr("ray.tune.report", report)
    limits = tuning.Limits(threads=1, gpu_share=0.0, seconds=None, gib=None, at_once=1)
    tuning._trial({"trial": 3}, [{"epochs": 2}] * 4, [None], out, limits)  # type: ignore[list-item]
    assert reported == [(1, b"epoch 1"), (2, b"epoch 2"), (None, b"epoch 2")]
