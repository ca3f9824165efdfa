"""APGD, projected gradient descent that finds its own step lengths (https://arxiv.org/abs/2003.01690).

It starts with steps of twice the budget and halves them, at the paper's checkpoints, for an image that no longer gains,
which then goes on from its best point. As in `pgd`, the net is shown only lattice points within the budget.
"""

from math import ceil

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.budget import Budget, find_budget, stream
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, Score, margin, validate

KEPT = 0.25  # share of the last move that the next one repeats
RISING = 0.75  # a step length is kept while at least this share of the looks since the checkpoint gained


def apgd(
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
    restarts: int = 1,
    loss: str = "ce",
    random_start: bool = False,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns images within `eps` of the inputs, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    norm: "linf", "l2" or "l1", in [0, 1] pixel units; an L1 step is that of `pgd`.
    steps: gradients an image in each of `restarts` runs, after the one at the image itself; it stops where one fools.
    loss: "ce" or "margin", the direction of climbing; with two classes they are the same (see `log_odds`).
    random_start: False starts the first run at the image; all others start at random points, drawn from the seed and
    the image itself, so they do not depend on the other images. The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    budget = find_budget(norm)
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; known losses: {', '.join(LOSSES)}")
    if eps < 0 or steps < 1 or restarts < 1:
        raise ValueError(
            "eps must not be negative, steps and restarts at least 1, "
            f"got eps={eps}, steps={steps}, restarts={restarts}"
        )
    walk = AutoWalk(
        batch, inputs.shape[1:], budget=budget, eps=eps * 255, steps=steps, random_start=random_start, seed=seed
    )
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        return Search(
            query, inputs.shape[1:], walk, steps=1 + restarts * steps, floor=FLOOR + confidence, score=LOSSES[loss]
        ).all(inputs, mask)


def log_odds(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Log-odds (N,) of leaving the label, or of the target: cross-entropy without its vanishing gradient.

    Cross-entropy is softplus of it, so both order the points alike and slope the same way, but float32 cross-entropy
    of a sure net is flat: that of the one-logit net, [0, z], is exactly so from z = 17 on.
    With two classes it is the margin itself, whose scale does not matter either, for APGD uses no loss but by its
    direction. Hence no DLR, the margin divided by a spread of logits: with two classes there is none but the margin.
    """
    wanted = (labels if targets is None else targets).unsqueeze(1)
    own = logits.gather(1, wanted).squeeze(1)
    others = logits.scatter(1, wanted, -torch.inf).logsumexp(dim=1)
    return others - own if targets is None else own - others


LOSSES: dict[str, Score] = {"ce": log_odds, "margin": margin}


def checkpoints(steps: int) -> list[int]:
    """The steps after which a run judges its step length: first after 22 %, then ever sooner, down to every 6 %."""
    before, share = 0, 22  # per cent, in whole numbers: 0.57 * 100 is more than 57
    found = []
    while share < 100:
        found.append(ceil(share * steps / 100))
        before, share = share, share + max(share - before - 3, 6)
    return sorted(set(found))


class AutoWalk:
    """`at` is the unrounded change (B, D) in grey levels, `before` the one a step ago, `best` the run's best so far.

    Whatever the loss, gain is measured by the margin (its gap, (B,)), for that is what fools. `length` (B,) is the step
    in grey levels, `rises` (B,) the looks that gained since the last checkpoint, where `marked` was the best gap and
    `halved` says that the length had just changed.
    """

    def __init__(
        self, slots: int, shape: torch.Size, *, budget: Budget, eps: float, steps: int, random_start: bool, seed: int
    ) -> None:
        self.budget, self.eps, self.steps, self.random_start, self.seed = budget, eps, steps, random_start, seed
        self.at, self.before, self.best, self.best_slope = torch.zeros(4, slots, shape.numel())
        self.gap, self.best_gap, self.marked, self.length, self.rises = torch.zeros(5, slots)
        self.halved = torch.zeros(slots, dtype=torch.bool)
        due = checkpoints(steps)
        self.span = torch.zeros(steps + 1)  # steps since the last checkpoint, 0 where none is due
        self.span[due] = torch.tensor(due, dtype=torch.float32).diff(prepend=torch.zeros(1))

    def size(self, change: Tensor) -> Tensor:
        return torch.zeros(len(change))

    def propose(self, bounds: Bounds) -> Tensor:
        return self.budget.finish(self.at, self.eps)

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        self.at = torch.where((step == 0).unsqueeze(1), 0.0, self.at)
        age = torch.where((step <= self.steps) & (not self.random_start), step, (step - 1).clamp(min=0) % self.steps)
        self._compare(gap, slope, begins=age == 0)
        slope = self._judge(slope, self.span[age])
        moved = self._move(bounds, slope, begins=age == 0)
        for slot in (step % self.steps == 0).nonzero().flatten().tolist():
            run = int(step[slot]) // self.steps
            if run > 0 or self.random_start:
                moved[slot] = self._start(bounds, slot, run)
        self.before, self.at = self.at, moved
        return gap < 0

    def _compare(self, gap: Tensor, slope: Tensor, begins: Tensor) -> None:
        """Take in the gap (B,) at the present point; a run that begins forgets all before."""
        self.rises = torch.where(begins, 0.0, self.rises + (gap < self.gap))
        better = begins | (gap < self.best_gap)
        self.best = torch.where(better.unsqueeze(1), self.at, self.best)
        self.best_slope = torch.where(better.unsqueeze(1), slope, self.best_slope)
        self.best_gap = torch.where(better, gap, self.best_gap)
        self.marked = torch.where(begins, torch.inf, self.marked)
        self.length = torch.where(begins, 2 * self.eps, self.length)
        self.before = torch.where(begins.unsqueeze(1), self.at, self.before)
        self.halved &= ~begins
        self.gap = gap

    def _judge(self, slope: Tensor, span: Tensor) -> Tensor:
        """At a checkpoint, halve the length of what stalls and send it back to its best; the slopes to go on with."""
        due = span > 0
        stalls = due & ((self.rises < RISING * span) | (~self.halved & (self.best_gap == self.marked)))
        self.halved = torch.where(due, stalls, self.halved)
        self.length = torch.where(stalls, self.length / 2, self.length)
        self.marked = torch.where(due, self.best_gap, self.marked)
        self.rises = torch.where(due, 0.0, self.rises)
        self.gap = torch.where(stalls, self.best_gap, self.gap)
        back = stalls.unsqueeze(1)
        self.at, self.before = torch.where(back, self.best, self.at), torch.where(back, self.best, self.before)
        return torch.where(back, self.best_slope, slope)

    def _move(self, bounds: Bounds, slope: Tensor, begins: Tensor) -> Tensor:
        """A step from `at` along the slope (B, D), mixed with the last move except where a run begins."""
        open_ = ((slope > 0) & (self.at < bounds.high)) | ((slope < 0) & (self.at > bounds.low))
        step = self.length.unsqueeze(1) * self.budget.steepest(slope * open_)
        target = self._inside(self.at + step, bounds)
        mixed = self.at + (1 - KEPT) * (target - self.at) + KEPT * (self.at - self.before)
        return torch.where(begins.unsqueeze(1), target, self._inside(mixed, bounds))

    def _inside(self, change: Tensor, bounds: Bounds) -> Tensor:
        return bounds.inside(self.budget.project(change, self.eps))

    def _start(self, bounds: Bounds, slot: int, run: int) -> Tensor:
        """A random change (D,) within the budget and the bounds."""
        generator = stream(bounds.low[slot], f"{self.seed} {run}")
        start = self.eps * (torch.rand(bounds.low.shape[1], generator=generator) * 2 - 1)
        return self._inside(start.expand_as(bounds.low), bounds)[slot]
