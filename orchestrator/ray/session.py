"""Ray, started for one command on this machine or reached where it already runs."""

import logging
import os
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dxray.models.data.images import one_line
from dxray.orchestrator.errors import UserError

# glibc gives the pages of a freed tensor back to the kernel and faults them in again for the next one; a net's
# training step on a CPU then spends about half its time there. The allocator reads these before Python starts.
KEEP_PAGES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

# Ray speaks of itself on every start; none of it is about the user's work. And how Tune is used.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep names the only one it wants
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last report names no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# A Ray of this machine's own, for one command, is watched by nobody; yet it looks at logs, counts events and measures
# its processes all the time. Of two busy CPUs these were seen to take 8 %, and take 5 % so (Ray 2.60).
# Nothing of this decides where and when a task runs, or when a worker takes too much memory.
_UNWATCHED = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "60",
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
    "METRICS_RECORD_INTERVAL_S": "600",
    "RAY_DASHBOARD_STATS_UPDATING_INTERVAL": "600",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",  # or the interval above is not heeded
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "60000",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_metrics_report_interval_ms": "600000",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
}

# A Ray of this machine's own is nobody else's: all its servers listen on 127.0.0.1 alone. Ray 2.60 does so where it
# believes that this system knows no clusters, and heeds no other setting. It reads this when it is imported.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """A connection to the Ray cluster at `address`, or a Ray of this machine's own that ends with the block.

    A Ray that this process is already connected to is used and left as it is (a session of tests shares one).

    Raises:
        UserError: nothing answers at `address`, the cluster there does not take the token that is here, or no Ray can
            be started on this machine.
    """
    for name, value in (_QUIET | ({} if address else _UNWATCHED | _LOOPBACK)).items():
        os.environ.setdefault(name, value)
    import ray  # here, not above: it takes a second, and `dxray --help` needs none of it

    if ray.is_initialized():
        yield
        return
    with warnings.catch_warnings():
        # Ray warns of its own future defaults; what a user can do about them is nothing.
        warnings.simplefilter("ignore")
        if address is None:
            os.environ.update(KEEP_PAGES)  # inherited by the workers
            try:
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as wrong:
                raise _not_started(wrong) from None
            _tighten_token()
        else:
            must_let_in(address)
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": KEEP_PAGES},
                )
            except (ConnectionError, ValueError, RuntimeError) as wrong:
                said = str(wrong).strip().splitlines() or [type(wrong).__name__]
                raise _no_cluster(address, said[0]) from None
    try:
        yield
    finally:
        ray.shutdown()


def _not_started(wrong: Exception) -> UserError:
    """Why Ray does not start on this machine, and what to set."""
    if "AF_UNIX" in str(wrong):
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        what = (
            f"the name of the folder for its sockets, '{folder}', is too long; set RAY_TMPDIR to a folder with a "
            "shorter one, such as RAY_TMPDIR=/tmp"
        )
    elif isinstance(wrong, OSError) and not os.access(_token().parent, os.W_OK):
        what = (
            f"it keeps the token of its processes in '{_token().parent}', which cannot be written to "
            f"({wrong.strerror}); set HOME to a folder of yours"
        )
    else:
        what = f"{one_line(wrong, 300)}; see to that, or join a running cluster by --address"
    return UserError(f"no Ray could be started on this machine: {what}")


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster could be joined at '{address}' ({reason}); check the address, or leave --address out: a local "
        "Ray is started then"
    )


def must_let_in(address: str) -> None:
    """Ask the cluster at `address` whether it takes the token that is here, and have Ray use that one from now on.

    Ray itself would try for 20 s, and then tell of a crash. How it finds the address that "auto" stands for, and what
    asks so quickly, are not of its public interface.

    Raises:
        UserError: nothing answers, or the cluster does not take the token.
    """
    import ray
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]  # compiled

    if ray.is_initialized():
        return  # it is that one which is used
    if address.startswith("ray://"):
        raise UserError(
            f"'{address}' is an address of Ray Client, which dxray does not use; give HOST:6379, or submit the command"
        )
    place = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(_token())
    here = place == "RAY_AUTH_TOKEN" or _token().exists()
    if here and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # Ray has read its environment when it was imported
    if not here and os.environ.get("RAY_AUTH_MODE") == "token":
        raise _not_let_in(address, f"there is none in {place}")  # Ray would end the process
    try:
        found = canonicalize_bootstrap_address(address) or address
        _must_answer(found)
        GcsClient(address=found)
    except ray.exceptions.AuthenticationError:
        raise _not_let_in(address, f"there is {'another' if here else 'none'} in {place}") from None
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as wrong:
        raise _no_cluster(address, getattr(wrong, "strerror", None) or str(wrong).splitlines()[0]) from None


def _not_let_in(address: str, what: str) -> UserError:
    return UserError(
        f"the Ray cluster at '{address}' asks for a token, and {what}; copy ~/.ray/auth_token from the machine that "
        "brought the cluster up (mode 600, in a folder of mode 700)"
    )


def _must_answer(address: str, *, seconds: float = 3.0) -> None:
    """OSError where nothing listens at `host:port`."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=seconds).close()


def _token() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _tighten_token() -> None:
    """Ray writes its access token readable by everyone on the machine; make it the user's own."""
    token = _token()
    try:
        if stat.S_IMODE(token.stat().st_mode) & 0o077:
            token.chmod(0o600)
            token.parent.chmod(0o700)
    except OSError:
        pass  # no token, or another user's


def cpus() -> int:
    """CPUs of the cluster that is connected."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def largest_node() -> int:
    """CPUs of the node that has most: what a single process can have at best."""
    return max(1, int(max((node.get("CPU", 0.0) for node in _nodes()), default=1)))


def gpus() -> float:
    """GPUs of the cluster that is connected."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))


def living() -> set[str]:
    """Ids of the nodes of the cluster that is connected, as far as it knows them to be there."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def machines() -> int:
    """Nodes of the cluster that is connected."""
    return len(_nodes())


def feeders() -> int:
    """CPUs for each GPU on the node that has fewest for them; 1 where there is no GPU."""
    shares = [node.get("CPU", 0.0) / node["GPU"] for node in _nodes() if node.get("GPU")]
    return max(1, int(min(shares, default=1)))


BASE = 0.5  # GiB of a worker that has loaded torch and Ray, before it does anything


def capacity(threads: int, gpu_share: float, gib: float | None = None) -> int:
    """How many processes the connected cluster holds at a time, each with so many CPUs, GPUs and GiB beyond `BASE`."""
    return sum(_held(node, threads, gpu_share, gib) for node in _nodes())


def memory_for_each(threads: int, gpu_share: float, at_once: int) -> float:
    """GiB beyond `BASE` that each of `at_once` processes may take, on whichever node it runs.

    Ray tells what each node had free when it joined, less the object store's part. That part, which mostly stays
    unused, is the margin that keeps the node's memory monitor from killing.
    """
    held = [(node.get("memory", 0.0), min(at_once, _held(node, threads, gpu_share, None))) for node in _nodes()]
    return max(0.1, min((memory / 2**30 / here - BASE for memory, here in held if here), default=0.1))


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _held(node: dict[str, float], threads: int, gpu_share: float, gib: float | None) -> int:
    held = node.get("CPU", 0.0) / threads
    if gpu_share:
        held = min(held, node.get("GPU", 0.0) / gpu_share)
    if gib is not None:
        held = min(held, node.get("memory", 0.0) / 2**30 / (gib + BASE))
    return int(held + 1e-9)  # 1 / 0.1 is 10
