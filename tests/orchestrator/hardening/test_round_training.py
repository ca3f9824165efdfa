"""How the net of a round is trained, short of training it."""

from typing import Any

import numpy as np
import pytest

from dxray.orchestrator.hardening.new_faces import Held
from dxray.orchestrator.hardening.round_training import Recipe, _in_each_batch


def test_a_method_of_each_batch_averages_weights_and_draws_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it did where its figures in docs/measurements.md were seen."""
    asked: dict[str, Any] = {}

    def adversarial(method: str, **budget: float) -> None:
        asked.update(method=method, **budget)

    monkeypatch.setattr("dxray.orchestrator.hardening.round_training.adversarial", adversarial)
    faces = Held(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64), list("abcd"))
    how = _in_each_batch(Recipe(0, "nfgsm", eps=6.5 / 255), faces)
    assert asked == {"method": "nfgsm", "eps": 6.5 / 255, "least": 0.5}
    assert (how["augment_strength"], how["ema"]) == (0.4, 0.998)
    assert callable(how["judge"])
