"""The lines of docs/on-disk.md that read a run, run as they stand there on what a run leaves on disk."""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from dxray.orchestrator.console import Console
from dxray.orchestrator.runs.compact import compact
from dxray.orchestrator.runs.store import read_rows

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "on-disk.md").read_text()
READERS = {
    re.search(r"(?:import|from) (\w+)", block)[1]: block  # type: ignore[index]
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "runs/attack" in block
}


def test_four_readers_in_three_lines_each() -> None:
    assert list(READERS) == ["pandas", "duckdb", "polars", "datasets"]
    assert {len([line for line in block.splitlines() if line]) for block in READERS.values()} == {3}


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("library", READERS)
def test_it_reads_a_run(
    library: str, compacted: bool, attacked: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed; it comes with the extra dxray[dev]")
    run = attacked()
    if compacted:
        compact(run, console)
    (run / "images" / ".part-00099.parquet.node.1.partial").write_bytes(b"half a part of a run that goes on")
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "attack")
    rows = list(read_rows(tmp_path / "runs" / "attack"))
    ended = subprocess.run(
        [sys.executable, "-c", READERS[library]],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.strip()
    if library == "datasets":
        assert printed == f"{rows[0]['name']} {rows[0]['l2']} (48, 48)"
    else:
        median = statistics.median(row["l2"] for row in rows if row["status"] == "fooled")
        assert float(printed) == pytest.approx(median)
