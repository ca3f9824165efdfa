"""What the rows of a minimal attack say of a net."""

import json

import pytest

from dxray.orchestrator.hardening.rounds import smallest_changes


@pytest.mark.parametrize(
    ("found", "within", "median"),
    [
        ([0.1, 0.2, 0.6], 2 / 3, 0.2),
        ([0.1, None, 0.6], 1 / 3, 0.6),
        ([0.1, None], 1 / 2, None),  # half of the faces withstood: no change is the middle one
        ([], None, None),
    ],
)
def test_shares_are_of_the_faces_that_the_net_had_right_and_figures_are_json(
    found: list[float | None], within: float | None, median: float | None
) -> None:
    rows = [{"status": "missed" if l2 is None else "fooled", "l2": l2} for l2 in found]
    rows += [{"status": status, "l2": None} for status in ("already_wrong", "unreadable")]
    figures = smallest_changes(rows, 0.25)
    assert figures == {"fooled_within": within, "median_l2": median}
    json.dumps(figures, allow_nan=False)
