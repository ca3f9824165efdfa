"""A source of faces keeps its meaning in another folder."""

from pathlib import Path

import pytest

from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.runs.places import absolute_source
from dxray.orchestrator.sweep.sweep import SweepConfig


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "od:d").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("utkface:faces", "utkface:{here}/faces"),
        ("folder:../faces", "folder:{here}/../faces"),
        ("parquet:~/faces.parquet", "parquet:{here}/home/faces.parquet"),
        ("folder:/faces", "folder:/faces"),
        ("hf:saved", "hf:{here}/saved"),
        ("hf:saved:test", "hf:{here}/saved:test"),
        ("hf:od:d", "hf:{here}/od:d"),
        ("hf:owner/name@small:test", "hf:owner/name@small:test"),
        ("hf:name", "hf:name"),
        ("parquet:s3://bucket/faces.parquet", "parquet:s3://bucket/faces.parquet"),
        ("synthetic", "synthetic"),
        ("synthetic:60", "synthetic:60"),
        ("folder:", "folder:"),  # refused with what is missing, not taken for this folder
        ("faces", "faces"),
    ],
)
def test_a_source_is_found_from_any_folder(given: str, found: str, tmp_path: Path) -> None:
    assert absolute_source(given) == found.format(here=tmp_path)


def test_what_a_run_records_of_faces_and_nets_is_absolute(tmp_path: Path) -> None:
    sweep = SweepConfig(data="folder:faces", validate={"other": "utkface:more"})
    assert (sweep.data, sweep.validate) == (f"folder:{tmp_path}/faces", {"other": f"utkface:{tmp_path}/more"})
    store = SweepConfig(mlflow="sqlite:///mlflow.db").mlflow
    assert store == SweepConfig(mlflow=store).mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert SweepConfig(mlflow="http://lab:5000").mlflow == "http://lab:5000"
    retrain = RetrainConfig(data="folder:faces", label_by="runs/retrain#round=3")
    assert (retrain.data, retrain.label_by) == (f"folder:{tmp_path}/faces", f"{tmp_path}/runs/retrain#round=3")
    assert RetrainConfig(label_by="s3://lab/run").label_by == "s3://lab/run"
    assert RetrainConfig().label_by is None
