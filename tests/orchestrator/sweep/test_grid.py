"""The grid: every combination once, and only what a net has."""

import numpy as np
import pytest

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import Grid, expand, varied


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


def test_what_differs_is_what_a_table_shows() -> None:
    assert varied(expand({"net": ["densenet"], "filters": [4, 8], "epochs": [1]})) == ["filters"]


def test_a_defence_has_one_form() -> None:
    found = expand({"net": "convnet", "filters": 8, "defense": ["none", "jumprelu", "jumprelu:kappa=.10", "jpeg"]})
    assert [trial["defense"] for trial in found] == ["none", "jumprelu:kappa=0.1", "jpeg:quality=50"]
    assert "defense" not in expand({"net": "convnet", "filters": 8})[0]


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
