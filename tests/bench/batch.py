"""What the batch attack costs beyond the attack itself, and what it holds in memory.

    python -m tests.bench.batch
    python -m tests.bench.batch --faces 4000 --repeats 5 --skip-memory

1. `dxray attack` on a folder of PNG faces, two workers of one thread each, against the engine alone: two plain
   processes of one thread each, which attack half of the same faces each, from arrays in memory. Both are at work in
   turns of two seconds, the other halted, see `tests.bench.turns`, and only the time that they are at work counts. What
   a net needs at its first call is in the time of both. That of the run is from where a worker begins its first shard,
   the mean of both, to the last part on disk: decoding, writing, reading back and storing are in it; the start of Ray,
   and of the first of its workers, is printed apart. Shares are by the clock, halts included, so those of short stages
   scatter. Nothing is deleted between the runs: where many files had just been deleted, making a new one was seen to
   take ten times as long for minutes (on ext4). What the bench made it deletes at its end: wait before it is run again.
2. The most memory that the driver and each worker held, and the time of an image, over runs of more and more images (a
   tiny net, FGSM, links to the same thousand files).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dxray.attacks import find
from dxray.attacks.engine.lattice import from_levels
from dxray.models.data.faces import Faces, read
from dxray.models.data.images import encode_png
from dxray.models.nets import build
from dxray.models.training.train import evaluate, fit
from dxray.models.victims.checkpoint import ModelCard, load, save
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.ray.session import KEEP_PAGES
from dxray.orchestrator.runs.buckets import files
from dxray.orchestrator.runs.store import read_table
from tests.bench.turns import Turns, below, title

DENSENET = {"blocks": 4, "convs": 3, "filters": 16}
TINY = {"blocks": 2, "convs": 1, "filters": 2}


def trained(folder: Path, net_name: str, parameters: dict[str, Any], faces: Faces, epochs: int) -> str:
    torch.manual_seed(0)
    card = ModelCard(net_name, parameters, faces.classes)
    net = build(net_name, **parameters)
    train, test = faces.split("train"), faces.split("test")
    fit(net, train.images, train.labels, epochs=epochs, seed=0)
    print(f"net: {net_name} {parameters}, {evaluate(net, test.images, test.labels)['accuracy']:.1%} of the test faces")
    save(net, card, folder)
    return str(folder)


def written(folder: Path, faces: Faces) -> Path:
    for label in range(len(faces.classes)):
        (folder / faces.classes[label]).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(faces.images, faces.labels, strict=True)):
        (folder / faces.classes[label] / f"{i:07d}.png").write_bytes(encode_png(image))
    return folder


def engine_process(net_folder: str, arrays: str) -> None:
    """Attack the arrays of a file when told to; prints when that began and ended, in seconds since 1970."""
    torch.set_num_threads(1)
    net, _ = load(Path(net_folder))
    held = np.load(arrays)
    images, labels = from_levels(torch.from_numpy(held["images"])), torch.from_numpy(held["labels"])
    dx = find("dx")
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    dx(net, images, labels, targets=1 - labels, seed=0)
    print(began, time.time(), flush=True)


def engine(net: str, faces: Faces, work: Path) -> list[subprocess.Popen[str]]:
    """Two plain processes that are ready."""
    processes = []
    for half in range(2):
        arrays = work / f"half-{half}.npz"
        np.savez(arrays, images=faces.images[half::2], labels=faces.labels[half::2])
        command = [sys.executable, "-m", "tests.bench.batch", "--engine", net, str(arrays)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=os.environ | KEEP_PAGES | {"OMP_NUM_THREADS": "1"}, **pipes))
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    return processes


def flow(net: str, folder: Path, out: Path, *, png: bool) -> subprocess.Popen[str]:
    """A run whose first shard has just begun."""
    command = [
        sys.executable,
        "-m",
        "dxray.orchestrator.cli.app",
        "attack",
        str(folder),
        "--model",
        net,
        "--out",
        str(out),
    ]
    command += ["--png" if png else "--no-png", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    attacking = b"ray::AttackActor.attack"
    while process.poll() is None and not any(title(one).startswith(attacking) for one in below([process.pid])):
        time.sleep(0.02)
    return process


def first_begins(out: Path) -> list[float]:
    """When each worker began its first shard, in seconds since 1970."""
    begins: dict[str, float] = {}
    for file in files(out / "timing", "part-*.parquet"):
        (row,) = read_table(file, columns=["worker", "began"]).to_pylist()
        begins[row["worker"]] = min(row["began"], begins.get(row["worker"], row["began"]))
    return list(begins.values())


def overhead(options: argparse.Namespace, work: Path) -> None:
    faces = read(options.data)
    net = options.model or trained(work / "net", "densenet", DENSENET, faces, options.epochs)
    if options.model and options.faces <= len(faces.split("test").images):
        faces = faces.split("test")
    chosen = slice(None, options.faces)
    some = replace(faces, images=faces.images[chosen], labels=faces.labels[chosen])
    count = len(some.images)
    folder = written(work / "faces", some)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(options.repeats):
        for png, found in ratios.items():
            out = work / f"out-{repeat}-{png}"
            plain = engine(net, some, work)
            run = flow(net, folder, out, png=png)
            for process in plain:
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.flush()
            turns = Turns({"engine": plain, "run": [run]})
            turns.take()
            result = json.loads(run.communicate()[0])
            assert result["inputs"] == count
            times = [[float(word) for word in process.communicate()[0].split()] for process in plain]
            alone = turns.seconds("engine", min(began for began, _ in times), max(ended for _, ended in times))
            wall = result["seconds"] - result["workers_seconds"]
            begins = first_begins(out)
            ended = min(begins) + wall
            seconds = statistics.mean(turns.seconds("run", began, ended) for began in begins)
            found.append(alone / seconds)
            stages = result["stages"]
            shares = ", ".join(f"{name} {taken / sum(stages.values()):.1%}" for name, taken in stages.items())
            idle = 1 - sum(stages.values()) / sum(ended - began for began in begins)
            print(
                f"repeat {repeat + 1}, {'PNG files too' if png else 'parts only'}: engine {count / alone:.1f}, "
                f"run {count / seconds:.1f} images/s: {found[-1]:.3f}; Ray {result['ray_seconds']:.1f} s, its workers "
                f"{result['workers_seconds']:.1f} s; of the workers' time: {shares}; {idle:.1%} idle",
                flush=True,
            )
    for png, found in ratios.items():
        print(
            f"run / engine, {'with the PNG triples as files' if png else 'parts only'}: {statistics.median(found):.3f} "
            f"({min(found):.3f}-{max(found):.3f}); goal 0.90"
        )


def peaks(process: subprocess.Popen[str]) -> dict[str, float]:
    """MiB of its own, at their highest, that the driver and the largest worker held, while the process runs."""
    found = {"driver": 0.0, "worker": 0.0}
    while process.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                # `ray::` is what Ray calls a worker; it is a child's child of the driver.
                kind = "driver" if status.parent.name == str(process.pid) else "worker"
                if kind == "worker" and not title(int(status.parent.name)).startswith(b"ray::"):
                    continue
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                anonymous = int(lines["RssAnon"].split()[0]) / 1024
            except (OSError, KeyError, ValueError):
                continue
            found[kind] = max(found[kind], anonymous)
        time.sleep(0.1)
    return found


def memory(options: argparse.Namespace, work: Path) -> None:
    faces = read("synthetic:2000")
    net = trained(work / "tiny", "convnet", TINY, faces, 1)
    source = sorted(written(work / "source", faces).rglob("*.png"))[:1000]
    rows = []
    for count in options.images:
        folder, out = work / f"links-{count}", work / f"linked-{count}"
        folder.mkdir()
        for i in range(count):
            os.link(source[i % len(source)], folder / f"{i:08d}.png")
        started = time.perf_counter()
        assert sum(1 for _ in list_inputs([folder], classes=faces.classes)) == count
        listing = (time.perf_counter() - started) / count
        command = [
            sys.executable,
            "-m",
            "dxray.orchestrator.cli.app",
            "attack",
            str(folder),
            "--model",
            net,
            "--out",
            str(out),
        ]
        command += ["--attack", "fgsm", "--eps", "0.0157", "--no-png", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            held = peaks(process)
            assert process.stdout
            result = json.loads(process.stdout.read())
        rows.append((count, held, result["seconds"] - result["workers_seconds"]))
        per_image = rows[-1][2] / count
        print(
            f"{count:>9,} images: driver {held['driver']:.0f} MiB, largest worker {held['worker']:.0f} MiB, "
            f"{rows[-1][2]:.1f} s, {per_image * 1000:.3f} ms an image; listed at {listing * 1e6:.0f} us a name",
            flush=True,
        )
        shutil.rmtree(folder)
        shutil.rmtree(out)
    first, last = rows[0], rows[-1]
    for kind in ("driver", "worker"):
        print(f"{kind}: {last[1][kind] / first[1][kind]:.3f} times the memory; goal 1.10 or less")
    print(f"time of an image: {(last[2] / last[0]) / (first[2] / first[0]):.3f} times; goal 1.10 or less")


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        engine_process(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:4000", help="faces to train on and to attack")
    parser.add_argument("--model", help="attack this checkpoint, on the test split of --data if that has so many faces")
    parser.add_argument("--faces", type=int, default=2000, help="attacked in each run")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[10_000, 50_000, 200_000], help="of the runs of part 2"
    )
    parser.add_argument("--skip-overhead", action="store_true")
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if not options.skip_overhead:
            overhead(options, Path(work))
        if not options.skip_memory:
            memory(options, Path(work))


if __name__ == "__main__":
    main()
