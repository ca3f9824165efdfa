"""The command line as a function, and rows of a sweep's table without a training behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.grid import Grid, cells
from orchestrator.trials import pending_row, trial_row

Row = dict[str, Any]
Said = tuple[int, str, str]


@pytest.fixture
def dxray(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`dxray WORDS` in this process: its exit code, standard output and standard error."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def result() -> Callable[..., Row]:
    """What a cell's `result.json` says of a net that has learnt, or as it is given."""

    def made(accuracy: float = 0.9, **given: Any) -> Row:
        epoch = {"epoch": 1, "loss": 0.4, "train_accuracy": 0.8, "validation_loss": 0.3, "validation_accuracy": 0.8}
        measured = {
            "status": "ok",
            "reason": None,
            "accuracy": accuracy,
            "validation_accuracy": accuracy,
            "validation_loss": 0.3,
            "train_accuracy": 0.8,
            "loss": 0.4,
            "majority_share": 0.543,
            "largest_answer_share": 0.6,
            "parameter_count": 1_000,
            "train_images": 600,
            "sha256": "ab",
            "seconds": 12.0,
            "epochs": [epoch, epoch | {"epoch": 2}],
        }
        return measured | given

    return made


@pytest.fixture
def rows(result: Callable[..., Row]) -> Callable[..., list[Row]]:
    """A row for each cell of a grid: a net that has learnt, or what is given for the cell's number (None: pending)."""

    def made(grid: Grid | Sequence[Grid], given: Mapping[int, Row | None] | None = None) -> list[Row]:
        found = []
        for index, cell in enumerate(cells(grid)):
            said = (given or {}).get(index, result())
            found.append(pending_row(index, cell) if said is None else trial_row(index, cell, said))
        return found

    return made
