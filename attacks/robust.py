"""Several attacks in turn, each on the images that withstood those before it, as AutoAttack (https://arxiv.org/abs/2003.01690).

AutoAttack's DLR loss indexes a third class, so it cannot judge a net of two. Here nothing needs more than two classes,
and a net of one logit is a net of two.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dxray.attacks.apgd import apgd
from dxray.attacks.engine.lattice import snap
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, margin, validate
from dxray.attacks.square import square

AIMS = 9  # classes that are aimed at one by one, the likeliest first, as in AutoAttack


def robust(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "linf",
    eps: float = 8 / 255,
    steps: int = 50,
    queries: int = 1000,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns images within `eps` of the inputs, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    In turn: APGD from the image itself; APGD on the margin from random starts, untargeted with two classes, else
    towards each other class; Square. An image keeps the first that fools, or else the attempt of largest margin.
    norm: "linf" or "l2". steps: gradients an image in each APGD; queries: forwards an image in Square. One forward an
    attempt, and one before all, are added. The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    ledger = Ledger.empty(len(labels)) if ledger is None else ledger
    budget: dict[str, Any] = {"seed": seed, "norm": norm, "eps": eps, "confidence": confidence, "batch": batch}
    from_image = partial(apgd, **budget, steps=steps)
    from_random = partial(apgd, **budget, steps=steps, loss="margin", random_start=True)
    by_queries = partial(square, **budget, queries=queries)
    result, furthest = snap(inputs), torch.full((len(labels),), -torch.inf)
    aims, withstands = _survey(net, inputs, labels, targets, batch=batch, ledger=ledger)
    turns = [(from_image, targets), *((from_random, aim) for aim in aims), (by_queries, targets)]
    for attack, aim in turns:
        rows = withstands.nonzero().flatten()
        part = Ledger.empty(len(rows))
        attempt = attack(
            net,
            inputs[rows],
            labels[rows],
            targets=None if aim is None else aim[rows],
            mask=mask if mask is None or len(mask) != len(inputs) else mask[rows],
            ledger=part,
        )
        if not len(rows):
            continue  # the attack was called for its verdict on the arguments
        with Query(net, labels[rows], None if targets is None else targets[rows], batch=batch, ledger=part) as query:
            margins = query.margins(attempt, torch.arange(len(rows)))
        better = margins > furthest[rows]
        result[rows[better]], furthest[rows[better]] = attempt[better], margins[better]
        withstands[rows] = margins <= FLOOR + confidence
        ledger.gradients[rows] += part.gradients
        ledger.forwards[rows] += part.forwards
    return result


def _survey(
    net: nn.Module, inputs: Tensor, labels: Tensor, targets: Tensor | None, *, batch: int, ledger: Ledger
) -> tuple[list[Tensor | None], Tensor]:
    """What APGD is to aim at in turn, None or classes (N,), and which images, bool (N,), the net gets right."""
    if not len(inputs):
        return [targets], torch.zeros(0, dtype=torch.bool)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        logits = query.logits(inputs, torch.arange(len(inputs)))
    right = (logits.argmax(dim=1) == labels) & (margin(logits, labels, targets) <= 0)
    if targets is not None or logits.shape[1] == 2:
        return [targets], right
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True, stable=True)
    return list(others[:, : min(AIMS, logits.shape[1] - 1)].unbind(dim=1)), right
