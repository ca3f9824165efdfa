"""The tables of a sweep: what the files hold, what they say of themselves, and which net is the best."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import write_json
from dxray.orchestrator.sweep.grid import NET_PARAMETERS, PARAMETERS, complete, expand
from dxray.orchestrator.sweep.tables import (
    CONFIG,
    EPOCHS,
    FORMAT,
    LAYERS,
    TIMING,
    TRIALS,
    best_of,
    read_trials,
    trial_row,
    write_tables,
)

Row = dict[str, Any]
Rows = Callable[..., list[Row]]
Result = Callable[..., Row]

ONE: Row = {"net": "convnet", "filters": 4}
TWO: Row = {"net": "convnet", "filters": [4, 8]}
KO: Row = {"status": "KO", "reason": "diverged: the loss is nan"}


def table(out: Path, name: str) -> list[Row]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize("schema", [TRIALS, EPOCHS, LAYERS, TIMING])
def test_every_column_says_what_it_holds(schema: pa.Schema) -> None:
    assert all(field.metadata[b"doc"] for field in schema)


def test_the_files_keep_what_their_columns_say(tmp_path: Path, rows: Rows) -> None:
    write_tables(tmp_path, rows(ONE))
    schema = pq.read_schema(tmp_path / "trials.parquet")
    assert schema.field("accuracy").metadata[b"unit"] == b"[0, 1]"
    assert schema.field("filters").metadata[b"doc"].startswith(b"filters of each convolution")
    assert pq.read_schema(tmp_path / "timing.parquet").field("memory_gib").metadata[b"unit"] == b"GiB"


def test_every_parameter_in_effect_is_in_the_table_and_null_means_that_the_net_has_none(
    tmp_path: Path, rows: Rows
) -> None:
    grid: Row = {"net": ["densenet", "convnet", "resnet"], "filters": 4, "convs": 2}
    write_tables(tmp_path, rows(grid, {1: KO}))
    trials = table(tmp_path, "trials")
    assert [{name: row[name] for name in PARAMETERS} for row in trials] == [
        dict.fromkeys(PARAMETERS) | trial for trial in expand(grid)
    ]
    assert {name for row in trials for name in PARAMETERS if row[name] is None} - {"train_size"} <= {*NET_PARAMETERS}
    schema = pq.read_schema(tmp_path / "trials.parquet")
    said = {name: schema.field(name).metadata[b"doc"].decode().partition("; null: ")[2] for name in PARAMETERS}
    assert {name: null for name, null in said.items() if null} == {
        **dict.fromkeys(NET_PARAMETERS, "the net has no such parameter"),
        "train_size": "all",
    }


def test_what_nobody_measured_is_null_and_makes_no_file(tmp_path: Path, rows: Rows) -> None:
    write_tables(tmp_path, rows(TWO, {1: KO}))
    assert [row["findings"] for row in table(tmp_path, "trials")] == [None, None]
    assert [row["accuracy"] for row in table(tmp_path, "trials")] == [0.9, None]
    assert [(row["seconds"], row["memory_gib"]) for row in table(tmp_path, "timing")] == [(12.0, None), (None, None)]
    assert not [name for name in pq.read_schema(tmp_path / "trials.parquet").names if name.startswith("accuracy_")]
    assert not (tmp_path / "layers.parquet").exists()


def test_findings_further_faces_and_memory_have_columns(tmp_path: Path, rows: Rows, result: Result) -> None:
    given = {
        0: result(findings=["dead units", "no batch norm"], validate={"web": 0.8}, memory_gib=1.5),
        1: result(findings=[], validate={"web": 0.7, "old": 0.6}),
    }
    write_tables(tmp_path, rows(TWO, given))
    trials = table(tmp_path, "trials")
    assert [row["findings"] for row in trials] == [["dead units", "no batch norm"], []]
    assert [(row["accuracy_web"], row["accuracy_old"]) for row in trials] == [(0.8, None), (0.7, 0.6)]
    assert [row["memory_gib"] for row in table(tmp_path, "timing")] == [1.5, None]


def test_layers_have_a_row_for_each_trial_and_epoch(tmp_path: Path, rows: Rows, result: Result) -> None:
    said = result()
    for epoch in said["epochs"]:
        first = {"layer": "a", "weight_norm": float(epoch["epoch"]), "gradient_norm": 0.1, "dead_share": 0.5}
        epoch["layers"] = [first, first | {"layer": "b", "dead_share": None}]
    write_tables(tmp_path, rows(TWO, {1: said}))
    layers = table(tmp_path, "layers")
    assert [(row["trial"], row["epoch"], row["layer"]) for row in layers] == [
        (1, epoch, layer) for epoch in (1, 2) for layer in ("a", "b")
    ]
    assert [row["weight_norm"] for row in layers] == [1, 1, 2, 2]
    assert [row["dead_share"] for row in layers] == [0.5, None] * 2
    assert [(row["trial"], row["epoch"]) for row in table(tmp_path, "epochs")] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_the_speed_is_that_of_the_epochs_that_were_trained(tmp_path: Path, rows: Rows, result: Result) -> None:
    stopped = result(status="stopped", reason="stopped early, after epoch 1 of 8", seconds=3.0)
    stopped["epochs"] = stopped["epochs"][:1]
    write_tables(tmp_path, rows(TWO, {1: stopped}))
    assert [row["images_per_second"] for row in table(tmp_path, "timing")] == [600 * 2 / 12, 600 * 1 / 3]


def test_a_sweep_is_read_back_with_the_trials_that_have_not_ended(tmp_path: Path, rows: Rows) -> None:
    made = rows(TWO)
    write_json(tmp_path / CONFIG, {"format": FORMAT, "trials": expand(TWO)})
    assert [row["status"] for row in read_trials(tmp_path)] == ["pending", "pending"]
    write_tables(tmp_path, made[1:])
    read = read_trials(tmp_path)
    assert [(row["status"], row["filters"]) for row in read] == [("pending", 4), ("ok", 8)]
    assert (read[1]["accuracy"], read[1]["seconds"]) == (0.9, 12.0)


def test_a_sweep_is_shown_between_the_writing_of_its_tables(
    tmp_path: Path, rows: Rows, dxray: Callable[..., tuple[int, str, str]]
) -> None:
    made = rows(TWO)
    write_json(tmp_path / CONFIG, {"format": FORMAT, "trials": expand(TWO)})
    write_tables(tmp_path, made[:1])
    times = (tmp_path / "timing.parquet").read_bytes()
    write_tables(tmp_path, made)
    (tmp_path / "timing.parquet").write_bytes(times)  # that of before the second trial ended
    code, text, _ = dxray("sweep", "--show", tmp_path)
    assert (code, "90.00%" in text) == (0, True)


def test_a_sweep_of_another_format_is_one_sentence(tmp_path: Path) -> None:
    write_json(tmp_path / CONFIG, {"format": "dxray sweep 1", "cells": [{}]})
    with pytest.raises(UserError, match=r"sweep.json is of another format than 'dxray sweep 2'; start the sweep anew"):
        read_trials(tmp_path)


def test_the_best_is_so_on_the_validation_split_and_has_a_net(rows: Rows, result: Result) -> None:
    grid: Row = {"net": "convnet", "filters": [1, 2, 3, 4, 5, 6]}
    given = {
        0: result(0.95, validation_accuracy=0.7),  # best on the test split, which decides nothing
        1: KO,
        2: result(status="stopped", validation_accuracy=0.8),
        3: result(validation_accuracy=0.8),
        4: result(status="stopped", validation_accuracy=0.9, sha256=None),
        5: None,
    }
    best = best_of(rows(grid, given))
    assert best is not None
    assert best["trial"] == 2
    assert best_of(rows(ONE, {0: KO})) is None


@pytest.mark.parametrize("status", ["ok", "stopped"])
@pytest.mark.parametrize(
    ("accuracy", "largest", "mark"), [(0.6, 1.0, "one class"), (0.4, 0.8, "under majority"), (0.9, 0.6, None)]
)
def test_a_net_that_has_learnt_nothing_is_marked(
    result: Result, status: str, accuracy: float, largest: float, mark: str | None
) -> None:
    said = result(accuracy, status=status, largest_answer_share=largest)
    assert trial_row(0, complete(ONE), said)["mark"] == mark
