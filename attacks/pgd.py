"""Projected gradient descent within a budget (https://arxiv.org/abs/1706.06083), plain or with momentum.

Momentum is that of MI-FGSM (https://arxiv.org/abs/1710.06081). The net is shown only lattice points within the budget;
the state between the looks is not rounded, or steps below half a grey level would be lost.
"""

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.budget import Budget, find_budget, stream
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, cross_entropy, validate


def pgd(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "linf",
    eps: float = 8 / 255,
    steps: int = 20,
    step_size: float | None = None,
    momentum: float = 0.0,
    random_start: bool = True,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns images within `eps` of the inputs, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    norm: "linf", "l2" or "l1", in [0, 1] pixel units. eps: the budget; what does not reach a grey level is no change.
    steps: from the start on, each with a gradient; it stops where one fools. step_size: None is 2.5 * eps / steps.
    momentum: share of the earlier directions kept, 0 is plain PGD. random_start: from the seed and the image itself,
    so it does not depend on the other images. The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    budget = find_budget(norm)
    if eps < 0 or steps < 1:
        raise ValueError(f"eps must not be negative and steps at least 1, got eps={eps}, steps={steps}")
    length = 2.5 * eps / steps if step_size is None else step_size
    walk = ProjectedWalk(
        batch,
        inputs.shape[1:],
        budget=budget,
        eps=eps * 255,
        length=length * 255,
        momentum=momentum,
        seed=seed if random_start else None,
    )
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        return Search(
            query,
            inputs.shape[1:],
            walk,
            steps=1 + random_start + steps,  # looks: at the image, at the start, and after each step
            floor=FLOOR + confidence,
            score=cross_entropy,
        ).all(inputs, mask)


class ProjectedWalk:
    """`at` is the unrounded change (B, D) in grey levels, `drift` the direction with its momentum."""

    def __init__(
        self,
        slots: int,
        shape: torch.Size,
        *,
        budget: Budget,
        eps: float,
        length: float,
        momentum: float,
        seed: int | None,
    ) -> None:
        self.budget, self.eps, self.length, self.momentum, self.seed = budget, eps, length, momentum, seed
        self.at, self.drift = torch.zeros(2, slots, shape.numel())

    def size(self, change: Tensor) -> Tensor:
        return torch.zeros(len(change))

    def propose(self, bounds: Bounds) -> Tensor:
        return self.budget.finish(self.at, self.eps)

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins = (step == 0).unsqueeze(1)
        scaled = slope / slope.abs().sum(dim=1, keepdim=True).clamp(min=1e-30)
        self.drift = torch.where(begins, 0.0, self.drift) * self.momentum + scaled
        at = torch.where(begins, 0.0, self.at)
        open_ = ((self.drift > 0) & (at < bounds.high)) | ((self.drift < 0) & (at > bounds.low))
        moved = at + self.length * self.budget.steepest(self.drift * open_)
        if self.seed is not None:
            for slot in begins.flatten().nonzero().flatten().tolist():
                uniform = torch.rand(bounds.low.shape[1], generator=stream(bounds.low[slot], str(self.seed)))
                moved[slot] = self.eps * (uniform * 2 - 1)
                self.drift[slot] = 0.0  # a slope of the image, and not of where it goes on
        self.at = bounds.inside(self.budget.project(moved, self.eps))
        return gap < 0
