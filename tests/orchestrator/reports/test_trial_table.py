"""The table as a person reads it: the course's shape, nothing failed or stuck shown as a mere number, no line cut."""

from collections.abc import Callable
from typing import Any

import pytest

from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.trial_table import course_shape, show_table

Row = dict[str, Any]
Rows = Callable[..., list[Row]]
Result = Callable[..., Row]
Shown = Callable[..., str]

GRID: Row = {"net": "densenet", "blocks": [3, 4], "convs": [1, 2], "batch_size": [64, 256], "filters": [4, 16]}
KO = {
    0: {"status": "KO", "reason": "out of memory: it needs more than the 2 GiB allowed"},
    1: {"status": "KO", "reason": "diverged: the loss of epoch 1 is nan"},
    2: {"status": "KO", "reason": "timed out after 60 s"},
    3: {"status": "KO", "reason": "crashed: its process died"},
    4: {"status": "KO", "reason": "failed: blocks=9 is too many"},
    5: {"status": "KO", "reason": "timed out after 60 s"},
}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    def show(rows: list[Row], width: int = 160) -> str:
        console = Console()
        console._text.width = width
        capsys.readouterr()
        show_table(rows, console)
        return capsys.readouterr().out

    return show


def places(text: str) -> list[list[str]]:
    """What stands in the lines of the first table, below its header."""
    table = text.partition("┡")[2].partition("└")[0]
    return [[place.strip() for place in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def test_the_shape_is_the_courses(rows: Rows, shown: Shown) -> None:
    text = shown(rows(GRID, {5: None}))
    head = [line.strip("┃").split("┃") for line in text.splitlines() if line.startswith("┃")][:2]
    assert [[place.strip() for place in line] for line in head] == [
        ["", "", "batch_size", "64", "", "256", ""],
        ["blocks", "convs", "filters", "4", "16", "4", "16"],
    ]
    assert places(text) == [
        ["3", "1", "", "90.0", "90.0", "90.0", "90.0"],
        ["", "2", "", "90.0", "90.0", "·", "90.0"],
        ["4", "1", "", "90.0", "90.0", "90.0", "90.0"],
        ["", "2", "", "90.0", "90.0", "90.0", "90.0"],
    ]


@pytest.mark.parametrize("width", [160, 54])
def test_what_does_not_differ_is_said_once_below_table_and_list(rows: Rows, shown: Shown, width: int) -> None:
    text = shown(rows(GRID), width)
    below = text.rpartition("┘\n")[2]
    assert below.startswith("all: net densenet, out_channels 32, dropout 0.1,")
    assert max(len(line) for line in below.splitlines()) <= width
    for parameter in ("lr 0.002", "ema 0", "train_size all", "defense none", "seed 0"):
        assert text.count(parameter) == 1
    for parameter in ("blocks", "convs", "filters", "batch_size"):
        assert parameter not in below


def test_several_nets_are_told_apart_by_what_differs_and_not_by_what_only_follows(rows: Rows, shown: Shown) -> None:
    text = shown(rows({"filters": [4, 8], "train_size": [100, 200]}))
    head = text.partition("┡")[0]
    assert all(name in head for name in ("net", "filters", "train_size"))
    assert "convs" not in head
    assert text.endswith("densenet: convs 3, out_channels 32\nconvnet: convs 2\n")


def test_no_limit_of_the_training_images_is_called_all(rows: Rows, shown: Shown) -> None:
    limited: Row = {"net": "convnet", "filters": [4, 8], "train_size": 100}
    text = shown(rows([limited, {"net": "convnet", "filters": [4, 8]}]))
    assert [line[0] for line in places(text)] == ["all", "100"]


def test_each_failure_has_its_word_and_each_reason_comes_once(rows: Rows, shown: Shown) -> None:
    text = shown(rows(GRID, KO))
    found = [place for line in places(text) for place in line if place.startswith("KO")]
    assert sorted(found) == sorted(["KO memory", "KO diverged", "KO time", "KO crashed", "KO failed", "KO time"])
    assert text.count("KO time, 2 nets: timed out after 60 s\n") == 1
    for reason in {said["reason"] for said in KO.values()}:
        assert text.count(reason) == 1


def test_what_is_stuck_or_stopped_is_marked_and_the_marks_are_explained(
    rows: Rows, result: Result, shown: Shown
) -> None:
    given = {
        0: result(0.543, largest_answer_share=1.0),
        1: result(0.48),
        2: result(0.7, status="stopped", reason="stopped early, after epoch 1 of 8"),
    }
    text = shown(rows(GRID, given))
    found = {place for line in places(text) for place in line}
    assert {"54.3 †", "48.0 ‡", "70.0 *"} <= found
    assert not {"54.3", "48.0", "70.0"} & found
    for meaning in ("† one class", "‡ under majority", "* stopped early"):
        assert text.count(meaning) == 1
    assert "·" not in text
    assert text.count("larger class alone: 54.3") == 1


@pytest.mark.parametrize(("width", "columns"), [(160, 4), (59, 4), (58, 2), (55, 2)])
def test_parameters_become_rows_until_no_line_is_wider_than_the_terminal(
    rows: Rows, shown: Shown, width: int, columns: int
) -> None:
    text = shown(rows(GRID), width)
    assert max(len(line) for line in text.partition("the best")[0].splitlines()) <= width
    assert [line.count("90.0") for line in places(text)] == [columns] * (16 // columns)
    # What became a row is the outermost: all of batch 64 stands above all of batch 256.
    assert [line[0] for line in places(text) if line[0]] == (["3", "4"] if columns == 4 else ["64", "256"])


def test_a_table_that_fits_in_no_way_is_a_list(rows: Rows, shown: Shown) -> None:
    text = shown(rows(GRID), 54)
    assert text.count("┏") == 1
    assert len(places(text)) >= 16


def test_places_that_no_grid_names_are_blank(rows: Rows, shown: Shown) -> None:
    union = [
        {"net": "convnet", "batch_size": 64, "convs": [1, 2], "filters": [4, 16]},
        {"net": "convnet", "batch_size": 256, "convs": [1, 2], "filters": 4},
    ]
    text = shown(rows([*union, {"net": "convnet", "batch_size": 256, "convs": 1, "filters": 16}]))
    assert places(text) == [["1", "", "90.0", "90.0", "90.0", "90.0"], ["2", "", "90.0", "90.0", "90.0", ""]]


def test_where_none_of_the_courses_columns_differ_the_last_parameter_makes_them(rows: Rows) -> None:
    table = course_shape(rows({"net": "convnet", "filters": 4, "convs": [1, 2], "batch_norm": [True, False]}))
    assert (table.down, table.across) == (["convs"], ["batch_norm"])
    assert table.columns == [(False,), (True,)]


def test_seeds_are_a_mean_with_its_spread_and_one_that_failed_is_not_hidden(
    rows: Rows, result: Result, shown: Shown
) -> None:
    grid = {"net": "convnet", "filters": [4, 8], "dropout": [0.1, 0.5], "seed": [0, 1, 2]}
    given = {0: result(0.8), 1: result(0.9), 2: result(0.85), 3: KO[1], 4: result(0.8), 5: result(0.9), 6: None}
    text = shown(rows(grid, given))
    assert "mean and standard deviation over seeds" in text
    assert places(text) == [
        ["4", "", "85.0 ± 5.0", "85.0 ± 7.1 KO 1/3 diverged"],
        ["8", "", "90.0 ± 0.0 ·", "90.0 ± 0.0"],
    ]


@pytest.mark.parametrize(
    "grid",
    [
        {"net": "convnet", "filters": [4, 8, 16]},
        [{"net": "convnet", "filters": 2 + i, "lr": 0.001 * (1 + i), "dropout": i / 10} for i in range(6)],
    ],
    ids=["one thing differs", "random search"],
)
def test_what_makes_no_table_is_a_list_with_the_best_first(rows: Rows, result: Result, shown: Shown, grid: Any) -> None:
    text = shown(rows(grid, {0: KO[2], 1: result(0.8), 2: result(0.95, largest_answer_share=1.0)}))
    assert text.count("┏") == 1
    assert [line[-3] for line in places(text) if line[-3]] == [
        "95.00%",
        *["90.00%"] * (len(places(text)) - 3),
        "80.00%",
        "KO",
    ]
    assert "KO: timed out after 60 s" in text
    assert "one class" in text


def test_below_the_table_stand_the_best_with_their_cost(rows: Rows, result: Result, shown: Shown) -> None:
    given = KO | {7: result(0.95, seconds=70.0), 8: result(0.5, validation_accuracy=0.99)}
    best = shown(rows(GRID, given)).partition("the best on the validation split")[2]
    lines = places(best)
    assert len(lines) == 5
    assert [line[4:] for line in lines[:2]] == [
        ["1,000", "99.00%", "50.00%", "12", "under majority"],
        ["1,000", "95.00%", "95.00%", "70", "-"],
    ]
    few = shown(rows(GRID, dict.fromkeys(range(15), KO[0]))).partition("the best on the validation split")[2]
    assert len(places(few)) == 1
    assert "KO" not in few


def test_fewer_training_images_than_asked_for_are_said_once(rows: Rows, result: Result, shown: Shown) -> None:
    grid = GRID | {"train_size": 100_000}
    text = shown(rows(grid, dict.fromkeys(range(16), result(train_images=17_145)) | {0: KO[0], 1: None}))
    assert text.count("train_size 100,000: the data hold 17,145 training images, and all of them were used") == 1
    assert "the data hold" not in shown(rows(GRID | {"train_size": 600}))


def test_a_sweep_without_any_net_yet_is_shown(rows: Rows, shown: Shown) -> None:
    text = shown(rows(GRID, dict.fromkeys(range(16))))
    assert sum(place == "·" for line in places(text) for place in line) == 16
    assert "larger class" not in text


@pytest.mark.parametrize("shape", ["a table", "a list"])
def test_what_was_measured_on_other_faces_is_shown(shape: str, rows: Rows, result: Result, shown: Shown) -> None:
    grid = GRID if shape == "a table" else {"net": "densenet", "filters": [4, 16]}
    text = shown(rows(grid, {0: result(validate={"web": 0.625}), 1: KO[0]}))
    assert "on web" in text
    assert "62.50%" in text
    assert "on web" not in shown(rows(grid))
