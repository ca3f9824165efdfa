"""Verbs that hold nets against other labelled faces say where the labels are swapped, and blame no net for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces, read
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import load
from dxray.orchestrator.hardening.new_faces import take_in
from dxray.orchestrator.runs.store import write_json
from dxray.orchestrator.sweep.grid import complete
from dxray.orchestrator.sweep.trial import RESULT, train_trial

Said = tuple[int, str, str]


@pytest.fixture
def where_0_is_female(faces: Faces, tmp_path: Path) -> str:
    """The pictures that the trained net knows, in a table that counts females as 0."""
    columns = {
        "name": faces.names.tolist(),
        "gender": [1 - int(label) for label in faces.labels],
        "image": [encode_png(image) for image in faces.images],
    }
    pq.write_table(pa.table(columns), tmp_path / "turned.parquet")
    return f"parquet:{tmp_path / 'turned.parquet'}"


def test_robustness_says_it_and_what_mends_it(
    where_0_is_female: str, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    words = ["robustness", trained, "--data", where_0_is_female, "--eps", "--l2", "1", "--count", 2, "--steps", 1]
    words += ["--queries", 1, "--out", tmp_path / "out"]
    code, said, problem = dxray(*words)
    assert code == 0, problem
    flat = " ".join(said.split())
    assert "labels: column 'gender', 0 = male, 1 = female" in flat
    assert "labels_swapped: the net is right on" in flat
    assert "--classes female,male" in flat
    findings = json.loads((tmp_path / "out" / "robustness.json").read_text())["findings"]
    assert [finding["name"] for finding in findings[str(trained)]] == ["labels_swapped"]
    code, said, _ = dxray(*words, "--classes", "female,male")
    assert "labels_swapped" not in said


def test_the_doctor_says_it_in_place_of_what_would_blame_the_training(
    where_0_is_female: str, trained: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    net = tmp_path / "net"
    net.mkdir()
    card = json.loads((trained / "model.json").read_text())
    card["trained"] = {"trial": complete({"net": "convnet"}), "data": faces.source, "data_sha256": faces.sha256()}
    (net / "model.json").write_text(json.dumps(card))
    (net / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    epochs = [{"epoch": 1, "loss": 0.1, "train_accuracy": 0.97, "layers": []}]
    write_json(net / RESULT, {"status": "ok", "reason": None, "epochs": epochs})
    code, said, problem = dxray("doctor", net, "--data", where_0_is_female, "--out", tmp_path / "out", "--json")
    assert code == 1, problem
    (training,) = json.loads(said)["trainings"]
    assert [finding["name"] for finding in training["findings"]] == ["labels_swapped"]
    assert training["findings"][0]["remedy"].endswith("--classes female,male")
    unchecked = training["not_checked"]
    assert {"evaluation_mode", "over_fitting", "label_noise", "loss_at_chance", "class_imbalance"} <= set(unchecked)
    assert not any("learnt nothing" in why for why in unchecked.values())
    words = ["doctor", net, "--data", where_0_is_female, "--classes", "female,male", "--out", tmp_path / "out"]
    code, said, _ = dxray(*words)
    assert code == 0
    assert "nothing found" in said


def test_a_trial_knows_which_further_faces_have_swapped_labels(faces: Faces, tmp_path: Path) -> None:
    parts = {name: faces.shuffled(name) for name in ("train", "validation", "test")}
    data: dict[str, Any] = {name: (part.images, part.labels) for name, part in parts.items()}
    turned = faces.images[:100], 1 - faces.labels[:100]
    data |= {"classes": faces.classes, "source": "halves", "sha256": "", "auxiliary": {}}
    data["validate"] = {"turned": turned, "same": (faces.images[:100], faces.labels[:100])}
    trial = complete({"net": "convnet", "filters": 8, "batch_norm": True, "epochs": 3, "batch_size": 16, "lr": 5e-3})
    assert train_trial(trial, data, tmp_path)["swapped"] == ["turned"]


def test_a_retraining_says_it_of_the_faces_that_it_takes_in(
    where_0_is_female: str, trained: Path, tmp_path: Path
) -> None:
    net, card = load(trained)
    source = {"spec": where_0_is_female, "seed": 0, "label": None}
    new = take_in(tmp_path / "a", 0, source, (net, card), label_by=None, held_out=5)
    assert new["labels"] == "labels: column 'gender', 0 = male, 1 = female"
    assert new["swapped"].endswith("--classes female,male")
    source["numbers"] = ["female", "male"]
    assert take_in(tmp_path / "b", 0, source, (net, card), label_by=None, held_out=5)["swapped"] is None


def test_a_table_where_0_is_female_is_read_so_where_it_is_said(where_0_is_female: str, faces: Faces) -> None:
    found = read(where_0_is_female, classes=("male", "female"), numbers=("female", "male"))
    assert (found.labels == faces.labels).all()
    assert found.labelled_by == "labels: column 'gender', 0 = female, 1 = male"
