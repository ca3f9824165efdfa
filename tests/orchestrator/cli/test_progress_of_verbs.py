"""Every verb that works long says in a log which share is done, how long the rest will take, and the figures so far."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dxray.orchestrator.attack.attack import AttackConfig, attack
from dxray.orchestrator.cli.app import VERBS
from dxray.orchestrator.console import Console

Said = tuple[int, str, str]

DATA = ["--data", "parquet:{table}"]
JUDGED = ["--count", "20", "--steps", "5", "--queries", "10", "--eps", "4/255", "--l2"]
SWEEP = [*DATA, "--net", "convnet", "--convs", "1", "--filters", "2", "--dropout", "0", "--epochs", "12"]
RETRAIN = [*DATA, "--model", "{net}", "--held-out", "20", "--out", "{out}"]
DEMO = {"net": ["convnet"], "convs": [1], "filters": [2], "epochs": [12]}
LEFT = r".*, about [\d.]+ \w+ left"

# Ray's own commands work here, and say what they do; for the end of a job is waited with what the job says.
OF_RAY = {"up", "status", "submit", "fetch", "down"}

# The words of a verb, and what it says of its work; {} are paths.
IN_THIS_PROCESS: dict[str, tuple[list[str], list[str]]] = {
    "attack": (
        ["{faces}", "--model", "{net}", "--workers", "local", "--out", "{out}"],
        [rf"attacking: \d+/48 images \(\d+%\){LEFT}, \d+ images/s, \d+ fooled"],
    ),
    "predict": (["{face}"] * 9 + ["--model", "{net}"], [rf"predicting: \d/9 images \(\d+%\){LEFT}"]),
    "robustness": (
        ["{net}", *DATA, *JUDGED, "--defense", "none", "denoising_autoencoder:filters=2", "--out", "{out}"],
        [
            rf"reading .*: \d+%{LEFT}",
            rf"denoising_autoencoder.* learns: \d+%{LEFT}",
            rf"robustness: 0/2 nets \(\d+%\){LEFT}",
        ],
    ),
    "doctor": (["{net}", *DATA, "--out", "{out}"], [rf"reading .*: \d+%{LEFT}", rf"doctor: 0/1 nets \(\d+%\){LEFT}"]),
    "show": (["{run}"], [rf"reading the run: \d+%{LEFT}"]),
    "verify": (["{run}"], [rf"verifying: \d+/48 images \(\d+%\){LEFT}"]),
    "export": (["{run}", "--out", "{out}"], [rf"exporting: \d+/48 images \(\d+%\){LEFT}"]),
    "compact": (["{run}"], [rf"compacting: \d+/\d+ parts \(\d+%\){LEFT}"]),
}
BY_RAY: dict[str, tuple[list[str], list[str]]] = {
    "plan": (["--data", "synthetic:4000", *SWEEP[2:]], [rf"reading .*: \d+%{LEFT}"]),
    "sweep": (
        [*SWEEP, "--out", "{out}"],
        [rf"0 of 1 nets \(\d+%\){LEFT}; net=convnet: \d+%, epoch \d+/12, loss .*validation"],
    ),
    "retrain": (
        [*RETRAIN, "--method", "nfgsm", "--epochs", "3"],
        [
            r"training round 1: 0/3 epochs \([1-9]\d*%\), \d+ s, epoch 1/3",
            rf"training round 1: [12]/3 epochs \(\d+%\){LEFT}, epoch [12]/3, loss .*, weak .*%, strong",
            r"attacking: \d+/20 images",
        ],
    ),
    "demo": (
        ["--out", "{out}"],
        [
            r"drawing: \d+%",
            rf"0 of 1 nets \(\d+%\){LEFT}; net=convnet.*: \d+%, epoch \d+/12, loss .*validation",
            rf"attacking: \d+/8 images \(\d+%\){LEFT}",
            rf"verifying: \d+/8 images \(\d+%\){LEFT}",
        ],
    ),
}


@pytest.fixture
def say(
    dxray: Callable[..., Said],
    many: Path,
    trained: Path,
    face_table: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Callable[[str, list[str]], str]:
    """What a verb says on standard error, where it speaks often."""
    by_ray = "local_ray" in request.fixturenames  # to speak too often would take the time of those that work
    monkeypatch.setattr("dxray.orchestrator.progress.SPEAK", 0.05 if by_ray else 0.001)
    monkeypatch.setattr("dxray.orchestrator.progress.SPEAK_OF_MANY", 0.0)
    monkeypatch.setattr("dxray.orchestrator.hardening.round_training.LOOK", 0.1)
    monkeypatch.setattr("dxray.orchestrator.reports.robustness.LESSON", 64)
    for name, value in {"FACES": 600, "ATTACKED": 8, "GRID": DEMO}.items():
        monkeypatch.setattr(f"dxray.orchestrator.cli.demo.{name}", value)
    own = tmp_path / "run"
    shutil.copytree(run, own)
    places = {"faces": many, "face": many / "00.png", "net": trained, "table": face_table, "run": own}

    def said(verb: str, words: list[str]) -> str:
        code, _, errors = dxray(verb, *(word.format(**places, out=tmp_path / "out") for word in words))
        assert code in (0, 1), errors
        return errors

    return said


@pytest.fixture(scope="module")
def run(many: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attack without PNG files."""
    out = tmp_path_factory.mktemp("attacked") / "run"
    attack(AttackConfig([str(many)], str(trained), attack="fgsm", options={"eps": 0.05}, png=False), out, Console())
    return out


def must_be_said(lines: list[str], errors: str) -> None:
    for line in lines:
        assert re.search(f"^{line}", errors, re.MULTILINE), f"no line '{line}' in {errors[-6000:]}"


def test_every_verb_is_tested_here() -> None:
    verbs = {verb.removesuffix(":verb").rpartition(":")[2] for panel in VERBS.values() for verb in panel}
    assert verbs - OF_RAY == {*IN_THIS_PROCESS, *BY_RAY}


@pytest.mark.parametrize("verb", IN_THIS_PROCESS)
def test_a_verb_tells_in_a_log_how_far_it_is(verb: str, say: Callable[[str, list[str]], str]) -> None:
    words, lines = IN_THIS_PROCESS[verb]
    must_be_said(lines, say(verb, words))


@pytest.mark.parametrize("verb", BY_RAY)
def test_a_verb_that_trains_by_ray_tells_in_a_log_how_far_it_is(
    verb: str, say: Callable[[str, list[str]], str], local_ray: None, tmp_path: Path
) -> None:
    words, lines = BY_RAY[verb]
    must_be_said(lines, say(verb, words))
    assert not list(tmp_path.rglob("progress.json")), "the word of a worker outlives its training"
