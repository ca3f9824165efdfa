"""A sweep of four trainings against the loop that anyone would write, of the same net on the same faces.

    python -m tests.bench.training
    python -m tests.bench.training --data parquet:FACES.parquet --train-size 4000 --epochs 3 --batch-size 64 256

The plain loop: torch's own layers in float32 and the default layout, a `DataLoader`, one training after the other with
torch's default number of threads. The sweep: `sweep.sweep`, one CPU for each training. Both have the same
net and first weights, images, batch size, epochs, optimizer, schedule and label smoothing, and no augmentation; both
end each epoch with the accuracy on the validation split. Each side runs in a process of its own, in turn, `--repeats`
times, each time with other seeds; the ratio of each repeat is of that repeat alone, and the median is quoted. The time
of the sweep is that from the first training asked for to the last finished; the start of Ray is printed apart.

Then, `--steps` times in turn on one thread: what augmentation and batch norm add to a training step.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dxray.models.data.batches import augmented, to_device
from dxray.models.data.faces import read
from dxray.models.nets import build
from dxray.models.nets.layers import Normalise
from dxray.models.training.train import has_fast_bf16
from dxray.orchestrator.console import Console
from dxray.orchestrator.ray.session import KEEP_PAGES, connected
from dxray.orchestrator.sweep.sweep import SweepConfig, sweep

TRIALS = 4
RECIPE: dict[str, Any] = {"lr": 2e-3, "weight_decay": 0.01, "label_smoothing": 0.05}


def plain_convolution(inputs: int, outputs: int, kernel: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, *, convs: int, filters: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(plain_convolution(inputs + i * filters, filters, 3, dropout) for i in range(convs))
        self.pool = nn.MaxPool2d(2)
        self.squeeze = plain_convolution(inputs + convs * filters, out_channels, 1, dropout)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = torch.cat([features, conv(features)], dim=1)
        return self.squeeze(self.pool(features))


class PlainDenseNet(nn.Module):
    """`densenet.DenseNet` (4 blocks of 3 convolutions of 16 filters) in torch's own layers, with its names."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.normalise = Normalise(1)
        self.blocks = nn.Sequential(
            *(PlainBlock(i, convs=3, filters=16, out_channels=32, dropout=dropout) for i in (1, 32, 32, 32))
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 3 * 3, 50), nn.ReLU(inplace=True), nn.Linear(50, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.normalise(images)))


def plain_training(data: dict[str, tuple[Tensor, Tensor]], seed: int, asked: dict[str, Any]) -> float:
    """Train one net as anyone would; its accuracy on the held-out faces."""
    torch.manual_seed(seed)
    first = build("densenet", dropout=asked["dropout"])  # for its first weights
    net = PlainDenseNet(asked["dropout"])
    net.load_state_dict(first.state_dict())
    images, labels = data["train"]
    net.normalise.mean.fill_(images.mean())
    net.normalise.std.fill_(images.std())
    loader = DataLoader(TensorDataset(images, labels), batch_size=asked["batch_size"], shuffle=True)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": RECIPE["weight_decay"]},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE["lr"])
    steps = len(loader) * asked["epochs"]
    rise = steps // 4
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            0.05 + 0.95 * step / rise
            if step < rise
            else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        ),
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE["label_smoothing"])
    for _ in range(asked["epochs"]):
        net.train()
        for inputs, wanted in loader:
            optimizer.zero_grad()
            loss = criterion(net(inputs), wanted)
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        plain_accuracy(net, *data["validation"])
    return plain_accuracy(net, *data["test"])


@torch.no_grad()
def plain_accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    right = [(net(images[i : i + 256]).argmax(1) == labels[i : i + 256]).sum() for i in range(0, len(images), 256)]
    return float(sum(right) / len(images))


def plain_side(asked: dict[str, Any]) -> dict[str, Any]:
    faces = read(asked["data"])
    data = {}
    for name in ("train", "validation", "test"):
        split, taken = faces.shuffled(name), slice(asked["train_size"] if name == "train" else None)
        data[name] = torch.tensor(split.images[taken]).float() / 255, torch.tensor(split.labels[taken])
    started = time.perf_counter()
    accuracies = [plain_training(data, seed, asked) for seed in asked["seeds"]]
    return {"seconds": time.perf_counter() - started, "accuracies": accuracies, "start": 0.0}


def sweep_side(asked: dict[str, Any]) -> dict[str, Any]:
    console = Console(as_json=True)
    faces = read(asked["data"])
    config = SweepConfig(
        data=asked["data"],
        grid={
            "net": ["densenet"],
            "filters": [16],
            "batch_norm": [False],
            "augment": [False],
            "optimizer": ["adamw"],
            "dropout": [asked["dropout"]],
            "batch_size": [asked["batch_size"]],
            "epochs": [asked["epochs"]],
            "train_size": [asked["train_size"]],
            "seed": asked["seeds"],
            **{name: [value] for name, value in RECIPE.items()},
        },
        cpus_per_trial=1,
    )
    before = time.perf_counter()
    with connected(), tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        rows = sweep(config, Path(out) / "sweep", console, faces=faces)["trials"]
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "accuracies": [row["accuracy"] for row in rows], "start": started - before}


def in_a_process_of_its_own(side: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Neither side has the other's threads, memory or allocator."""
    words = [sys.executable, "-W", "ignore", "-m", "tests.bench.training", "--side", side, "--asked", json.dumps(asked)]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def compare(options: argparse.Namespace, batch_size: int, dropout: float) -> None:
    what = f"batch {batch_size}, dropout {dropout:g}"
    ratios, gaps = [], []
    images = TRIALS * options.train_size * options.epochs
    for repeat in range(options.repeats):
        asked = {
            "data": options.data,
            "train_size": options.train_size,
            "epochs": options.epochs,
            "batch_size": batch_size,
            "dropout": dropout,
            "seeds": list(range(TRIALS * repeat, TRIALS * (repeat + 1))),
        }
        plain, ours = in_a_process_of_its_own("plain", asked), in_a_process_of_its_own("sweep", asked)
        ratios.append(plain["seconds"] / ours["seconds"])
        gaps += [a - b for a, b in zip(ours["accuracies"], plain["accuracies"], strict=True)]
        print(
            f"{what}, repeat {repeat + 1}: plain loop {images / plain['seconds']:.0f} images/s, "
            f"accuracy {statistics.mean(plain['accuracies']):.2%}; sweep {images / ours['seconds']:.0f} images/s, "
            f"accuracy {statistics.mean(ours['accuracies']):.2%} (Ray started in {ours['start']:.1f} s); "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else math.nan
    print(
        f"{what}: ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}); accuracy of the sweep less that of the loop "
        f"{statistics.mean(gaps):+.2%} (standard error {error:.2%}, {len(gaps)} nets a side)",
        flush=True,
    )


def step_of(batch_size: int, *, augment: bool = False, batch_norm: bool = False, bf16: bool) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, 1, 48, 48), dtype=np.uint8)
    wanted = torch.tensor(rng.integers(0, 2, batch_size))
    net = build("densenet", batch_norm=batch_norm)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    cpu = torch.device("cpu")

    def step() -> None:
        inputs = augmented(images, cpu) if augment else to_device(images, cpu)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(inputs).float(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def norms_of(batch_size: int, *, bf16: bool) -> Callable[[], None]:
    """The batch norms of that net alone, forward and backward, on tensors as they meet them."""
    shapes: list[tuple[int, ...]] = []
    net = build("densenet", batch_norm=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    net(torch.rand(batch_size, 1, 48, 48))
    dtype = torch.bfloat16 if bf16 else torch.float32
    tensors = [torch.randn(s).to(dtype).to(memory_format=torch.channels_last).requires_grad_(True) for s in shapes]
    layers = [nn.BatchNorm2d(shape[1]) for shape in shapes]
    gradients = [torch.randn_like(tensor) for tensor in tensors]

    def run() -> None:
        for layer, features, gradient in zip(layers, tensors, gradients, strict=True):
            torch.autograd.grad(layer(features), [features, *layer.parameters()], gradient)

    return run


def steps(options: argparse.Namespace, batch_size: int) -> None:
    torch.set_num_threads(1)
    fast = has_fast_bf16(torch.device("cpu"))
    kinds: dict[str, Callable[[], None]] = {
        "bare": step_of(batch_size, bf16=fast),
        "augmented": step_of(batch_size, bf16=fast, augment=True),
        "batch norm": step_of(batch_size, bf16=fast, batch_norm=True),
        "the norms alone": norms_of(batch_size, bf16=fast),
        "bare, float32": step_of(batch_size, bf16=False),
        "batch norm, float32": step_of(batch_size, bf16=False, batch_norm=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.steps + 2):
        for name, run in kinds.items():
            started = time.perf_counter()
            run()
            if turn >= 2:  # the first ones fill caches and the allocator
                spent[name].append(1e3 * (time.perf_counter() - started))
    kind = "bfloat16" if fast else "float32"
    print(f"one step, batch {batch_size}, one thread, {kind} unless said (ms: median, 10-90 %)")
    for name, values in spent.items():
        low, *_, high = statistics.quantiles(values, n=10)
        print(f"  {name:20} {statistics.median(values):7.1f}  {low:.1f}-{high:.1f}")

    def over(first: str, second: str) -> float:
        return statistics.median(a / b for a, b in zip(spent[first], spent[second], strict=True))

    norm = statistics.median(
        (a - b) / c for a, b, c in zip(spent["batch norm"], spent["bare"], spent["the norms alone"], strict=True)
    )
    print(f"  augmentation costs {over('augmented', 'bare') - 1:+.1%} of a step")
    print(
        f"  batch norm costs {over('batch norm', 'bare') - 1:+.1%}: {norm:.2f} times what its layers take alone",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:6000", help="as `dxray sweep --data` takes it (synthetic:6000)")
    parser.add_argument("--train-size", type=int, default=4000, help="training images (4000)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (3)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0], help="of the net (0)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=20, help="repeats of each single step; 0 leaves this part out (20)"
    )
    parser.add_argument("--side", choices=("plain", "sweep", "steps"), help=argparse.SUPPRESS)
    parser.add_argument("--asked", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "steps":
        for batch_size in options.batch_size:
            steps(options, batch_size)
    elif options.side:
        side = plain_side if options.side == "plain" else sweep_side
        print(json.dumps(side(json.loads(options.asked))))
    else:
        for batch_size in options.batch_size:
            for dropout in options.dropout:
                compare(options, batch_size, dropout)
        if options.steps:
            # As in a worker of a sweep: the allocator reads its settings when a process starts.
            subprocess.run(
                [sys.executable, "-m", "tests.bench.training", *sys.argv[1:], "--side", "steps"],
                env=os.environ | KEEP_PAGES,
                check=True,
            )


if __name__ == "__main__":
    main()
