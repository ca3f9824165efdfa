"""The walk of `dx` in L1 and L0: a sequence of linear programmes on whole grey levels, solved by sorting.

At each look the net is taken to be linear within some grey levels of the present change. The smallest change there that
crosses the border: values that gain most for their price go as far as they may, all others back towards zero (in L0 all
the way, for a pixel part of the way back still counts). How far the model is trusted follows from how well it foretold
the last margin; an image that was never fooled is not trusted less.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dxray.attacks.engine.batched_search import Bounds

CROWD = 24  # pixels that may join in one look
# The margin aimed at, as a share of the first gap, at the first and the last look.
AIM = (0.05, 0.003)
TRUST = (4.0, 255.0)  # grey levels, at the least and at the most


class Pruning(NamedTuple):
    """L0's last looks: some changed pixels go home and all others as far as they may, those that gain least first.

    slope: (B, D) as last seen. untried: (B, pixels), those that have not been left out alone. many: (B,) of them at a
    time; half as many once the rest does not fool.
    """

    slope: Tensor
    untried: Tensor
    many: Tensor

    def look(self, bounds: Bounds, best: Tensor) -> Tensor:
        far = torch.where(best > 0, bounds.high, torch.where(best < 0, bounds.low, 0.0))
        gain = self._groups(self.slope * far).sum(dim=1)
        gain = torch.where(_touched(self._groups(best)) & self.untried, gain, torch.inf)
        place = gain.argsort(dim=1, stable=True).argsort(dim=1)
        stays = (place >= self.many.unsqueeze(1)) | (gain == torch.inf)
        return (self._groups(far) * stays.unsqueeze(1)).flatten(1)

    def learn(self, bounds: Bounds, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Pruning", Tensor]:
        fooled, before, after = excess > 0, _touched(self._groups(best)), _touched(self._groups(change))
        in_vain = ~fooled & (self.many == 1)
        untried = self.untried & ~(in_vain.unsqueeze(1) & before & ~after)
        left = torch.where(fooled.unsqueeze(1), after, before)
        many = torch.where(fooled, self.many, self.many // 2)
        many = torch.minimum(many, left.sum(dim=1) // 2).clamp(min=1)
        return Pruning(self.slope, untried, many), (left & untried).any(dim=1) & (left.sum(dim=1) > 1)

    def _groups(self, values: Tensor) -> Tensor:
        return values.view(len(values), -1, self.untried.shape[1])


class SparseWalk:
    """The change `at` (B, D) in grey levels. In L0 the channels of a pixel move and go back together.

    trust: grey levels for which the first look's slopes are believed. error: that of the model, as a share of all that
    it let move, up to which it is trusted further, and from which less. memory: share of the slopes seen before in the
    model's. loyalty: how much more a changed pixel's gain counts than that of one that would have to join, while the
    model is not trusted over the whole range.
    """

    def __init__(
        self,
        slots: int,
        shape: torch.Size,
        steps: int,
        *,
        norm: str,
        trust: float,
        error: tuple[float, float],
        memory: float,
        loyalty: float = 1.0,
    ) -> None:
        self.norm, self.steps, self.first, self.error = norm, steps, trust, error
        self.memory, self.loyalty = memory, loyalty
        self.together = shape[0] if norm == "l0" else 1
        self.at, self.v = torch.zeros(2, slots, shape.numel())
        self.trust, self.depth, self.promised, self.gross, self.before = torch.zeros(5, slots)

    def size(self, change: Tensor) -> Tensor:
        if self.norm == "l0":
            return _touched(self._groups(change)).sum(dim=1).float()
        return change.abs().sum(dim=1)

    def propose(self, bounds: Bounds) -> Tensor:
        return self.at

    def last(self) -> "Pruning | None":
        if self.norm != "l0":
            return None
        changed = _touched(self._groups(self.at))
        return Pruning(self.v, torch.ones_like(changed), (changed.sum(dim=1) // 2).clamp(min=1))

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins, found = step == 0, best < torch.inf
        at = torch.where(begins.unsqueeze(1), 0.0, change)
        late = (step / max(self.steps, 1)).clamp(max=1)
        self.depth = torch.where(begins, gap, self.depth)
        error = (self.before - gap - self.promised).abs() / self.gross.clamp(min=1e-12)
        factor = torch.where(error < self.error[0], 1.5, torch.where(error > self.error[1], 0.5, 1.0))
        # Small steps are for who has something to lose; before, the way to the border may be long and all of it bent.
        factor = torch.where(found, factor, factor.clamp(min=1.0))
        self.trust = torch.where(begins, self.first, (self.trust * factor).clamp(*TRUST))
        self.v = torch.where(begins.unsqueeze(1), slope, self.memory * self.v + (1 - self.memory) * slope)
        aim = AIM[0] * (AIM[1] / AIM[0]) ** late * self.depth
        self.at = self._smallest(bounds, at, gap + aim, found)
        moved = self.at - at
        self.promised, self.gross = (self.v * moved).sum(dim=1), (self.v * moved).abs().sum(dim=1)
        self.before = gap
        return best <= 1

    def _smallest(self, bounds: Bounds, at: Tensor, need: Tensor, found: Tensor) -> Tensor:
        """The smallest change that gains `need` (B,) over `at` by the slopes `v`, within the trust on the way out."""
        trust, sign = self.trust.unsqueeze(1), self.v.sign()
        ahead = bounds.inside((at + trust * sign).round())
        # An image that was never fooled takes nothing back.
        back = torch.zeros_like(at) if self.norm == "l0" else at - at.clamp(-trust.round(), trust.round())
        back = torch.where(found.unsqueeze(1), back, at)
        # 0 where the slope has turned and trust ends short of home, as it may in L0: such a pixel goes home.
        way = ((ahead - back) * sign).clamp(min=0)
        gain = self._groups(self.v.abs() * way).sum(dim=1)
        kept = _touched(self._groups(at)) & found.unsqueeze(1)
        loyal = self.loyalty + (1 - self.loyalty) * (trust / TRUST[1])
        worth = (gain if self.norm == "l0" else self.v.abs()) * torch.where(kept, loyal, 1.0)
        # What can go no further would else take the places of the crowd.
        worth = torch.where(gain > 0, worth, 0.0)
        order = worth.sort(dim=1, descending=True, stable=True).indices
        promised = gain.gather(1, order)
        before = promised.cumsum(dim=1) - promised
        wanted = (need - (self.v * (back - at)).sum(dim=1)).unsqueeze(1)
        crowd = kept.sum(dim=1, keepdim=True) + CROWD
        chosen = (before < wanted) & (promised > 0) & (torch.arange(order.shape[1]) < crowd)
        moves = torch.zeros_like(chosen).scatter(1, order, chosen)
        if self.norm == "l1":  # the last of them goes only as far as needed
            left = torch.zeros_like(gain).scatter(1, order, wanted - before)
            way = torch.minimum(way, (left / self.v.abs().clamp(min=1e-30)).ceil().clamp(min=0))
        return back + self._values(moves) * way * sign

    def _groups(self, values: Tensor) -> Tensor:
        return values.view(len(values), self.together, -1)

    def _values(self, groups: Tensor) -> Tensor:
        return groups.unsqueeze(1).expand(-1, self.together, -1).flatten(1)


def _touched(groups: Tensor) -> Tensor:
    """Which pixels (B, pixels) of a change (B, channels, pixels) are changed."""
    return (groups != 0).any(dim=1)
