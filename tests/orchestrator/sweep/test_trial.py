"""One trial: its result, and a reason for each way in which a training can fail."""

import importlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dxray.orchestrator.sweep.trial
from dxray.defenses.victim import load_victim
from dxray.models.data.faces import Faces
from dxray.models.nets import build
from dxray.models.training.cost import training_bytes
from dxray.models.training.train import evaluate, fit, has_fast_bf16
from dxray.models.victims.checkpoint import load
from dxray.orchestrator.sweep.grid import complete
from dxray.orchestrator.sweep.tables import trial_row
from dxray.orchestrator.sweep.trial import RESULT, STATE, TAUGHT_STATE, reason_of, train_trial

TRIAL: dict[str, Any] = complete(
    {"net": "convnet", "convs": 1, "filters": 4, "epochs": 1, "batch_size": 32, "lr": 1e-2}
)


@pytest.fixture
def data(faces: Faces) -> dict[str, Any]:
    splits = {name: faces.split(name) for name in ("train", "validation", "test")}
    arrays = {name: (split.images, split.labels) for name, split in splits.items()}
    return arrays | {"classes": faces.classes, "source": faces.source, "sha256": faces.sha256()}


def test_a_result_is_what_the_saved_net_measures(data: dict[str, Any], tmp_path: Path) -> None:
    result = train_trial(TRIAL | {"train_size": 100}, data, tmp_path)
    net, card = load(tmp_path)
    assert result["accuracy"] == pytest.approx(evaluate(net, *data["test"])["accuracy"])
    assert result["validation_accuracy"] == pytest.approx(evaluate(net, *data["validation"])["accuracy"])
    assert result["majority_share"] == np.bincount(data["test"][1]).max() / len(data["test"][1])
    assert result["sha256"] == card.sha256
    assert result["train_images"] == card.trained["train_images"] == 100
    assert card.trained["trial"] == TRIAL | {"train_size": 100}
    assert not (tmp_path / STATE).exists()


def test_a_trial_learns_beside_the_class_what_it_names(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, np.ndarray]] = []

    def kept(*arguments: Any, **how: Any) -> Any:
        given.append(how["auxiliary"])
        return fit(*arguments, **how)

    monkeypatch.setattr(dxray.orchestrator.sweep.trial, "fit", kept)
    told = {name: np.arange(len(data["train"][1])) % 3 for name in ("age", "race")}
    results = [
        train_trial(TRIAL | {"train_size": 100} | auxiliary, data | {"auxiliary": told}, tmp_path / str(number))
        for number, auxiliary in enumerate([{}, {"auxiliary": "none"}, {"auxiliary": "age+height"}])
    ]
    assert [list(one) for one in given] == [[], [], ["age"]]
    assert given[2]["age"].tolist() == told["age"][:100].tolist()
    assert results[0]["sha256"] == results[1]["sha256"] != results[2]["sha256"]


def test_a_refit_learns_the_validation_images_and_is_not_judged_by_them(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def kept(*arguments: Any, **how: Any) -> Any:
        given.append((arguments, how))
        return fit(*arguments, **how)

    monkeypatch.setattr(dxray.orchestrator.sweep.trial, "fit", kept)
    both = [np.concatenate([data["train"][part], data["validation"][part]]) for part in (0, 1)]
    told = {"age": np.arange(len(both[1])) % 3}
    result = train_trial(TRIAL | {"refit": True, "auxiliary": "age"}, data | {"auxiliary": told}, tmp_path)
    (_, images, labels), how = given[0]
    assert np.array_equal(images, both[0])
    assert np.array_equal(labels, both[1])
    assert np.array_equal(how["auxiliary"]["age"], told["age"])
    assert how["validation"] is None
    assert result["train_images"] == len(both[1])
    assert (result["validation_accuracy"], result["validation_loss"]) == (None, None)
    assert result["accuracy"] == pytest.approx(evaluate(load(tmp_path)[0], *data["test"])["accuracy"])


def test_an_ended_trial_is_not_done_again(data: dict[str, Any], tmp_path: Path) -> None:
    first = train_trial(TRIAL, data, tmp_path)
    trained: list[Any] = []
    assert train_trial(TRIAL, data, tmp_path, on_epoch=trained.append) == json.loads(json.dumps(first))
    assert trained == []


def test_a_trial_that_was_stopped_goes_on_from_its_last_epoch(data: dict[str, Any], tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train_trial(TRIAL | {"epochs": 3}, data, tmp_path / "killed", on_epoch=kill)
    assert not (tmp_path / "killed" / RESULT).exists()
    trained: list[int] = []
    again = train_trial(
        TRIAL | {"epochs": 3}, data, tmp_path / "killed", on_epoch=lambda row: trained.append(row["epoch"])
    )
    assert trained == [3]
    assert again["sha256"] == train_trial(TRIAL | {"epochs": 3}, data, tmp_path / "whole")["sha256"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blocks": 9}, "failed: blocks=9: images of 48x48"),
        ({"lr": 1e12, "optimizer": "sgd"}, "diverged: the loss of epoch 1 is "),
    ],
)
def test_a_training_that_fails_is_a_result_with_its_reason(
    data: dict[str, Any], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    result = train_trial(TRIAL | change, data, tmp_path)
    assert result["status"] == "KO"
    assert result["reason"].startswith(reason)
    assert json.loads((tmp_path / RESULT).read_text()) == result


def test_a_trial_with_a_defence_is_measured_behind_it_and_attacked_where_the_sweep_asks_for_that(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dxray.orchestrator.sweep.trial, "WITHIN", ("linf", 24 / 255))  # these pictures are easy
    asked = TRIAL | {"epochs": 3}
    attacked = data | {"attacked": True}
    plain = train_trial(asked, attacked, tmp_path / "plain")
    assert plain["robust_naive"] == plain["robust_adaptive"] < plain["accuracy"]
    assert "robust_naive" not in train_trial(asked, data, tmp_path / "trial")
    blocked = train_trial(asked | {"defense": "jumprelu:kappa=1000000.0"}, attacked, tmp_path / "blocked")
    # One answer for all, which the measures of the training did not know of.
    shares = [np.bincount(data[split][1], minlength=2) / len(data[split][1]) for split in ("test", "validation")]
    assert blocked["accuracy"] == blocked["robust_adaptive"] == blocked["robust_naive"]
    assert blocked["accuracy"] in shares[0]
    assert blocked["validation_accuracy"] in shares[1]
    assert load_victim(tmp_path / "blocked")[1].defence["parameters"] == {"kappa": 1e6}


def test_a_defence_that_learns_goes_on_where_it_was_killed(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TRIAL | {"defense": "denoising_autoencoder:filters=4", "train_size": 64}
    whole = train_trial(asked, data, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Killed

    with monkeypatch.context() as patched:
        module = importlib.import_module("dxray.defenses.denoising_autoencoder")
        patched.setattr(module, "fit", lambda *given, **named: fit(*given, **named, on_epoch=kill))
        with pytest.raises(Killed):
            train_trial(asked, data, tmp_path / "killed")
    assert (tmp_path / "killed" / TAUGHT_STATE).exists()
    assert train_trial(asked, data, tmp_path / "killed")["sha256"] == whole["sha256"]
    assert not (tmp_path / "killed" / TAUGHT_STATE).exists()


LIMITED = """
import sys, json, numpy as np
from pathlib import Path
from dxray.orchestrator.sweep.trial import train_trial
rng = np.random.default_rng(0)
split = rng.integers(0, 256, (512, 1, 48, 48), dtype=np.uint8), rng.integers(0, 2, 512)
data = dict(train=split, validation=split, test=split, classes=("a", "b"), source="noise", sha256="")
train_trial(json.loads(sys.argv[1]), data, Path(sys.argv[2]), **json.loads(sys.argv[3]))
"""


def limited(folder: Path, trial: dict[str, Any], **limits: float) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which the limits may end."""
    words = [sys.executable, "-c", LIMITED, json.dumps(TRIAL | trial), str(folder), json.dumps(limits)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("said", "allowed", "reason"),
    [
        ("std::bad_alloc", None, "out of memory"),
        ("could not create a primitive", 1.5, "out of memory: it needs more than the 1.5 GiB allowed"),
        ("could not create a primitive", None, "failed: could not create a primitive"),
        ("a layer\nis missing", 1.5, "failed: a layer is missing"),
    ],
)
def test_what_is_said_where_memory_is_short_depends_on_who_says_it(
    said: str, allowed: float | None, reason: str
) -> None:
    assert reason_of(RuntimeError(said), allowed) == reason


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by RLIMIT_DATA, of Linux")
@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (0.9, r"out of memory: it needs at least [\d.]+ GiB, and [\d.]+ GiB are allowed; not begun"),
        (1.2, r"out of memory: it needs more than the [\d.]+ GiB allowed"),
    ],
)
def test_a_training_that_needs_more_memory_than_allowed_says_so(tmp_path: Path, share: float, reason: str) -> None:
    """Under the lower bound of what it needs, and a little over it."""
    net = {"filters": 64, "convs": 4}  # of the net alone: what else it has is its own default
    bf16 = has_fast_bf16(torch.device("cpu"))
    least = training_bytes(lambda: build("convnet", **net), (256, 1, 48, 48), bfloat16=bf16)
    # oneDNN was seen to crash where it gets no memory, in 2 of 30 such processes; a sweep then tells of a dead worker.
    tries = (limited(tmp_path, net | {"batch_size": 256}, memory_limit=share * least / 2**30) for _ in range(3))
    ended = next(ended for ended in tries if ended.returncode != -signal.SIGSEGV)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / RESULT).read_text())
    assert result["status"] == "KO"
    assert re.fullmatch(reason, result["reason"])
    assert (result["memory_gib"] < 0.1) == (share < 1)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by RLIMIT_DATA, of Linux")
def test_a_training_that_fits_is_not_hindered(tmp_path: Path) -> None:
    ended = limited(tmp_path, {}, memory_limit=1)
    assert json.loads((tmp_path / RESULT).read_text())["status"] == "ok", ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by RLIMIT_DATA, of Linux")
def test_what_a_training_needs_is_asked_once(data: dict[str, Any], tmp_path: Path) -> None:
    least: dict[str, int] = {}
    for folder, trial in (("0", TRIAL), ("1", TRIAL | {"seed": 1, "lr": 1e-3}), ("2", TRIAL | {"batch_size": 8})):
        train_trial(trial, data, tmp_path / folder, memory_limit=64, least=least)
        if folder == "1":
            assert len(least) == 1
    assert len(least) == 2
    least.update(dict.fromkeys(least, 65 * 2**30))
    result = train_trial(TRIAL | {"seed": 2}, data, tmp_path / "3", memory_limit=64, least=least)
    assert result["reason"] == "out of memory: it needs at least 65 GiB, and 64 GiB are allowed; not begun"


@pytest.mark.parametrize(
    ("accuracy", "largest", "mark"), [(0.6, 1.0, "one class"), (0.4, 0.8, "under majority"), (0.9, 0.6, None)]
)
def test_a_net_that_has_learnt_nothing_is_marked(accuracy: float, largest: float, mark: str | None) -> None:
    result = {"status": "ok", "accuracy": accuracy, "largest_answer_share": largest, "majority_share": 0.6}
    assert trial_row(0, TRIAL, result)["mark"] == mark
