"""The files in cluster/ as far as they can be judged without the homes that they are for.

The checker of the Kubernetes files knows the fields of KubeRay's `ray.io/v1` and of pods that are used here: a name
that is misspelt, or stands in the wrong place, is one that it does not know. It is no substitute for the real schema.
"""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from dxray.orchestrator.cli.app import parsed
from tests.cluster.machines import ROOT

CLUSTER = ROOT / "cluster"
CLUSTERS = sorted(path.name for path in CLUSTER.glob("*.yaml"))
SCRIPTS = ("attack", "retrain", "sweep")  # the verbs that are submitted
KUBERNETES = sorted(path.name for path in (CLUSTER / "kubernetes").glob("*.yaml"))

# Field -> the fields below it; None: whatever; a list: of such things.
CONTAINER = {
    "name": None,
    "image": None,
    "command": None,
    "securityContext": {"allowPrivilegeEscalation": None, "capabilities": {"drop": None}},
    "env": [{"name": None, "value": None, "valueFrom": None}],
    "resources": {"requests": None, "limits": None},
    "volumeMounts": [{"name": None, "mountPath": None}],
}
POD = {
    "spec": {
        "automountServiceAccountToken": None,
        "securityContext": {"runAsNonRoot": None, "runAsUser": None, "fsGroup": None, "seccompProfile": {"type": None}},
        "containers": [CONTAINER],
        "volumes": [{"name": None, "persistentVolumeClaim": {"claimName": None}, "emptyDir": None}],
    }
}
RAY_CLUSTER = {
    "rayVersion": None,
    "authOptions": {"mode": None},
    "headGroupSpec": {"rayStartParams": None, "template": POD},
    "workerGroupSpecs": [
        {
            "groupName": None,
            "replicas": None,
            "rayStartParams": None,
            "template": POD,
        }
    ],
}
RAY_JOB = {
    "entrypoint": None,
    "shutdownAfterJobFinishes": None,
    "ttlSecondsAfterFinished": None,
    "backoffLimit": None,
    "activeDeadlineSeconds": None,
    "rayClusterSpec": RAY_CLUSTER,
}
JOB = {
    "backoffLimit": None,
    "activeDeadlineSeconds": None,
    "template": {"metadata": {"labels": None}, "spec": POD["spec"] | {"restartPolicy": None}},
}
KINDS: dict[tuple[str, str], Any] = {
    ("ray.io/v1", "RayJob"): RAY_JOB,
    ("ray.io/v1", "RayCronJob"): {"schedule": None, "timeZone": None, "suspend": None, "jobTemplate": RAY_JOB},
    ("batch/v1", "CronJob"): {
        "schedule": None,
        "timeZone": None,
        "concurrencyPolicy": None,
        "startingDeadlineSeconds": None,
        "successfulJobsHistoryLimit": None,
        "failedJobsHistoryLimit": None,
        "jobTemplate": {"spec": JOB},
    },
    ("v1", "PersistentVolumeClaim"): {"accessModes": None, "storageClassName": None, "resources": {"requests": None}},
    ("networking.k8s.io/v1", "NetworkPolicy"): {"podSelector": None, "policyTypes": None, "ingress": None},
}


def unknown(found: Any, known: Any, place: str = "spec") -> list[str]:
    """Where `found` has a field that `known` has not."""
    if known is None:
        return []
    if isinstance(known, list):
        return [wrong for i, one in enumerate(found) for wrong in unknown(one, known[0], f"{place}[{i}]")]
    return [
        wrong
        for name, below in found.items()
        for wrong in (unknown(below, known[name], f"{place}.{name}") if name in known else [f"{place}.{name}"])
    ]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kubernetes" / name).read_text()))


def job_of(name: str) -> dict[str, Any]:
    """What the one job of a file is to be, whether it is begun now or on a schedule."""
    (document,) = documents(name)
    spec: dict[str, Any] = document["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", spec)
    return dict(template.get("spec", template))


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    if "template" in job:
        return [job["template"]["spec"]]
    spec = job["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def needed(root: Path) -> set[str]:
    """What pip installs dxray from: the files that pyproject.toml names, and the package with its links followed."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    files = [root / "pyproject.toml", root / project["readme"], *(root / name for name in project["license-files"])]
    for folder, _, names in os.walk(root / "src" / "dxray", followlinks=True):
        files += [Path(folder, name) for name in names if not name.endswith(".pyc")]
    return {str(file.relative_to(root)) for file in files if file.exists()}


def lay(source: Path, target: Path, kept: Callable[[Path], bool] = lambda _: True) -> None:
    """Copy a file, or a folder with its links as links, without the files that are not `kept`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        shutil.copy(source, target)
        return

    def left_out(folder: str, names: list[str]) -> set[str]:
        inside = (Path(folder, name) for name in names)
        return {path.name for path in inside if (path.is_symlink() or path.is_file()) and not kept(path)}

    shutil.copytree(source, target, symlinks=True, ignore=left_out)


def kept_by_docker(path: Path) -> bool:
    """Whether .dockerignore lets a file of the checkout into the image: its last line that fits says so."""
    kept = True
    inside = path.relative_to(ROOT)
    within = [str(part) for part in (inside, *inside.parents)]
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, part) for part in within):
            kept = line.startswith("!")
    return kept


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_fits_rays_own_schema(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((CLUSTER / name).read_text())))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_opens_nothing_and_asks_for_the_token(name: str) -> None:
    text = (CLUSTER / name).read_text()
    config = yaml.safe_load(text)
    assert "0.0.0.0" not in text
    starts = [command for kind in ("head", "worker") for command in config[f"{kind}_start_ray_commands"]]
    head, worker = (command for command in starts if "ray start " in command)
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert {"--node-ip-address=$3", "--disable-usage-stats"} <= set(command.split())
        assert "RAY_enable_metrics_collection=0" in command
        assert "umask 077" in command
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_sends_all_that_an_installation_needs(tmp_path: Path, name: str) -> None:
    mounts = yaml.safe_load((CLUSTER / name).read_text())["file_mounts"]
    app = "~/dxray/app/"
    sent = {remote.removeprefix(app): CLUSTER / local for remote, local in mounts.items() if remote.startswith(app)}
    for remote, local in sent.items():
        lay(local, tmp_path / remote)
    assert "constraints.txt" in sent
    assert needed(tmp_path) == needed(ROOT)


def test_the_image_is_made_of_all_that_an_installation_needs_and_of_nothing_else(tmp_path: Path) -> None:
    for sources, target in re.findall(r"^COPY --chown=ray (.+) (\S+)$", (CLUSTER / "Dockerfile").read_text(), re.M):
        for source in map(Path, sources.split()):
            lay(ROOT / source, tmp_path / target / (source.name if target.endswith("/") else ""), kept_by_docker)
    assert needed(tmp_path) == needed(ROOT)
    assert sorted(tmp_path.glob("cluster/*")) == [tmp_path / "cluster" / f"{verb}.py" for verb in SCRIPTS]
    for stray in ("attacks/face.png", "src/dxray.egg-info/PKG-INFO", "src/dxray/__pycache__/a.pyc", "runs/a.py"):
        assert not kept_by_docker(ROOT / stray), stray


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_kubernetes_file_has_no_field_that_its_kind_has_not(name: str) -> None:
    for document in documents(name):
        known = KINDS[document["apiVersion"], document["kind"]]
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert not unknown(document["spec"], known)


@pytest.mark.parametrize("name", sorted(set(KUBERNETES) - {"storage.yaml"}))
def test_a_job_asks_for_the_token_runs_as_nobody_special_and_writes_to_the_shared_claim(name: str) -> None:
    job = job_of(name)
    (claim,) = [one for one in documents("storage.yaml") if one["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert job.get("rayClusterSpec", {"authOptions": {"mode": "token"}})["authOptions"] == {"mode": "token"}
    for pod in pods(job):
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= set(container["resources"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("name", ["sweep.yaml", "attack.yaml", "retrain-ray.yaml"])
def test_the_entrypoint_is_a_script_of_the_image_with_arguments_that_it_takes(name: str) -> None:
    verb = name.partition(".")[0].partition("-")[0]
    python, script, *arguments = job_of(name)["entrypoint"].split()
    assert (python, script) == ("python", f"/app/cluster/{verb}.py")
    assert f"cluster/{verb}.py" in (CLUSTER / "Dockerfile").read_text()
    parsed([verb, *arguments])


def test_the_cron_job_looks_for_new_faces_never_two_at_once() -> None:
    (document,) = documents("retrain.yaml")
    assert document["spec"]["concurrencyPolicy"] == "Forbid"
    job = job_of("retrain.yaml")
    (alone,) = [one for one in documents("storage.yaml") if one["metadata"]["name"] == "dxray-retrain-alone"]
    assert alone["spec"]["podSelector"]["matchLabels"] == job["template"]["metadata"]["labels"]
    assert "ingress" not in alone["spec"]  # none is let in
    (pod,) = pods(job)
    program, *words = pod["containers"][0]["command"]
    assert program == "dxray"
    assert parsed(words)[1].arguments["update"] == Path("/srv/dxray/runs/retrain")


def test_the_systemd_units_are_of_their_form_and_call_what_there_is() -> None:
    known = {
        "service": {"Type", "UMask", "ExecStart", "Environment", "KillSignal", "TimeoutStopSec"}
        | {"NoNewPrivileges", "Nice", "Description"},
        "timer": {"OnCalendar", "Persistent", "RandomizedDelaySec", "WantedBy", "Description"},
    }
    for kind, names in known.items():
        unit = ConfigParser(interpolation=None, comment_prefixes=("#",))
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string((CLUSTER / "systemd" / f"dxray-retrain.{kind}").read_text())
        assert {name for section in unit.sections() for name in unit[section]} == names
        if kind == "service":
            program, *words = unit["Service"]["ExecStart"].split()
            assert program.endswith("/bin/dxray")
            assert "update" in parsed(words)[1].arguments
        elif shutil.which("systemd-analyze"):
            subprocess.run(["systemd-analyze", "calendar", unit["Timer"]["OnCalendar"]], check=True)


def test_the_checker_finds_a_field_in_the_wrong_place() -> None:
    (job,) = documents("sweep.yaml")
    job["spec"]["concurrencyPolicy"] = "Forbid"
    pods(job["spec"])[0]["containers"][0]["imagePolicy"] = "Always"
    assert sorted(unknown(job["spec"], KINDS["ray.io/v1", "RayJob"])) == [
        "spec.concurrencyPolicy",
        "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].imagePolicy",
    ]


def test_the_slurm_script_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)
