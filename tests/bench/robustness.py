"""How much a DenseNet of the sweep withstands: as trained plainly, hardened by dxray, and hardened by ART.

    python -m tests.bench.robustness --data parquet:FACES.parquet --peers PEERS
    python -m tests.bench.robustness --data parquet:FACES.parquet --epochs 2 --train-size 2000 --count 64

How ART is installed stands in `tests/bench/peers.py`; without --peers it is left out. All three begin with the same
weights and see the same number of images of the same faces. ART trains as its `AdversarialTrainerMadryPGD` does by
default, with 7 steps; dxray by `METHOD` and `RECIPE`. Each is judged by `robust` on the first `--count` test faces in a
shuffled order; the line of the larger class is what a net reaches that always answers the same. Intervals are
Wilson's, of 95 %.

Then JumpReLU and the auto-encoder, on the plainly trained net: accuracy of the faces as they are, after an attack that
does not know the defence (`naive`: APGD on the undefended net) and after one that does (`adaptive`); and what
`defenses.judging.judged` says of each. Times are of this process: seconds, and minutes of processor time.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.lattice import from_levels
from attacks.pgd import pgd
from attacks.query import Query
from attacks.robust import robust
from defenses import defended
from defenses.adversarial_training import adversarial, collapsed, guard
from defenses.denoising_autoencoder import gaussian, reconstruction
from defenses.judging import accuracies, interval, judged, trade_off
from models.checkpoint import ModelCard, save
from models.faces import read
from models.train import fit
from tests.bench import peers

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images (N, C, H, W) and int64 labels (N,)

NET: dict[str, Any] = {"blocks": 4, "convs": 3, "filters": 16, "batch_norm": True}
PLAIN: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "strength": 0.5, "average": 0.99}
RECIPE: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "strength": 0.4, "average": 0.997}
METHOD: dict[str, Any] = {"method": "fgsm", "eps": 8 / 255, "least": 0.4}
EPS = (4 / 255, 8 / 255)
KAPPAS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
HELD_OUT = 256  # validation faces that the guard watches


def timed(work: Callable[[], Any]) -> tuple[Any, str]:
    begin, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, f"{time.perf_counter() - begin:7.0f} s, {(time.process_time() - cpu) / 60:6.1f} processor minutes"


def hardened(card: ModelCard, train: Labelled, held_out: Labelled, epochs: int, state: Path | None) -> nn.Module:
    """Trained by `RECIPE`; each epoch's figures on held-out faces are printed."""
    few, eps = tuple(part[:HELD_OUT] for part in held_out), max(EPS)
    judge = guard(*few, weak=partial(fgsm, eps=eps, batch=64), strong=partial(pgd, eps=eps, steps=10, batch=64))

    def show(row: dict[str, Any]) -> None:
        print(
            f"  epoch {row['epoch']:3}: {row['seconds']:5.0f} s, loss {row['loss']:.4f}, validation "
            f"{row['validation_accuracy']:.1%}, of {HELD_OUT} at 8/255 {row['weak_accuracy']:.1%} after one step, "
            f"{row['strong_accuracy']:.1%} after ten",
            flush=True,
        )

    net = fresh(card)
    history = fit(
        net,
        *train,
        validation=held_out,
        epochs=epochs,
        objective=adversarial(**METHOD),
        judge=judge,
        state=state,
        on_epoch=show,
        **RECIPE,
    )
    print(f"  collapsed after epoch {collapsed(history)}" if collapsed(history) else "  no collapse")
    return net


def fresh(card: ModelCard) -> nn.Module:
    torch.manual_seed(0)
    return card.build()


def plain(card: ModelCard, train: Labelled, epochs: int) -> nn.Module:
    net = fresh(card)
    fit(net, *train, epochs=epochs, **PLAIN)
    return net


def by_art(card: ModelCard, train: Labelled, epochs: int) -> nn.Module:
    net = fresh(card)
    peers.madry_pgd(
        net,
        *train,
        eps=max(EPS),
        epochs=epochs,
        batch_size=RECIPE["batch_size"],
        lr=RECIPE["lr"] / 3,  # a constant rate; the schedule's highest would be too high for the last epochs
    )
    return net.eval()


def show_robustness(name: str, net: nn.Module, images: np.ndarray, labels: np.ndarray, queries: int, cost: str) -> None:
    inputs, wanted = from_levels(torch.from_numpy(images)), torch.from_numpy(labels)

    def share(points: torch.Tensor) -> str:
        with Query(net, wanted) as query:
            right = int((query.logits(points, torch.arange(len(points))).argmax(dim=1) == wanted).sum())
        low, high = interval(right, len(wanted))
        return f"{right / len(wanted):6.1%} ({low:.1%}-{high:.1%})"

    left = [share(inputs), *(share(robust(net, inputs, wanted, eps=eps, queries=queries)) for eps in EPS)]
    print(f"  {name:14} " + "  ".join(f"{cell:>22}" for cell in left) + f"  {cost}", flush=True)


def show_defences(
    net: nn.Module, train: Labelled, images: np.ndarray, labels: np.ndarray, epochs: int, queries: int
) -> None:
    """Of the undefended `net` behind JumpReLU at several thresholds, and behind an auto-encoder."""
    attack = partial(apgd, eps=min(EPS), steps=20)
    print(f"{'defence':28} {'clean':>7} {'naive':>7} {'adaptive':>9}   (Linf 4/255, {len(labels)} faces)")
    settings = [{"kappa": kappa} for kappa in KAPPAS]
    for row in trade_off(net, images, labels, attack=attack, defence="jumprelu", settings=settings):
        show_line(f"jumprelu, kappa {row['kappa']:g}", row)
    naive = attack(net, from_levels(torch.from_numpy(images)), torch.from_numpy(labels))
    for name, noises in (
        ("gaussian", [gaussian(0.1)]),
        ("gaussian and adversarial", [gaussian(0.1), partial(pgd, eps=max(EPS), steps=4, batch=64)]),
    ):
        torch.manual_seed(0)
        behind = defended(net, "denoising_autoencoder")
        fit(behind, *train, epochs=epochs, lr=3e-3, objective=reconstruction(*noises))
        show_line(f"auto-encoder, {name}", accuracies(behind, images, labels, naive=naive, attack=attack))
        show_judged(behind, net, images, labels, queries)


def show_line(name: str, row: dict[str, Any]) -> None:
    print(f"{name:28} {row['clean']:7.1%} {row['naive']:7.1%} {row['adaptive']:9.1%}", flush=True)


def show_judged(net: nn.Module, undefended: nn.Module, images: np.ndarray, labels: np.ndarray, queries: int) -> None:
    budgets = [("linf", eps) for eps in EPS]
    for row in judged(net, images, labels, plain=undefended, budgets=budgets, queries=queries)[1:]:
        print(
            f"  at {row['eps'] * 255:g}/255: {row['robust_accuracy']:.1%} left (white box {row['white_box']:.1%}, "
            f"transfer {row['transfer']:.1%}, gradient-free {row['gradient_free']:.1%}; larger class "
            f"{row['majority']:.1%}){'; its gradients are MASKED' if row['masked'] else ''}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled faces, as `dxray sweep --data` takes them")
    parser.add_argument("--peers", type=Path, help="folder that the peers were installed into")
    parser.add_argument("--epochs", type=int, default=24, help="of each adversarial training (24)")
    parser.add_argument("--plain-epochs", type=int, default=12, help="of the plain training (12)")
    parser.add_argument("--encoder-epochs", type=int, default=4, help="of each auto-encoder (4)")
    parser.add_argument("--train-size", type=int, help="only so many training faces")
    parser.add_argument("--count", type=int, default=512, help="test faces that are attacked (512)")
    parser.add_argument("--queries", type=int, default=1000, help="answers a face of the gradient-free attack (1,000)")
    parser.add_argument("--out", type=Path, help="keep the nets in this folder, and go on with a training begun there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peers:
        peers.load(options.peers)
    faces = read(options.data)
    shuffled = faces.shuffled("train")
    train = shuffled.images[: options.train_size], shuffled.labels[: options.train_size]
    held_out, test = faces.shuffled("validation"), faces.shuffled("test")
    images, labels = test.images[: options.count], test.labels[: options.count]
    card = ModelCard("densenet", NET, faces.classes)
    state = options.out / "state" if options.out else None
    print("training ours", flush=True)
    ours, ours_cost = timed(lambda: hardened(card, train, (held_out.images, held_out.labels), options.epochs, state))
    undefended, plain_cost = timed(lambda: plain(card, train, options.plain_epochs))
    print(f"  {'net':14} {'clean':>22}  {'robust at 4/255':>22}  {'robust at 8/255':>22}  cost of the training")
    show_robustness("undefended", undefended, images, labels, options.queries, plain_cost)
    show_robustness("dxray", ours, images, labels, options.queries, ours_cost)
    if options.peers:
        theirs, theirs_cost = timed(lambda: by_art(card, train, options.epochs))
        show_robustness("ART", theirs, images, labels, options.queries, theirs_cost)
    print(f"  larger class   {np.bincount(labels).max() / len(labels):22.1%}  at any budget, n = {len(labels)}")
    show_judged(ours, undefended, images, labels, options.queries)
    if options.out:
        save(ours, card, options.out / "hardened")
        save(undefended, card, options.out / "plain")
    show_defences(undefended, train, images, labels, options.encoder_epochs, options.queries)


if __name__ == "__main__":
    main()
