"""The files in cluster/ as far as they can be judged without the homes that they are for.

The checker of the Kubernetes files knows the fields of KubeRay's `ray.io/v1` and of pods that are used here: a name
that is misspelt, or stands in the wrong place, is one that it does not know. It is no substitute for the real schema.
"""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cli import parser
from orchestrator.schedule import cron
from tests.cluster.machines import ROOT

CLUSTER = ROOT / "cluster"
CLUSTERS = sorted(path.name for path in CLUSTER.glob("*.yaml"))
KUBERNETES = sorted(path.name for path in (CLUSTER / "kubernetes").glob("*.yaml"))

# Field -> the fields below it; None: whatever; a list: of such things.
CONTAINER = {
    "name": None,
    "image": None,
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
KINDS: dict[tuple[str, str], Any] = {
    ("ray.io/v1", "RayJob"): {
        "entrypoint": None,
        "shutdownAfterJobFinishes": None,
        "ttlSecondsAfterFinished": None,
        "backoffLimit": None,
        "activeDeadlineSeconds": None,
        "rayClusterSpec": RAY_CLUSTER,
    },
    ("batch/v1", "CronJob"): {
        "schedule": None,
        "timeZone": None,
        "concurrencyPolicy": None,
        "startingDeadlineSeconds": None,
        "successfulJobsHistoryLimit": None,
        "failedJobsHistoryLimit": None,
        "jobTemplate": {
            "spec": {
                "backoffLimit": None,
                "activeDeadlineSeconds": None,
                "template": {
                    "spec": POD["spec"] | {"restartPolicy": None, "containers": [CONTAINER | {"command": None}]}
                },
            }
        },
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


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    if job["kind"] == "CronJob":
        return [job["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    spec = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_fits_rays_own_schema(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((CLUSTER / name).read_text())))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_opens_nothing_and_asks_for_the_token(name: str) -> None:
    text = (CLUSTER / name).read_text()
    config = yaml.safe_load(text)
    assert "0.0.0.0" not in text
    head, worker = (config[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert {"--node-ip-address=$3", "--disable-usage-stats"} <= set(command.split())
        assert "RAY_enable_metrics_collection=0" in command
        assert "umask 077" in command
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_sends_all_that_an_installation_needs(name: str) -> None:
    mounts = yaml.safe_load((CLUSTER / name).read_text())["file_mounts"]
    sent = {Path(remote).name for remote, local in mounts.items() if local.startswith("../")}
    assert all((CLUSTER / local).exists() for local in mounts.values() if local.startswith("../"))
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(built["tool"]["setuptools"]["packages"]) <= sent
    assert {"pyproject.toml", built["project"]["readme"], "constraints.txt"} <= sent


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_kubernetes_file_has_no_field_that_its_kind_has_not(name: str) -> None:
    for document in documents(name):
        known = KINDS[document["apiVersion"], document["kind"]]
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert not unknown(document["spec"], known)


@pytest.mark.parametrize("name", ["sweep.yaml", "attack.yaml", "retrain.yaml"])
def test_a_job_asks_for_the_token_runs_as_nobody_special_and_writes_to_the_shared_claim(name: str) -> None:
    (job,) = documents(name)
    (claim,) = [one for one in documents("storage.yaml") if one["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    if job["kind"] == "RayJob":  # the other's Ray is not to be reached from outside its pod
        assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for pod in pods(job):
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= set(container["resources"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("name", ["sweep.yaml", "attack.yaml"])
def test_the_entrypoint_is_a_script_of_the_image_with_arguments_that_it_takes(name: str) -> None:
    (job,) = documents(name)
    python, script, *arguments = job["spec"]["entrypoint"].split()
    assert (python, script) == ("python", f"/app/cluster/{Path(name).stem}.py")
    assert f"cluster/{Path(name).stem}.py" in (CLUSTER / "Dockerfile").read_text()
    parser().parse_args([Path(name).stem, *arguments])


def test_the_schedule_runs_one_at_a_time_by_a_command_that_the_parser_takes() -> None:
    (job,) = documents("retrain.yaml")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    cron(job["spec"]["schedule"])
    dxray, *words = pods(job)[0]["containers"][0]["command"]
    assert dxray == "dxray"
    assert parser().parse_args(words).update


def test_the_checker_finds_a_field_in_the_wrong_place() -> None:
    (job,) = documents("sweep.yaml")
    job["spec"]["concurrencyPolicy"] = "Forbid"
    pods(job)[0]["containers"][0]["imagePolicy"] = "Always"
    assert sorted(unknown(job["spec"], KINDS["ray.io/v1", "RayJob"])) == [
        "spec.concurrencyPolicy",
        "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].imagePolicy",
    ]


def test_the_slurm_script_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)
