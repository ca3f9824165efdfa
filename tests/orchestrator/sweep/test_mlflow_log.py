"""MLflow beside the tables: what is logged can be read back, and a store that fails stops nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import PARAMETERS, complete
from dxray.orchestrator.sweep.mlflow_log import MlflowLog

# MLflow's own, of the libraries below it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRIAL = complete({"net": "convnet", "filters": 8, "lr": 0.012345})
ROW: dict[str, Any] = {
    "trial": 3,
    **dict.fromkeys(PARAMETERS),
    **TRIAL,
    "status": "ok",
    "reason": None,
    "accuracy": 0.75,
    "accuracy_other": 0.5,
    "epoch_rows": [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.4}],
}


def test_each_ended_trial_is_a_run_with_its_parameters_and_a_metric_per_epoch(tmp_path: Path, console: Console) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    log = MlflowLog(uri, tmp_path / "faces", console)
    log.add(ROW)
    log.add({"trial": 4, "net": "densenet", "status": "KO", "reason": "timed out after 3 s", "epoch_rows": []})
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    ok, failed = sorted(found, key=lambda run: run.info.run_name)
    assert ok.info.run_name == "trial 0003"
    assert ok.data.params == {name: str(value) for name, value in TRIAL.items()} | {"train_size": "all"}
    assert (ok.data.params["lr"], ok.data.params["blocks"]) == ("0.012345", "4")
    assert (ok.data.metrics["accuracy"], ok.data.metrics["accuracy_other"], ok.info.status) == (0.75, 0.5, "FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(ok.info.run_id, "loss")] == [(1, 0.7), (2, 0.4)]
    assert (failed.info.status, failed.data.tags["dxray.reason"]) == ("FAILED", "timed out after 3 s")


def test_a_store_that_fails_later_is_said_once_and_stops_nothing(
    tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    log = MlflowLog(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "faces", console)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(log._client, "create_run", full)
    log.add(ROW)
    log.add(ROW)
    assert capsys.readouterr().out.count("the disk is full") == 1


def test_what_mlflow_cannot_use_is_one_sentence(tmp_path: Path, console: Console) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(UserError, match="MLflow at 'nonsense://x' cannot be used"):
        MlflowLog("nonsense://x", tmp_path, console)


def test_without_mlflow_one_sentence_says_how_to_get_it(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"pip install 'dxray\[mlflow\]'"):
        MlflowLog("sqlite:///x", tmp_path, console)
