"""The verbs `dxray up`, `status`, `submit`, `fetch` and `down`, of a cluster that a file describes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import Json


def up(cluster: Path, /, *, restart: bool = False, json: Json = False) -> None:
    """Bring the machines of a cluster file up as one Ray cluster.

    $ dxray up cluster/cluster.yaml

    Args:
        cluster: the cluster file
        restart: where it runs: start Ray anew, which ends its jobs
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray import cluster as machines

    console = Console(as_json=json)
    console.result(machines.up(cluster, console, restart=restart))


def status(cluster: Path, /, *, json: Json = False) -> None:
    """Say which machines have joined, and what became of the jobs.

    $ dxray status cluster/cluster.yaml

    Args:
        cluster: the cluster file
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray import cluster as machines

    console = Console(as_json=json)
    console.result(machines.status(cluster, console))


def submit(
    cluster: Path,
    script: Path | None = None,
    /,
    *arguments: str,
    detach: bool = False,
    attach: Annotated[str | None, Parameter(metavar="JOB")] = None,
    json: Json = False,
) -> int:
    """Run a script on the cluster; it goes on when this terminal is closed.

    $ dxray submit cluster/cluster.yaml cluster/sweep.py -- --preset laptop

    Args:
        cluster: the cluster file
        script: cluster/sweep.py, cluster/attack.py, cluster/retrain.py or one of your own
        arguments: of the script; those that begin with a dash stand behind --
        detach: do not wait for the job's end
        attach: show a job's output again from its start, and wait for its end
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray import cluster as machines

    console = Console(as_json=json)
    result = machines.submit(cluster, script, arguments, console, detach=detach, attach=attach)
    console.result(result)
    if result["exit_code"] is None:
        return int(result["status"] not in ("SUCCEEDED", "RUNNING"))
    return int(result["exit_code"])


def fetch(
    cluster: Path,
    run: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(metavar="DIR", show_default="runs/RUN")] = None,
    json: Json = False,
) -> None:
    """Copy a run's folder from the cluster to this machine.

    $ dxray fetch cluster/cluster.yaml sweep --out runs/sweep

    Args:
        cluster: the cluster file
        run: below the folder that all machines share, or a whole path there
        out: the folder that it is copied to
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray import cluster as machines

    console = Console(as_json=json)
    console.result(machines.fetch(cluster, run, console, out=out))


def down(cluster: Path, /, *, json: Json = False) -> None:
    """End Ray on all machines of a cluster file.

    $ dxray down cluster/cluster.yaml

    Args:
        cluster: the cluster file
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray import cluster as machines

    console = Console(as_json=json)
    console.result(machines.down(cluster, console))
