"""`dxray robustness`: its rows, what each net is held against, and what it says to a person."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dxray.defenses import defended
from dxray.defenses.victim import load_victim
from dxray.models.victims.checkpoint import ModelCard, load, save
from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.robustness import show

Said = tuple[int, str, str]
FEW = ["--count", 20, "--steps", 5, "--queries", 10]


def test_a_net_behind_defences_is_judged_beside_the_larger_class(
    face_table: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dxray.orchestrator.reports.robustness.LESSON", 32)
    out = tmp_path / "out"
    words = [
        "robustness",
        trained,
        "--data",
        f"parquet:{face_table}",
        "--eps",
        "12/255",
        "24/255",
        "--l2",
        "--out",
        out,
    ]
    defences = ["none", "jumprelu:kappa=1000000", "denoising_autoencoder:filters=2"]
    code, said, wrong = dxray(*words, *FEW, "--defense", *defences, "--json")
    assert code == 0, wrong
    result = json.loads(said)
    rows = pq.read_table(out / "robustness.parquet").to_pylist()
    assert rows == result["rows"]
    plain, blocked, encoded = rows[:3], rows[3:6], rows[6:]
    assert [row["eps"] for row in plain] == [0, 12 / 255, 24 / 255]
    assert plain[0]["robust_accuracy"] > plain[1]["robust_accuracy"] > plain[2]["robust_accuracy"]
    assert {row["transfer"] for row in plain[1:]} == {None}, "there is no other net"
    assert {row["net_sha256"] for row in plain} == {load(trained)[1].sha256}
    assert {row["robust_accuracy"] for row in blocked} <= {plain[0]["majority"], 1 - plain[0]["majority"]}
    assert {row["transfer_from"] for row in (*blocked, *encoded)} == {f"{trained} without its defence"}
    assert blocked[1]["transfer"] is not None
    _, card = load_victim(out / "nets" / "0-2")
    assert {row["net_sha256"] for row in encoded} == {card.sha256}
    assert card.defence["parameters"] == {"channels": 1, "filters": 2}
    with Image.open(out / "robustness.png") as picture:
        picture.load()


def test_a_net_saved_with_its_defence_is_held_against_itself_without_it_and_others_against_each_other(
    face_table: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    net, card = load(trained)
    for name, parameters in (("jumprelu", {"kappa": 0.05}), ("bit_depth", {"bits": 4})):
        card.defence = {"name": name, "parameters": parameters}
        save(defended(net, name, **parameters), card, tmp_path / name)
    card = ModelCard("convnet", {"filters": 4}, card.classes)
    save(card.build(), card, tmp_path / "other")
    nets = [tmp_path / "jumprelu", tmp_path / "bit_depth", trained, tmp_path / "other"]
    words = ["--data", f"parquet:{face_table}", "--eps", "--l2", "2", *FEW, "--out", tmp_path / "out", "--json"]
    code, said, wrong = dxray("robustness", *nets, *words)
    assert code == 0, wrong
    rows = [row for row in json.loads(said)["rows"] if row["norm"]]
    held_against = [row["transfer_from"] for row in rows]
    assert held_against == [f"{nets[0]} without its defence", f"{nets[1]} without its defence", *map(str, nets[:1] * 2)]
    # Both defences were taken off the same net, and the attack on that is the same for all.
    assert rows[2]["transfer"] < 1
    assert rows[2]["transfer"] == rows[2]["white_box"]
    code, said, _ = dxray("robustness", trained, *words, "--surrogate", tmp_path / "other")
    assert {row["transfer_from"] for row in json.loads(said)["rows"]} == {str(tmp_path / "other")}


def test_a_person_sees_the_weakest_figure_first_and_what_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"model": "net", "defense": "none", "majority": 0.52, "n": 100, "median": None}
    row |= {"white_box": 0.9, "transfer": 0.4, "gradient_free": None, "masked": False}
    unchanged = {"norm": "", "eps": 0.0, "robust_accuracy": 0.9, "low": 0.82, "high": 0.94}
    attacked = {"norm": "linf", "eps": 4 / 255, "robust_accuracy": 0.4, "low": 0.31, "high": 0.5, "masked": True}
    show({"rows": [row | unchanged, row | attacked], "out": "there"}, Console())
    said = " ".join(capsys.readouterr().out.split())
    assert "one answer for all would be right for 52.0%" in said
    assert "MASKED: the net's own gradients fool less than another way does" in said
    line = next(part for part in said.split("│") if "40.0%" in part)
    assert line.strip() == "40.0% (31.0%-50.0%)"
    assert said.index("40.0%") < said.index("90.0%", said.index("40.0%"))
    show({"rows": [row | unchanged], "out": "there"}, Console())
    assert "MASKED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--defense", "magic"], "--defense magic: no defence is called 'magic'"),
        (["--eps", "0"], "expected one budget at least, above 0"),
        (["--eps", "--l2"], "expected one budget at least, above 0"),
        (["--count", "0"], "at least 1 face by at least 1 step"),
        (["--surrogate", "nowhere"], "nowhere does not exist"),
        (["--data", "parquet:nowhere"], "nowhere"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    words: list[str], sentence: str, face_table: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    out = tmp_path / "out"
    code, _, wrong = dxray("robustness", trained, "--data", f"parquet:{face_table}", "--out", out, *words)
    assert code == 1
    assert sentence in wrong
    assert len(wrong.splitlines()) == 1
    assert not out.exists()
