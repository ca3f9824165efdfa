"""DDN, decoupled direction and norm (https://arxiv.org/abs/1811.09600): gradient steps on a sphere that breathes.

While the image fools, the sphere around it shrinks by a fixed factor; while it does not, it grows. As in the paper
every step is quantised: the net is shown only 8-bit images, so what is found is what a saved file holds.
"""

import math

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, Score, log_likelihood, margin, validate

STEP_SIZES = (1.0, 0.01)  # the paper's, in [0, 1] pixel units: the first and the last, a cosine between them

# The log-likelihood's gradient has the direction of the cross-entropy's, but does not vanish where a net is very sure.
LOSSES: dict[str, Score] = {"ce": log_likelihood, "margin": margin}


def ddn(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    loss: str = "ce",
    steps: int = 100,
    radius: float = 1.0,
    gamma: float = 0.05,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the images of smallest L2 met on the way, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    loss: "ce", the paper's, or "margin", the direction of climbing; with two classes they are the same, with more the
    margin may find less. steps: gradients an image after the first. radius: the sphere's first one, in [0, 1] pixel
    units. gamma: the share by which it grows and shrinks. Nothing is random. The other arguments and the errors are
    those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; known losses: {', '.join(LOSSES)}")
    if steps < 1 or radius <= 0 or not 0 < gamma < 1:
        raise ValueError(
            "steps must be at least 1, radius positive and gamma between 0 and 1, "
            f"got steps={steps}, radius={radius}, gamma={gamma}"
        )
    walk = SphereWalk(batch, inputs.shape[1:], steps=steps, radius=radius * 255, gamma=gamma)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        search = Search(query, inputs.shape[1:], walk, steps=steps + 1, floor=FLOOR + confidence, score=LOSSES[loss])
        return search.all(inputs, mask)


class SphereWalk:
    """`at` is the unrounded change (B, D) and `r` (B,) the radius of its sphere, both in grey levels."""

    def __init__(self, slots: int, shape: torch.Size, *, steps: int, radius: float, gamma: float) -> None:
        self.steps, self.radius, self.gamma = steps, radius, gamma
        self.at, self.r = torch.zeros(slots, shape.numel()), torch.zeros(slots)

    def size(self, change: Tensor) -> Tensor:
        return _length(change)

    def propose(self, bounds: Bounds) -> Tensor:
        return self.at.round()

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins = step == 0
        breathed = self.r * torch.where(gap < 0, 1 - self.gamma, 1 + self.gamma)
        widest = _length(torch.maximum(bounds.high, -bounds.low))
        self.r = torch.minimum(torch.where(begins, self.radius, breathed), widest)
        first, last = STEP_SIZES
        length = 255 * (last + (first - last) * (1 + torch.cos(math.pi * step / self.steps)) / 2)
        at = torch.where(begins.unsqueeze(1), 0.0, self.at)
        at = at + (length / _length(slope).clamp(min=1e-30)).unsqueeze(1) * slope
        self.at = bounds.inside(at * (self.r / _length(at).clamp(min=1e-12)).unsqueeze(1))
        return torch.zeros_like(begins)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=1).sqrt()
