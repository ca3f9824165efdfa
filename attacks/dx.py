"""DX, the minimal form: the smallest change of whole grey levels that fools the net.

Every point the search looks at is a real 8-bit image, so what it finds is what a saved file holds. L2 alternates like
DDN (https://arxiv.org/abs/1811.09600) between turning a direction and correcting its length, but the direction follows
an average of the gradients seen on the border, to which the shortest change is parallel, and the length comes from the
linear model of the net at the last point.
"""

import torch
from torch import Tensor, nn

from attacks.query import FLOOR, Ledger, Query, validate
from attacks.slots import Room, search

PATIENCE = 4  # an image never fooled is searched up to this many times as long


def dx(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "l2",
    steps: int = 16,
    confidence: float = 0.0,
    batch: int = 32,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the changed images, float32 (N, C, H, W) on the k/255 lattice in [0, 1]; nothing here is random.

    net: logits (N, classes) or (N, 1) from images float32 (N, C, H, W) in [0, 1].
    inputs, labels: images and the class int64 (N,) each is to leave. targets: the class to reach, None for any other.
    mask: bool (N or 1, 1, H, W), True where change is allowed.
    steps: gradients an image; one that is never fooled gets up to four times as many.
    confidence: margin in logits to be reached beyond the small one that keeps a saved image fooling.
    batch: the fixed shape at which the net is run. ledger: counts gradients and forwards per image.

    Images the net already gets wrong come back unchanged; where nothing fools, the best attempt comes back.
    Raises ValueError for arguments no attack can work with and for a net whose logits are not finite.
    """
    validate(inputs, labels, targets, mask)
    if norm not in WALKS:
        raise ValueError(f"unknown norm {norm!r}; known norms: {', '.join(WALKS)}")
    walk = WALKS[norm](steps)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        return search(query, inputs, mask, walk, steps=steps, floor=FLOOR + confidence, patience=PATIENCE)


class L2Walk:
    """Direction `v` (B, D) of unit length and radius `r` (B,) in grey levels; the change is round(r v) in the room."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.v, self.r, self.failures = torch.zeros(0), torch.zeros(0), torch.zeros(0)

    def size(self, change: Tensor) -> Tensor:
        return change.square().sum(dim=1).sqrt()

    def propose(self, room: Room) -> Tensor:
        if len(self.v) != len(room.low):
            self.v, self.r = torch.zeros_like(room.low), torch.zeros(len(room.low))
            self.failures = torch.zeros(len(room.low))
        return _inside((self.r.unsqueeze(1) * self.v).round(), room)

    def learn(self, room: Room, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins = step == 0
        late = ((step - 1).clamp(min=0) / (0.7 * self.steps)).clamp(max=1)
        turn = torch.where(begins, 1.0, 0.8 - 0.65 * late)
        direction = (1 - turn).unsqueeze(1) * self.v + turn.unsqueeze(1) * _unit(slope)
        self.v = _unit(torch.where(begins.unsqueeze(1), slope, direction))
        # Only pixels with room left lengthen the change any further.
        moving = (self.v > 0) & (change < room.high) | (self.v < 0) & (change > room.low)
        gain = (slope * self.v * moving).sum(dim=1)
        need = (gap + 0.003 + (slope * change * moving).sum(dim=1)) / gain.clamp(min=1e-12)
        need = torch.where(gain > 0, need, torch.inf)
        fooled, found = gap < 0, best < torch.inf
        self.failures = torch.where(begins | fooled, 0.0, self.failures + 1)
        slack = 1 - late
        shorter = torch.clamp(need, self.r * (0.985 - 0.3 * slack), self.r * 0.997)
        longer = torch.clamp(need, self.r * 1.002, self.r * (1.01 + 0.2 * slack))
        desperate = torch.clamp(need, self.r * 1.05, self.r * (1.05 + 0.12 * self.failures))
        r = torch.where(fooled, shorter, torch.where(found, longer, desperate))
        r = torch.where(begins, 1.02 * need, r)
        # A found point shorter than the next one is never given up; rounding alone may change the length a little.
        limit = torch.where(found, self.r * best / self.size(change).clamp(min=1e-12), torch.inf)
        self.r = torch.minimum(r, limit).nan_to_num(0.0, 1e4, 0.0).clamp(0, 1e4)
        return torch.zeros(len(step), dtype=torch.bool)


WALKS = {"l2": L2Walk}


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (B, D) of length 1; zero stays zero."""
    return vectors / vectors.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-30)


def _inside(change: Tensor, room: Room) -> Tensor:
    return torch.minimum(torch.maximum(change, room.low), room.high)
