"""What a sweep would take, said without a training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dxray.orchestrator.sweep.plan import makespan

Said = tuple[int, str, str]
GRID = ("--data", "synthetic:300", "--net", "convnet", "--filters", 4, 8, "--dropout", 0, 0.1)


@pytest.mark.parametrize(
    ("seconds", "at_once", "end"),
    [([5, 4, 3, 3, 3], 2, 10), ([5, 4, 3, 3, 3], 1, 18), ([5, 1], 8, 5), ([2.0], 0, 2)],
)
def test_the_longest_begin_first_and_each_place_takes_the_next(seconds: list[float], at_once: int, end: float) -> None:
    assert makespan(seconds, at_once) == end


@pytest.mark.usefixtures("local_ray")
def test_a_plan_counts_nets_and_places_and_leaves_nothing_on_disk(
    dxray: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = dxray("plan", *GRID, "--blocks", 2, "--epochs", 2, "--max-concurrent", 1, "--json")
    short = json.loads(out)
    assert (code, short["trials"], short["at_once"], short["gpus_each"]) == (0, 4, 1, 0)
    assert 0 < short["seconds_least"] < short["seconds_most"] < short["seconds"]
    assert "all: net convnet, blocks 2, convs 2, batch_norm on, epochs 2, batch_size 64, lr 0.002, " in said
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("words", "reason"),
    [(("--optimizer", "adam"), "no optimizer is called 'adam'"), (("--blocks", 9), "can be halved fewer times")],
)
def test_a_net_that_cannot_be_trained_is_one_sentence(
    words: tuple[object, ...], reason: str, dxray: Callable[..., Said]
) -> None:
    code, _, said = dxray("plan", *GRID, "--epochs", 1, *words)
    assert (code, len(said.splitlines())) == (1, 1)
    assert reason in said
