"""The grid: every combination once, only what a net has, and every parameter in effect."""

import inspect
from typing import Any

import numpy as np
import pytest

from dxray.models.nets import MODELS, parameters_of
from dxray.models.training.train import fit
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.describe import value_text
from dxray.orchestrator.sweep.grid import (
    DEFAULTS,
    FIT_PARAMETERS,
    NET_PARAMETERS,
    OF_TRIAL,
    PARAMETERS,
    Grid,
    complete,
    expand,
    says,
    varied,
)


def test_every_combination_comes_once() -> None:
    found = expand({"net": ["convnet"], "filters": [4, 8], "dropout": [0.0, 0.1, 0.5], "seed": [1]})
    assert len(found) == 6
    assert {(trial["filters"], trial["dropout"]) for trial in found} == {
        (f, d) for f in (4, 8) for d in (0.0, 0.1, 0.5)
    }
    assert all(trial["seed"] == 1 for trial in found)


def test_a_parameter_that_a_net_lacks_makes_no_trials_of_it() -> None:
    found = expand({"net": ["densenet", "convnet"], "out_channels": [16, 32], "filters": [4]})
    assert [(trial["net"], trial.get("out_channels")) for trial in found] == [
        ("densenet", 16),
        ("densenet", 32),
        ("convnet", None),
    ]


def test_a_union_holds_the_trials_of_each_grid_in_order_and_none_twice() -> None:
    one: Grid = {"net": ["convnet"], "filters": [4, 8], "dropout": [0.5]}
    two: Grid = {"net": ["convnet"], "filters": [8, 16], "dropout": [0.5]}
    assert [trial["filters"] for trial in expand([one, two])] == [4, 8, 16]


def test_one_value_alone_is_a_list_of_one() -> None:
    alone = expand({"net": "convnet", "filters": 8, "dropout": 0.5, "batch_norm": False})
    assert alone == expand({"net": ["convnet"], "filters": [8], "dropout": [0.5], "batch_norm": [False]})


def test_a_whole_number_for_a_share_is_that_share() -> None:
    (trial,) = expand({"net": "convnet", "filters": np.arange(8, 9), "dropout": [0, 0.0]})
    assert (repr(trial["filters"]), repr(trial["dropout"])) == ("8", "0.0")


@pytest.mark.parametrize("net", MODELS)
def test_a_trial_has_every_parameter_of_its_net_and_of_its_training(net: str) -> None:
    (trial,) = expand({"net": net, "filters": 4, "lr": 0.1})
    assert list(trial) == [name for name in PARAMETERS if name not in NET_PARAMETERS or name in parameters_of(net)]
    asked = {"net": net, "filters": 4, "lr": 0.1}
    assert asked.items() <= trial.items()
    usual = {name: one.default for name, one in inspect.signature(fit).parameters.items()} | parameters_of(net)
    usual |= OF_TRIAL | {name: values[0] for name, values in DEFAULTS.items() if len(values) == 1}
    assert {name: value for name, value in trial.items() if name not in asked} == {
        name: usual[name] for name in trial if name not in asked
    }


def test_a_trial_alone_is_completed_from_its_net_and_its_training() -> None:
    trial = complete({"net": "resnet", "lr": 0.1, "out_channels": 8})
    assert (trial["lr"], trial["blocks"], trial["stem_blocks"], trial["epochs"]) == (0.1, 3, 0, 12)
    assert not {"out_channels", "batch_norm"} & trial.keys()
    assert complete(trial) == trial


def test_parameters_are_those_of_the_nets_and_of_the_training() -> None:
    assert {*NET_PARAMETERS} == {name for net in MODELS for name in parameters_of(net)}
    assert {*FIT_PARAMETERS} <= inspect.signature(fit).parameters.keys()


def usual_text(name: str) -> str:
    """What a trial takes that does not say a parameter, from the code itself."""
    if name in DEFAULTS:
        return " ".join(value_text(name, value) for value in DEFAULTS[name])
    if name not in NET_PARAMETERS:
        return value_text(name, complete({"net": "convnet"})[name])
    of_nets = {net: value_text(name, parameters_of(net)[name]) for net in MODELS if name in parameters_of(net)}
    same = len(set(of_nets.values())) == 1
    return next(iter(of_nets.values())) if same else ", ".join(f"{net} {text}" for net, text in of_nets.items())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_help_says_the_default_that_a_trial_takes(name: str) -> None:
    assert PARAMETERS[name].default == usual_text(name)


def test_trials_that_are_alike_once_they_are_complete_are_one() -> None:
    said: Grid = {"net": "convnet", "filters": 8, "lr": 0.002, "defense": "none", "auxiliary": "none", "refit": False}
    assert len(expand([{"net": "convnet", "filters": 8}, said])) == 1


def test_what_tells_the_trials_of_a_net_apart_is_what_a_table_shows() -> None:
    assert varied(expand({"net": ["densenet"], "filters": [4, 8], "epochs": [1]})) == ["filters"]
    assert varied(expand({"net": ["convnet"], "filters": 4})) == []
    several = [{"net": "densenet", "filters": 4, "out_channels": [8, 16]}, {"net": "convnet", "filters": 4, "lr": 0.1}]
    assert varied(expand(several)) == ["net", "out_channels"]


def test_a_defence_and_what_is_learnt_beside_the_class_have_one_form() -> None:
    found = expand({"net": "convnet", "filters": 8, "defense": ["none", "jumprelu", "jumprelu:kappa=.10", "jpeg"]})
    assert [trial["defense"] for trial in found] == ["none", "jumprelu:kappa=0.1", "jpeg:quality=50"]
    found = expand({"net": "convnet", "filters": 8, "auxiliary": ["race + age", "age+race", "", "none+age"]})
    assert [trial["auxiliary"] for trial in found] == ["age+race", "none", "age"]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"defense": "none"}, True),
        ({"filters": 4}, False),
        ([{"filters": 4}, {"defense": ["jpeg"]}], True),
        ([], False),
    ],
)
def test_a_grid_says_a_parameter_where_one_of_its_parts_does(grid: Any, said: bool) -> None:
    assert says(grid, "defense") is said


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"colour": [1]}, "no parameter 'colour'; known are: net"),
        ({"net": ["alexnet"]}, "no net is called 'alexnet'"),
        ({"defense": "magic"}, "the grid's 'defense': no defence is called 'magic'; known are: none, jumprelu"),
        ({"filters": []}, "no value for 'filters'"),
        ({"filters": None}, "no value for 'filters'"),
        ({"filters": ["many"]}, "'filters' must be a whole number from 1 up, and 'many' came"),
        ({"filters": [8, 8.5]}, "'filters' must be a whole number from 1 up, and 8.5 came"),
        ({"filters": 0}, "'filters' must be a whole number from 1 up, and 0 came"),
        ({"filters": True}, "'filters' must be a whole number from 1 up, and True came"),
        ({"dropout": "0.5"}, "'dropout' must be a number from 0 up, and '0.5' came"),
        ({"dropout": [True]}, "'dropout' must be a number from 0 up, and True came"),
        ({"lr": [float("nan")]}, "'lr' must be a number from 0 up, and nan came"),
        ({"lr": float("inf")}, "'lr' must be a number from 0 up, and inf came"),
        ({"lr": [-0.1]}, "'lr' must be a number from 0 up, and -0.1 came"),
        ({"batch_norm": [1]}, "'batch_norm' must be on or off, and 1 came"),
        ({"optimizer": [1]}, "'optimizer' must be a word, and 1 came"),
        ({"epochs": {"least": 1}}, "'epochs' must be a whole number from 1 up"),
    ],
)
def test_a_wrong_grid_is_refused(grid: Grid, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        expand(grid)
