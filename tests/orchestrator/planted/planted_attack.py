"""`dxray WORDS` with attacks that do what images ask for. Run as a script, its folder on PYTHONPATH.

The first two pixels of an image say what: `MARK`, and a number of `DEEDS`. All others are attacked by FGSM, "planted",
or by DX, "planted_stream".
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rays import own_ray, two_nodes  # type: ignore[import-not-found]  # beside this script
from torch import Tensor, nn

from dxray.attacks import ATTACKS, STREAMS
from dxray.attacks.dx.minimal import dx
from dxray.attacks.engine.batched_search import Search
from dxray.attacks.engine.query import Query
from dxray.attacks.fgsm import fgsm
from dxray.orchestrator.attack import sharding, workers
from dxray.orchestrator.cli import app
from dxray.orchestrator.runs import leases

MARK = 201


def fault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise RuntimeError("the planted fault")


DEEDS = {1: fault, 2: fail, 3: lambda: os._exit(1)}


def planted(net: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> Tensor:
    do(inputs)
    return fgsm(net, inputs, labels, **options)


def planted_alone(net: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> Tensor:
    do(inputs)
    return dx(net, inputs, labels, **options)


def planted_stream(query: Query, shape: torch.Size, **options: Any) -> Search:
    search = STREAMS["dx"](query, shape, **options)
    enter = search.enter

    def doing(rows: Tensor, inputs: Tensor, mask: Tensor | None = None) -> None:
        do(inputs)
        enter(rows, inputs, mask)

    search.enter = doing  # type: ignore[method-assign]
    return search


def do(inputs: Tensor) -> None:
    """What images ask for, in as many milliseconds each as MILLISECONDS says; tells SPY that it has begun."""
    if "SPY" in os.environ:
        Path(os.environ["SPY"], f"{os.getpid()}").touch()
    time.sleep(float(os.environ.get("MILLISECONDS", 0)) / 1000 * len(inputs))
    for image in (inputs * 255).round().to(torch.uint8):
        if image[0, 0, 0] == MARK and int(image[0, 0, 1]) in DEEDS:
            DEEDS[int(image[0, 0, 1])]()


def register() -> None:
    """In the driver and in every worker."""
    ATTACKS["planted"], ATTACKS["planted_stream"], STREAMS["planted_stream"] = planted, planted_alone, planted_stream
    sharding.FIRST = sharding.MOST = int(os.environ.get("SHARD", sharding.FIRST))
    if "LEASE" in os.environ:
        leases.BEAT, leases.LEASE, leases.SETTLE = json.loads(os.environ["LEASE"])


def lose_a_node(words: list[str]) -> int:
    """On two nodes of one CPU each, the second of which dies after the third shard."""
    ended: Counter[str] = Counter()
    with two_nodes("planted_attack.register") as (cluster, lost):
        work_off = workers.WorkerPool.work_off

        def killing(self: workers.WorkerPool, take: Any) -> Any:
            for number, rows in enumerate(work_off(self, take)):
                ended.update(rows)
                if number == 2:
                    cluster.remove_node(lost, allow_graceful=False)
                    print("killed after", ended.total(), file=sys.stderr, flush=True)
                yield rows

        workers.WorkerPool.work_off = killing  # type: ignore[method-assign]
        return app.main(words)


if __name__ == "__main__":
    register()
    if "ALONE" in os.environ:  # without a Ray, unless the command itself starts one
        sys.exit(app.main(sys.argv[1:]))
    if "LOSE_A_NODE" in os.environ:
        sys.exit(lose_a_node(sys.argv[1:]))
    if "SECOND_NODE" in os.environ:
        with two_nodes("planted_attack.register", env_vars=json.loads(os.environ["SECOND_NODE"])):
            sys.exit(app.main(sys.argv[1:]))
    with own_ray("planted_attack.register", address="local", **json.loads(os.environ.get("RAY", "{}"))):
        code = app.main(sys.argv[1:])
    sys.exit(code)
