"""Staying within a budget, for each norm: project, steepest step, and the one finish that all budget attacks share.

Changes are float32 (B, D) in grey levels, one image a row; `eps` is in grey levels too.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SLACK = 1e-4  # grey levels: eps = 8/255 must allow 8 levels however 8/255 * 255 was rounded
SPARSE = 0.05  # share of the values that one L1 step moves


class Budget(NamedTuple):
    """One norm's way: `project(change, eps)`, `steepest(slope)` of norm 1, and `size(change)` (B,)."""

    project: Callable[[Tensor, float], Tensor]
    steepest: Callable[[Tensor], Tensor]
    size: Callable[[Tensor], Tensor]

    def finish(self, change: Tensor, eps: float) -> Tensor:
        """The change in whole grey levels, round(s * change) for the largest s <= 1 that stays within eps.

        Rounding alone may leave the budget; each value's size grows with s, so the largest s is found by halving.
        Toward zero only, so a change inside the box stays inside it.
        """
        whole = change.round()
        low, high = torch.zeros(len(change), 1), torch.ones(len(change), 1)
        for _ in range(20):
            middle = (low + high) / 2
            fits = (self.size((middle * change).round()) <= eps + SLACK).unsqueeze(1)
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        fits = (self.size(whole) <= eps + SLACK).unsqueeze(1)
        return torch.where(fits, whole, (low * change).round())


def _project_linf(change: Tensor, eps: float) -> Tensor:
    return change.clamp(-eps, eps)


def _project_l2(change: Tensor, eps: float) -> Tensor:
    return change * (eps / _l2(change).clamp(min=1e-12)).clamp(max=1).unsqueeze(1)


def _project_l1(change: Tensor, eps: float) -> Tensor:
    """Onto the L1 ball (Duchi et al. 2008, doi:10.1145/1390156.1390191): shrink all values by the same amount."""
    ordered = change.abs().sort(dim=1, descending=True).values
    excess = (ordered.cumsum(dim=1) - eps) / torch.arange(1, change.shape[1] + 1)
    last = ((ordered > excess).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    shrink = excess.gather(1, last).clamp(min=0)
    return change.sign() * (change.abs() - shrink).clamp(min=0)


def _steepest_l2(slope: Tensor) -> Tensor:
    return slope / _l2(slope).clamp(min=1e-30).unsqueeze(1)


def _steepest_l1(slope: Tensor) -> Tensor:
    """The few values of largest slope; a single one (the exact steepest) would soon run into its bound."""
    count = max(1, round(SPARSE * slope.shape[1]))
    least = slope.abs().topk(count, dim=1).values[:, -1:]
    chosen = slope.sign() * ((slope.abs() >= least) & (slope != 0))
    return chosen / chosen.abs().sum(dim=1, keepdim=True).clamp(min=1)


def _linf(change: Tensor) -> Tensor:
    return change.abs().amax(dim=1)


def _l2(change: Tensor) -> Tensor:
    return change.square().sum(dim=1).sqrt()


def _l1(change: Tensor) -> Tensor:
    return change.abs().sum(dim=1)


BUDGETS: dict[str, Budget] = {
    "linf": Budget(_project_linf, torch.sign, _linf),
    "l2": Budget(_project_l2, _steepest_l2, _l2),
    "l1": Budget(_project_l1, _steepest_l1, _l1),
}


def find_budget(norm: str) -> Budget:
    """The budget of `norm`; ValueError with the known names for any other."""
    if norm not in BUDGETS:
        raise ValueError(f"unknown norm {norm!r}; known norms of a budget: {', '.join(BUDGETS)}")
    return BUDGETS[norm]


def stream(pixels: Tensor, salt: str) -> torch.Generator:
    """Random numbers chosen by an image's own pixels and `salt`, not by its place among others."""
    digest = hashlib.sha256(pixels.numpy().tobytes() + salt.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
