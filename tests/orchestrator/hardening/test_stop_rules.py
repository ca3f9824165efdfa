"""Each rule on rows that are as small a case of it as there is."""

from typing import Any

import pytest

from dxray.orchestrator.hardening.stop_rules import Rules, why_stop

FIRST: dict[str, Any] = {
    "round": 0,
    "attacked": None,
    "fooled": None,
    "epochs": 0,
    "train_images": 100,
    "robust_accuracy": 0.1,
}


def rows(*robust: float, **last: Any) -> list[dict[str, Any]]:
    """The first, and a round for each robust accuracy; `last` is said of the last."""
    moves: dict[str, Any] = {
        "attacked": 100,
        "fooled": 50,
        "changed": 0.1,
        "weight_distance": 0.1,
        "epochs": 2,
        "train_images": 150,
    }
    found = [FIRST | {"changed": 0.0, "weight_distance": 0.0}]
    found += [moves | {"round": i, "robust_accuracy": value} for i, value in enumerate(robust, start=1)]
    found[-1] = found[-1] | last
    return found


def fired(rows: list[dict[str, Any]], seconds: float = 0.0, **rules: Any) -> str | None:
    stop = why_stop(rows, Rules(**rules), seconds=seconds)
    return stop and stop.rule


def test_the_net_it_begins_with_stops_nothing() -> None:
    assert fired(rows()) is None


def test_nothing_fools_any_more() -> None:
    assert fired(rows(0.2, fooled=0)) == "nothing_fools"
    assert fired(rows(0.2, fooled=1)) is None
    assert fired(rows(0.2, attacked=None, fooled=None)) is None  # attacked in each batch


def test_the_rounds_are_done() -> None:
    assert fired(rows(0.2, 0.3), rounds=2) == "rounds"
    assert fired(rows(0.2, 0.3), rounds=3) is None


def test_the_net_hardly_changes_in_answers_and_in_weights() -> None:
    limits = {"min_changed": 0.01, "min_distance": 0.02}
    assert fired(rows(0.2, changed=0.01, weight_distance=0.02), **limits) == "small_change"
    assert fired(rows(0.2, changed=0.011, weight_distance=0.02), **limits) is None
    assert fired(rows(0.2, changed=0.01, weight_distance=0.021), **limits) is None


@pytest.mark.parametrize(
    ("robust", "rule"),
    [
        ((0.2, 0.2, 0.15), "no_longer_rises"),
        ((0.2, 0.2), None),
        ((0.2, 0.15, 0.21), None),
        ((0.05, 0.1), "no_longer_rises"),  # never better than the net it began with
    ],
)
def test_robust_accuracy_no_longer_rises(robust: tuple[float, ...], rule: str | None) -> None:
    assert fired(rows(*robust), patience=2) == rule
    assert fired(rows(*robust), patience=None) is None


def test_a_budget_of_images_or_seconds_is_spent() -> None:
    assert fired(rows(0.2), max_images=100 + 2 * 150) == "budget"
    assert fired(rows(0.2), max_images=100 + 2 * 150 + 1) is None
    assert fired(rows(0.2), max_seconds=60.0, seconds=60.0) == "budget"
    assert fired(rows(0.2), max_seconds=60.0, seconds=59.0) is None
