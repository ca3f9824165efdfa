"""JSMA, the Jacobian-based saliency map attack (https://arxiv.org/abs/1511.07528): two values at a time, few in all.

The pair is the paper's: among all pairs of values the one with the largest product of what it adds to the wanted
class's logit and what it takes from the sum of the others'. It is found exactly, without trying every pair.
"""

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Bounds, Search
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Look, Query, Score, margin, validate

SHARE = 0.145  # the paper's largest share of the values to change
BLOCK = 64  # pairs are compared for this many of their first values at once, which bounds the memory


def jsma(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    theta: float = 1.0,
    steps: int | None = None,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the first fooling images met, float32 (N, C, H, W) on the k/255 lattice in [0, 1]; nothing is random.

    theta: what each value of a pair gains, in [0, 1] pixel units, at least one grey level; negative: what it loses. One
    call only ever brightens or only ever darkens, as in the paper. steps: pairs changed at most, each costs two
    gradients; None allows the paper's 14.5 % of the values. A channel of a pixel is a value of its own.
    An image without target heads for the likeliest other class of the moment. A saliency map knows the logits apart,
    not only their differences; the logit z of a one-logit net counts as -z/2 and z/2.
    The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    if not 0 < abs(theta) <= 1 or (steps is not None and steps < 1):
        raise ValueError(
            f"theta must lie in [-1, 1] and not be 0, and steps be at least 1, got theta={theta}, steps={steps}"
        )
    pairs = max(1, int(SHARE * inputs.shape[1:].numel() / 2)) if steps is None else steps
    query = Jacobian(net, labels, targets, batch=batch, ledger=ledger)
    walk = PairWalk(query, batch, inputs.shape[1:], theta=theta)
    with query:
        return Search(query, inputs.shape[1:], walk, steps=pairs + 1, floor=FLOOR + confidence).all(inputs, mask)


def wanted_logit(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The logit (N,) of the target, or of the likeliest class but the label."""
    if targets is not None:
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)


def other_logits(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The sum (N,) of all logits but the wanted one."""
    return logits.sum(dim=1) - wanted_logit(logits, labels, targets)


class Jacobian(Query):
    """Shows at each point the slope of the wanted class's logit; `others` is that of the sum of all others.

    To be asked for one batch at a time, as `search` does.
    """

    others = torch.zeros(0)

    def gradients(self, points: Tensor, rows: Tensor, score: Score = margin) -> Look:
        self.others = super().gradients(points, rows, other_logits).slope
        return super().gradients(points, rows, wanted_logit)

    def _checked(self, logits: Tensor, owner: Tensor, count: int) -> Tensor:
        if logits.dim() == 2 and logits.shape[1] == 1:
            logits = torch.cat([-logits / 2, logits / 2], dim=1)
        return super()._checked(logits, owner, count)


class PairWalk:
    """`at` is the change (B, D) in whole grey levels."""

    def __init__(self, query: Jacobian, slots: int, shape: torch.Size, *, theta: float) -> None:
        self.query, self.sign, self.stride = query, 1 if theta > 0 else -1, max(1, round(255 * abs(theta)))
        self.at = torch.zeros(slots, shape.numel())

    def size(self, change: Tensor) -> Tensor:
        return (change != 0).sum(dim=1).float()

    def propose(self, bounds: Bounds) -> Tensor:
        return self.at

    def last(self) -> None:
        return None

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        open_ = change < bounds.high if self.sign > 0 else change > bounds.low
        pair, found = best_pair(self.sign * slope, -self.sign * self.query.others.flatten(1), open_)
        moves = torch.zeros_like(change).scatter(1, pair, 1.0) * found.unsqueeze(1)
        self.at = bounds.inside(change + self.sign * self.stride * moves)
        return (gap < 0) | ~found


def best_pair(gain: Tensor, loss: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
    """The open values p, q with the largest (gain_p + gain_q) * (loss_p + loss_q), both sums positive.

    gain, loss: (B, D), of the wanted logit and of the others; open_: bool (B, D), which values may move.
    Returns the pairs int64 (B, 2), and bool (B,) whether there is any.

    A value that two others beat in both gain and loss is in no best pair: one of the two is not its partner and could
    take its place. The rest, often a few dozen of thousands, are compared pair by pair.
    """
    gain, loss = torch.where(open_, gain, -torch.inf), torch.where(open_, loss, -torch.inf)
    by_loss = loss.sort(dim=1, descending=True, stable=True).indices
    order = by_loss.gather(1, gain.gather(1, by_loss).sort(dim=1, descending=True, stable=True).indices)
    gain, loss = gain.gather(1, order), loss.gather(1, order)
    # In the order of falling gain: whether fewer than two of those before have at least as much loss.
    nothing = torch.full_like(loss[:, :1], -torch.inf)
    displaced = torch.minimum(loss[:, 1:], loss.cummax(dim=1).values[:, :-1])
    second = torch.cat([nothing, nothing, displaced], dim=1)[:, : loss.shape[1]].cummax(dim=1).values
    kept = loss > second
    most = int(kept.sum(dim=1).max())
    front = (~kept).sort(dim=1, stable=True).indices[:, :most]
    kept = kept.gather(1, front)
    gain, loss = (torch.where(kept, values.gather(1, front), -torch.inf) for values in (gain, loss))
    largest, pair = torch.zeros(len(gain)), torch.zeros(len(gain), 2, dtype=torch.int64)
    for start in range(0, most, BLOCK):
        gains, losses = (values[:, start : start + BLOCK, None] + values[:, None] for values in (gain, loss))
        first, last = torch.arange(start, start + gains.shape[1]).unsqueeze(1), torch.arange(most)
        product, place = torch.where((gains > 0) & (first < last), gains * losses, 0.0).flatten(1).max(dim=1)
        better = product > largest
        found = torch.stack([start + place // most, place % most], dim=1)
        largest, pair = torch.where(better, product, largest), torch.where(better.unsqueeze(1), found, pair)
    return order.gather(1, front.gather(1, pair)) if most else pair, largest > 0
