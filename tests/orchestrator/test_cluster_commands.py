"""What `dxray up`, `submit` and the like say before they call Ray; with a cluster they are tests/cluster's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import parser
from orchestrator.cluster_commands import EXAMPLES
from tests.cluster.machines import ROOT

Said = tuple[int, str, str]


@pytest.mark.parametrize("verb", EXAMPLES)
def test_its_example_is_accepted(verb: str) -> None:
    assert parser().parse_args(EXAMPLES[verb].split()[1:]).cluster == Path("cluster/cluster.yaml")


def test_arguments_of_a_script_are_its_own() -> None:
    asked = parser().parse_args(["submit", "c.yaml", "sweep.py", "--", "--json", "--data", "folder:my faces"])
    assert (asked.json, asked.arguments) == (False, ["--json", "--data", "folder:my faces"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["up", ROOT / "cluster" / "cluster.yaml"], "has still the addresses it came with"),
        (["up", "no.yaml"], "there is no cluster file 'no.yaml'"),
        (["status", "no.yaml"], "there is no cluster file 'no.yaml'"),
        (["submit", "no.yaml"], "takes a script, or --attach"),
        (["submit", "no.yaml", "no.py"], "there is no script 'no.py'"),
        (["submit", "no.yaml", "no.py", "--attach", "job"], "takes a script, or --attach"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(dxray: Callable[..., Said], words: list[object], sentence: str) -> None:
    code, out, said = dxray(*words)
    assert (code, out) == (1, "")
    assert said.startswith("dxray: ")
    assert sentence in said
    assert said.count("\n") == 1
