"""The options of an attack: all that are in effect are in the record, and what cannot be is said before any work."""

from pathlib import Path
from typing import Any

import pytest

from dxray.attacks import ATTACKS
from dxray.orchestrator.attack.attack import AttackConfig, attack
from dxray.orchestrator.attack.options import in_effect
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs import store


@pytest.fixture
def config(face_folder: Path, trained: Path) -> AttackConfig:
    return AttackConfig(paths=[str(face_folder)], model=str(trained))


def test_options_that_are_left_out_are_the_attacks_defaults() -> None:
    assert in_effect("dx", {"effort": "fast"}) == {"norm": "l2", "effort": "fast", "steps": None, "confidence": 0.0}
    assert in_effect("fgsm", {}) == {"norm": "linf", "eps": 8 / 255, "confidence": 0.0}
    assert in_effect("hopskipjump", {}) == {"queries": 1000, "confidence": 0.0}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_option_is_left_open_and_none_is_the_callers(name: str) -> None:
    options = in_effect(name, {})
    assert options
    assert not options.keys() & {"net", "inputs", "labels", "targets", "mask", "seed", "starts", "batch", "ledger"}
    assert all(isinstance(value, bool | int | float | str | None) for value in options.values())


def test_the_record_holds_every_option_and_a_default_that_is_given_is_the_same_run(
    config: AttackConfig, tmp_path: Path, console: Console
) -> None:
    out = tmp_path / "out"
    first = attack(config, out, console, workers="local")
    assert store.read_json(out / "attack.json")["config"]["options"] == in_effect("dx", {})
    given: dict[str, Any] = {"norm": "l2", "confidence": 0.0}
    again = AttackConfig(config.paths, config.model, options=given)
    assert attack(again, out, console, workers="local")["counts"] == first["counts"]
    other = AttackConfig(config.paths, config.model, options={"effort": "fast"})
    with pytest.raises(UserError, match="holds a finished run with effort 'default', and 'fast' came"):
        attack(other, out, console, workers="local")


@pytest.mark.parametrize(
    ("asked", "options", "sentence"),
    [
        ("none", {}, "unknown attack 'none'; known attacks: .*dx"),
        ("dx", {"weight": 1.0}, "attack 'dx' has no option 'weight'"),
        ("dx", {"norm": "l7"}, "unknown norm 'l7'"),
    ],
)
def test_options_that_the_attack_cannot_use_are_said(
    asked: str, options: dict[str, Any], sentence: str, config: AttackConfig, tmp_path: Path, console: Console
) -> None:
    config.attack, config.options = asked, options
    with pytest.raises(UserError, match=sentence):
        attack(config, tmp_path / "out", console)
    assert not (tmp_path / "out").exists()
