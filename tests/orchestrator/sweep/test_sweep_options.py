"""What a sweep can be asked beside its grid: searches, early stopping, further faces; and what is refused."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.training.train import evaluate
from dxray.models.victims.checkpoint import load
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep import tables
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.sweep import SweepConfig, resume, sweep
from dxray.orchestrator.sweep.tables import FORMAT

GRID: dict[str, list[Any]] = {"net": ["convnet"], "convs": [1], "filters": [2, 4], "epochs": [2], "dropout": [0.0]}
FAST: dict[str, list[Any]] = {"lr": [1e-2], "batch_size": [32]}


def config(grid: dict[str, list[Any]] | None = None, **asked: Any) -> SweepConfig:
    return SweepConfig(data="halves", grid=GRID | FAST | (grid or {}), cpus_per_trial=1, **asked)


def table(out: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / f"{name}.parquet").to_pylist()
    return rows


@pytest.mark.usefixtures("local_ray")
def test_an_optuna_search_trains_as_many_trials_as_asked_for(faces: Faces, tmp_path: Path, console: Console) -> None:
    pytest.importorskip("optuna")
    grid = {"filters": [2, 3, 4, 5], "seed": [0, 1], "epochs": [1]}
    out = tmp_path / "out"
    sweep(config(grid, search="optuna", samples=3), out, console, faces=faces)
    rows = table(out, "trials")
    assert [row["status"] for row in rows] == ["ok"] * 3
    proposed = json.loads((out / "search.json").read_text())["proposed"]
    assert [row["trial"] for row in rows] == sorted(proposed)
    # One that was proposed and had not ended when the driver was killed.
    again = out / "trials" / f"{proposed[1]:04d}"
    sha256 = json.loads((again / "result.json").read_text())["sha256"]
    for file in again.iterdir():
        file.unlink()
    resume(out, console, faces=faces)
    assert json.loads((again / "result.json").read_text())["sha256"] == sha256
    assert json.loads((out / "search.json").read_text())["proposed"] == proposed


@pytest.mark.usefixtures("local_ray")
def test_a_net_that_lags_is_stopped_saved_and_measured(faces: Faces, tmp_path: Path, console: Console) -> None:
    """The first learns; the second, without a learning rate, cannot, and is stopped early."""
    out = tmp_path / "out"
    grid: dict[str, list[Any]] = {"filters": [8], "epochs": [150], "batch_size": [64], "train_size": [256]}
    grid |= {"lr": [5e-3, 0.0], "batch_norm": [True]}
    rows = sweep(config(grid, stop_early=True, max_concurrent=1), out, console, faces=faces)["trials"]
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert stopped
    assert {row["status"] for row in rows} <= {"ok", "stopped"}
    for row in stopped:
        done = len([one for one in table(out, "epochs") if one["trial"] == row["trial"]])
        assert row["reason"] == f"stopped early, after epoch {done} of 150"
        assert done < 150
        net, card = load(out / "trials" / f"{row['trial']:04d}")
        test = faces.split("test")
        assert row["accuracy"] == pytest.approx(evaluate(net, test.images, test.labels)["accuracy"])
        assert row["sha256"] == card.sha256
    # It is not trained on by a resume, and is measured then if it was not before.
    trial = out / "trials" / f"{stopped[0]['trial']:04d}"
    assert not (trial / "state.safetensors").exists()


@pytest.mark.usefixtures("local_ray")
def test_of_nets_that_learnt_the_validation_images_none_is_called_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--net", "convnet", "--blocks", "1", "--convs", "1", "--filters", "2", "--epochs", "1", "--seed", "0", "1"]
    words = ["--data", "synthetic:64", "--size", "16", *grid, "--refit", "on"]
    assert main(["sweep", *words, "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing was chosen, for the nets learnt the validation images; the first: " in said
    assert "best on the validation" not in said
    rows = table(tmp_path / "out", "trials")
    assert [row["validation_accuracy"] for row in rows] == [None, None]
    assert load(tmp_path / "out" / "best")[1].sha256 == rows[0]["sha256"]


@pytest.mark.usefixtures("local_ray")
def test_every_net_is_measured_on_further_faces_too(
    faces: Faces, tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose classes are swapped: what is right there is wrong on the test split."""
    for image, label in zip(faces.images[:40], faces.labels, strict=False):
        place = tmp_path / "swapped" / faces.classes[1 - label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{len(list(place.iterdir()))}.png").write_bytes(encode_png(image))
    asked = config({"epochs": [3], "filters": [4, 8]}, validate={"swapped": f"folder:{tmp_path / 'swapped'}"})
    out = tmp_path / "out"
    sweep(asked, out, console, faces=faces)
    said = " ".join(capsys.readouterr().out.split())
    assert "labels: the names of folders" in said
    assert "surely fewer than by guessing: their labels are swapped" in said
    for row in table(out, "trials"):
        net, _ = load(out / "trials" / f"{row['trial']:04d}")
        right = evaluate(net, faces.images[:40], faces.labels[:40])["accuracy"]
        assert row["accuracy_swapped"] == pytest.approx(1 - right)
    assert json.loads((out / "sweep.json").read_text())["validate_sha256"]["swapped"]
    next((tmp_path / "swapped").rglob("*.png")).write_bytes(encode_png(np.zeros((1, 48, 48), np.uint8)))
    with pytest.raises(UserError, match=r"folder:.*swapped' holds other faces than when"):
        resume(out, console, faces=faces)


def test_further_faces_of_other_classes_are_refused_before_any_training(
    faces: Faces, tmp_path: Path, console: Console
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.png").write_bytes(encode_png(faces.images[0]))
    with pytest.raises(Exception, match=r"pets.*cat"):
        sweep(config(validate={"pets": f"folder:{tmp_path / 'pets'}"}), tmp_path / "out", console, faces=faces)
    assert not (tmp_path / "out" / "sweep.json").exists()


@pytest.mark.usefixtures("local_ray")
def test_tensorboard_finds_the_figures_of_each_epoch_and_every_parameter_in_the_run(
    faces: Faces, tmp_path: Path, console: Console
) -> None:
    out = tmp_path / "out"
    sweep(config(), out, console, faces=faces)
    rows = {(row["trial"], row["epoch"]): row["validation_accuracy"] for row in table(out, "epochs")}
    seen, used = {}, {}
    for file in out.rglob("events.out.tfevents.*"):
        for step, value in values(file):
            if value.tag == "ray/tune/validation_accuracy":
                seen[int(file.parent.name), step] = pytest.approx(value.simple_value)
            if value.tag == "_hparams_/session_start_info":
                used[int(file.parent.name)] = hyperparameters(value.metadata.plugin_data.content)
    assert seen == rows
    trials = enumerate(expand(config().grid))
    assert used == {index: trial | {"trial": index, "train_size": "all"} for index, trial in trials}


def values(file: Path) -> list[tuple[int, Any]]:
    """Step and value of each entry in an event file: records of a length, its checksum, the event, another."""
    content, found = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, value) for value in event.summary.value]
        content = content[16 + length :]
    return found


def hyperparameters(content: bytes) -> dict[str, Any]:
    """Those that a run's first entry holds."""
    held = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in held.items()}


@pytest.mark.usefixtures("local_ray")
def test_a_disk_that_is_full_ends_the_sweep_with_one_sentence_and_keeps_what_is_finished(
    faces: Faces, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("dxray.orchestrator.sweep.callbacks.write_tables", full)
        with pytest.raises(UserError, match=r"takes no more .*No space left.*make room there: \d of 2 nets.*--resume"):
            sweep(config(), out, console, faces=faces)
    assert list(out.glob("trials/*/result.json"))
    resume(out, console, faces=faces)
    assert [row["status"] for row in table(out, "trials")] == ["ok", "ok"]
    assert tables.best_of(table(out, "trials")) is not None


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_without_the_cpus_is_said_before_anything_is_written_and_a_resume_does_not_say_give_less(
    faces: Faces, tmp_path: Path, console: Console
) -> None:
    asked = replace(config(), cpus_per_trial=1000)
    with pytest.raises(UserError, match=r"no node has the 1000 CPUs .* give less by --cpus-per-trial"):
        sweep(asked, tmp_path / "out", console, faces=faces)
    assert not (tmp_path / "out" / "sweep.json").exists()
    record = {"format": FORMAT, "config": asdict(asked), "trials": expand(GRID)[:1], "data_sha256": faces.sha256()}
    (tmp_path / "out" / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"no node has the 1000 CPUs .*; the sweep was begun so: go on where a node has"
    ):
        resume(tmp_path / "out", console, faces=faces)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume", "x", "--filters", "8"], "leave --filters out"),
        (["--resume", "x", "--size", "9", "--search", "random"], "leave --size, --search out"),
        (["--validate", "faces"], "--validate faces: expected NAME=SOURCE"),
        (["--validate", "a/b=synthetic:9"], "expected NAME=SOURCE"),
        (["--validate", "a=synthetic:8", "--validate", "a=synthetic:9"], "names 'a' twice"),
        (["--search", "random"], "needs --samples"),
        (["--refit", "on", "--stop-early", "--data", "synthetic:64"], "'refit' has them learn; leave one of them out"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if "--resume" in words else ["--out", str(tmp_path / "out")]
    assert main(["sweep", *words, *out]) == 1
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.splitlines()) == 1
