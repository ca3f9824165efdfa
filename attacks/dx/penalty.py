"""DX, the penalty form of the course: Adam on the change alone, towards the target, with a price on its size.

Minimises -log p(target) + weight * norm(DX) as Carlini and Wagner (https://arxiv.org/abs/1608.04644) do, but every
step looks at the rounded image and passes its gradient straight through, so a found point is an 8-bit image.
"""

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, log_likelihood, validate

DECAY, DECAY_SQUARES = 0.9, 0.999  # Adam's usual ones
BALANCED = 1e-5  # of a slope: what is left of it is none


def dx_penalty(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "l2",
    weight: float = 1.0,
    lr: float = 0.002,
    steps: int = 60,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the smallest fooling images met on the way, float32 (N, C, H, W) on the lattice; nothing is random.

    norm: "l2", "l1" or "linf", of the change in [0, 1] pixel units. weight: what one unit of it costs, in nats; the
    larger, the smaller the change, until it no longer fools. lr: Adam's, in pixel units. steps: gradients an image.
    The other arguments and the errors are those of `dx`. Untargeted climbs the probability of all other classes.
    """
    validate(inputs, labels, targets, mask)
    if norm not in PULLS:
        raise ValueError(f"unknown norm {norm!r}; known norms of the penalty: {', '.join(PULLS)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    walk = AdamWalk(batch, inputs.shape[1:], norm=norm, weight=weight / 255, lr=lr * 255)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        search = Search(query, inputs.shape[1:], walk, steps=steps, floor=FLOOR + confidence, score=log_likelihood)
        return search.all(inputs, mask)


def _pull_l2(change: Tensor, still: Tensor, near: float) -> Tensor:
    length = _length(change)
    return torch.where(length > 0, change / length.clamp(min=1e-12), still / _length(still).clamp(min=1))


def _pull_l1(change: Tensor, still: Tensor, near: float) -> Tensor:
    return torch.where(change != 0, change.sign(), still.clamp(-1, 1))


def _pull_linf(change: Tensor, still: Tensor, near: float) -> Tensor:
    # Shared by all within one step of the largest: pulling at the single largest value only makes another one largest.
    size = change.abs()
    reach = size.amax(dim=1, keepdim=True)
    largest = (size >= reach - near) & (size > 0)
    shared = change.sign() * largest / largest.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(reach > 0, shared, still / still.abs().sum(dim=1, keepdim=True).clamp(min=1))


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=1, keepdim=True).sqrt()


# The (sub)gradient of each norm at changes (B, D), where one step moves a value by about `near`. At no change it is any
# vector of dual norm 1 or less, so the one nearest to `still` (B, D), what would balance the price: a price above all
# that a change can gain then leaves the image as it is.
PULLS = {"l2": _pull_l2, "l1": _pull_l1, "linf": _pull_linf}


class AdamWalk:
    """`at` is the unrounded change (B, D) in grey levels; the two moments are Adam's."""

    def __init__(self, slots: int, shape: torch.Size, *, norm: str, weight: float, lr: float) -> None:
        self.norm, self.weight, self.lr = norm, weight, lr
        self.at, self.mean, self.square = torch.zeros(3, slots, shape.numel())

    def size(self, change: Tensor) -> Tensor:
        return find_norm(self.norm)(change.view(*change.shape, 1, 1))

    def propose(self, bounds: Bounds) -> Tensor:
        return self.at.round()

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        keep, age = (step > 0).unsqueeze(1), (step + 1).unsqueeze(1)
        self.at = torch.where(keep, self.at, 0.0)
        balance = slope / max(self.weight, 1e-30)
        uphill = slope - self.weight * PULLS[self.norm](self.at, balance, self.lr)
        # What only rounding leaves of a balance, Adam would make a whole step of.
        uphill = torch.where(uphill.abs() > BALANCED * slope.abs(), uphill, 0.0)
        self.mean = DECAY * torch.where(keep, self.mean, 0.0) + (1 - DECAY) * uphill
        self.square = DECAY_SQUARES * torch.where(keep, self.square, 0.0) + (1 - DECAY_SQUARES) * uphill.square()
        scale = (self.square / (1 - DECAY_SQUARES**age)).sqrt() + 1e-12
        moved = self.at + self.lr * self.mean / (1 - DECAY**age) / scale
        self.at = bounds.inside(moved)
        return (step == 0) & (self.at == 0).all(dim=1)
