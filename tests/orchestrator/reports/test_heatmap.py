"""The picture of a sweep: every place says what the table says, in colour where there is a net, hatched where not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.heatmap import draw, save_picture

Row = dict[str, Any]
Rows = Callable[..., list[Row]]
Result = Callable[..., Row]

GRID: Row = {"net": "densenet", "blocks": [3, 4], "convs": [1, 2], "batch_size": [64, 256], "filters": [4, 16]}
KO: Row = {"status": "KO", "reason": "out of memory: it needs more than the 2 GiB allowed"}


def texts(picture: Any) -> list[str]:
    return [text.get_text() for text in picture.axes[0].texts]


def test_every_place_says_what_the_table_says(rows: Rows, result: Result) -> None:
    given = {
        0: KO,
        1: result(0.543, largest_answer_share=1.0),
        2: result(0.48),
        3: result(0.7, status="stopped", reason="stopped early, after epoch 1 of 8"),
        4: None,
    }
    said = texts(draw(rows(GRID, given)))
    assert said.count("90.0") == 11
    for figure, word in (("KO", "memory"), ("54.3", "one class"), ("48.0", "under maj."), ("70.0", "stopped")):
        assert said[said.index(figure) + 1] == word
    assert said.count("not run") == 1


def test_the_axes_are_labelled_as_the_course_does(rows: Rows) -> None:
    said = texts(draw(rows(GRID)))
    for parameter in ("batch_size", "filters", "blocks", "convs"):
        assert said.count(parameter) == 1
    assert [said.count(value) for value in ("64", "256", "16")] == [1, 1, 2]  # an outer value stands once for its group


def test_what_does_not_differ_stands_below_and_fits(rows: Rows) -> None:
    for grid in (GRID, {"net": "convnet", "filters": 4}):
        picture = draw(rows(grid))
        heading, rest = picture.texts
        assert rest.get_text().startswith("all: net ")
        assert "lr 0.002" in rest.get_text()
        picture.draw_without_rendering()
        below, above = rest.get_window_extent(), picture.axes[0].get_window_extent()
        assert picture.bbox.contains(*below.max)
        assert picture.bbox.contains(*below.min)
        assert below.y1 < above.y0 < above.y1 < heading.get_window_extent().y0


def test_colours_run_from_the_larger_class_to_the_best_and_failures_have_none(rows: Rows, result: Result) -> None:
    picture = draw(rows(GRID, {0: KO, 1: result(0.95), 2: result(0.48), 3: result(0.543, largest_answer_share=1.0)}))
    colours = picture.axes[0].collections[0]
    assert colours.get_clim() == pytest.approx((54.3, 95.0))
    assert np.ma.count_masked(np.ma.asarray(colours.get_array())) == 1
    patches = picture.axes[0].patches
    assert [patch.get_hatch() for patch in patches if patch.get_hatch()] == ["////"]
    assert sum(not patch.get_fill() for patch in patches) == 2  # frames of the two nets that have not learnt


def test_what_makes_no_table_is_a_list_with_the_best_first(rows: Rows, result: Result) -> None:
    search = [{"net": "convnet", "filters": 2 + i, "lr": 0.001 * (1 + i), "dropout": i / 10} for i in range(6)]
    search.append(search[0] | {"lr": 0.5})
    picture = draw(rows(search, {0: KO, 3: result(0.95), 4: result(0.85), 6: KO}))
    assert texts(picture).count("2") == 2  # neighbours that are alike: each line of a list says all of itself
    assert [text for text in texts(picture) if text in ("95.0", "90.0", "85.0", "KO")] == [
        "95.0", "90.0", "90.0", "90.0", "85.0", "KO", "KO"
    ]  # fmt: skip


@pytest.mark.parametrize("grid", [{"filters": [4, 16]}, {"filters": 4}, {"filters": [4, 16], "seed": [0, 1]}])
def test_the_smallest_sweeps_have_a_picture_too(rows: Rows, tmp_path: Path, console: Console, grid: Row) -> None:
    path = save_picture(rows({"net": "convnet", **grid}), tmp_path, console)
    assert path == tmp_path / "table.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(picture.getcolors(100_000) or []) > 10


def test_a_picture_that_cannot_be_drawn_is_said_and_stops_nothing(
    rows: Rows, tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert save_picture(rows({"net": "convnet"}), tmp_path / "file", console) is None
    assert save_picture([{"status": "ok"}], tmp_path, console) is None
    said = capsys.readouterr().out
    assert said.count("could not be drawn") == 2
    assert not (tmp_path / "table.png").exists()


def test_drawing_leaves_no_global_state_and_is_not_imported_before() -> None:
    code = "import sys, dxray.orchestrator.reports.heatmap; print('matplotlib' in sys.modules)\n"
    code += "from dxray.orchestrator.sweep.tables import pending_row\n"
    code += "dxray.orchestrator.reports.heatmap.draw([pending_row(0, {})]); print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_a_place_says_what_was_measured_on_other_faces(rows: Rows, result: Result) -> None:
    said = texts(draw(rows(GRID, {0: result(validate={"web": 0.625}), 1: KO})))
    assert said[said.index("web 62.5") - 1] == "90.0"
    assert sum("web" in text for text in said) == 1
