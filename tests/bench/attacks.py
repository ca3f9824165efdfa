"""dxray's attacks against those of four libraries, in one process, everything measured on PNG files read back.

    python -m tests.bench.attacks --model CHECKPOINT --faces FACES.parquet --peers PEERS
    python -m tests.bench.attacks --model PLAIN DEEP HARDENED --faces FACES.parquet --peers PEERS --repeats 3

How the peers are installed stands in `tests/bench/peers.py`; without --peers only dxray runs. FACES is anything that
`dxray sweep --data` takes; attacked are the first `--count` test faces, in a shuffled order, that the net has right.

Per attack: images/s, the share of faces fooled by the floats it returns and by the PNGs, the median of the distance on
the PNGs over all faces (one not fooled counts as infinite), its mean over those that fool, and gradients and forwards a
face. Linf in grey levels, L0 in pixels. Then the same within fixed budgets, the bound of a linearised net on the grid
of whole grey levels, and with `--pictures` the penalty's trade-off. Every attack runs `--repeats` times, in turn, and
before the clock on a few faces: what a net needs at its first call is not in the time.

Where others use the machine too, `--threads 1 --cpu` counts processor seconds instead of those on the clock.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dxray.attacks import find
from dxray.attacks.dx.minimal import EFFORTS, PLANS
from dxray.attacks.engine.batched_search import Bounds, Ray
from dxray.attacks.engine.lattice import LEVELS, from_levels, to_levels, to_uint8
from dxray.attacks.engine.query import FLOOR, Ledger, Query
from dxray.attacks.engine.scoring import Outcome, score
from dxray.models.data.faces import read
from dxray.models.data.images import decode, encode_png
from dxray.models.victims.checkpoint import load
from tests.bench import peers

Attack = Callable[[nn.Module, Tensor, Tensor, Ledger], Tensor]

BUDGETS = [("linf", 2 / 255), ("linf", 4 / 255), ("linf", 8 / 255), ("l2", 0.25), ("l2", 0.5)]
WEIGHTS = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]  # of the penalty
UNITS = {"linf": LEVELS}  # other norms are printed as they are


@dataclass
class Measured:
    """One attack on one set of faces: what it found last, and the seconds of each repeat."""

    norm: str
    run: Attack
    ledger: Ledger
    limit: float = np.inf  # a larger change counts as one that does not fool
    seconds: list[float] = field(default_factory=list)
    in_floats: float = 0.0
    outcome: Outcome | None = None

    def sizes(self) -> np.ndarray:
        """Distances on the PNGs (N,), infinite where these do not fool."""
        assert self.outcome is not None
        sizes: np.ndarray = getattr(self.outcome, self.norm)
        return np.where((self.outcome.status == "fooled") & (sizes <= self.limit), sizes, np.inf)


def right_faces(net: nn.Module, data: str, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """Test faces float32 (N, C, H, W) that `net` has right, and their labels int64 (N,)."""
    test = read(data, size=size).shuffled("test")
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    status = score(net, images[: 3 * count], images[: 3 * count], labels[: 3 * count]).status
    rows = torch.from_numpy(np.flatnonzero(status == "missed"))[:count]
    return from_levels(images[rows]), labels[rows]


def through_png(images: Tensor, folder: Path) -> Tensor:
    """Images (N, C, H, W) in [0, 1] written as PNG files and read back, uint8."""
    read_back = []
    for i, image in enumerate(to_uint8(images)):
        file = folder / f"{i}.png"
        file.write_bytes(encode_png(image.numpy()))
        read_back.append(decode(file, size=tuple(image.shape[1:]), channels=len(image)))
    return torch.from_numpy(np.stack(read_back))


def ours(name: str, **settings: Any) -> Attack:
    attack = find(name)
    return lambda net, images, labels, ledger: attack(net, images, labels, ledger=ledger, **settings)


def theirs(peer: peers.Peer) -> Attack:
    """A peer run batch by batch; its gradients are counted as its backward passes."""

    def run(net: nn.Module, images: Tensor, labels: Tensor, ledger: Ledger) -> Tensor:
        counted = {"gradients": 0, "forwards": 0}

        def look(points: Tensor) -> None:
            def seen(_: Tensor) -> None:
                counted["gradients"] += len(points)
                counted["forwards"] -= len(points)  # a gradient's own

            counted["forwards"] += len(points)
            if points.requires_grad:
                points.register_hook(seen)

        handle = net.register_forward_pre_hook(lambda _, arguments: look(arguments[0]))
        found = [peer.run(net, *part) for part in zip(images.split(peer.batch), labels.split(peer.batch), strict=True)]
        handle.remove()
        ledger.gradients += round(counted["gradients"] / len(images))
        ledger.forwards += round(counted["forwards"] / len(images))
        return torch.cat(found).detach()

    return run


def wanted(found: list[peers.Peer], norm: str, only: re.Pattern[str]) -> dict[str, tuple[str, Attack]]:
    return {peer.name: (norm, theirs(peer)) for peer in found if peer.norm == norm and only.search(peer.name)}


FEW = 8  # faces that each attack is first run on


def measure(
    net: nn.Module, images: Tensor, labels: Tensor, one: Measured, clock: Callable[[], float] = time.perf_counter
) -> None:
    begin = clock()
    modified = one.run(net, images, labels, one.ledger)
    one.seconds.append(clock() - begin)
    with torch.no_grad():
        answers = torch.cat([net(part).argmax(dim=1) for part in modified.split(32)])
    one.in_floats = float((answers != labels).double().mean())
    with tempfile.TemporaryDirectory() as folder:
        one.outcome = score(net, to_uint8(images), through_png(modified, Path(folder)), labels)


def row(name: str, one: Measured) -> str:
    sizes = one.sizes() * UNITS.get(one.norm, 1)
    fooled = np.isfinite(sizes)
    speeds = [len(sizes) / spent for spent in one.seconds]
    mean = sizes[fooled].mean() if fooled.any() else np.nan
    repeats = len(one.seconds)
    return (
        f"  {name:32} {statistics.median(speeds):8.1f} {f'{min(speeds):.1f}-{max(speeds):.1f}':>13} "
        f"{one.in_floats:8.1%} {fooled.mean():8.1%} {np.median(sizes):9.4f} {mean:9.4f} "
        f"{float(one.ledger.gradients.float().mean()) / repeats:7.1f} "
        f"{float(one.ledger.forwards.float().mean()) / repeats:7.1f}"
    )


HEAD = (
    f"  {'attack':32} {'images/s':>8} {'spread':>13} {'floats':>8} {'PNGs':>8} {'median':>9} {'mean':>9} "
    f"{'grads':>7} {'fwds':>7}"
)


def compare(
    title: str,
    attacks: Mapping[str, tuple[str, Attack]],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int = 1,
    limit: float = np.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measured]:
    """Run each attack `repeats` times, in turn, and print a line of each after the last time."""
    print(f"{title}\n{HEAD}", flush=True)
    found = {name: Measured(norm, run, Ledger.empty(len(images)), limit) for name, (norm, run) in attacks.items()}
    for turn in range(repeats):
        for name, one in found.items():
            try:
                if turn == 0:
                    one.run(net, images[:FEW], labels[:FEW], Ledger.empty(FEW))
                measure(net, images, labels, one, clock)
            except Exception as wrong:  # a library that cannot do it is a result too
                print(f"  {name:32} failed: {type(wrong).__name__}: {' '.join(str(wrong).split())[:80]}", flush=True)
                continue
            if turn == repeats - 1:
                print(row(name, one), flush=True)
    return {name: one for name, one in found.items() if one.outcome is not None}


def against(found: Mapping[str, Measured], base: str) -> None:
    """Median distance and speed of our attacks as multiples of `base`'s; of the speed, the spread over the repeats."""
    if not np.isfinite(np.median(found[base].sizes())):
        return
    print(f"  as multiples of {base}: median distance; images/s")
    for name, one in found.items():
        if name.startswith("dx "):
            ratios = [theirs / own for own, theirs in zip(one.seconds, found[base].seconds, strict=True)]
            print(
                f"    {name:30} {np.median(one.sizes()) / np.median(found[base].sizes()):7.4f}; "
                f"{statistics.median(ratios):6.1f} ({min(ratios):.1f}-{max(ratios):.1f})",
                flush=True,
            )


def lattice_bound(net: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """L2 (N,) that a perfect attack would need if the net were linear as it is at the change found by `dx`.

    For a linear net the best change on the grid is round(s * slope) for the smallest s that crosses the border.
    """
    modified = find("dx")(net, images, labels, effort="thorough")
    with Query(net, labels) as query:
        look = query.gradients(modified, torch.arange(len(images)))
    home = to_levels(images).flatten(1)
    slope, change = look.slope.flatten(1) / LEVELS, to_levels(modified).flatten(1) - home
    need = (slope * change).sum(dim=1) - look.margin + FLOOR
    bounds = Bounds(-home, LEVELS - home)
    low, high = torch.zeros(len(images)), torch.full((len(images),), 1e6)
    ray = Ray(slope, high, slope)
    for _ in range(60):
        middle = (low + high) / 2
        enough = (ray.at(middle, bounds) * slope).sum(dim=1) >= need
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return (ray.at(high, bounds).square().sum(dim=1).sqrt() / LEVELS).numpy()


def trade_off(net: nn.Module, images: Tensor, labels: Tensor, picture: Path) -> None:
    """The penalty form: the larger its weight, the smaller the change, until it no longer fools."""
    from matplotlib.figure import Figure

    shares, sizes = [], []
    print("  penalty: weight, share of PNGs that fool, median L2 of those")
    for weight in WEIGHTS:
        one = Measured("l2", ours("dx_penalty", weight=weight), Ledger.empty(len(images)))
        measure(net, images, labels, one)
        fooled = np.isfinite(one.sizes())
        shares.append(fooled.mean())
        sizes.append(np.median(one.sizes()[fooled]) if fooled.any() else np.nan)
        print(f"    {weight:6g} {shares[-1]:8.1%} {sizes[-1]:8.4f}", flush=True)
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    other = axes.twinx()
    at = np.arange(len(WEIGHTS))
    axes.plot(at, sizes, marker="o", color="black")
    other.plot(at, shares, marker="s", color="tab:red")
    axes.set_xticks(at, [f"{weight:g}" for weight in WEIGHTS])
    axes.set(xlabel="weight of the penalty", ylabel="median L2 of those that fool", title="penalty DX")
    other.set(ylim=(0, 1.05))
    other.set_ylabel("share that fools (red)", color="tab:red")
    figure.savefig(picture)


def bench(path: Path, options: argparse.Namespace) -> None:
    net, card = load(path)
    # Frozen and channels-last for all: a peer is not made slower than its user could have it.
    net.requires_grad_(False).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images, labels = right_faces(net, options.faces, card.size, options.count)
    print(f"{path}: {len(images)} faces, {torch.get_num_threads()} threads")
    clock = time.process_time if options.cpu else time.perf_counter
    for norm in options.norms:
        attacks = {f"dx {effort}": (norm, ours("dx", norm=norm, effort=effort)) for effort in EFFORTS}
        if norm == "l2":
            attacks["deepfool"] = (norm, ours("deepfool"))
        if options.peers:
            attacks |= wanted(peers.minimal(options.peer_batch), norm, options.only)
        found = compare(f"smallest {norm}", attacks, net, images, labels, repeats=options.repeats, clock=clock)
        for base in [name for name, one in found.items() if not name.startswith("dx ") and one.norm == norm]:
            against(found, base)
        if norm == "l2":
            bound = float(np.median(lattice_bound(net, images, labels)))
            print(f"  linearised lattice bound: median L2 {bound:.4f}", end="")
            ddn = found.get("DDN 300, levels=256 (adv-lib)")
            print(f", {bound / np.median(ddn.sizes()):.4f} x DDN 300" if ddn else "", flush=True)
    for norm, eps in BUDGETS if options.budgets else []:
        # As many steps as the peers take.
        attacks = {name: (norm, ours(name, norm=norm, eps=eps, steps=100)) for name in ("apgd", "robust")}
        if options.peers:
            attacks |= wanted(peers.within(norm, eps, options.peer_batch), norm, options.only)
        shown = f"{eps * LEVELS:g}/255" if norm == "linf" else f"{eps:g}"
        # Rounding to whole levels may carry a peer's image a little beyond its budget: then it is not within it.
        compare(f"within {norm} {shown}", attacks, net, images, labels, limit=eps * 1.0001, clock=clock)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        trade_off(net, images, labels, options.pictures / f"penalty-{options.model.index(path)}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoint folders")
    parser.add_argument("--faces", required=True, help="labelled faces, as `dxray sweep --data` takes them")
    parser.add_argument("--peers", type=Path, help="folder that the peers were installed into")
    parser.add_argument("--count", type=int, default=128, help="faces that the net has right (128)")
    parser.add_argument("--only", type=re.compile, default="", help="only peers whose name this expression finds")
    parser.add_argument("--peer-batch", type=int, default=128, help="images a peer gets at a time (128)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--norms", nargs="*", choices=tuple(PLANS), default=list(PLANS))
    parser.add_argument("--no-budgets", dest="budgets", action="store_false", help="leave out the fixed budgets")
    parser.add_argument("--pictures", type=Path, help="folder for the penalty's trade-off, a PNG for each model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="count processor seconds, of all threads together")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peers:
        peers.load(options.peers)
    for path in options.model:
        bench(path, options)


if __name__ == "__main__":
    main()
