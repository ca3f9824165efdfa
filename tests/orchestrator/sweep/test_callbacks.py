"""What a driver that begins again makes of the trials that ended before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dxray.orchestrator.runs.store import write_json
from dxray.orchestrator.sweep.callbacks import Watcher, folder_of
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.tables import write_tables

Row = dict[str, Any]


def test_a_trial_that_ended_as_the_driver_was_killed_is_told_once(
    tmp_path: Path, rows: Callable[..., list[Row]]
) -> None:
    trials = expand({"net": "convnet", "filters": [2, 4]})
    ko = {"status": "KO", "reason": "timed out after 3 s"}
    for index in range(2):
        write_json(folder_of(tmp_path, index) / "result.json", ko)
    write_tables(tmp_path, rows({"net": "convnet", "filters": [2]}, {0: ko}))
    told: list[Row] = []
    for _ in range(2):
        watcher = Watcher(trials, [1.0, 1.0], tmp_path, None, told.append)  # type: ignore[arg-type]
        assert [row["trial"] for row in told] == [1]
        assert [row["trial"] for row in watcher.table()] == [0, 1]
