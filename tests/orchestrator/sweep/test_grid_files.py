"""Grids in files: what they say is what is trained, and the presets are the tables that they promise."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.grid_files import preset, presets, read_grid

SUB_GRIDS = """# What it costs.
# What it gives.

# no part of the header
net: convnet
dropout: [0.5, 0.3]
lr: 1e-3
batch_norm: off
grids:
  - {batch_size: 64, filters: [4, 16]}
  - {batch_size: 256, filters: 4, dropout: 0}
"""
THE_SAME = """net = "convnet"
dropout = [0.5, 0.3]
lr = 1e-3
batch_norm = false
[[grids]]
batch_size = 64
filters = [4, 16]
[[grids]]
batch_size = 256
filters = 4
dropout = 0
"""


def file(folder: Path, text: str, name: str = "grid.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_sub_grids_override_what_the_file_shares(tmp_path: Path) -> None:
    header, grids = read_grid(file(tmp_path, SUB_GRIDS))
    assert header == "What it costs.\nWhat it gives."
    found = expand(grids)
    assert [(trial["batch_size"], trial["filters"], trial["dropout"]) for trial in found] == [
        *product([64], [4, 16], [0.5, 0.3]),
        (256, 4, 0.0),
    ]
    assert {(trial["net"], trial["lr"], trial["batch_norm"]) for trial in found} == {("convnet", 0.001, False)}


def test_toml_says_the_same_as_yaml(tmp_path: Path) -> None:
    yaml, toml = file(tmp_path, SUB_GRIDS), file(tmp_path, THE_SAME, "grid.toml")
    assert read_grid(yaml).grids == read_grid(toml).grids


def test_what_is_given_beside_a_file_replaces_its_values_in_every_sub_grid(tmp_path: Path) -> None:
    grids = read_grid(file(tmp_path, SUB_GRIDS), {"filters": [8], "seed": [1, 2]}).grids
    assert [grid["filters"] for grid in grids] == [[8], [8]]
    assert [grid["seed"] for grid in grids] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("grid.yaml", "colour: 1", "grid.yaml: the grid has no parameter 'colour'; known are: net"),
        ("grid.yaml", "filters: many", "'filters' must be a whole number from 1 up, and 'many' came"),
        ("grid.yaml", "filters: on", "'filters' must be a whole number from 1 up, and True came"),
        ("grid.yaml", "filters: [4, [8]]", r"'filters' must be a whole number from 1 up, and \[8\] came"),
        ("grid.yaml", "filters: []", "no value for 'filters'"),
        ("grid.yaml", "filters:", "no value for 'filters'"),
        ("grid.yaml", "filters: 4\nfilters: 8", "no valid YAML in line 2: 'filters' comes twice"),
        ("grid.yaml", "filters: [4", "no valid YAML in line 1: .*expected"),
        ("grid.yaml", "[1]: 2", "no valid YAML in line 1: .*unhashable key"),
        ("grid.yaml", "4: 2", "no parameter '4'"),
        ("grid.yaml", "!!python/object/apply:os.getcwd []", "no valid YAML in line 1: could not determine"),
        ("grid.yaml", "", "must hold parameters with their values"),
        ("grid.yaml", "- filters", "must hold parameters with their values"),
        ("grid.yaml", "grids: []", "'grids' must be a list of sub-grids, one at least"),
        ("grid.yaml", "grids: {filters: 4}", "'grids' must be a list of sub-grids, one at least"),
        ("grid.yaml", "grids: [4]", "'grids' must be a list of sub-grids, one at least"),
        ("grid.yaml", "grids: [{grids: [{filters: 4}]}]", "no parameter 'grids'"),
        ("grid.toml", "filters = [4", "no valid TOML: Unclosed array"),
        ("grid.toml", "filters = 4\nfilters = 8", "no valid TOML"),
        ("grid.json", "{}", r"must be a file that ends in .yaml, .yml or .toml"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        read_grid(file(tmp_path, text, name))
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_grid(tmp_path / "grid.yaml")
    (tmp_path / "grid.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot be read \(it is no UTF-8 text"):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(UserError, match=r"no preset is called 'corse'; known are: .*course-convnet"):
        preset("corse")


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_what_it_costs_and_gives_and_makes_trials(name: str) -> None:
    header, grids = read_grid(preset(name))
    assert "Cost" in header
    assert "Gives" in header
    assert expand(grids)


Values = set[tuple[Any, ...]]


def values(name: str, *parameters: str) -> Values:
    found = expand(read_grid(preset(name)).grids)
    distinct = {tuple(trial[parameter] for parameter in parameters) for trial in found}
    assert len(distinct) == len(found), "some trials differ in other parameters"
    return distinct


def test_the_courses_densenet_table_has_exactly_its_trials() -> None:
    rows = list(product([3, 4], [1, 2, 4, 7, 10, 20, 40]))
    columns = [
        *product([64], [4, 16, 32], [0.5, 0.3]),
        *product([256], [4], [0.5, 0.3]),
        *product([256], [16], [0.5, 0.3, 0.15, 0.05, 0.0]),
        *product([256], [32], [0.5, 0.3]),
    ]
    expected = {("densenet", False, 100_000, *row, *column) for row in rows for column in columns}
    assert len(expected) == 210
    names = ("net", "batch_norm", "train_size", "blocks", "convs", "batch_size", "filters", "dropout")
    assert values("course-densenet", *names) == expected


def test_the_courses_convnet_table_has_exactly_its_trials() -> None:
    expected = set(
        product(["convnet"], [4], [1, 2, 4, 7, 10, 20], [64, 256], [True, False], [0.5, 0.3], [4, 16, 32]),
    )
    assert len(expected) == 144
    names = ("net", "blocks", "convs", "batch_size", "batch_norm", "dropout", "filters")
    assert values("course-convnet", *names) == expected


def test_the_laptops_table_has_twelve_trials() -> None:
    assert len(expand(read_grid(preset("laptop")).grids)) == 12
