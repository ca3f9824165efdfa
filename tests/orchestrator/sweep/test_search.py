"""Which trials are trained: drawn by the seed alone, proposed from what is known, stopped when they lag."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.search import HALVE, Study, chosen, early_stopping, proposal

GRID = expand({"net": ["convnet"], "filters": [4, 8, 16, 32], "convs": [1, 2, 3], "dropout": [0.0, 0.1, 0.3]})


def test_a_grid_is_trained_whole() -> None:
    assert chosen(GRID, "grid", None, 0) == GRID


def test_a_random_search_is_a_sample_of_the_grid_in_its_order_by_the_seed_alone() -> None:
    drawn = chosen(GRID, "random", 10, 3)
    assert drawn == chosen(GRID, "random", 10, 3)
    assert drawn != chosen(GRID, "random", 10, 4)
    assert len(drawn) == 10
    assert [trial for trial in GRID if trial in drawn] == drawn
    assert chosen(GRID, "random", 1000, 0) == GRID


@pytest.mark.parametrize(
    ("search", "samples", "said"),
    [
        ("annealing", None, "no search is called 'annealing'; known are: grid, random, optuna"),
        ("random", None, "needs --samples: how many of the grid's 36 nets"),
        ("optuna", 0, "needs --samples"),
        ("grid", 5, "leave it out"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(search: str, samples: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        chosen(GRID, search, samples, 0)


def test_without_optuna_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'dxray\[optuna\]'"):
        chosen(GRID, "optuna", 5, 0)


def test_optuna_is_loaded_only_when_asked() -> None:
    code = "import sys; from dxray.orchestrator.sweep import search; search.chosen([{}] * 9, 'random', 3, 0); "
    code += "print(*sys.modules)"
    assert "optuna" not in subprocess.check_output([sys.executable, "-c", code], text=True).split()


def accuracy(trial: dict[str, Any]) -> float:
    """More filters and less dropout are better; convs do not matter."""
    return 0.5 + 0.1 * [4, 8, 16, 32].index(trial["filters"]) - 0.3 * trial["dropout"]


def searched(out: Path, samples: int, stop_after: int = 1000) -> list[int]:
    """The proposals of a study whose every trial ends before the next is asked for."""
    rows: dict[int, dict[str, Any]] = {}
    study = Study(GRID, out, samples=samples, seed=1, rows=rows)
    for index in study.proposed:
        rows[index] = {"validation_accuracy": accuracy(GRID[index])}
    while len(study.proposed) < stop_after and (new := study.propose()) is not None:
        rows[new] = {"validation_accuracy": accuracy(GRID[new])}
    return study.proposed


def test_a_study_finds_the_good_trials_and_proposes_none_twice(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    proposed = searched(tmp_path, 24)
    assert len(set(proposed)) == len(proposed) == 24
    late = [accuracy(GRID[index]) for index in proposed[10:18]]
    assert sum(late) / len(late) > sum(map(accuracy, GRID)) / len(GRID) + 0.05
    assert len(searched(tmp_path / "all", 1000)) == len(GRID)


def test_a_study_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    searched(tmp_path / "cut", 15, stop_after=12)
    assert searched(tmp_path / "cut", 15) == searched(tmp_path / "whole", 15)


def test_trials_that_run_or_failed_are_known_to_a_study() -> None:
    pytest.importorskip("optuna")
    rows: dict[int, dict[str, Any]] = {0: {"status": "KO"}, 1: {"validation_accuracy": 0.6}}
    assert proposal(GRID, [0, 1, 2], rows, 0) not in (0, 1, 2)
    everything_else = [index for index in range(len(GRID)) if index != 7]
    assert proposal(GRID, everything_else, rows, 0) == 7


def decided(made: Any, name: str, accuracies: list[float], epochs: int) -> list[str]:
    """What the scheduler says after each epoch of a training; the last is not for it to judge."""
    trial = SimpleNamespace(trial_id=name)
    made.on_trial_add(None, trial)
    said = []
    for epoch, value in enumerate(accuracies, 1):
        result = {"epoch": epoch, "validation_accuracy": value} | ({HALVE: epoch} if epoch < epochs else {})
        said.append(made.on_trial_result(None, trial, result))
        if said[-1] == TrialScheduler.STOP:
            break
    return said


def test_a_training_that_lags_is_stopped_and_one_that_leads_is_not() -> None:
    made = early_stopping(9, {})
    assert set(decided(made, "good", [0.9] * 9, 9)) == {TrialScheduler.CONTINUE}
    assert decided(made, "bad", [0.6] * 9, 9) == [TrialScheduler.STOP]
    late = [0.9, 0.9, 0.7, 0.7]
    assert decided(made, "late", late, 9) == [TrialScheduler.CONTINUE] * 2 + [TrialScheduler.STOP]


def test_a_training_is_never_stopped_after_its_last_epoch() -> None:
    made = early_stopping(9, {})
    decided(made, "good", [0.9] * 9, 9)
    assert decided(made, "short", [0.95, 0.95, 0.1], 3) == [TrialScheduler.CONTINUE] * 3


def test_trainings_of_before_an_interruption_are_judged_against_too() -> None:
    earlier = {"epoch_rows": [{"epoch": i, "validation_accuracy": 0.9} for i in range(1, 10)], "epochs": 9}
    assert decided(early_stopping(9, {4: earlier}), "bad", [0.6] * 9, 9) == [TrialScheduler.STOP]
