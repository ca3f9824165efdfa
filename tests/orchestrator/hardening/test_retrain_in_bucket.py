"""A retraining in a bucket: killed and gone on with it has the rounds of one in a folder that nobody killed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.hardening import promotion
from dxray.orchestrator.runs import leases
from dxray.orchestrator.runs.buckets import ObjectPath
from dxray.orchestrator.runs.store import read_table
from tests.cluster.machines import wait_until
from tests.orchestrator.amazon import SHORT, put_folder
from tests.orchestrator.attack.test_attack_faults import command, run, settings
from tests.orchestrator.killing import kill_session

Said = tuple[int, str, str]
SMALL: dict[str, Any] = {"LEASE": SHORT, "RAY": json.dumps({"num_cpus": 1})}
pytestmark = pytest.mark.usefixtures("bucket")


def test_killed_in_the_fit_the_rounds_are_those_of_a_run_in_a_folder(
    one_round: tuple[list[str], Path], trained: Path, many: Path, dxray: Callable[..., Said], tmp_path: Path
) -> None:
    """On one CPU, for the fit has as many threads; attacks in a bucket are killed in `test_buckets.py`."""
    asked, whole = one_round
    put_folder(trained, ObjectPath("s3://lab/net"))
    out = ObjectPath("s3://lab/a retraining")
    fit = out / "rounds" / "0001" / "fit"
    words = command("retrain", *asked, "--model", "s3://lab/net", "--out", out)
    said = tmp_path / "said"
    with (
        said.open("wb") as file,
        subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **settings(**SMALL)
        ) as driver,
    ):
        wait_until(lambda: driver.poll() is not None or (fit / "state.safetensors").exists(), 240, said.read_text)
        assert driver.poll() is None, f"it was over before it was killed: {said.read_text()}"
        kill_session(driver.pid)
    assert not (fit / "result.json").exists()
    run("retrain", "--resume", out, **SMALL)

    for table in ("rounds.parquet", "rounds/0001/sample.parquet", "rounds/0001/joined.parquet"):
        one, other = (read_table(folder / table) for folder in (out, whole))
        assert one.num_rows
        assert one.to_pylist() == other.to_pylist(), table
        assert one.equals(other), table
    assert promotion.in_use(out) == promotion.in_use(whole)
    code, shown, _ = dxray("retrain", "--show", out, "--json")
    assert (code, [row["round"] for row in json.loads(shown)["rounds"]]) == (0, [0, 1])
    for model in (out, f"{out}#round=1"):
        assert dxray("predict", many / "00.png", "--model", model)[0] == 0
    assert dxray("retrain", "--rollback", out, "--to-round", 0)[0] == 0
    assert promotion.in_use(out) == 0
    weights = "model.safetensors"
    assert (out / "current" / weights).read_bytes() == (trained / weights).read_bytes()


@pytest.mark.usefixtures("short_lease")
def test_a_retraining_that_another_process_works_on_is_refused(
    face_table: Path, trained: Path, dxray: Callable[..., Said]
) -> None:
    out = ObjectPath("s3://lab/held")
    with leases.leased(out, print):
        code, _, said = dxray("retrain", "--data", f"parquet:{face_table}", "--model", trained, "--out", out)
    assert code == 1
    assert said == "dxray: another dxray process works on 's3://lab/held' now; wait for it or choose another --out\n"
