"""The walk of `dx` in L1 and L0: a sequence of linear programmes on whole grey levels, solved by sorting.

At each look the net is taken to be linear within some grey levels of the present change. The smallest change there that
crosses the border: values that gain most for their price go as far as they may, all others back towards zero (in L0 all
the way, for a pixel part of the way back still counts). How far the model is trusted follows from how well it foretold
the last margin.
"""

import torch
from torch import Tensor

from attacks.slots import Room

CROWD = 24  # pixels that may join in one look
# The margin aimed at, as a share of the first gap, at the first and the last look.
AIM = (0.05, 0.003)
TRUST = (4.0, 255.0)  # grey levels, at the least and at the most


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
            return (self._groups(change) != 0).any(dim=1).sum(dim=1).float()
        return change.abs().sum(dim=1)

    def propose(self, room: Room) -> Tensor:
        return self.at

    def ray(self) -> None:
        return None

    def learn(self, room: Room, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins, found = step == 0, best < torch.inf
        at = torch.where(begins.unsqueeze(1), 0.0, change)
        late = (step / max(self.steps, 1)).clamp(max=1)
        self.depth = torch.where(begins, gap, self.depth)
        error = (self.before - gap - self.promised).abs() / self.gross.clamp(min=1e-12)
        factor = torch.where(error < self.error[0], 1.5, torch.where(error > self.error[1], 0.5, 1.0))
        self.trust = torch.where(begins, self.first, (self.trust * factor).clamp(*TRUST))
        self.v = torch.where(begins.unsqueeze(1), slope, self.memory * self.v + (1 - self.memory) * slope)
        aim = AIM[0] * (AIM[1] / AIM[0]) ** late * self.depth
        self.at = self._smallest(room, at, gap + aim, found)
        moved = self.at - at
        self.promised, self.gross = (self.v * moved).sum(dim=1), (self.v * moved).abs().sum(dim=1)
        self.before = gap
        return best <= 1

    def _smallest(self, room: Room, at: Tensor, need: Tensor, found: Tensor) -> Tensor:
        """The smallest change that gains `need` (B,) over `at` by the slopes `v`, within the trust on the way out."""
        trust, sign = self.trust.unsqueeze(1), self.v.sign()
        ahead = room.inside((at + trust * sign).round())
        # An image that was never fooled takes nothing back.
        back = torch.zeros_like(at) if self.norm == "l0" else at - at.clamp(-trust.round(), trust.round())
        back = torch.where(found.unsqueeze(1), back, at)
        # 0 where the slope has turned and trust ends short of home, as it may in L0: such a pixel goes home.
        way = ((ahead - back) * sign).clamp(min=0)
        gain = self._groups(self.v.abs() * way).sum(dim=1)
        kept = (self._groups(at) != 0).any(dim=1) & found.unsqueeze(1)
        loyal = self.loyalty + (1 - self.loyalty) * (trust / TRUST[1])
        worth = (gain if self.norm == "l0" else self.v.abs()) * torch.where(kept, loyal, 1.0)
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
