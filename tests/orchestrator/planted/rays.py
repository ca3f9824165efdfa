"""Rays of a test's own, whose workers hold planted faults.

A worker of Ray imports only what its driver's packages hold, and these hold no test code; so Ray is told to call a
function, `register` of a script in this folder, in every worker as it starts.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster

from dxray.orchestrator.ray.session import connected

# A dead node is known after a second instead of fifteen.
FAST_HEALTH_CHECKS = {"initial_delay_ms": 0, "period_ms": 500, "timeout_ms": 500, "failure_threshold": 2}


@contextmanager
def own_ray(register: str, **options: Any) -> Iterator[None]:
    """`register` is the function's name, with its module."""
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"worker_process_setup_hook": register},
        **options,
    )
    try:
        with connected():
            yield
    finally:
        ray.shutdown()


@contextmanager
def two_nodes(register: str, **second: Any) -> Iterator[tuple[Cluster, Any]]:
    """Of one CPU each; the second, started with these options, is given beside the cluster, to be lost."""
    health = {f"health_check_{name}": value for name, value in FAST_HEALTH_CHECKS.items()}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": health})
    node = cluster.add_node(num_cpus=1, **second)
    try:
        with own_ray(register, address=cluster.address):
            yield cluster, node
    finally:
        cluster.shutdown()
