"""dxray's minimal attacks against adversarial-library's, in one process, everything measured on PNGs read back.

    python -m tests.bench.attacks --model CHECKPOINT_DIR --faces FACES.parquet --peers PEERS_DIR

The peers are installed apart, never into the project:
    pip install --no-deps --target PEERS_DIR adv-lib==0.2.8
Without --peers only dxray runs. FACES.parquet holds columns split ("test" is used), gender (0 or 1) and image (raw grey
bytes, as many as the net's size asks for). `--repeats` runs every attack several times, in turn, for the spread.
"""

import argparse
import importlib
import io
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from attacks.dx import dx
from attacks.lattice import from_levels, to_uint8
from attacks.outcome import Outcome, score
from attacks.query import Ledger
from models.checkpoint import load

Attack = Callable[[nn.Module, Tensor, Tensor, Ledger], Tensor]


def read_faces(path: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Test images float32 (N, 1, *size) and labels int64 (N,), spread over the whole split."""
    table = pq.read_table(path, columns=["split", "gender", "image"])
    table = table.filter(np.asarray(table["split"]) == "test")
    pixels = np.stack([np.frombuffer(row, np.uint8).reshape(1, *size) for row in table["image"].to_pylist()])
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return from_levels(torch.from_numpy(pixels.copy()))[order], torch.tensor(table["gender"].to_pylist())[order]


def through_png(images: Tensor) -> Tensor:
    """Images (N, 1, H, W) in [0, 1] written as PNG and read back, uint8."""
    read = []
    for image in to_uint8(images):
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, format="PNG")
        read.append(torch.from_numpy(np.array(Image.open(io.BytesIO(file.getvalue()))))[None])
    return torch.stack(read)


def peers(directory: Path) -> dict[str, tuple[str, Callable[..., Tensor], dict[str, Any]]]:
    """Name -> (norm, function, keywords) of adversarial-library's attacks that belong here."""
    sys.path.insert(0, str(directory))
    for absent in ("visdom", "torchvision", "torchvision.models"):  # imported by parts of it that are not used here
        stand_in = types.ModuleType(absent)
        stand_in.Visdom = stand_in.models = stand_in  # type: ignore[attr-defined]
        sys.modules.setdefault(absent, stand_in)

    def find(module: str, name: str) -> Callable[..., Tensor]:
        found: Callable[..., Tensor] = getattr(importlib.import_module(f"adv_lib.attacks.{module}"), name)
        return found

    ddn, fmn = find("decoupled_direction_norm", "ddn"), find("fast_minimum_norm", "fmn")
    pdpgd, sigma_zero = find("primal_dual_gradient_descent", "pdpgd"), find("sigma_zero", "sigma_zero")
    return {
        "DDN 100, levels=256": ("l2", ddn, {"steps": 100, "levels": 256}),
        "DDN 300, levels=256": ("l2", ddn, {"steps": 300, "levels": 256}),
        "FMN Linf 100": ("linf", fmn, {"norm": float("inf"), "steps": 100}),
        "PDPGD L1 200": ("l1", pdpgd, {"norm": 1.0, "num_steps": 200}),
        "sigma-zero 200": ("l0", sigma_zero, {"num_steps": 200}),
    }


def in_batches(attack: Callable[..., Tensor], keywords: dict[str, Any], batch: int) -> Attack:
    """A peer run batch by batch; its gradients are counted as its backward passes."""

    def run(net: nn.Module, inputs: Tensor, labels: Tensor, ledger: Ledger) -> Tensor:
        counted = 0

        def count(images: Tensor) -> None:
            def seen(_: Tensor) -> None:
                nonlocal counted
                counted += len(images)

            if images.requires_grad:
                images.register_hook(seen)

        handle = net.register_forward_pre_hook(lambda _, arguments: count(arguments[0]))
        found = [
            attack(net, inputs[i : i + batch], labels[i : i + batch], **keywords) for i in range(0, len(inputs), batch)
        ]
        handle.remove()
        ledger.gradients += round(counted / len(inputs))
        return torch.cat(found).detach()

    return run


def ours(norm: str, effort: str) -> Attack:
    def run(net: nn.Module, inputs: Tensor, labels: Tensor, ledger: Ledger) -> Tensor:
        return dx(net, inputs, labels, norm=norm, effort=effort, ledger=ledger)

    return run


def row(name: str, norm: str, seconds: list[float], outcome: Outcome, ledger: Ledger, repeats: int) -> str:
    fooled = outcome.status == "fooled"
    sizes = np.where(fooled, getattr(outcome, norm), np.inf)
    unit = 255 if norm == "linf" else 1
    count = len(fooled)
    speeds = [count / spent for spent in seconds]
    spread = f"{min(speeds):.1f}-{max(speeds):.1f}"
    return (
        f"{name:24} {statistics.median(speeds):8.1f} {spread:>13} {fooled.mean():8.1%} {np.median(sizes) * unit:9.4f} "
        f"{sizes[fooled].mean() * unit:9.4f} {float(ledger.gradients.float().mean()) / repeats:7.1f} "
        f"{float(ledger.forwards.float().mean()) / repeats:7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--faces", type=Path, required=True, help="parquet file with test faces")
    parser.add_argument("--peers", type=Path, help="directory the peers were installed into")
    parser.add_argument("--count", type=int, default=128, help="correctly classified faces")
    parser.add_argument("--peer-batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--norms", nargs="+", default=["l2", "linf", "l1", "l0"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    net, card = load(arguments.model)
    # Frozen and channels-last for all: a peer is not made slower than its user could have it.
    net.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = read_faces(arguments.faces, card.size)
    status = score(net, to_uint8(images[: 2 * arguments.count]), to_uint8(images[: 2 * arguments.count]),
                   labels[: 2 * arguments.count]).status  # fmt: skip
    right = torch.from_numpy(np.flatnonzero(status == "missed"))[: arguments.count]
    images, labels = images[right], labels[right]

    attacks: dict[str, tuple[str, Attack]] = {}
    for norm in arguments.norms:
        attacks |= {f"dx {norm} {effort}": (norm, ours(norm, effort)) for effort in ("fast", "default", "thorough")}
    if arguments.peers:
        for name, (norm, attack, keywords) in peers(arguments.peers).items():
            if norm in arguments.norms:
                attacks[name] = (norm, in_batches(attack, keywords, arguments.peer_batch))

    print(f"{len(images)} faces, {arguments.threads} threads; Linf in grey levels, L0 in pixels, the rest in [0, 1]")
    print(
        f"{'attack':24} {'images/s':>8} {'spread':>13} {'on PNG':>8} {'median':>9} {'mean':>9} {'grads':>7} {'fwds':>7}"
    )
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    ledgers = {name: Ledger.empty(len(images)) for name in attacks}
    outcomes: dict[str, Outcome] = {}
    for turn in range(arguments.repeats):
        for name, (norm, run) in attacks.items():
            begin = time.perf_counter()
            modified = run(net, images, labels, ledgers[name])
            seconds[name].append(time.perf_counter() - begin)
            outcomes[name] = score(net, to_uint8(images), through_png(modified), labels)
            print(row(name, norm, seconds[name], outcomes[name], ledgers[name], turn + 1), flush=True)
    for base, others in (("DDN 100, levels=256", "images/s"), ("DDN 300, levels=256", "median L2")):
        if base in attacks:
            print(f"{others} as a multiple of {base}:")
            for name in (name for name, (norm, _) in attacks.items() if norm == "l2"):
                print(f"  {name:24} {_ratio(others, name, base, seconds, outcomes)}")


def _ratio(what: str, name: str, base: str, seconds: dict[str, list[float]], outcomes: dict[str, Outcome]) -> str:
    if what == "images/s":
        ratios = [theirs / own for own, theirs in zip(seconds[name], seconds[base], strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    own, theirs = (np.where(o.status == "fooled", o.l2, np.inf) for o in (outcomes[name], outcomes[base]))
    return f"{np.median(own) / np.median(theirs):.4f}"


if __name__ == "__main__":
    main()
