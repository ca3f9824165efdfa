"""The sweep on real Ray Tune: every cell in the table, a failed one with its reason, the best one saved."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.checkpoint import load
from models.faces import Faces
from models.train import evaluate
from orchestrator.console import Console
from orchestrator.errors import UserError
from orchestrator.sweep import show_table, sweep

GRID: dict[str, list[Any]] = {
    "net": ["convnet"],
    "convs": [1],
    "filters": [4, 8],
    "batch_norm": [True],
    "epochs": [2],
    "dropout": [0.0],
}


def test_every_cell_has_a_row_and_the_best_net_is_saved(
    faces: Faces, tmp_path: Path, local_ray: None, console: Console
) -> None:
    result = sweep(faces, GRID | {"lr": [1e-2], "batch_size": [32]}, tmp_path / "out", console)
    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert table == result["trials"]
    assert [(row["filters"], row["status"]) for row in table] == [(4, "ok"), (8, "ok")]
    best = max(table, key=lambda row: row["validation_accuracy"])
    net, card = load(tmp_path / "out")
    assert card.parameters["filters"] == best["filters"] == result["best_trial"]["filters"]
    test = faces.split("test")
    assert evaluate(net, test.images, test.labels)["accuracy"] == pytest.approx(best["accuracy"])
    assert card.trained["cell"]["filters"] == best["filters"]
    assert card.trained["data_sha256"] == faces.sha256()


def test_a_cell_that_fails_hides_no_other(
    faces: Faces, tmp_path: Path, local_ray: None, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep(faces, GRID | {"blocks": [9, 3], "filters": [4], "epochs": [1]}, tmp_path / "out", console)
    assert [row["status"] for row in result["trials"]] == ["KO", "ok"]
    assert result["trials"][0]["reason"].startswith("blocks=9: images of 48x48")
    assert result["best_trial"]["blocks"] == 3
    show_table(result, console)
    captured = capsys.readouterr()
    assert "KO" in captured.out
    assert "Traceback" not in captured.out + captured.err


def test_a_sweep_in_which_nothing_trains_says_why(
    faces: Faces, tmp_path: Path, local_ray: None, console: Console
) -> None:
    with pytest.raises(UserError, match=r"none of the 1 nets could be trained.*blocks=9"):
        sweep(faces, GRID | {"blocks": [9], "filters": [4]}, tmp_path / "out", console)


def test_the_same_seed_gives_the_same_table(faces: Faces, tmp_path: Path, local_ray: None, console: Console) -> None:
    def table(name: str) -> list[tuple[float, float]]:
        rows = sweep(faces, GRID | {"epochs": [1]}, tmp_path / name, console)["trials"]
        return [(row["accuracy"], row["loss"]) for row in rows]

    assert table("a") == table("b")


def test_wrong_requests_are_refused_before_any_work(faces: Faces, tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match="no parameter 'colour'"):
        sweep(faces, {"colour": [1]}, tmp_path / "a", console)
    with pytest.raises(UserError, match="has no train images"):
        sweep(faces.split("test"), GRID, tmp_path / "b", console)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a sweep"):
        sweep(faces, GRID, tmp_path / "c", console)


def test_ctrl_c_keeps_the_cells_that_are_finished(tmp_path: Path) -> None:
    """A real process, stopped as a person stops it, once its first net is in the table."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "orchestrator.cli", "sweep", "--data", "synthetic:300", "--net", "convnet"]
    command += ["--convs", "1", "--filters", "2", "--epochs", "1", "300", "--max-concurrent", "1", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (out / "best" / "model.json").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped by Ctrl-C; 1 of 2 nets are finished" in said
    assert "Traceback" not in said
    assert [row["epochs"] for row in pq.read_table(out / "trials.parquet").to_pylist()] == [1]
    load(out)
