"""What the sweep costs beyond the trainings themselves.

    python -m tests.bench.orchestration
    python -m tests.bench.orchestration --seconds 60 --repeats 5

1. A sweep of eight trainings of `--seconds` or more each, two at a time, against the same `fit` calls (and the same
   measuring on the test split) in two plain processes of one thread each, four calls a process. The time of the sweep
   is from the first training asked for to the last finished; the start of Ray is printed apart. That of the plain
   processes is from the moment when both have their data to the moment when both are done.
2. What a further training adds: sweeps of 4 and of 20 trainings of almost nothing, one at a time; the difference, less
   what those trainings take by themselves.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dxray.models.data.faces import Faces, read
from dxray.models.nets import build
from dxray.models.training.train import evaluate, fit
from dxray.orchestrator.console import Console
from dxray.orchestrator.ray.session import KEEP_PAGES, connected
from dxray.orchestrator.sweep.sweep import SweepConfig, sweep

NET: dict[str, Any] = {"filters": 8, "convs": 2, "batch_norm": True, "dropout": 0.1}
FACES = "synthetic:3000"


def swept(faces: Faces, *, trials: int, epochs: int, train_size: int, at_once: int) -> tuple[float, float]:
    """Seconds of a sweep over so many seeds, and of all its trainings' own epochs together."""
    grid: dict[str, list[Any]] = {"net": ["convnet"], "epochs": [epochs], "train_size": [train_size]}
    grid |= {name: [value] for name, value in NET.items()} | {"seed": list(range(trials))}
    with tempfile.TemporaryDirectory() as out:
        config = SweepConfig(data=FACES, grid=grid, cpus_per_trial=1, max_concurrent=at_once)
        started = time.perf_counter()
        rows = sweep(config, Path(out) / "sweep", Console(as_json=True), faces=faces)["trials"]
        seconds = time.perf_counter() - started
    if any(row["status"] != "ok" for row in rows):
        raise RuntimeError(f"a training failed: {[row['reason'] for row in rows]}")
    return seconds, sum(row["seconds"] for row in rows)


def plain_process(seeds: list[int], epochs: int, train_size: int) -> None:
    """The same calls, one after the other, begun when the other process is ready too."""
    torch.set_num_threads(1)
    faces = read(FACES)
    data = {name: (faces.split(name).images, faces.split(name).labels) for name in ("train", "validation", "test")}
    print("ready", flush=True)
    sys.stdin.readline()
    for seed in seeds:
        torch.manual_seed(seed)
        net = build("convnet", **NET)
        images, labels = data["train"]
        fit(net, images[:train_size], labels[:train_size], validation=data["validation"], epochs=epochs, seed=seed)
        evaluate(net, *data["test"])


def in_plain_processes(trials: int, epochs: int, train_size: int) -> float:
    words = [sys.executable, "-m", "tests.bench.orchestration", "--plain"]
    workers = [
        subprocess.Popen(
            [*words, json.dumps([list(range(first, trials, 2)), epochs, train_size])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | KEEP_PAGES,
        )
        for first in range(2)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        if worker.wait():
            raise RuntimeError("a plain process failed")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="that one training should take (40)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_process(*json.loads(options.plain))
        return
    faces = read(FACES)
    size = len(faces.split("train"))
    before = time.perf_counter()
    with connected():
        print(f"Ray started in {time.perf_counter() - before:.1f} s", flush=True)
        _, spent = swept(faces, trials=2, epochs=2, train_size=size, at_once=2)
        epochs = max(1, round(1.1 * options.seconds / (spent / 4)))
        ratios = []
        for repeat in range(options.repeats):
            seconds, spent = swept(faces, trials=8, epochs=epochs, train_size=size, at_once=2)
            plain = in_plain_processes(8, epochs, size)
            ratios.append(seconds / plain)
            print(
                f"8 trainings of {epochs} epochs, repeat {repeat + 1}: sweep {seconds:.1f} s ({spent / 8:.1f} s each), "
                f"plain processes {plain:.1f} s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
        print(f"sweep over plain: {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})", flush=True)
        costs = []
        for _ in range(max(3, options.repeats)):
            few, of_few = swept(faces, trials=4, epochs=1, train_size=64, at_once=1)
            many, of_many = swept(faces, trials=20, epochs=1, train_size=64, at_once=1)
            costs.append((many - few - (of_many - of_few)) / 16)
        print(f"a further training costs {statistics.median(costs):.2f} s ({min(costs):.2f}-{max(costs):.2f})")


if __name__ == "__main__":
    main()
