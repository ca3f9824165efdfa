"""cluster/cluster.yaml on machines in miniature, by the very commands that it names; `make test-cluster` runs this.

The tests are told in the order in which a person would do these things; each needs the cluster, none the other tests
before it, but the last ends it.
"""

import ipaddress
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from tests.cluster.machines import HOME, PATH, PROJECT, PUBLIC, REACHED, ROOT, SHARED, Lab, Machine, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

AWKWARD = """O'Brien's "own" faces"""
# Trainings long enough that the first to end finds no other still waiting for a place: Tune would give it theirs.
GRID = "--net convnet --filters 4 8 --dropout 0 0.1 --blocks 2 --convs 1 --batch-norm on --epochs 100 --seed 0"
RAY = r"raylet/raylet|gcs_server|ray::|ray/dashboard|log_monitor|autoscaler"
APP = HOME / "dxray" / "app"  # the project on the head and the worker
PYTHON = (str(HOME / "dxray" / "venv" / "bin" / "python"),)

# One call of each kind that Ray's servers know, with no token: what the first that is known there answers.
ASK_GRPC = """
import sys, grpc
METHODS = ("InternalKVGcsService/InternalKVGet NodeManagerService/GetNodeStats ObjectManagerService/Pull"
           " ReporterService/GetTraceback CoreWorkerService/GetCoreWorkerStats")
channel = grpc.insecure_channel(sys.argv[1])
for method in METHODS.split():
    try:
        channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=10)
        print("OK")
    except grpc.RpcError as wrong:
        if wrong.code() != grpc.StatusCode.UNIMPLEMENTED:
            print(wrong.code().name)
"""
# The paths that answer a request without a token.
ASK_HTTP = """
import sys, urllib.request
for path in "/ /metrics /nodes /logs /api/version /api/jobs/ /api/gcs_healthz /api/local_raylet_healthz".split():
    try:
        urllib.request.urlopen(sys.argv[1] + path, timeout=5)
        print(path)
    except OSError:
        pass
    except Exception:  # it does not speak HTTP
        break
"""

# A task on each machine, until there is a file called `enough`.
BUSY = """
import pathlib, socket, sys, time
import ray
place = pathlib.Path(sys.argv[1])
place.mkdir()
ray.init(address="auto")
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def work():
    (place / socket.gethostname()).touch()
    while not (place / "enough").exists():
        time.sleep(0.1)
ray.get([work.remote() for _ in range(2)])
"""

# The command on each node at a time, as srun does it; the environment goes along.
SRUN = """#!/bin/bash
shift 2
env | grep -E '^(SLURM_|RAY_|PATH=)' | sed 's/=/="/; s/$/"/; s/^/export /' > ~/environment
{ cat ~/environment; printf '%q ' "$@"; } > ~/task
ssh -o StrictHostKeyChecking=no worker 'cat > task && bash task' < ~/task > ~/worker.log 2>&1 &
bash ~/task
code=$?
wait
exit $code
"""


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


def dxray(lab: Lab, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command of the laptop's checkout, as `cd cluster && dxray WORDS`."""
    command = f"PYTHONPATH=../src {shlex.join([sys.executable, '-m', 'dxray.orchestrator.cli.app', *words])}"
    return lab.laptop.run(command, folder=PROJECT, check=check)


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


def test_a_folder_that_is_not_shared_is_found_out_before_any_work(cluster: Lab) -> None:
    own = cluster.laptop.run(submit("sweep.py", "--data synthetic:40 --out ~/mine"), folder=PROJECT, check=False)
    assert own.returncode
    assert f"node {cluster.worker.address} cannot see what the head writes" in own.stdout
    assert "nets to train" not in own.stdout


def test_dxray_submit_keeps_quotes_comes_back_with_the_exit_code_and_can_be_watched_again(cluster: Lab) -> None:
    script = cluster.folder / "shared" / "script.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(len(sys.argv))")
    words = ["it's", 'a "word"', "$HOME", "  "]
    ended = dxray(cluster, "submit", "cluster.yaml", f"{SHARED}/script.py", "--", *words, check=False)
    assert ended.returncode == 5, ended.stdout + ended.stderr
    assert str(words) in ended.stdout
    told = dxray(cluster, "status", "cluster.yaml", "--json")
    (job,) = [job for job in json.loads(told.stdout)["jobs"] if job["job"].startswith("script-")]
    assert (job["status"], job["exit_code"]) == ("FAILED", 5)
    again = dxray(cluster, "submit", "cluster.yaml", "--attach", job["job"], check=False)
    assert again.returncode == 5
    assert str(words) in again.stdout


def test_ports_are_of_loopback_or_private_addresses_or_ask_for_the_token(cluster: Lab) -> None:
    """What SECURITY.md says: which ports listen on every address, and which answer without a token."""
    known = (ROOT / "cluster" / "SECURITY.md").read_text()
    for machine in (cluster.head, cluster.worker):
        listening = machine.run("ss -ltnpH").stdout.splitlines()
        assert len(listening) > 4
        for line in listening:
            address, program = line.split()[3], line.partition('users:(("')[2].partition('"')[0]
            host, port = address.rpartition(":")[::2]
            if program == "sshd":
                continue
            if host in ("*", "0.0.0.0", "[::]"):
                asked = machine.run([*PYTHON, "-c", ASK_GRPC, f"{machine.address}:{port}"], folder=APP)
                assert asked.stdout.strip() == "UNAUTHENTICATED", f"{line}: {asked.stdout}"
                continue
            bare = host.strip("[]").removeprefix("::ffff:").partition("%")[0]
            assert ipaddress.ip_address(bare).is_private, line
            answered = machine.run([*PYTHON, "-c", ASK_HTTP, f"http://{bare}:{port}"], folder=APP).stdout.split()
            for path in answered:
                assert f"`{path}`" in known, f"{line}: {path} answers without a token, which SECURITY.md does not say"


def test_while_the_machines_work_nothing_but_ssh_is_reached_from_beyond_private_addresses(cluster: Lab) -> None:
    """That is cluster.yaml's doing; with the machines' own addresses in firewall.nft, not even from private ones."""
    if not shutil.which("nft", path=PATH):
        pytest.skip("not installed: nft (Debian: nftables)")
    machines = (cluster.head, cluster.worker)
    rules = (ROOT / "cluster" / "firewall.nft").read_text()
    shipped = "10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16"
    assert rules.count(shipped) == 1
    own = ", ".join(machine.address for machine in machines)
    shared = cluster.folder / "shared"
    (shared / "own.nft").write_text(rules.replace(shipped, own))
    (shared / "busy.py").write_text(BUSY)
    busy = cluster.laptop.start(submit(f"{SHARED}/busy.py", str(SHARED / "busy")), folder=PROJECT)
    wait_until(lambda: {place.name for place in shared.glob("busy/*")} == {"head", "worker"}, 60)
    for machine in machines:
        ports = {line.split()[3].rpartition(":")[2] for line in machine.run("ss -ltnH").stdout.splitlines()}

        def reached(source: str, machine: Machine = machine, ports: set[str] = ports) -> list[str]:
            look = [sys.executable, "-c", REACHED, machine.address, source, *ports]
            return cluster.laptop.run(look).stdout.split()

        assert len(reached(cluster.laptop.address)) > 5
        assert reached(PUBLIC) == ["22"]
        machine.run("nft delete table inet dxray")
        assert len(reached(PUBLIC)) > 5
        machine.run(f"nft -f {SHARED}/own.nft")
        assert reached(cluster.laptop.address) == ["22"]
    (shared / "busy" / "enough").touch()
    out, err = busy.communicate(timeout=60)
    assert busy.returncode == 0, out + err


@pytest.mark.usefixtures("swept")
def test_every_face_is_attacked_once_though_a_node_dies_in_the_middle(cluster: Lab, pictures: Path) -> None:
    arguments = f"{twice(str(pictures))} --model {SHARED}/runs/sweep --attack hopskipjump --queries 1500"
    attack = cluster.laptop.start(submit("attack.py", arguments), folder=PROJECT)
    done = cluster.folder / "shared" / "runs" / "attack" / "images"
    wait_until(lambda: list(done.glob("part-*.parquet")) or attack.poll() is not None, 120)
    (raylet,) = cluster.worker.processes("raylet/raylet --raylet_socket_name")
    assert len(table(cluster, "attack", "images")) < 200, "all was done before the node could die"
    cluster.worker.run(["kill", "-KILL", str(raylet)])
    out, err = attack.communicate(timeout=240)
    assert attack.returncode == 0, out + err
    rows = table(cluster, "attack", "images")
    assert len(rows) == 200
    assert len({row["name"] for row in rows}) == 200
    assert {row["status"] for row in rows} <= {"fooled", "missed", "already_wrong"}
    assert "200 images" in out


# Meanwhile the launcher brings the node back, which takes it most of a minute.


@pytest.mark.parametrize("address", ["auto", "10.77.0.2:6379", "ray://10.77.0.2:10001"])
@pytest.mark.parametrize("token", ["RAY_AUTH_TOKEN_PATH=/none", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'ab' * 32}"])
def test_without_the_token_nobody_gets_in_and_is_told_why(cluster: Lab, token: str, address: str) -> None:
    command = f"env {token} ~/dxray/venv/bin/python -m dxray.orchestrator.cli.app sweep --address {address}"
    # Ray by itself would take 20 s to say something else; how long a busy machine takes to load Python is not asked.
    refused = cluster.head.run(f"timeout 15 {command}", folder=HOME / "dxray" / "app", check=False)
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "asks for a token" in refused.stderr or "Ray Client, which dxray does not use" in refused.stderr


def test_the_token_is_nobody_elses(cluster: Lab) -> None:
    for machine in cluster.machines:
        modes = machine.run("stat -c %a ~/.ray ~/.ray/auth_token").stdout.split()
        assert modes == ["700", "600"], machine.name
    token = cluster.laptop.run("cat ~/.ray/auth_token").stdout.strip()
    logs = cluster.head.run(["grep", "-rlF", token, "/tmp/ray", str(SHARED)], check=False).stdout.split()
    assert not logs


@pytest.mark.usefixtures("swept")
def test_results_are_fetched(cluster: Lab) -> None:
    cluster.laptop.run(f"ray rsync-down cluster.yaml {SHARED}/runs/ ~/fetched/", folder=PROJECT)
    assert "sweep.json" in cluster.laptop.run("ls ~/fetched/sweep").stdout.split()
    dxray(cluster, "fetch", "cluster.yaml", "sweep", "--out", str(HOME / "sweep"))
    assert "sweep.json" in cluster.laptop.run("ls ~/sweep").stdout.split()


def test_down_leaves_neither_a_process_nor_a_key_behind(cluster: Lab) -> None:
    wait_until(lambda: cluster.worker.processes("raylet/raylet"), 180)  # joined, or joined again
    dxray(cluster, "down", "cluster.yaml")
    assert not cluster.head.processes(RAY)
    assert "ray_bootstrap" not in cluster.head.run("ls ~").stdout
    wait_until(
        lambda: not cluster.worker.processes(RAY), 60, lambda: cluster.worker.run("ps axo pid,etimes,args").stdout
    )


def test_the_slurm_script_makes_one_ray_of_all_nodes_and_ends_it(cluster: Lab) -> None:
    """With stand-ins for Slurm's commands; after `ray down`, for `ray symmetric-run` takes no node that has a Ray."""
    place = cluster.folder / "shared" / "slurm"
    place.mkdir()
    (place / "scontrol").write_text("#!/bin/sh\nprintf 'head\\nworker\\n'\n")
    (place / "srun").write_text(SRUN)
    for tool in ("scontrol", "srun"):
        (place / tool).chmod(0o755)
    cluster.head.run("mkdir -p ~/submitted && cp -r ~/dxray/app/. ~/submitted")
    cluster.head.run(["rsync", "-a", f"{ROOT}/cluster/", "submitted/cluster"])
    slurm = "SLURM_JOB_NODELIST=head,worker SLURM_JOB_NUM_NODES=2 SLURM_CPUS_PER_TASK=2 SLURM_JOB_ID=7"
    grid = "--data synthetic:200 --net convnet --filters 4 --blocks 2 --epochs 1"
    ran = cluster.head.run(
        f"PATH={SHARED}/slurm:$PATH SLURM_SUBMIT_DIR=~/submitted {slurm} bash ~/submitted/cluster/slurm.sh "
        f"{grid} --out {SHARED}/runs/slurm"
    )
    assert "on 4 CPUs" in ran.stdout
    assert [row["status"] for row in table(cluster, "slurm", "trials.parquet")] == ["ok"]
    for machine in (cluster.head, cluster.worker):
        wait_until(lambda machine=machine: not machine.processes(RAY), 60)  # type: ignore[misc]
