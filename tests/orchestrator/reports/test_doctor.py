"""`dxray doctor` on a sweep's folder and on single nets: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dxray.models.data.faces import read
from dxray.models.data.images import encode_png
from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.doctor import _splits
from dxray.orchestrator.runs.store import replace_folder, write_json
from dxray.orchestrator.sweep.grid import complete
from dxray.orchestrator.sweep.sweep import SweepConfig, _arrays
from dxray.orchestrator.sweep.tables import CONFIG, FORMAT
from dxray.orchestrator.sweep.trial import RESULT, _as_used, train_trial

SIZE = 16
TRIAL = complete({"net": "convnet", "blocks": 2, "convs": 1, "filters": 8, "epochs": 2, "batch_size": 32, "lr": 5e-3})
TRIALS: list[dict[str, Any]] = [TRIAL, TRIAL | {"lr": 1e-6}, TRIAL | {"lr": 1e3}, TRIAL | {"filters": 9}, TRIAL]
Said = tuple[int, str, str]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise whose class is whether the upper or the lower half is brighter, in a folder for each class."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(1500):
        label = i % 2
        halves = np.where(np.arange(SIZE) < SIZE // 2, 20, -20)[:, None] * (1 - 2 * label)
        image = (128 + halves + rng.normal(0, 40, (1, SIZE, SIZE))).clip(0, 255).round().astype(np.uint8)
        place = folder / ("female" if label else "male")
        place.mkdir(exist_ok=True)
        (place / f"{i:04}.png").write_bytes(encode_png(image))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A sweep's folder: a good net, one with too low a rate, one that diverged, one out of memory, one not ended."""
    out = tmp_path_factory.mktemp("run")
    config = SweepConfig(data=f"folder:{pictures}", size=SIZE)
    data, hashes = _arrays(config, read(config.data, size=SIZE), Console())
    write_json(out / CONFIG, {"format": FORMAT, "config": asdict(config), "trials": TRIALS, **hashes})
    for index in range(3):
        train_trial(TRIALS[index], data, out / "trials" / f"{index:04d}")
    write_json(out / "trials" / "0003" / RESULT, {"status": "KO", "reason": "out of memory"})
    replace_folder(out / "trials" / "0000", out / "best", only=("model.safetensors", "model.json"))
    return out


def findings(training: dict[str, Any]) -> set[str]:
    return {finding["name"] for finding in training["findings"]}


def test_every_trained_trial_is_examined_and_the_others_are_named(run: Path, dxray: Callable[..., Said]) -> None:
    code, said, _ = dxray("doctor", run, "--json")
    assert code == 1
    result = json.loads(said)
    by_name = {one["name"]: one for one in result["trainings"]}
    assert list(by_name) == ["trial 0", "trial 1", "trial 2"]
    assert findings(by_name["trial 0"]) == set()
    assert findings(by_name["trial 1"]) == {"learning_rate_too_low", "loss_at_chance"}
    assert findings(by_name["trial 2"]) == {"diverged", "learning_rate_too_high"}
    assert result["faults"] == 4
    assert result["not_examined"] == {"trial 3": "KO: out of memory", "trial 4": "pending: it has not ended yet"}
    assert by_name["trial 2"]["not_checked"]["dead_relus"] == "the training ended without a net"
    written = json.loads((run / "doctor" / "doctor.json").read_text())
    assert written["trainings"] == result["trainings"]
    assert written["versions"]["torch"]
    pictures = {file.name: file.read_bytes() for file in (run / "doctor").glob("*.png")}
    assert set(pictures) == {"weights-0.png", "weights-1.png", "rates-0.png", "rates-1.png", "rates-2.png"}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_validation_images_that_were_learnt_count_as_learnt(pictures: Path) -> None:
    faces = read(f"folder:{pictures}", size=SIZE)
    sizes = {name: len(faces.split(name)) for name in ("train", "validation", "test")}
    splits = _splits(faces, TRIAL | {"refit": True})
    assert {name: len(split) for name, split in splits.items()} == {
        "train": sizes["train"] + sizes["validation"],
        "test": sizes["test"],
    }
    data, _ = _arrays(SweepConfig(), faces, Console())
    images, labels = _as_used(TRIAL | {"refit": True}, data)["train"]
    assert np.array_equal(splits["train"].images, images)
    assert np.array_equal(splits["train"].labels, labels)
    assert len(_splits(faces, TRIAL | {"train_size": 9})["train"]) == 9


def test_a_healthy_trial_ends_with_success_and_says_what_was_checked(
    run: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    code, said, _ = dxray("doctor", run, "--trial", "0", "--quick", "--out", tmp_path / "out")
    assert code == 0
    assert "nothing found: 15 of 17 checks passed" in said
    assert "not checked: learning_rate_too_high, learning_rate_too_low (left out by --quick)" in said
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"doctor.json", "weights.png"}


def test_the_best_net_is_examined_with_the_history_of_its_trial(
    run: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    code, said, _ = dxray("doctor", run / "best", "--json", "--out", tmp_path)
    assert code == 0
    (training,) = json.loads(said)["trainings"]
    assert training["learning_rate"]["used"] == 5e-3
    assert training["learning_rate"]["lower"] < 5e-3 < training["learning_rate"]["upper"] * 10
    assert len(training["passed"]) == 17
    assert {file.name for file in tmp_path.iterdir()} == {"doctor.json", "weights.png", "rates.png"}


def test_a_table_names_trial_finding_evidence_and_remedy(run: Path, tmp_path: Path, dxray: Callable[..., Said]) -> None:
    _, said, _ = dxray("doctor", run, "--trial", "1", "--out", tmp_path)
    for words in ("what is wrong", "learning_rate_too_low", "the learning rate was 1e-06", "Try 0.0"):
        assert words in " ".join(said.split())


def test_a_foreign_net_is_examined_as_far_as_it_shows_itself(
    run: Path, pictures: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2), nn.Softmax(1)).eval()
    torch.export.save(
        torch.export.export(
            net, (torch.rand(4, 1, SIZE, SIZE),), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
        ),
        tmp_path / "net.pt2",
    )
    code, said, _ = dxray("doctor", tmp_path / "net.pt2", "--data", f"folder:{pictures}", "--json")
    assert code == 1
    (training,) = json.loads(said)["trainings"]
    assert "final_activation" in findings(training)
    assert findings(training) <= {"final_activation", "loss_at_chance", "one_class"}  # it was never trained
    assert training["not_checked"]["dead_relus"] == "the file shows no layers, only answers"
    assert training["not_checked"]["learning_rate_too_low"] == "a net of this kind cannot be trained anew"
    assert (tmp_path / "doctor" / "doctor.json").is_file()
    code, _, errors = dxray("doctor", tmp_path / "net.pt2")
    assert code == 1
    assert "say on which faces to examine it: --data SOURCE" in errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{tmp}/nowhere",), "nowhere does not exist"),
        (("{run}", "--trial", "5"), "has no trial 5; it has trials 0 to 4"),
        (("{run}", "--trial", "4"), "holds no net to examine: trial 4: pending"),
        (("{run}/best", "--trial", "0"), "leave it out"),
        (("{run}", "--data", "folder:{tmp}/nowhere"), "nowhere"),
        (("{moved}",), "holds other faces than"),
    ],
)
def test_what_a_person_can_put_right_is_one_sentence(
    words: tuple[str, ...], sentence: str, run: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    moved = tmp_path / "tta_shift"
    moved.mkdir()
    record = json.loads((run / CONFIG).read_text())
    write_json(moved / CONFIG, record | {"data_sha256": "0" * 64})
    code, _, errors = dxray("doctor", *(word.format(tmp=tmp_path, run=run, moved=moved) for word in words))
    assert code == 1
    lines = [line for line in errors.splitlines() if line.startswith("dxray: ")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in errors


def test_a_trial_knows_its_findings_and_those_of_its_data(run: Path, tmp_path: Path, pictures: Path) -> None:
    results = [json.loads((run / "trials" / f"000{i}" / RESULT).read_text()) for i in range(2)]
    assert [result["findings"] for result in results] == [[], ["loss_at_chance"]]
    config, faces = SweepConfig(data=f"folder:{pictures}", size=SIZE), read(f"folder:{pictures}", size=SIZE)
    data, _ = _arrays(config, faces, Console())
    assert data["findings"] == []
    faces.images[np.flatnonzero(faces.splits == "test")] = data["train"][0][0]
    data, _ = _arrays(config, faces, Console())
    assert data["findings"] == ["contradicting_labels", "leakage"]  # the one picture has either label
    assert train_trial(TRIAL | {"epochs": 1}, data, tmp_path)["findings"][-1] == "leakage"
