"""DeepFool (https://arxiv.org/abs/1511.04599): step to the nearest border of a linear model of the net, until it fools.

The net is shown only 8-bit images. A step is as long as its rounded change must be to cross the linear border, so what
rounding takes away is put back at once; what curvature takes away is the next step's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Look, Query, Score, margin, validate

REACH = 64  # how many times a linear step's length rounding may ask for


def deepfool(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "l2",
    classes: int = 10,
    overshoot: float = 0.02,
    steps: int = 50,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the first fooling images met, float32 (N, C, H, W) on the k/255 lattice in [0, 1]; nothing is random.

    norm: "l2" or "linf", the one in which the nearest border is meant. classes: how many of the likeliest other classes
    are asked for their border at each step; each costs a gradient, so an image costs (steps + 1) * classes at most.
    With a target there is one border. overshoot: how far beyond the border to aim, as a share of the first gap.
    The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known norms of DeepFool: {', '.join(NORMS)}")
    if classes < 1 or steps < 1 or overshoot < 0:
        raise ValueError(
            "classes and steps must be at least 1 and overshoot not negative, "
            f"got classes={classes}, steps={steps}, overshoot={overshoot}"
        )
    floor = FLOOR + confidence
    query = Borders(net, labels, targets, norm=norm, classes=classes, mask=mask, batch=batch, ledger=ledger)
    walk = BorderWalk(query, batch, inputs.shape[1:], norm=norm, overshoot=overshoot, floor=floor)
    with query:
        return Search(query, inputs.shape[1:], walk, steps=steps + 1, floor=floor).all(inputs, mask)


def _along_l2(slope: Tensor) -> Tensor:
    return slope


def _along_linf(slope: Tensor) -> Tensor:
    return slope.sign()


def _rate_l2(slope: Tensor) -> Tensor:
    return slope.square().sum(dim=1).sqrt()


def _rate_linf(slope: Tensor) -> Tensor:
    return slope.abs().sum(dim=1)


# For slopes (B, D): the direction of the shortest way up, and the logits gained per unit of its length, the dual norm.
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l2": (_along_l2, _rate_l2),
    "linf": (_along_linf, _rate_linf),
}


class Rank:
    """Score: how far the logit of the `place`-th likeliest other class lies over the label's; 0 is the margin.

    Keeps the number of other classes there are.
    """

    def __init__(self, place: int) -> None:
        self.place, self.others = place, 0

    def __call__(self, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
        column = labels.unsqueeze(1)
        others = logits.scatter(1, column, -torch.inf).topk(self.place + 1, dim=1).values[:, self.place]
        self.others = logits.shape[1] - 1
        return others - logits.gather(1, column).squeeze(1)


class Borders(Query):
    """Shows at each point the slope towards the nearest border; `ahead` (M,) is how far over it the point lies.

    To be asked for one batch at a time, as `search` does.
    """

    def __init__(
        self,
        net: nn.Module,
        labels: Tensor,
        targets: Tensor | None,
        *,
        norm: str,
        classes: int,
        mask: Tensor | None,
        batch: int,
        ledger: Ledger | None,
    ) -> None:
        super().__init__(net, labels, targets, batch=batch, ledger=ledger)
        self.rate, self.classes, self.mask = NORMS[norm][1], classes, mask
        self.ahead = torch.zeros(0)

    def gradients(self, points: Tensor, rows: Tensor, score: Score = margin) -> Look:
        if self.targets is not None:
            look = super().gradients(points, rows)
            self.ahead = look.margin
            return look
        rank = Rank(0)
        nearest = super().gradients(points, rows, rank)
        self.ahead, distance = nearest.score, self._distance(nearest.slope, nearest.score, rows)
        for place in range(1, min(self.classes, rank.others)):
            rank = Rank(place)
            look = super().gradients(points, rows, rank)
            other = self._distance(look.slope, look.score, rows)
            nearer = other < distance
            nearest = nearest._replace(slope=torch.where(nearer.view(-1, 1, 1, 1), look.slope, nearest.slope))
            self.ahead, distance = torch.where(nearer, look.score, self.ahead), torch.where(nearer, other, distance)
        return nearest

    def _distance(self, slope: Tensor, ahead: Tensor, rows: Tensor) -> Tensor:
        if self.mask is not None:
            slope = slope * (self.mask if len(self.mask) == 1 else self.mask[rows.clamp(min=0)])
        rate = self.rate(slope.flatten(1))
        return torch.where(rate > 0, -ahead / rate.clamp(min=1e-30), torch.inf)


class BorderWalk:
    """`at` is the unrounded sum of the steps (B, D) in grey levels, `depth` (B,) the first gap to a nearest border."""

    def __init__(
        self, query: Borders, slots: int, shape: torch.Size, *, norm: str, overshoot: float, floor: float
    ) -> None:
        self.query, self.along, self.norm = query, NORMS[norm][0], norm
        self.overshoot, self.floor = overshoot, floor
        self.at, self.depth = torch.zeros(slots, shape.numel()), torch.zeros(slots)

    def size(self, change: Tensor) -> Tensor:
        return change.abs().amax(dim=1) if self.norm == "linf" else change.square().sum(dim=1).sqrt()

    def propose(self, bounds: Bounds) -> Tensor:
        return self.at.round()

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins, gap = step == 0, torch.where(gap < 0, gap, self.floor - self.query.ahead)
        at = torch.where(begins.unsqueeze(1), 0.0, self.at)
        self.depth = torch.where(begins, gap, self.depth)
        along = self.along(slope)
        whole = (gap / (slope * along).sum(dim=1).clamp(min=1e-30)).clamp(0, 1e12).unsqueeze(1) * along
        wanted = gap + self.overshoot * self.depth

        def enough(share: Tensor) -> Tensor:
            moved = bounds.inside(at + share.unsqueeze(1) * whole).round()
            return (slope * (moved - change)).sum(dim=1) >= wanted

        # However short the linear step, a grey level is within reach.
        low, high = torch.zeros_like(gap), REACH + 1 / whole.abs().amax(dim=1).clamp(min=1e-12)
        for _ in range(18):
            middle = (low + high) / 2
            crossed = enough(middle)
            low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
        self.at = bounds.inside(at + high.unsqueeze(1) * whole)
        return gap < 0
