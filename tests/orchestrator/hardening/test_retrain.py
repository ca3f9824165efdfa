"""Whole retrainings on small pictures, by the command and on one Ray: rounds, new faces, what is put in use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.defenses.victim import load_victim
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import CheckpointError, load
from dxray.orchestrator.console import Console
from dxray.orchestrator.hardening.new_faces import sample
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.hardening.retrain import retrain
from dxray.orchestrator.hardening.stop_rules import Rules
from dxray.orchestrator.runs.store import locked, read_json
from dxray.orchestrator.sweep.grid import training_defaults

Said = tuple[int, str, str]


@pytest.fixture
def inbox(tmp_path: Path, faces: Faces) -> Path:
    """A folder of 120 pictures, in a folder for each class, to which more may come."""
    folder = tmp_path / "inbox"
    put(folder, faces, range(120))
    return folder


def put(folder: Path, faces: Faces, numbers: Any, *, loose: bool = False) -> None:
    for i in numbers:
        place = folder if loose else folder / faces.classes[faces.labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{faces.names[i]}.png").write_bytes(encode_png(faces.images[i]))


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, faces: Faces, trained: Path, local_ray: None
) -> tuple[Path, dict[str, Any]]:
    """A run of one round on an inbox as above."""
    place = tmp_path_factory.mktemp("template")
    put(place / "inbox", faces, range(120))
    config = RetrainConfig(
        data=f"folder:{place / 'inbox'}", model=str(trained), epochs=2, max_clean_drop=1.0, rules=Rules(rounds=1)
    )
    return place / "run", retrain(config, place / "run", Console())


@pytest.fixture
def begun(inbox: Path, template: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of that run for a test of its own, and what came of it."""
    run, result = template
    out = tmp_path / "run"
    shutil.copytree(run, out, symlinks=True)
    record = read_json(out / "retrain.json")
    record["config"]["data"] = f"folder:{inbox}"
    (out / "retrain.json").write_text(json.dumps(record))
    return out, result


def test_a_round_attacks_learns_and_judges_and_leaves_its_lineage(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], tmp_path: Path, trained: Path
) -> None:
    out, result = begun
    rows = pq.read_table(out / "rounds.parquet").to_pylist()
    assert [row["round"] for row in rows] == [0, 1]
    before, after = rows
    assert before["net_sha256"] == load(trained)[1].sha256
    assert before["epochs"] == before["changed"] == before["weight_distance"] == 0
    assert after["epochs"] == 2
    assert after["weight_distance"] > 0
    assert after["unseen"] == ["apgd", "square"]
    assert result["generations"][0]["stop"]["rule"] == "rounds"
    learnt = load(out / "rounds/0001/net")[1].trained
    assert (learnt["round"], learnt["recipe"]["parent"], learnt["recipe"]["method"]) == (1, 0, "rounds")
    usual = training_defaults() | {"epochs": 2, "lr": 1e-3, "augment_strength": 0.0}
    assert learnt["training"] == usual | {"seed": 1, "objective": None}
    # A net that was only measured is what it was.
    assert load(out / "rounds/0000/net")[1].trained == load(trained)[1].trained

    attacked = pq.read_table(out / "rounds/0001/attack/dx/images").to_pylist()
    fooled = {row["name"]: row for row in attacked if row["status"] == "fooled"}
    joined = pq.read_table(out / "rounds/0001/joined.parquet").to_pylist()
    assert len(attacked) == after["attacked"] == before["train_images"]
    assert {row["parent"] for row in joined} == set(fooled)
    assert len(joined) == after["fooled"] == after["train_images"] - before["train_images"] > 0
    for row in joined:
        assert row["label"] == row["parent"].split("/")[0]  # the true one, which is its folder's name
        assert row["fooled_net_sha256"] == before["net_sha256"]
        assert row["image"] == fooled[row["parent"]]["modified"]["bytes"]

    dx = pq.read_table(out / "rounds/0001/judged/dx/images").to_pylist()
    fought = [row for row in dx if row["status"] in ("fooled", "missed")]
    near = [row for row in fought if row["status"] == "fooled" and row["l2"] <= 0.25]
    assert after["fooled_within"] == pytest.approx(len(near) / len(fought))

    asked = ["attack", f"parquet:{out}/faces/test", "--model", f"{out}#round=1", "--out", tmp_path / "attack", "--json"]
    code, said, _ = dxray(*asked)
    assert code == 0
    assert json.loads(said)["inputs"] == pq.read_table(out / "faces/test/0000.parquet").num_rows
    assert read_json(tmp_path / "attack" / "attack.json")["net_sha256"] == after["net_sha256"]
    assert load_victim(f"{out}#round=1")[1].sha256 == after["net_sha256"]
    assert load_victim(out)[1].sha256 == rows[result["current"]]["net_sha256"]
    with pytest.raises(CheckpointError, match="has no net of a round 9; its rounds are 0 to 1"):
        load_victim(f"{out}#round=9")


def test_each_round_draws_other_faces_to_attack_and_the_same_when_done_again(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = begun

    def drawn(count: int, *seed: int) -> pa.Table:
        sample(out, count, seed, tmp_path / "sample.parquet")
        return pq.read_table(tmp_path / "sample.parquet")

    train = pq.read_table(out / "faces/train/0000.parquet")
    first = drawn(20, 0, 1)
    assert first.equals(drawn(20, 0, 1))
    assert not first.equals(drawn(20, 0, 2))
    known = {row["name"]: row for row in train.to_pylist()}
    assert len({row["name"] for row in first.to_pylist()}) == 20
    assert all(known[row["name"]] == row for row in first.to_pylist())
    assert drawn(10**6, 0, 1).equals(train)


def test_new_faces_begin_a_generation_and_nothing_new_says_so(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], inbox: Path, faces: Faces, tmp_path: Path
) -> None:
    out, result = begun
    code, said, _ = dxray("retrain", "--update", out)
    assert code == 0
    assert f"nothing is new in 'folder:{inbox}': round {result['current']} stays in use" in said

    put(inbox, faces, [i for i in range(120, 160) if faces.labels[i]])
    put(inbox, faces, range(160, 163), loose=True)
    code, said, _ = dxray("retrain", "--update", out)
    assert code == 0
    assert "3 new faces have no label and are left out; --label-by MODEL takes them in" in said
    assert "warning: no new face is male" in said
    rows = pq.read_table(out / "rounds.parquet").to_pylist()
    assert [(row["generation"], row["round"]) for row in rows] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert rows[2]["parent_round"] == result["current"]
    assert rows[2]["net_sha256"] == rows[result["current"]]["net_sha256"]
    assert rows[2]["train_images"] > rows[1]["train_images"]

    shutil.rmtree(inbox)
    code, _, wrong = dxray("retrain", "--update", out)
    assert code == 1
    assert "does not exist" in wrong
    assert f"nothing was trained, and '{out}' keeps its faces and nets" in wrong


def test_unlabelled_faces_are_taken_in_by_a_net_and_marked(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], inbox: Path, faces: Faces, trained: Path
) -> None:
    out, _ = begun
    put(inbox, faces, range(200, 210), loose=True)
    code, said, _ = dxray("retrain", "--update", out, "--label-by", trained)
    assert code == 0
    assert "10 labelled by a net" in said
    taken = pq.read_table(out / "faces/train/0001.parquet").to_pylist()
    assert {row["labelled_by"] for row in taken} == {load(trained)[1].sha256}
    assert np.mean([row["label"] == faces.classes[faces.labels[int(row["name"][4:7])]] for row in taken]) > 0.8
    assert not (out / "faces/validation/0001.parquet").exists()
    assert set(pq.read_table(out / "faces/train/0000.parquet")["labelled_by"].to_pylist()) == {None}


def test_faces_of_an_update_that_was_killed_before_it_began_are_still_new(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], inbox: Path, faces: Faces
) -> None:
    out, _ = begun
    put(inbox, faces, range(120, 140))
    (out / "faces/train/0001.parquet").write_bytes((out / "faces/train/0000.parquet").read_bytes())
    code, said, _ = dxray("retrain", "--update", out, "--json")
    assert code == 0
    assert json.loads(said)["new_faces"] == 20


def test_one_that_is_started_while_another_works_ends_without_a_fault(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said]
) -> None:
    out, _ = begun
    with locked(out):
        code, said, wrong = dxray("retrain", "--update", out)
        assert (code, wrong) == (0, "")
        assert f"another dxray process works on '{out}' now" in said
        assert dxray("retrain", "--resume", out)[0] == 1


def test_a_net_that_is_worse_is_not_put_in_use_and_rollback_goes_back(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], inbox: Path, faces: Faces
) -> None:
    out, result = begun
    if result["current"] == 0:
        assert dxray("retrain", "--rollback", out, "--to-round", 1)[0] == 0
    code, said, _ = dxray("retrain", "--rollback", out)
    assert code == 0
    assert "in use: the net of round 0 (before: round 1)" in said
    assert load_victim(out)[1].sha256 == load_victim(f"{out}#round=0")[1].sha256

    record = read_json(out / "retrain.json")
    record["config"]["max_clean_drop"] = -1.0  # no net is that much better
    (out / "retrain.json").write_text(json.dumps(record))
    put(inbox, faces, range(120, 140))
    assert dxray("retrain", "--update", out)[0] == 0
    verdict = read_json(out / "retrain.json")["generations"][1]["promotion"]
    assert not verdict["promoted"]
    assert "would fall" in verdict["reason"]
    assert load_victim(out)[1].sha256 == load_victim(f"{out}#round=0")[1].sha256
    code, _, wrong = dxray("retrain", "--rollback", out, "--to-round", 99)
    assert code == 1
    assert "has no net of a round 99" in wrong


def test_a_round_whose_attack_finds_nothing_ends_the_run_with_the_net_it_had(
    inbox: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said], local_ray: None
) -> None:
    out = tmp_path / "run"
    words = ["--data", f"folder:{inbox}", "--model", trained, "--attack", "fgsm", "--eps", "0.0001/255"]
    words += ["--attack-faces", 20]
    code, said, wrong = dxray("retrain", *words, "--out", out)
    assert code == 0, wrong
    assert "stopped after round 1: the attack fools the net on none of 20 training faces" in said
    before, after = pq.read_table(out / "rounds.parquet").to_pylist()
    assert (after["fooled"], after["epochs"], after["changed"]) == (0, 0, 0.0)
    assert after["net_sha256"] == before["net_sha256"] == load_victim(f"{out}#round=1")[1].sha256
    assert after["robust_accuracy"] == before["robust_accuracy"]


def test_a_method_that_attacks_in_each_batch_is_one_round(
    inbox: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said], local_ray: None
) -> None:
    out = tmp_path / "run"
    words = ["retrain", "--data", f"folder:{inbox}", "--model", trained, "--method", "fgsm", "--epochs", 2]
    code, _, wrong = dxray(*words, "--out", out)
    assert code == 0, wrong
    row = pq.read_table(out / "rounds.parquet").to_pylist()[1]
    assert (row["method"], row["attacks"], row["attacked"], row["epochs"]) == ("fgsm", [], None, 2)
    assert row["eps"] == pytest.approx(8 / 255)
    assert row["unseen"] == ["apgd", "square", "dx"]
    code, _, wrong = dxray(*words, "--rounds", 2, "--out", out)
    assert (code, "is a single round; leave --rounds out" in wrong) == (1, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "magic"], "no method is called 'magic'; known are: rounds, fgsm"),
        (["--attack", "magic"], "unknown attack 'magic'"),
        (["--attack", "dx", "apgd", "square"], "nothing is left to judge by that was not trained on"),
        (["--attack-faces", "0"], "--attack-faces is a number of training faces, from 1 up"),
        (["--attack-faces", "9", "--method", "pgd"], "of a retraining by --method rounds"),
        (["--eps", "2"], "--eps 2 is no budget"),
        (["--rounds", "0"], "at least 1 round"),
        (["--method", "pgd", "--attack", "dx"], "leave --attack out"),
        (["--to-round", "3"], "--to-round goes with --rollback"),
        (["--every", "soon"], "--every soon: expected a number"),
        (["--resume", "x"], "leave --model, --out out"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_done(
    words: list[str], sentence: str, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    code, _, wrong = dxray("retrain", "--model", trained, "--out", tmp_path / "run", *words)
    assert code == 1
    assert sentence in wrong
    assert not (tmp_path / "run").exists()


def test_another_request_than_that_of_the_run_is_refused(
    begun: tuple[Path, dict[str, Any]], dxray: Callable[..., Said], inbox: Path, trained: Path
) -> None:
    out, _ = begun
    words = ["--data", f"folder:{inbox}", "--model", trained, "--rounds", 1, "--epochs", 3, "--max-clean-drop", 1]
    code, _, wrong = dxray("retrain", *words, "--out", out)
    assert code == 1
    assert "holds a run with epochs 2, and 3 came" in wrong
    code, _, wrong = dxray("retrain", "--resume", out, "--epochs", 3)
    assert code == 1
    assert "leave --epochs out" in wrong


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--resume", "x", "--label-by", "net"], "leave --label-by out"),
        (["--rollback", "x", "--seed", 1, "--epochs", 0], "leave --epochs, --seed out"),
        (["--update", "{empty}", "--label-by", "net"], "holds no retrain.json"),
        (["--resume", "{empty}", "--label-by", "net", "--every", "1h"], "holds no retrain.json"),
    ],
)
def test_what_an_option_would_not_change_is_refused(
    words: list[object], sentence: str, dxray: Callable[..., Said], tmp_path: Path
) -> None:
    code, _, wrong = dxray("retrain", *(str(word).format(empty=tmp_path) for word in words))
    assert (code, sentence in wrong) == (1, True), wrong
