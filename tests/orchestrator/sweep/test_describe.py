"""What is said of trials: values as they are typed, and once what all of them share."""

from typing import Any

import pytest

from dxray.orchestrator.sweep.describe import alike, in_effect, value_text
from dxray.orchestrator.sweep.grid import NET_PARAMETERS, PARAMETERS, complete, expand


def test_what_is_in_effect_leaves_out_only_what_the_net_does_not_have() -> None:
    trial = complete({"net": "convnet"})
    row = dict.fromkeys(PARAMETERS) | trial | {"trial": 3, "status": "ok"}
    assert in_effect(row) == in_effect(trial) == trial | {"train_size": "all"}
    assert PARAMETERS.keys() - in_effect(row).keys() <= NET_PARAMETERS.keys()
    assert in_effect(trial | {"train_size": 9})["train_size"] == 9


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("lr", 0.002, "0.002"),
        ("lr", 1e-5, "1e-05"),
        ("filters", 8, "8"),
        ("batch_norm", True, "on"),
        ("refit", False, "off"),
        ("optimizer", "sgd", "sgd"),
        ("out_channels", None, "-"),
        ("train_size", None, "all"),
    ],
)
def test_a_value_is_said_as_it_is_typed(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text


def test_what_all_trials_share_is_said_once_and_what_differs_is_not() -> None:
    said = alike(expand({"net": "densenet", "filters": [4, 8], "lr": [0.1, 0.2], "seed": [0, 1]}), 1000)
    assert said == (
        "all: net densenet, blocks 4, convs 3, out_channels 32, dropout 0.1, batch_norm on, epochs 8, batch_size 64, "
        "weight_decay 0.01, optimizer adamw, schedule onecycle, label_smoothing 0.05, augment on, augment_strength 1, "
        "random_erasing 0, ema 0, train_size all, refit off, auxiliary none, defense none"
    )


def test_what_follows_from_the_net_is_said_for_each() -> None:
    lines = alike(expand({"net": ["densenet", "convnet", "resnet"], "filters": [4, 8]}), 1000).splitlines()
    assert lines[0].startswith("all: dropout 0.1, epochs 8, batch_size 64, lr 0.002, ")
    assert lines[1:] == [
        "densenet: blocks 4, convs 3, out_channels 32, batch_norm on",
        "convnet: blocks 4, convs 2, batch_norm on",
        "resnet: blocks 3, convs 4, stem_blocks 0, tta_flip off, tta_shift off",
    ]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_it_is_wrapped_between_parameters_and_never_between_a_name_and_its_value(width: int) -> None:
    trials = expand({"net": ["densenet", "convnet"]})
    wrapped = alike(trials, width)
    assert max(map(len, wrapped.splitlines())) <= width
    assert wrapped.replace("\n  ", " ") == alike(trials, 1000)
    assert all(line.endswith(",") for line in wrapped.split("\n  ")[:-1])
    assert "\N{NO-BREAK SPACE}" not in wrapped
