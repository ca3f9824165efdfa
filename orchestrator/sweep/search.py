"""Which trials of the grid a sweep trains: all, some drawn at random, or those that a study proposes as results come.

What a study has proposed is written down before a trial starts; a proposal follows from the seed, the trials proposed
so far and their results alone. So a sweep that was killed needs no state of the study to go on.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import read_json, write_json
from dxray.orchestrator.sweep.describe import in_effect
from dxray.orchestrator.sweep.grid import varied

SEARCHES = ("grid", "random", "optuna")
LEDGER = "search.json"
HALVE = "halve_at"  # what a trial reports as its epoch, save at its last, where nothing is left to stop

Trials = Sequence[Mapping[str, Any]]


def chosen(trials: list[dict[str, Any]], search: str, samples: int | None, seed: int) -> list[dict[str, Any]]:
    """The trials that a sweep may train, in the grid's order: all of them, or for "random" `samples`, drawn by `seed`.

    Raises:
        UserError: an unknown search, samples missing or too few, or Optuna is not installed.
    """
    if search not in SEARCHES:
        raise UserError(f"no search is called '{search}'; known are: {', '.join(SEARCHES)}")
    if search == "grid":
        if samples is not None:
            raise UserError("--samples is for --search random and optuna; a grid is trained whole, so leave it out")
        return trials
    if not samples:
        raise UserError(f"--search {search} needs --samples: how many of the grid's {len(trials)} nets to train")
    if search == "optuna":
        _optuna()
        return trials
    drawn = np.random.default_rng(seed).permutation(len(trials))[:samples]
    return [trials[i] for i in sorted(drawn)]


class Study:
    """Proposes trials of a grid by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Args:
        rows: trial -> its row in the table, kept up to date by the caller; what the proposals learn from.
    """

    def __init__(
        self, trials: Trials, out: Place, *, samples: int, seed: int, rows: Mapping[int, Mapping[str, Any]]
    ) -> None:
        self._trials, self._ledger, self._samples, self._seed, self._rows = trials, out / LEDGER, samples, seed, rows
        self.proposed: list[int] = read_json(self._ledger)["proposed"] if self._ledger.exists() else []

    def propose(self) -> int | None:
        """The next trial, written to the ledger; None when there are as many as asked for."""
        if len(self.proposed) >= min(self._samples, len(self._trials)):
            return None
        index = proposal(self._trials, self.proposed, self._rows, self._seed)
        self.proposed.append(index)
        write_json(self._ledger, {"proposed": self.proposed})
        return index


def proposal(trials: Trials, proposed: Sequence[int], rows: Mapping[int, Mapping[str, Any]], seed: int) -> int:
    """The trial to train next, for a high validation accuracy: a pure function of what is known.

    Each parameter that tells trials apart is a choice among its values there. Not every combination need be a trial,
    and none is trained twice: taken is the trial that agrees with what Optuna asks for in most parameters.
    """
    optuna = _optuna()
    names = varied(trials)
    values = {name: list(dict.fromkeys(trial.get(name) for trial in trials)) for name in names}
    choices = {name: optuna.distributions.CategoricalDistribution(values[name]) for name in names}
    order = np.random.SeedSequence([seed, len(proposed)]).generate_state(1)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(order[0]), constant_liar=True)
    )
    for index in proposed:
        accuracy = rows.get(index, {}).get("validation_accuracy")
        state = "COMPLETE" if accuracy is not None else "FAIL" if index in rows else "RUNNING"
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=accuracy,
                params={name: trials[index].get(name) for name in names},
                distributions=choices,
            )
        )
    asked = study.ask(choices).params
    free = [index for index in range(len(trials)) if index not in set(proposed)]
    return max(free, key=lambda index: (sum(trials[index].get(name) == asked[name] for name in names), -index))


class CellSearcher(Searcher):
    """Hands trials to Tune: first those that are `left` from before, then what `propose` names until it names none."""

    def __init__(self, trials: Trials, left: Sequence[int], propose: Callable[[], int | None]) -> None:
        super().__init__(metric="validation_accuracy", mode="max")
        self._trials, self._left, self._propose = trials, list(left), propose

    def suggest(self, trial_id: str) -> Any:
        """The number of a trial and, for who reads Tune's logs, its parameters as a `config`; or `FINISHED`."""
        index = self._left.pop(0) if self._left else self._propose()
        return Searcher.FINISHED if index is None else {"trial": index, **in_effect(self._trials[index])}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: proposals look at the table."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the run's folder says it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to do."""


def early_stopping(epochs: int, rows: Mapping[int, Mapping[str, Any]]) -> ASHAScheduler:
    """Asynchronous successive halving (Li et al. 2018, https://arxiv.org/abs/1810.05934) on validation accuracy.

    After a ninth and a third of `epochs` a training goes on if it is among the best third of those that came so far.

    Args:
        rows: those of trainings that ended before, by which later ones are judged as well.
    """
    made: Any = ASHAScheduler(
        time_attr=HALVE,
        metric="validation_accuracy",
        mode="max",
        max_t=max(2, epochs),
        grace_period=max(1, round(epochs / 9)),
        reduction_factor=3,
        stop_last_trials=False,
    )
    for index, row in rows.items():
        earlier = SimpleNamespace(trial_id=f"earlier-{index}")
        made.on_trial_add(None, earlier)
        for epoch in row["epoch_rows"]:
            if epoch["epoch"] < row["epochs"]:
                made.on_trial_result(None, earlier, epoch | {HALVE: epoch["epoch"]})
    return made


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError(
            "--search optuna needs the package Optuna; install it with: pip install 'dxray[optuna]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
