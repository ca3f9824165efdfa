"""`dxray sweep` as a person asks for its grid: options, files, presets; and what is left of it in the folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.cli.app import main
from dxray.orchestrator.console import Console
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.grid_files import presets
from dxray.orchestrator.sweep.sweep import SweepConfig
from dxray.orchestrator.sweep.tables import FORMAT, write_tables

Row = dict[str, Any]
Rows = Callable[..., list[Row]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, rows: Rows) -> list[SweepConfig]:
    """What sweeps were asked for; none is trained, each net has learnt all the same."""
    configs: list[SweepConfig] = []

    def sweep(config: SweepConfig, out: Path, console: Console, **_: Any) -> Row:
        configs.append(config)
        made = rows(config.grid)
        out.mkdir(parents=True)
        (out / "sweep.json").write_text(json.dumps({"format": FORMAT, "trials": expand(config.grid)}))
        write_tables(out, made)
        return {"out": str(out), "best": str(out / "best"), "best_trial": made[0], "trials": made}

    monkeypatch.setattr("dxray.orchestrator.sweep.sweep.sweep", sweep)
    return configs


def test_a_preset_says_what_it_costs_and_options_override_it(
    asked: list[SweepConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--preset", "course-densenet", "--convs", "1", "2", "--batch-norm", "on", "--seed", "3", "4"]
    assert main(["sweep", *words, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("The course's table of DenseNets")
    found = expand(asked[0].grid)
    assert len(found) == 2 * 2 * 15 * 2
    assert {(trial["convs"], trial["batch_norm"], trial["seed"]) for trial in found} == {
        (convs, True, seed) for convs in (1, 2) for seed in (3, 4)
    }
    assert asked[0].data_seed == 3


def test_a_file_names_the_seeds_where_no_option_does(asked: list[SweepConfig], tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("net = 'convnet'\nfilters = 4\nseed = [5, 6]\n")
    assert main(["sweep", "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]) == 0
    assert [trial["seed"] for trial in expand(asked[0].grid)] == [5, 6]
    assert asked[0].data_seed == 0


def test_the_table_is_a_picture_too_and_is_shown_again_from_the_folder(
    asked: list[SweepConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["sweep", "--net", "convnet", "--convs", "1", "2", "--filters", "4", "8", "--out", str(out)]) == 0
    table = capsys.readouterr().out.partition("the same as a picture")[0]
    assert "test accuracy" in table
    (out / "table.png").unlink()
    assert main(["sweep", "--show", str(out)]) == 0
    assert capsys.readouterr().out.startswith(table)
    assert (out / "table.png").exists()


def test_json_holds_the_trials_without_their_layers(
    asked: list[SweepConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--preset", "smoke", "--json", "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["trials"]) == 4
    assert "layer_columns" not in result["trials"][0]
    assert result["table"] == str(tmp_path / "out" / "table.png")


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list-presets"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line in presets()] == sorted(presets())
    assert main(["sweep", "--list-presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["smoke"]["grids"][0]["blocks"] == [2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preset", "corse"], "no preset is called 'corse'; known are: "),
        (["--grid", "nowhere.yaml"], "cannot be read (No such file or directory)"),
        (["--preset", "laptop", "--net", "alexnet"], "no net is called 'alexnet'"),
        (["--filters", "0"], "'filters' must be a whole number from 1 up, and 0 came"),
        (["--show", "nowhere"], "holds no sweep.json"),
    ],
)
def test_each_mistake_gets_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--data", "synthetic:60", *words, "--out", "nowhere/out"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert sentence in errors[0]
