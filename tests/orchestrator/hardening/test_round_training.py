"""How the net of a round is trained, short of training it."""

from typing import Any

import pytest

from dxray.defenses.adversarial_training import METHODS, adversarial
from dxray.orchestrator.hardening.round_training import Recipe, training_of
from dxray.orchestrator.sweep.grid import training_defaults


def test_a_round_turns_and_zooms_no_image_and_else_trains_as_usual() -> None:
    training = training_of(Recipe(3, epochs=2, lr=0.01, batch_size=16, seed=5), 4)
    asked = {"epochs": 2, "lr": 0.01, "batch_size": 16, "augment_strength": 0.0}
    assert training == training_defaults() | asked | {"seed": 9, "objective": None}


def test_a_method_of_each_batch_averages_weights_and_draws_budgets() -> None:
    """As it did where its figures in docs/measurements.md were seen."""
    training = training_of(Recipe(0, "nfgsm", eps=6.5 / 255), 1)
    assert (training["augment_strength"], training["ema"]) == (0.4, 0.998)
    budget = {"eps": 6.5 / 255, "least": 0.5, "warmup": 0.0}
    assert training["objective"] == {"method": "nfgsm", "noise": 2.0, "label_smoothing": 0.05} | budget


@pytest.mark.parametrize("method", METHODS)
def test_the_objective_on_record_is_the_one_that_is_trained(method: str) -> None:
    objective: dict[str, Any] = training_of(Recipe(0, method), 1)["objective"]
    assert callable(adversarial(**objective))
