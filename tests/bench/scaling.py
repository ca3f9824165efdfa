"""How the scheduling of attacks and sweeps scales, with sleep in place of the work: two cores then carry 64 workers.

    python -m tests.bench.scaling
    python -m tests.bench.scaling --workers 1 4 16 --seconds 20
    python -m tests.bench.scaling --sweep 16

Real: the sharding into shards, the pool that hands them out, Ray with a raylet for each 16 workers. Simulated: a shard,
which sleeps as long as its images would take and writes nothing. So this tells what the scheduling adds, not what a
shared disk or network would.

1. Efficiency: images x seconds an image / workers, over the time from the first shard to the last, workers warm.
2. Cost of a shard: the driver's own CPU time for shards that take no time, and how many a second go through.
3. What follows for 1,000 GPUs: which of the driver's time and memory is used up first.

A sweep (`--sweep`): Ray Tune, its searcher, the tables after each training, a raylet for each 4 workers, and trainings
that sleep, report each of their epochs, and leave what a training leaves. Efficiency from the first one's begin to the
last one's end.
"""

import argparse
import itertools
import json
import logging
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.cluster_utils import Cluster

from dxray.orchestrator.attack.sharding import SECONDS, Shard, Sharding, largest_shard, most_at_once
from dxray.orchestrator.attack.shards import Ended
from dxray.orchestrator.attack.workers import WorkerPool
from dxray.orchestrator.console import Console
from dxray.orchestrator.ray.session import connected
from dxray.orchestrator.sweep import tuning
from dxray.orchestrator.sweep.grid import expand
from dxray.orchestrator.sweep.search import HALVE

A_NODE = 16  # workers
PIXELS = 48 * 48
WORKERS_A_GPU = 4  # as `dxray attack` has it
EMPTY = 2000  # shards that take no time


@contextmanager
def cluster(workers: int, a_node: int = A_NODE) -> Iterator[None]:
    """Raylets that hold so many workers; memory and object store are small, for they share one machine's."""
    size: dict[str, Any] = {"object_store_memory": 80 * 2**20, "memory": 8 * 2**30}
    nodes = [min(a_node, workers - i) for i in range(0, workers, a_node)]
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": nodes[0], **size})
    try:
        for cpus in nodes[1:]:
            made.add_node(num_cpus=cpus, **size)
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        made.shutdown()


class Sleeping:
    """In place of `pool.AttackActor`, which would load torch."""

    def __init__(self, seconds_an_image: float) -> None:
        self.seconds_an_image = seconds_an_image

    def ready(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def attack(self, shard: Shard, start: int, stop: int, piece: Any) -> Iterator[Ended]:
        time.sleep((stop - start) * self.seconds_an_image)
        yield Ended(shard.index, Counter(fooled=stop - start))


@contextmanager
def crew_of(seconds_an_image: float, workers: int) -> Iterator[WorkerPool]:
    """On few cores, it takes a second or more until each worker has a process of its own."""
    pool = WorkerPool(SimpleNamespace(out=Path("unused")), (b"", b""), net_sha256="")  # type: ignore[arg-type]
    pool._new, pool._given = ray.remote(num_cpus=1)(Sleeping).remote, (seconds_an_image,)
    with pool.hired(workers):
        ray.wait([worker.doing for worker in pool._workers], num_returns=workers)
        yield pool


def efficiency(workers: int, seconds: float, seconds_an_image: float) -> dict[str, float]:
    """Of a run whose workers have `seconds` of work each."""
    images = int(workers * seconds / seconds_an_image)
    listed = {
        "inputs": images,
        "first_part": 0,
        "workers": workers,
        "most": most_at_once(PIXELS),
        "largest": largest_shard(seconds_an_image, most_at_once(PIXELS)),
    }
    with tempfile.TemporaryDirectory() as out, crew_of(seconds_an_image, workers) as pool:
        shards, done, started = 0, 0, time.perf_counter()
        for counts in pool.work_off(Sharding(Path(out), 0, listed).take):
            shards, done = shards + 1, done + counts.total()
        took = time.perf_counter() - started
    assert done == images
    return {"shards": shards, "images": images, "took": took, "efficiency": images * seconds_an_image / workers / took}


def cost_of_a_shard(workers: int) -> tuple[float, float]:
    """Seconds of the driver's CPU for each shard, and shards a second."""
    numbers = itertools.count()

    def take() -> Shard | None:
        index = next(numbers)
        return Shard(index, 0, index, index + 1) if index < EMPTY else None

    with crew_of(0.0, workers) as pool:
        cpu, started = time.process_time(), time.perf_counter()
        assert sum(1 for _ in pool.work_off(take)) == EMPTY
        return (time.process_time() - cpu) / EMPTY, EMPTY / (time.perf_counter() - started)


def all_there(workers: int) -> None:
    """Wait until each worker has a process of its own: on few cores, that takes a second or more for each."""

    def warm(folder: str) -> None:
        # What their tasks will load.
        from ray.tune.trainable import function_trainable  # noqa: F401

        Path(folder, str(os.getpid())).touch()
        while sum(1 for _ in Path(folder).iterdir()) < workers:
            time.sleep(0.5)

    with tempfile.TemporaryDirectory() as folder:
        ray.get([ray.remote(num_cpus=1)(warm).remote(folder) for _ in range(workers)])


class Slots:
    """In place of `tuning.Limits`, which workers would load torch for."""

    threads, gib = 1, None

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def resources(self) -> dict[str, float]:
        return {"cpu": 1.0}


def sweep(workers: int, seconds: float, *, each: int = 4, epochs: int = 10) -> None:
    """Trainings, `each` a worker, that take `seconds` of it together."""
    an_epoch = seconds / each / epochs

    def sleeping(config: dict[str, Any], trials: Any, shared: Any, out: Path, limits: Any) -> None:
        began = time.time()
        told = []
        for epoch in range(1, epochs + 1):
            time.sleep(an_epoch)
            row = {"epoch": epoch, "loss": 0.5, "train_accuracy": 0.8, "validation_accuracy": 0.8}
            told.append(row)
            if epoch == epochs:
                folder = out / "trials" / f"{config['trial']:04d}"
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("model.safetensors", "model.json"):
                    (folder / name).write_text(json.dumps({"sha256": "ab"}))
                figures = dict.fromkeys(("accuracy", "validation_accuracy", "train_accuracy"), 0.8)
                figures |= dict.fromkeys(("validation_loss", "loss", "majority_share", "largest_answer_share"), 0.5)
                result: dict[str, Any] = {
                    "status": "ok",
                    "reason": None,
                    "parameter_count": 1,
                    "train_images": 1,
                    "sha256": "ab",
                }
                result |= figures | {"seconds": time.time() - began, "began": began, "epochs": told}
                (folder / "result.json").write_text(json.dumps(result))
            tune.report(row | {"timesteps_total": epoch} | ({} if epoch == epochs else {HALVE: epoch}))
        tune.report({"ended": True})

    todo = expand({"net": ["convnet"], "epochs": [epochs], "filters": [4], "seed": list(range(each * workers))})
    images = np.zeros((8, 1, 48, 48), np.uint8)
    with cluster(workers, 4), connected(), tempfile.TemporaryDirectory() as out:
        all_there(workers)
        tuning._trial = sleeping  # type: ignore[assignment]
        cpu = time.process_time()
        data = {"train": (images, np.zeros(8, np.int64)), "classes": ("a", "b")}
        rows = tuning.run_trials(todo, data, Path(out), Console(as_json=True), Slots(workers))  # type: ignore[arg-type]
        cpu = (time.process_time() - cpu) / len(rows)
    ended = [row["began"] + row["seconds"] for row in rows]
    took = max(ended) - min(row["began"] for row in rows)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"sweep: {len(rows)} trainings of {seconds / each:g} s in {epochs} epochs on {workers} workers of "
        f"{-(-workers // 4)} nodes: {took:.1f} s, efficiency {seconds / took:.3f}, "
        f"{cpu * 1e3:.0f} ms of the driver's CPU for each, driver {memory:.0f} MiB"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    asked.add_argument("--seconds", type=float, default=60.0, help="of work for each worker (60)")
    asked.add_argument("--image", type=float, default=0.02, help="seconds that an image takes (0.02)")
    asked.add_argument("--sweep", type=int, metavar="WORKERS", help="a sweep on so many, and no attack")
    options = asked.parse_args()
    if options.sweep:
        sweep(options.sweep, options.seconds)
        return
    print("workers  nodes  shards   images  seconds  efficiency  driver ms/shard  shards/s  driver MiB")
    for workers in options.workers:
        with cluster(workers):
            run = efficiency(workers, options.seconds, options.image)
            cpu, rate = cost_of_a_shard(workers)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{workers:7} {-(-workers // A_NODE):6} {run['shards']:7} {run['images']:8} {run['took']:8.1f} "
            f"{run['efficiency']:11.3f} {cpu * 1e3:16.2f} {rate:9.0f} {memory:11.0f}",
            flush=True,
        )
    needed = 1000 * WORKERS_A_GPU / SECONDS
    print(
        f"\n1,000 GPUs with {WORKERS_A_GPU} workers each and shards of {SECONDS:g} s end {needed:.0f} shards a second, "
        f"for which the driver has {1e3 / needed:.1f} ms each; it took {cpu * 1e3:.2f} ms of CPU, so it is busy for "
        f"{needed * cpu:.0%}, and all of Ray here let {rate:.0f} a second through"
    )


if __name__ == "__main__":
    main()
