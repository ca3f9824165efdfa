"""The meta-parameter grid: lists of values to cells, each the keyword arguments of one training."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from models import MODELS
from orchestrator.errors import UserError

# What a cell may say, in the order of the table's columns; the course's names.
NET_PARAMETERS = ("blocks", "convs", "filters", "out_channels", "dropout", "batch_norm")
FIT_PARAMETERS = ("epochs", "batch_size", "lr", "weight_decay", "optimizer", "schedule", "label_smoothing", "augment")
PARAMETERS = ("net", *NET_PARAMETERS, *FIT_PARAMETERS, "train_size", "seed")

DEFAULTS: dict[str, list[Any]] = {
    "net": ["densenet", "convnet"],
    "filters": [8, 16],
    "batch_norm": [True],
    "dropout": [0.1],
    "epochs": [8],
    "batch_size": [64],
    "seed": [0],
}


Grid = Mapping[str, Sequence[Any]]


def cells(grid: Grid | Sequence[Grid]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, in order, over `DEFAULTS` for what it leaves out; of several, the union.

    A parameter that a net does not have (`out_channels` of a ConvNet) is left out of its cells; cells that are then
    alike are one.

    Raises:
        UserError: an unknown parameter or net, or a parameter without a value.
    """
    found: list[dict[str, Any]] = []
    for part in [grid] if isinstance(grid, Mapping) else grid:
        for cell in _product(part):
            if cell not in found:
                found.append(cell)
    return found


def _product(grid: Grid) -> Iterator[dict[str, Any]]:
    for name, values in grid.items():
        if name not in PARAMETERS:
            raise UserError(f"the grid has no parameter '{name}'; known are: {', '.join(PARAMETERS)}")
        if not values:
            raise UserError(f"the grid names no value for '{name}'; give at least one, or leave it out")
    whole = DEFAULTS | {name: list(values) for name, values in grid.items()}
    for net in whole["net"]:
        if net not in MODELS:
            raise UserError(f"no net is called '{net}'; known are: {', '.join(MODELS)}")
    for values in product(*whole.values()):
        cell = dict(zip(whole, values, strict=True))
        has = inspect.signature(MODELS[cell["net"]]).parameters
        yield {name: cell[name] for name in PARAMETERS if name in cell and (name not in NET_PARAMETERS or name in has)}


def varied(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters in which the cells differ: what a table needs as columns and a person as a name."""
    names = dict.fromkeys(name for cell in cells for name in cell)
    return [name for name in names if len({repr(cell.get(name)) for cell in cells}) > 1]
