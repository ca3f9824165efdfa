"""A verb as `cluster/sweep.py`, `attack.py` and `retrain.py` run it on a cluster's head, where `ray submit` sent them.

What differs from the same verb in a terminal: the results have a place that outlives the session, the same arguments
submitted again go on with them, and nothing starts before every machine has been seen to share that place.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from dxray.orchestrator.attack.inputs import absolute
from dxray.orchestrator.cli import app
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.ray.session import connected, machines
from dxray.orchestrator.ray.shared_storage import joined
from dxray.orchestrator.runs.buckets import SCHEMES, ObjectPath, Place
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.runs.store import read_json, write_json

RECORD = "submitted.json"
RUNS = "DXRAY_RUNS"  # set by cluster.yaml: the folder that every machine sees
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # what `ray up` leaves on the head
_CONFIG = {"sweep": "sweep.json", "attack": "attack.json", "retrain": "retrain.json"}


def run(verb: str, arguments: Sequence[str]) -> int:
    """`dxray VERB` with these arguments on the cluster that this machine leads; exit codes as of `app.main`."""
    return app.guarded(lambda: _run(verb, list(arguments)))


def _run(verb: str, arguments: list[str]) -> int:
    try:
        asked, bound = app.parsed([verb, *arguments])
    except CycloptsError as wrong:
        code = app.refused(wrong)
        sys.stderr.write(
            "dxray: `ray submit` takes the quotes off what stands behind `--`; quote an argument that has spaces "
            "or quotes of its own twice, as in --data '\"folder:my faces\"', or use `dxray submit`\n"
        )
        return code
    options = bound.arguments
    if asked.__name__ != verb or options.keys() & {"show", "list_presets", "rollback"}:
        return app.main([verb, *arguments])  # this, or --help, needs no cluster
    address = options.get("address") or "auto"
    named = options.get("resume") or options.get("update")
    out = (named or options.get("out") or _runs() / verb).expanduser().absolute()
    readable = readable_places(options.get("paths", ()))
    console = Console(as_json=options.get("json", False))
    with connected(address), _gathered(console), joined(out, address, readable=readable):
        command = _command(options, verb, arguments, out) if named is None else [verb, *arguments]
        return app.main([*command, "--address", address])


def readable_places(given: Sequence[str]) -> list[Place]:
    """Of what an attack is given, the files, folders and buckets that every machine must be able to read.

    Hugging Face data sets are not among them, nor are patterns, which only the head resolves.
    """
    named = [one.removeprefix("parquet:").removeprefix("list:") for one in map(absolute, given)]
    found = [place(one) for one in named if "://" not in one or one.partition("://")[0] in SCHEMES]
    return [
        one for one in found if isinstance(one, ObjectPath) or (one.is_absolute() and not set(str(one)) & set("*?["))
    ]


def _runs() -> Place:
    return place(os.environ.get(RUNS) or "~/dxray/runs").expanduser()


def _command(options: Mapping[str, Any], verb: str, arguments: list[str], out: Place) -> list[str]:
    """The arguments of `dxray` that start the run in `out`, or go on with it where it was submitted before.

    Raises:
        UserError: what is in `out` was submitted with other arguments.
    """
    record = out / RECORD
    if (out / _CONFIG[verb]).exists() and record.exists():
        before = read_json(record)["arguments"]
        if before != arguments:
            raise UserError(
                f"'{out}' holds a run that was submitted with other arguments: {' '.join(before) or 'none'}; "
                "submit these again to go on with it, or choose another --out"
            )
        if verb == "retrain":  # by itself it goes on when it is given again, and may have a schedule to keep
            return [verb, *arguments, "--out", str(out)]
        return [verb, "--resume", str(out), *_said_of_this_time(options)]
    if not (out / _CONFIG[verb]).exists():  # a run that came otherwise is refused by the verb itself
        write_json(record, {"arguments": arguments})
    return [verb, *arguments, "--out", str(out)]


def _said_of_this_time(options: Mapping[str, Any]) -> list[str]:
    """What `--resume` does not take from the run, for it decides nothing of the results."""
    words = [f"--{name}" for name in ("json", "strict") if options.get(name)]
    for name in ("workers", "gpus_per_worker"):
        if name in options:
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    return words


@contextmanager
def _gathered(console: Console, *, patience: float = 600.0) -> Iterator[None]:
    """Wait for the machines that the cluster file names; on a cloud ask for them first, and let them go at the end."""
    from ray.autoscaler.sdk import request_resources

    try:
        wanted, bundles = wanted_machines(json.loads(_BOOTSTRAP.expanduser().read_text()))
    except (OSError, ValueError):
        wanted, bundles = 1, []  # not brought up by `ray up`: what is there is what there is
    try:
        if bundles:
            request_resources(bundles=bundles)
        _wait(wanted, console, patience)
        yield
    finally:
        if bundles:
            request_resources(bundles=[])


def wanted_machines(config: Mapping[str, Any]) -> tuple[int, list[dict[str, float]]]:
    """How many machines a cluster file has in all, and what to ask Ray for so that it starts those that it must start.

    Args:
        config: what `ray up` leaves on the head.
    """
    provider = config["provider"]
    if provider["type"] == "local":
        return 1 + len(provider["worker_ips"]), []  # started by `ray up` itself
    kinds = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    return 1 + config["max_workers"], [dict(kinds[0]["resources"]) for _ in range(config["max_workers"])]


def _wait(wanted: int, console: Console, patience: float) -> None:
    deadline = time.monotonic() + patience
    here = -1
    while (there := machines()) < wanted:
        if there != here:
            console.say(f"{there} of {wanted} machines have joined; waiting for the others")
            here = there
        if time.monotonic() > deadline:
            console.say(
                f"went on without {wanted - there} of {wanted} machines, which did not join in {patience:.0f} s; "
                "the head's /tmp/ray/session_latest/logs/monitor.out says why"
            )
            return
        time.sleep(1)
