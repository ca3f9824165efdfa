"""The grid: every combination once, and only what a net has."""

import pytest

from orchestrator.errors import UserError
from orchestrator.grid import Grid, cells, varied


def test_every_combination_comes_once() -> None:
    found = cells({"net": ["convnet"], "filters": [4, 8], "dropout": [0.0, 0.1, 0.5], "seed": [1]})
    assert len(found) == 6
    assert {(cell["filters"], cell["dropout"]) for cell in found} == {(f, d) for f in (4, 8) for d in (0.0, 0.1, 0.5)}
    assert all(cell["seed"] == 1 for cell in found)


def test_a_parameter_that_a_net_lacks_makes_no_cells_of_it() -> None:
    found = cells({"net": ["densenet", "convnet"], "out_channels": [16, 32], "filters": [4]})
    assert [(cell["net"], cell.get("out_channels")) for cell in found] == [
        ("densenet", 16),
        ("densenet", 32),
        ("convnet", None),
    ]


def test_a_union_holds_the_cells_of_each_grid_in_order_and_none_twice() -> None:
    one: Grid = {"net": ["convnet"], "filters": [4, 8], "dropout": [0.5]}
    two: Grid = {"net": ["convnet"], "filters": [8, 16], "dropout": [0.5]}
    assert [cell["filters"] for cell in cells([one, two])] == [4, 8, 16]


def test_what_differs_is_what_a_table_shows() -> None:
    assert varied(cells({"net": ["densenet"], "filters": [4, 8], "epochs": [1]})) == ["filters"]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"colour": [1]}, "no parameter 'colour'; known are: net"),
        ({"net": ["alexnet"]}, "no net is called 'alexnet'"),
        ({"filters": []}, "no value for 'filters'"),
    ],
)
def test_a_wrong_grid_is_refused(grid: dict[str, list[object]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cells(grid)
