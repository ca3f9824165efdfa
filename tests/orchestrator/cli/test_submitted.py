"""What the scripts of cluster/ do with their arguments, on the tests' own Ray; a real cluster is tests/cluster's."""

import json
from pathlib import Path

import pytest
import yaml

from dxray.orchestrator.cli import app, submitted
from dxray.orchestrator.cli.submitted import RUNS, readable_places, run, wanted_machines
from dxray.orchestrator.ray.shared_storage import must_be_shared
from dxray.orchestrator.runs.buckets import ObjectPath
from tests.cluster.machines import ROOT

pytestmark = pytest.mark.usefixtures("local_ray")
SMALL = ("--data", "synthetic:200", "--net", "convnet", "--filters", "4", "--blocks", "2", "--epochs", "1")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that all machines share; the Ray that is connected stands for the cluster."""
    monkeypatch.setenv(RUNS, str(tmp_path / "runs"))
    monkeypatch.setattr(submitted, "_BOOTSTRAP", tmp_path / "none.yaml")
    return tmp_path / "runs"


def test_a_script_puts_its_run_in_the_shared_folder_and_goes_on_with_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", SMALL) == 0
    assert (runs / "sweep" / "best").is_dir()
    assert not list((runs / "sweep").glob(".[0-9a-f]*"))  # what was written to see that it is shared
    capsys.readouterr()
    assert run("sweep", [*SMALL, "--json"]) == 1
    assert "was submitted with other arguments" in capsys.readouterr().err
    assert run("sweep", SMALL) == 0
    assert "0 of 1 nets to train" in capsys.readouterr().out


def test_a_job_that_goes_on_keeps_what_decides_nothing_of_the_results(tmp_path: Path) -> None:
    words = ["faces/", "--model", "net", "--gpus-per-worker=0.5", "--strict", "--json"]
    options = app.parsed(["attack", *words])[1].arguments
    assert submitted._command(options, "attack", words, tmp_path) == ["attack", *words, "--out", str(tmp_path)]
    (tmp_path / "attack.json").touch()
    kept = ["--json", "--strict", "--gpus-per-worker", "0.5"]
    assert submitted._command(options, "attack", words, tmp_path) == ["attack", "--resume", str(tmp_path), *kept]


def test_a_run_that_came_otherwise_is_not_taken_over(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "sweep").mkdir(parents=True)
    (runs / "sweep" / "sweep.json").write_text(json.dumps({"format": "dxray sweep 2"}))
    assert run("sweep", SMALL) == 1
    assert "already holds a sweep" in capsys.readouterr().err


def test_lost_quotes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", ["--data", "folder:my", "faces"]) == 2
    said = capsys.readouterr().err
    assert "nothing takes 'faces'" in said
    assert "quote an argument that has spaces" in said


@pytest.mark.parametrize(("word", "told"), [("--help", "$ dxray sweep"), ("--list-presets", "laptop")])
def test_what_needs_no_cluster_waits_for_none(
    word: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submitted, "connected", None)
    assert run("sweep", [word]) == 0
    assert told in capsys.readouterr().out


def test_what_a_node_cannot_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"node [\d.]+ cannot read '.*faces' \(No such file or directory\)"):
        must_be_shared(tmp_path / "out", readable=[tmp_path / "faces"])
    must_be_shared(tmp_path / "out", readable=[tmp_path])
    assert not list((tmp_path / "out").iterdir())


def test_every_machine_must_read_files_folders_and_buckets(tmp_path: Path) -> None:
    places = [str(tmp_path), f"parquet:{tmp_path}/t.parquet", "s3://bucket/faces", "hf:name", f"{tmp_path}/*.png"]
    assert readable_places(places) == [tmp_path, tmp_path / "t.parquet", ObjectPath("s3://bucket/faces")]


@pytest.mark.parametrize(
    ("name", "machines", "bundles"),
    [("cluster.yaml", 3, []), ("aws.yaml", 9, [{"CPU": 8, "GPU": 1}] * 8), ("gcp.yaml", 9, [{"CPU": 8, "GPU": 1}] * 8)],
)
def test_the_machines_of_a_cluster_file_are_counted(name: str, machines: int, bundles: list[dict[str, float]]) -> None:
    config = yaml.safe_load((ROOT / "cluster" / name).read_text())
    assert wanted_machines(config) == (machines, bundles)
