"""`dxray up`, `status`, `submit`, `fetch`, `down`: Ray's own cluster commands, and a step round what bites in each.

A submitted script runs as a Ray job on the head, not under the ssh session as `ray submit` has it: it goes on when the
terminal is closed, its arguments keep their quotes, and its exit code comes back.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError

SHIPPED = "192.0.2."  # addresses of cluster.yaml as it comes, which are nobody's (RFC 5737)
_JOBS_AT = "http://127.0.0.1:8265"  # on the head: its dashboard listens there alone
_MARK = "dxray-said:"
_LIST_JOBS = f"""python -c "
import json
from ray.job_submission import JobSubmissionClient
jobs = JobSubmissionClient('{_JOBS_AT}').list_jobs()
rows = [[job.submission_id, job.status.value, job.driver_exit_code, job.entrypoint] for job in jobs]
print('{_MARK}' + json.dumps([row for row in rows if row[0]]))
" """
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


def up(cluster: Path, console: Console, *, restart: bool = False) -> dict[str, Any]:
    """Bring the machines of a cluster file up; with `restart`, Ray is started anew where it runs, which ends its jobs.

    Raises:
        UserError: the file is not there or not edited, a program is missing that Ray calls, or Ray failed. So do all
            that follow.
    """
    flags = ["--yes"]
    runs = _ray("exec", cluster, "ray status > /dev/null").returncode == 0
    if runs and not restart:
        console.say("the cluster runs already: its Ray and its jobs are left alone (--restart starts them anew)")
        flags.append("--no-restart")
    _own_token()
    if _ray("up", cluster, *flags, shown=sys.stderr).returncode:
        raise UserError("`ray up` failed; what it printed above says why")
    console.say(f"the head is up; the other machines join as they are ready: dxray status {cluster}")
    return {"cluster": str(cluster), "restarted": not runs or restart}


def status(cluster: Path, console: Console) -> dict[str, Any]:
    """What Ray says of the machines that have joined, and the cluster's jobs."""
    said = _ray("exec", cluster, f"ray status && {_LIST_JOBS}")
    report, marked, rest = said.stdout[max(0, said.stdout.find("======== ")) :].partition(_MARK)
    if not marked:
        raise UserError(f"no Ray cluster runs on the head of '{cluster}'; start it: dxray up {cluster}")
    console.say(report.strip())
    rows = json.loads(rest.splitlines()[0])
    jobs = [dict(zip(("job", "status", "exit_code", "entrypoint"), row, strict=True)) for row in rows]
    if jobs:
        console.table("jobs", ("job", "status", "exit code"), [list(job.values())[:3] for job in jobs])
    return {"status": report.strip(), "jobs": jobs}


def submit(
    cluster: Path,
    script: Path | None,
    arguments: Sequence[str],
    console: Console,
    *,
    detach: bool = False,
    attach: str | None = None,
) -> dict[str, Any]:
    """Run `script` as a job, or `attach` to one of that name, and wait for its end unless it is to `detach` from it.

    Raises:
        Interrupted: Ctrl-C; the job goes on.
    """
    if script and not attach:
        job = _start(cluster, script, arguments)
    elif attach and not script:
        job = attach
    else:
        raise UserError("submit takes a script, or --attach with the name of a job, and not both")
    again = f"dxray submit {cluster} --attach {job}"
    if detach:
        console.say(f"job {job} runs on the cluster; see it by: {again}")
        return {"job": job, "status": "RUNNING", "exit_code": None}
    try:
        follow = f"ray job logs --follow --address {_JOBS_AT} {shlex.quote(job)}"
        _ray("exec", cluster, follow, shown=sys.stderr if console.as_json else sys.stdout)
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer watched; job {job} goes on: {again}, or end it: ray exec {cluster} 'ray job stop {job}'"
        ) from None
    found = {row[0]: row[1:] for row in _jobs(cluster)}
    if job not in found:
        raise UserError(f"the cluster knows no job '{job}'; its jobs are told by: dxray status {cluster}")
    ended, code, _ = found[job]
    if ended not in _OVER:
        raise UserError(f"the line to job {job} was cut, and it goes on: {again}")
    console.say(f"job {job}: {ended.lower()}" + (f", exit code {code}" if code else ""))
    return {"job": job, "status": ended, "exit_code": code}


def _start(cluster: Path, script: Path, arguments: Sequence[str]) -> str:
    """The name of the job that runs `script` from now on."""
    if not script.is_file():
        raise UserError(f"there is no script '{script}'; give cluster/sweep.py, cluster/attack.py or one of your own")
    job = f"{script.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    sent = f"~/dxray/{job}.py"
    if _ray("rsync-up", cluster, script.absolute(), sent).returncode:
        raise UserError(f"'{script}' could not be copied to the head of '{cluster}'; is it up? dxray status {cluster}")
    # The job's own shell expands the ~; the words after it must reach the script as they are.
    started = f"ray job submit --no-wait --address {_JOBS_AT} --submission-id {job} -- python $HOME/dxray/{job}.py "
    said = _ray("exec", cluster, started + shlex.join(arguments))
    if said.returncode:
        raise UserError(f"the job could not be started: {_last_words(said.stdout)}")
    return job


def fetch(cluster: Path, run: str, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """Copy the folder of `run`, a whole path or below the folder that all machines share, to `out` (runs/RUN)."""
    source = run.rstrip("/")
    if "://" in source:
        raise UserError(f"'{source}' is in a bucket, which this machine can read by itself: dxray show '{source}'")
    if not source.startswith(("/", "~")):
        runs = _said(cluster, f'echo "{_MARK}${{DXRAY_RUNS:-$HOME/dxray/runs}}"')
        source = f"{runs}/{source}"
    out = out or Path("runs") / Path(source).name
    out.mkdir(parents=True, exist_ok=True)
    # With a slash the folder's content is copied, else the folder itself into `out`.
    copied = _ray("rsync-down", cluster, f"{source}/", f"{out.absolute()}/")
    if copied.returncode or not any(out.iterdir()):
        if not any(out.iterdir()):
            out.rmdir()
        raise UserError(f"'{source}' could not be copied from the head of '{cluster}'; is it there?")
    console.say(f"{source} is now in {out}")
    return {"from": source, "out": str(out)}


def down(cluster: Path, console: Console) -> dict[str, Any]:
    """End Ray on all machines, and remove the keys that it has left on the head."""
    # Ray leaves these on the head; the first lets whoever can read it in to every machine.
    left = _ray("exec", cluster, "rm -f ~/ray_bootstrap_key.pem ~/ray_bootstrap_config.yaml")
    if _ray("down", cluster, "--yes", shown=sys.stderr).returncode:
        raise UserError("`ray down` failed; what it printed above says why")
    if "Head node of cluster" in left.stdout:
        console.say("this machine knows of no head that is up: it brought none up, or took it down before")
    elif left.returncode:  # `ray down` ends well nevertheless
        raise UserError(
            f"the head of '{cluster}' did not answer ({_last_words(left.stdout)}); if it is a machine of your own, its "
            "Ray, and the key in ~/ray_bootstrap_key.pem, are still there: once it answers, say this again"
        )
    else:
        console.say("Ray is down on the head; machines of one's own notice it and end theirs within half a minute")
    return {"cluster": str(cluster)}


def _own_token() -> None:
    """The secret of the cluster, made where there is none, and readable by nobody else."""
    token = Path.home() / ".ray" / "auth_token"  # cluster.yaml sends this one
    if not token.exists():
        # What it prints is the token itself.
        subprocess.run([*_RAY, "get-auth-token", "--generate"], stdout=subprocess.DEVNULL, check=True)
    token.parent.chmod(0o700)
    token.chmod(0o600)


_RAY = (sys.executable, "-m", "ray.scripts.scripts")


def _ray(verb: str, cluster: Path, *words: object, shown: TextIO | None = None) -> subprocess.CompletedProcess[str]:
    """`ray VERB CLUSTER.yaml ...`; what it prints goes to `shown`, or is in what is returned.

    Raises:
        UserError: there is no such file, it was not edited, or a program is missing that Ray calls.
    """
    if not cluster.is_file():
        raise UserError(f"there is no cluster file '{cluster}'; the folder cluster/ has some to start from")
    if re.search(rf"^\s*head_ip:\s*{re.escape(SHIPPED)}", cluster.read_text(), re.MULTILINE):
        raise UserError(f"'{cluster}' has still the addresses it came with; edit the lines marked EDIT in it")
    for tool in ("ssh", "rsync"):
        if not shutil.which(tool):
            raise UserError(f"`ray {verb}` needs {tool}, which is not installed here")
    return subprocess.run(
        [*_RAY, verb, "--log-style=pretty", "--log-color=false", cluster.name, *map(str, words)],
        cwd=cluster.absolute().parent,  # from which the paths in the file count
        stdin=subprocess.DEVNULL,
        stdout=shown or subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
    )


def _said(cluster: Path, command: str) -> str:
    """What `command` on the head prints behind `_MARK`, without what ssh and Ray print around it."""
    said = _ray("exec", cluster, command)
    found = re.search(rf"^{_MARK}(.*?)\r?$", said.stdout, re.MULTILINE)
    if not found:
        raise UserError(
            f"the head of '{cluster}' did not answer ({_last_words(said.stdout)}); is it up? dxray up {cluster}"
        )
    return found[1]


def _jobs(cluster: Path) -> list[list[Any]]:
    """Name, status, exit code and command of each job."""
    return list(json.loads(_said(cluster, _LIST_JOBS)))


def _last_words(text: str) -> str:
    noise = ("Shared connection", "--no-config-cache", "SSH command failed")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not any(word in line for word in noise)]
    return lines[-1] if lines else "it printed nothing"
