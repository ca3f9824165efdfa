"""That only one side of a comparison is at work at a time, and that only its own time counts."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench import turns
from tests.bench.turns import Turns, below, title


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], text=True)


def test_only_the_time_of_its_own_turns_counts() -> None:
    """From 10 on in turns; the first side has 10 to 12 and 14 to 16, the second what is between."""
    taken = Turns({"first": [], "second": []})
    taken._worked = {"first": [(10.0, 12.0), (14.0, 16.0)], "second": [(12.0, 14.0), (16.0, 19.0)]}
    assert taken.seconds("first", 11, 15) == 2
    assert taken.seconds("second", 11, 15) == 2
    assert taken.seconds("first", 7, 11) == 4  # before the turns nobody was halted
    assert taken.seconds("second", 7, 11) == 3
    assert taken.seconds("first", 16, 19) == 0


def test_one_side_is_halted_while_the_other_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {name: [started("import time; time.sleep(1)")] for name in ("first", "second")}
    seen: list[tuple[str, ...]] = []
    wait = time.sleep

    def looked(seconds: float) -> None:
        wait(seconds)
        if all(process.poll() is None for (process,) in sides.values()):
            stats = [Path(f"/proc/{process.pid}/stat").read_text() for (process,) in sides.values()]
            seen.append(tuple(stat.rpartition(")")[2].split()[0] for stat in stats))

    monkeypatch.setattr(time, "sleep", looked)
    monkeypatch.setattr(turns, "TURN", 0.1)
    Turns(dict(sides)).take()
    assert [process.wait() for (process,) in sides.values()] == [0, 0]
    halted = [states for states in seen if states.count("T") == 1]
    assert len(halted) > len(seen) / 2  # a signal may take a moment to be heeded
    assert {states.index("T") for states in halted} == {0, 1}


def test_what_a_process_has_started_belongs_to_it() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as process:
        for _ in range(1000):
            if len(found := below([process.pid])) == 2:
                break
            time.sleep(0.01)
        assert any(title(one).endswith(b"input()\0") for one in found - {process.pid})
        process.communicate("\n")
    assert process.returncode == 0
    assert title(process.pid) == b""
