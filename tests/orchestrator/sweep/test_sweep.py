"""The sweep on real Ray Tune: every trial in the table, the best one saved, nothing lost or done twice after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces, read
from dxray.models.training.train import evaluate
from dxray.models.victims.checkpoint import load
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.reports.trial_table import show_table
from dxray.orchestrator.sweep.grid import PARAMETERS, expand, of_net
from dxray.orchestrator.sweep.sweep import SweepConfig, asked, resume, sweep

GRID: dict[str, list[Any]] = {"net": ["convnet"], "convs": [1], "filters": [4, 8], "epochs": [2], "dropout": [0.0]}
FAST: dict[str, list[Any]] = {"lr": [1e-2], "batch_size": [32]}


def config(**grid: list[Any]) -> SweepConfig:
    return SweepConfig(data="halves", grid=GRID | FAST | grid, cpus_per_trial=1)


@pytest.mark.usefixtures("local_ray")
def test_every_trial_has_a_row_and_the_best_net_is_saved(faces: Faces, tmp_path: Path, console: Console) -> None:
    result = sweep(config(), tmp_path / "out", console, faces=faces)
    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert [(row["filters"], row["status"]) for row in table] == [(4, "ok"), (8, "ok")]
    assert [row["accuracy"] for row in result["trials"]] == [row["accuracy"] for row in table]
    trials = expand(config().grid)
    for written in (table, result["trials"]):  # the latter are what `--json` prints
        assert [{name: row[name] for name in PARAMETERS} for row in written] == [
            dict.fromkeys(PARAMETERS) | trial for trial in trials
        ]
    best = max(table, key=lambda row: row["validation_accuracy"])
    net, card = load(tmp_path / "out")
    assert card.trained["trial"] == trials[best["trial"]]
    assert card.parameters == of_net(trials[best["trial"]])
    assert card.parameters["filters"] == best["filters"] == result["best_trial"]["filters"]
    test = faces.split("test")
    assert evaluate(net, test.images, test.labels)["accuracy"] == pytest.approx(best["accuracy"])
    assert card.trained["data_sha256"] == faces.sha256()
    epochs = pq.read_table(tmp_path / "out" / "epochs.parquet").to_pylist()
    assert [(row["trial"], row["epoch"]) for row in epochs] == [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.usefixtures("local_ray")
def test_a_trial_that_fails_hides_no_other(
    faces: Faces, tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep(config(blocks=[9, 3], filters=[4]), tmp_path / "out", console, faces=faces)
    assert [row["status"] for row in result["trials"]] == ["KO", "ok"]
    assert "blocks=9" in result["trials"][0]["reason"]
    assert result["best_trial"]["blocks"] == 3
    show_table(result["trials"], console)
    captured = capsys.readouterr()
    assert "KO" in captured.out
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.usefixtures("local_ray")
def test_a_sweep_in_which_nothing_trains_says_why(faces: Faces, tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match=r"none of the 1 nets could be trained.*blocks=9"):
        sweep(config(blocks=[9], filters=[4]), tmp_path / "out", console, faces=faces)


@pytest.mark.usefixtures("local_ray")
def test_a_trial_whose_process_dies_goes_on_in_another(faces: Faces, tmp_path: Path, console: Console) -> None:
    """Only the worker is killed, by its process id, and only once: the trial is trained all the same."""
    killed: list[int] = []

    def kill(board: Any, key: int, row: Any) -> None:
        if not killed:
            worker = _worker_of(os.getpid())
            if worker:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dxray.orchestrator.progress.Board.epoch", kill)
        result = sweep(config(filters=[4], epochs=[8]), tmp_path / "out", console, faces=faces)
    assert killed
    assert [row["status"] for row in result["trials"]] == ["ok"]
    assert len(pq.read_table(tmp_path / "out" / "epochs.parquet")) == 8


def _worker_of(driver: int) -> int | None:
    """The process of a Ray worker, below `driver`, that runs a trial."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                stat = (place / "stat").read_text()
                names[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(place.name))
    below = [driver]
    for process in below:
        below += children.get(process, [])
    return next((process for process in below if "ImplicitFunc" in names.get(process, "")), None)


@pytest.mark.usefixtures("local_ray")
def test_several_seeds_are_one_line_with_their_spread(
    faces: Faces, tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep(config(filters=[4], epochs=[1], seed=[0, 1]), tmp_path / "out", console, faces=faces)
    capsys.readouterr()
    show_table(result["trials"], console)
    shown = capsys.readouterr().out
    assert "mean and standard deviation over seeds" in shown
    assert shown.count(" ± ") == 2


def test_wrong_requests_are_refused_before_any_work(faces: Faces, tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match="no parameter 'colour'"):
        sweep(config(colour=[1]), tmp_path / "a", console, faces=faces)
    with pytest.raises(UserError, match="has no train images"):
        sweep(config(), tmp_path / "b", console, faces=faces.split("test"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"already holds a sweep.*--resume"):
        sweep(config(), tmp_path / "c", console, faces=faces)


COMMAND = [sys.executable, "-X", "faulthandler", "-m", "dxray.orchestrator.cli.app", "sweep"]
ASKED = ["--data", "synthetic:300", "--net", "convnet", "--convs", "1", "--filters", "2", "--epochs", "20"]
ASKED += ["--seed", "0", "1", "2", "--cpus-per-trial", "1", "--max-concurrent", "1"]


def stopped(out: Path, when: Callable[[], bool], how: int, words: list[str]) -> str:
    """Run a sweep as a process of its own, stop it by a signal as soon as `when` holds; what it said at last."""
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not when() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(how)
        try:
            _, said = process.communicate(timeout=50)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it tells where it waits
            _, said = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -how), said
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """That sweep, not stopped by anything."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["sweep", *ASKED, "--out", str(out)]) == 0
    return out


def assert_same(out: Path, whole: Path, note: str = "") -> None:
    for table in ("trials.parquet", "epochs.parquet"):
        assert pq.read_table(out / table).equals(pq.read_table(whole / table)), (table, note)
    weights = Path("best", "model.safetensors")
    assert (out / weights).read_bytes() == (whole / weights).read_bytes(), note


def test_a_sweep_that_is_stopped_ends_with_the_table_of_one_that_is_not(whole: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL in its first training, resumed, stopped by Ctrl-C after a trial ended, resumed again."""
    out = tmp_path / "out"
    trials = out / "trials"
    stopped(out, lambda: any(trials.glob("*/state.safetensors")), signal.SIGKILL, [*ASKED, "--out", str(out)])

    def resumed_and_a_trial_ended() -> bool:
        """The killed driver's worker may end a trial yet; a resumed sweep is at work once Tune has made its folder."""
        return (out / "tune-1").exists() and any(trials.glob("*/result.json"))

    said = stopped(out, resumed_and_a_trial_ended, signal.SIGINT, ["--resume", str(out)])
    assert f"go on with: dxray sweep --resume '{out}'" in said
    kept = {path: path.stat().st_mtime_ns for path in trials.glob("*/result.json")}
    assert 1 <= len(kept) < 3
    assert main(["sweep", "--resume", str(out)]) == 0
    assert_same(out, whole)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


@pytest.mark.parametrize("seed", [0])
def test_a_sweep_that_is_killed_at_three_random_moments_ends_with_the_same_table(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    """With SIGKILL, each time so long after a training began as the seed says; then resumed."""
    out = tmp_path / "out"
    begun = min(path.stat().st_mtime for path in whole.glob("trials/*/.lock"))
    took = max(path.stat().st_mtime for path in whole.glob("trials/*/result.json")) - begun
    moments = np.random.default_rng(seed).uniform(0, took / 3, 3)
    for moment in moments:
        words = ["--resume", str(out)] if (out / "sweep.json").exists() else [*ASKED, "--out", str(out)]
        since = time.time()
        due: list[float] = []

        def is_due(since: float = since, due: list[float] = due, moment: float = moment) -> bool:
            if not due and any(path.stat().st_mtime > since for path in out.glob("trials/*/.lock")):
                due.append(time.monotonic() + moment)
            return bool(due) and time.monotonic() >= due[0]

        stopped(out, is_due, signal.SIGKILL, words)
    assert main(["sweep", "--resume", str(out)]) == 0
    assert_same(out, whole, f"killed so many seconds after a training began: {moments}")


@pytest.mark.usefixtures("local_ray")
def test_a_resume_with_other_faces_is_refused(faces: Faces, tmp_path: Path, console: Console) -> None:
    sweep(config(filters=[4], epochs=[1]), tmp_path / "out", console, faces=faces)
    faces.images[0, 0, 0, 0] ^= 1
    try:
        with pytest.raises(UserError, match="holds other faces"):
            resume(tmp_path / "out", console, faces=faces)
    finally:
        faces.images[0, 0, 0, 0] ^= 1


@pytest.mark.parametrize(("grid", "attacked"), [({}, False), ({"defense": ["none"]}, True)])
def test_nets_are_attacked_where_the_grid_names_a_defence_be_it_none(
    faces: Faces, console: Console, grid: dict[str, list[Any]], attacked: bool
) -> None:
    todo, data, _ = asked(config(**grid), console, faces)
    assert {trial["defense"] for trial in todo} == {"none"}
    assert data["attacked"] is attacked


def test_what_is_learnt_beside_the_class_is_read_with_the_faces_and_said_where_it_is_not_told(
    faces: Faces, tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    ages = [int(name[-3:]) % 3 for name in faces.names]
    table = {"name": faces.names.tolist(), "gender": faces.labels, "age": ages}
    table |= {"image": [image.tobytes() for image in faces.images]}
    pq.write_table(pa.table(table), tmp_path / "faces.parquet")
    told = SweepConfig(data=f"parquet:{tmp_path / 'faces.parquet'}", grid=GRID | {"auxiliary": ["none", "age+height"]})
    todo, data, _ = asked(told, console)
    assert [trial["auxiliary"] for trial in todo] == ["none", "age+height"] * 2
    train = read(told.data, auxiliary=("age",)).shuffled("train")
    validation = read(told.data, auxiliary=("age",)).shuffled("validation")
    assert data["auxiliary"]["age"].tolist() == [*train.auxiliary["age"], *validation.auxiliary["age"]]
    assert data["train"][1].tolist() == train.labels.tolist()
    assert data["auxiliary"].keys() == {"age"}
    assert "tells no height, so that is not learnt beside the class" in capsys.readouterr().out
