"""The walk of `dx` in Linf: few whole grey levels matter, so each size is tried until it fools or stops being worth it.

At a given size k the best change for a linear net is k times the sign of its slope. The sign is that of an average of
the slopes seen (Frank and Wolfe's steps, doi:10.1002/nav.3800030109), which flips only the values that are undecided.
"""

import torch
from torch import Tensor

from dxray.attacks.engine.batched_search import Bounds

RISE = 2  # looks that fail at a size before the next larger one, unless that is known to fool


class LinfWalk:
    """Average slope `v` (B, D), size `k` (B,) in whole grey levels, looks `tries` (B,) at it that did not fool."""

    def __init__(self, slots: int, shape: torch.Size, steps: int, *, tries: int) -> None:
        self.limit = tries
        self.v, self.k, self.tries = torch.zeros(slots, shape.numel()), torch.zeros(slots), torch.zeros(slots)

    def size(self, change: Tensor) -> Tensor:
        return change.abs().amax(dim=1)

    def propose(self, bounds: Bounds) -> Tensor:
        return bounds.inside(self.k.unsqueeze(1) * self.v.sign())

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins, fooled, found = step == 0, gap < 0, best < torch.inf
        self.k = torch.where(begins, 0.0, self.k)
        self.tries = torch.where(begins | fooled, 0.0, self.tries + 1)
        trust = torch.where(begins, 1.0, (0.7 - 0.1 * self.tries).clamp(min=0.2)).unsqueeze(1)
        self.v = (1 - trust) * self.v + trust * slope / slope.abs().sum(dim=1, keepdim=True).clamp(min=1e-30)
        # What a linear net needs: one more level gains the slope of all values that may still move.
        moving = ((self.v > 0) & (change < bounds.high)) | ((self.v < 0) & (change > bounds.low))
        gain = (slope * self.v.sign() * moving).sum(dim=1)
        need = torch.where(gain > 0, self.k + gap / gain.clamp(min=1e-30), torch.inf)
        stuck = ~fooled & (self.tries >= RISE) & (self.k + 1 < best)
        larger = torch.where(found, self.k + 1, torch.maximum(torch.minimum(need.ceil(), 2 * self.k), self.k + 1))
        smaller = torch.minimum(torch.maximum(need.ceil(), (best / 2).ceil()), best - 1)
        self.tries = torch.where(stuck, 0.0, self.tries)
        k = torch.where(fooled, smaller, torch.where(stuck, larger, self.k))
        self.k = torch.where(begins, need.ceil().clamp(1, 255), k).clamp(0, 255)
        return found & ((best <= 1) | (self.tries >= self.limit))
