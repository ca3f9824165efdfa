"""The walk of `dx` in L1 and L0: few pixels, each changed as far as it pays.

While the image does not fool, the pixels of largest promised gain move on; once it fools, those that contribute least
go back, and so on in turn. A pixel moves only part of its range a look, for a slope does not hold over all of it.
"""

import torch
from torch import Tensor

from attacks.slots import Room

GIVE_BACK = 0.7  # share of the excess margin that one look's removals may cost, by the linear model


class SparseWalk:
    """The change `at` (B, D) in grey levels. In L0 the channels of a pixel move and go back together.

    stride: grey levels a value moves in one look. crowd: pixels moved in one look, at the first and the last.
    loyalty: how much dearer than a changed pixel's gain an unchanged one's must be, once the image has fooled.
    """

    def __init__(
        self,
        slots: int,
        shape: torch.Size,
        steps: int,
        *,
        norm: str,
        stride: int,
        crowd: tuple[int, int],
        loyalty: float,
    ) -> None:
        self.norm, self.steps, self.stride, self.crowd, self.loyalty = norm, steps, stride, crowd, loyalty
        self.together = shape[0] if norm == "l0" else 1
        self.at = torch.zeros(slots, shape.numel())

    def size(self, change: Tensor) -> Tensor:
        if self.norm == "l0":
            return (self._groups(change) != 0).any(dim=1).sum(dim=1).float()
        return change.abs().sum(dim=1)

    def propose(self, room: Room) -> Tensor:
        return self.at

    def ray(self) -> None:
        return None

    def learn(self, room: Room, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        at = torch.where((step == 0).unsqueeze(1), 0.0, change)
        grown, pruned = self._grow(room, at, gap, slope, step, best < torch.inf), self._prune(at, gap, slope)
        self.at = torch.where((gap < 0).unsqueeze(1), pruned, grown)
        return best <= 1

    def _grow(self, room: Room, at: Tensor, gap: Tensor, slope: Tensor, step: Tensor, found: Tensor) -> Tensor:
        reach = torch.where(slope > 0, room.high - at, at - room.low).clamp(max=self.stride)
        gain = self._groups(slope.abs() * reach).sum(dim=1)
        changed = (self._groups(at) != 0).any(dim=1)
        dear = torch.where(changed & found.unsqueeze(1), self.loyalty, 1.0)
        order = (gain * dear).sort(dim=1, descending=True, stable=True).indices
        promised = gain.gather(1, order)
        before = promised.cumsum(dim=1) - promised
        late = (step / self.steps).clamp(max=1).unsqueeze(1)
        crowd = (self.crowd[0] + (self.crowd[1] - self.crowd[0]) * late).round()
        # As many as the linear model asks for to cross the border, and a little more.
        chosen = (before < 1.1 * gap.unsqueeze(1)) & (torch.arange(order.shape[1]) < crowd) & (promised > 0)
        moves = torch.zeros_like(chosen).scatter(1, order, chosen)
        if self.norm == "l1":  # the last of them goes only as far as needed
            left = torch.zeros_like(gain).scatter(1, order, 1.1 * gap.unsqueeze(1) - before)
            reach = torch.minimum(reach, (left / slope.abs().clamp(min=1e-30)).ceil().clamp(min=0))
        return at + self._values(moves) * reach * slope.sign()

    def _prune(self, at: Tensor, gap: Tensor, slope: Tensor) -> Tensor:
        changed = (self._groups(at) != 0).any(dim=1)
        worth = self._groups(slope * at).sum(dim=1)
        order = torch.where(changed, worth, torch.inf).sort(dim=1, stable=True).indices
        lost = torch.where(changed, worth, 0.0).gather(1, order).cumsum(dim=1)
        chosen = lost <= -GIVE_BACK * gap.unsqueeze(1)
        chosen[:, 0] = True
        return at * ~self._values(torch.zeros_like(chosen).scatter(1, order, chosen))

    def _groups(self, values: Tensor) -> Tensor:
        return values.view(len(values), self.together, -1)

    def _values(self, groups: Tensor) -> Tensor:
        return groups.unsqueeze(1).expand(-1, self.together, -1).flatten(1)
