"""cluster/cluster.yaml on machines in miniature, by the very commands that it names; `make test-cluster` runs this.

The tests are told in the order in which a person would do these things; each needs the cluster, none the other tests
before it, but the last ends it.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.faces import Faces
from models.images import encode_png
from tests.cluster.machines import PROJECT, SHARED, Lab, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

AWKWARD = """O'Brien's "own" faces"""
GRID = "--net convnet --filters 4 8 --dropout 0 0.1 --blocks 2 --convs 1 --batch-norm on --epochs 2 --seed 0"
RAY = r"raylet/raylet|gcs_server|ray::|ray/dashboard|log_monitor|autoscaler"


@pytest.fixture(scope="module")
def pictures(lab: Lab, faces: Faces) -> Path:
    """200 pictures, a folder for each class, in the folder that all machines see."""
    for image, label, name in zip(faces.images[:200], faces.labels, faces.names, strict=False):
        place = lab.folder / "shared" / AWKWARD / faces.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.png").write_bytes(encode_png(image))
    return SHARED / AWKWARD


@pytest.fixture(scope="module")
def swept(cluster: Lab, pictures: Path) -> str:
    """What the first `ray submit` of the sweep printed."""
    return cluster.laptop.run(submit("sweep.py", f"--data {twice(f'folder:{pictures}')} {GRID}"), folder=PROJECT).stdout


def submit(script: str, arguments: str) -> str:
    return f"ray submit cluster.yaml {script} -- {arguments}"


def twice(argument: str) -> str:
    """Quoted for the shell here, and once more for the one there: `ray submit` takes the first quotes off."""
    return shlex.quote(shlex.quote(argument))


def table(lab: Lab, *parts: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(lab.folder.joinpath("shared", "runs", *parts)).to_pylist()
    return rows


def test_a_sweep_is_done_by_both_machines_and_its_table_is_printed(cluster: Lab, swept: str) -> None:
    assert "4 of 4 nets to train" in swept
    assert "best on the validation split" in swept
    assert {row["status"] for row in table(cluster, "sweep", "trials.parquet")} == {"ok"}
    assert {row["host"] for row in table(cluster, "sweep", "timing.parquet")} == {"head", "worker"}
    record = json.loads((cluster.folder / "shared" / "runs" / "sweep" / "sweep.json").read_text())
    assert record["config"]["data"] == f"folder:{SHARED / AWKWARD}"


@pytest.mark.usefixtures("swept")
def test_the_same_submitted_again_goes_on_and_other_arguments_are_refused(cluster: Lab, pictures: Path) -> None:
    data = twice(f"folder:{pictures}")
    again = cluster.laptop.run(submit("sweep.py", f"--data {data} {GRID}"), folder=PROJECT)
    assert "0 of 4 nets to train" in again.stdout
    other = cluster.laptop.run(submit("sweep.py", f"--data {data} {GRID} 1"), folder=PROJECT, check=False)
    assert other.returncode
    assert "was submitted with other arguments" in other.stdout + other.stderr


def test_an_argument_that_lost_its_quotes_is_explained(cluster: Lab) -> None:
    lost = cluster.laptop.run(submit("sweep.py", "--data 'folder:my own faces'"), folder=PROJECT, check=False)
    assert lost.returncode
    assert "takes the quotes off" in lost.stdout + lost.stderr


@pytest.mark.usefixtures("swept")
def test_every_face_is_attacked_once_though_a_node_dies_in_the_middle(cluster: Lab, pictures: Path) -> None:
    arguments = f"{twice(str(pictures))} --model {SHARED}/runs/sweep --attack hopskipjump --queries 1500"
    attack = cluster.laptop.start(submit("attack.py", arguments), folder=PROJECT)
    done = cluster.folder / "shared" / "runs" / "attack" / "images"
    wait_until(lambda: list(done.glob("part-*.parquet")) or attack.poll() is not None, 120)
    (raylet,) = cluster.worker.processes("raylet/raylet --raylet_socket_name")
    assert len(list(done.glob("part-*.parquet"))) < 7, "all was done before the node could die"
    cluster.worker.run(["kill", "-KILL", str(raylet)])
    out, err = attack.communicate(timeout=240)
    assert attack.returncode == 0, out + err
    rows = table(cluster, "attack", "images")
    assert len(rows) == 200
    assert len({row["name"] for row in rows}) == 200
    assert not {row["status"] for row in rows} & {"unreadable", "error"}
    assert "200 images" in out


@pytest.mark.usefixtures("swept")
def test_results_are_fetched(cluster: Lab) -> None:
    cluster.laptop.run(f"ray rsync-down cluster.yaml {SHARED}/runs/ ~/fetched/", folder=PROJECT)
    assert "sweep.json" in cluster.laptop.run("ls ~/fetched/sweep").stdout.split()


def test_down_leaves_no_process_behind(cluster: Lab) -> None:
    cluster.laptop.run("ray down -y cluster.yaml", folder=PROJECT)
    assert not cluster.head.processes(RAY)
    wait_until(
        lambda: not cluster.worker.processes(RAY), 60, lambda: cluster.worker.run("ps axo pid,etimes,args").stdout
    )
