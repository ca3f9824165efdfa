"""What `dxray up`, `submit` and the like say before they call Ray; with a cluster they are tests/cluster's."""

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from dxray.orchestrator.ray import cluster
from tests.cluster.machines import ROOT

Said = tuple[int, str, str]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["up", ROOT / "cluster" / "cluster.yaml"], "has still the addresses it came with"),
        (["status", ROOT / "cluster" / "cluster.yaml"], "has still the addresses it came with"),
        (["down", ROOT / "cluster" / "cluster.yaml"], "has still the addresses it came with"),
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


@pytest.mark.parametrize(
    ("head_says", "code", "sentence"),
    [
        ((0, ""), 0, "Ray is down on the head"),
        ((255, "ssh: connect to host 10.0.0.1 port 22: No route to host\nSSH command failed."), 1, "No route to host"),
        ((1, "RuntimeError: Head node of cluster (dxray) not found!"), 0, "knows of no head that is up"),
    ],
)
def test_a_head_that_was_not_reached_is_not_called_down(
    dxray: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    head_says: tuple[int, str],
    code: int,
    sentence: str,
) -> None:
    """`ray down` itself ends well in each case."""

    def ray(verb: str, *_: object, **__: object) -> CompletedProcess[str]:
        return CompletedProcess([], *(head_says if verb == "exec" else (0, "")))

    monkeypatch.setattr(cluster, "_ray", ray)
    ended, out, said = dxray("down", "cluster.yaml")
    assert ended == code
    assert sentence in out + said
