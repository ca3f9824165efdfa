"""Which net is in use: what is put there, what is not and why, and the link itself."""

from pathlib import Path
from typing import Any

import pytest

from dxray.models.victims.checkpoint import CARD, WEIGHTS, net_of_round
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.hardening.promotion import in_use, judge, use
from dxray.orchestrator.runs.buckets import ObjectPath


def row(number: int, clean: float, robust: float) -> dict[str, Any]:
    return {"round": number, "validation_accuracy": clean, "robust_accuracy": robust, "net_sha256": f"{number}"}


@pytest.mark.parametrize(
    ("clean", "robust", "promoted", "reason"),
    [
        (0.895, 0.5, True, "robust accuracy 40.0% -> 50.0%, clean accuracy 90.0% -> 89.5%"),
        (0.95, 0.4, True, "robust accuracy 40.0% -> 40.0%, clean accuracy 90.0% -> 95.0%"),
        (0.95, 0.39, False, "robust accuracy would fall (40.0% -> 39.0%)"),
        (0.875, 0.8, False, "clean accuracy would fall by 2.5% or more (90.0% -> 87.5%)"),
    ],
)
def test_a_net_is_put_in_use_if_it_is_no_worse(clean: float, robust: float, promoted: bool, reason: str) -> None:
    assert judge([row(4, 0.9, 0.4), row(5, clean, robust)], 0.025) == (5, promoted, reason)


def test_of_several_nets_the_most_robust_is_the_candidate() -> None:
    verdict = judge([row(0, 0.9, 0.1), row(1, 0.9, 0.3), row(2, 0.9, 0.5), row(3, 0.9, 0.4)], 0.02)
    assert (verdict.round, verdict.promoted) == (2, True)


def test_the_same_net_and_no_net_are_not_put_in_use() -> None:
    assert not judge([row(0, 0.9, 0.1)], 0.02).promoted
    assert not judge([row(0, 0.9, 0.1), row(1, 0.9, 0.1) | {"net_sha256": "0"}], 0.02).promoted


def test_the_link_moves_and_survives_that_the_run_is_moved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number in (0, 1):
        net_of_round(run, number).mkdir(parents=True)
        (net_of_round(run, number) / CARD).write_text(f"{number}")
        use(run, number)
        assert in_use(run) == number
    moved = run.rename(tmp_path / "tta_shift")
    assert (moved / "current" / CARD).read_text() == "1"
    with pytest.raises(UserError, match="has no net of a round 7"):
        use(moved, 7)
    assert in_use(moved) == 1


@pytest.mark.usefixtures("bucket")
def test_in_a_bucket_it_is_a_copy_which_is_made_again_where_it_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ObjectPath("s3://lab/run")
    for number in (0, 1):
        for name in (WEIGHTS, CARD):
            (net_of_round(run, number) / name).write_bytes(f"{name} of {number}".encode())

    def used() -> tuple[int, bytes, bytes]:
        current = run / "current"
        return in_use(run), (current / WEIGHTS).read_bytes(), (current / CARD).read_bytes()

    use(run, 0)
    assert used() == (0, f"{WEIGHTS} of 0".encode(), f"{CARD} of 0".encode())
    with monkeypatch.context() as cut_off:
        cut_off.setattr("dxray.orchestrator.hardening.promotion.write_json", _gone)
        with pytest.raises(OSError, match="gone"):
            use(run, 1)
    assert in_use(run) == 0  # so that the run, when it goes on, uses round 1 again
    use(run, 1)
    assert used() == (1, f"{WEIGHTS} of 1".encode(), f"{CARD} of 1".encode())
    with pytest.raises(UserError, match="has no net of a round 7"):
        use(run, 7)
    assert in_use(run) == 1


def _gone(*_: Any) -> None:
    raise OSError("the network is gone")
