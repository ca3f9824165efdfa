"""Many small searches in one batch of fixed shape: each image leaves when it is done, the next one takes its place.

All arithmetic on a search's state has the shape of the slots, never of the images at hand, so an image's result does
not depend on who else is searched. A `Walk` decides where each search looks next; the rest is here.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from attacks.lattice import LEVELS, from_levels, to_levels
from attacks.query import Look, Query, Score, margin

GAIN = 3e-4  # share of the radius that a further look along a ray must promise
NEAR = 5e-4  # how far beyond the border the last looks along a ray aim, as a share of the whole way


class Room(NamedTuple):
    """How far each value of each slot may move, in grey levels (B, D): `low` <= change <= `high`, both 0 off-mask."""

    low: Tensor
    high: Tensor

    def inside(self, change: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(change, self.low), self.high)


class Ray(NamedTuple):
    """A last direction (B, D), the radius (B,) to look at along it, and the last slope (B, D) seen, per grey level."""

    direction: Tensor
    radius: Tensor
    slope: Tensor

    def at(self, radius: Tensor, room: Room) -> Tensor:
        return room.inside((radius.unsqueeze(1) * self.direction).round())

    def reach(self, wanted: Tensor, room: Room) -> Tensor:
        """The smallest radius (B,), at most a quarter off the present one, where slope . change is at least `wanted`.

        It is the rounded change that counts, not the ray: near the border single grey levels decide.
        """
        low, high = 0.8 * self.radius, 1.25 * self.radius
        for _ in range(14):
            middle = (low + high) / 2
            enough = (self.slope * self.at(middle, room)).sum(dim=1) >= wanted
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return high


class Walk(Protocol):
    """Where each slot's search looks next. Changes are whole grey levels (B, D); a walk changes only its own state."""

    def size(self, change: Tensor) -> Tensor:
        """The size (B,) to be made smallest."""
        ...

    def propose(self, room: Room) -> Tensor:
        """The next change (B, D) to look at, whole levels within the room."""
        ...

    def learn(self, room: Room, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        """Take in what was seen at `change`: `gap` (B,) logits to go (< 0: fooled), `slope` (B, D) per grey level.

        `step` (B,) is the number of earlier looks of each slot, 0 for one that has just begun (its change was zero);
        `best` (B,) is the smallest fooled size so far, infinite before the first. Returns bool (B,): nothing to gain
        by further looks.
        """
        ...

    def ray(self) -> Ray | None:
        """Where the walk would look next, as a ray; None where the norm has no use for one."""
        ...


def search(
    query: Query,
    inputs: Tensor,
    mask: Tensor | None,
    walk: Walk,
    *,
    steps: int,
    floor: float,
    patience: int = 1,
    polish: int = 0,
    score: Score = margin,
) -> Tensor:
    """The smallest fooling points `walk` finds, float32 (N, C, H, W) on the lattice.

    A point fools when its margin exceeds `floor`. An image is looked at `steps` times, one that is never fooled up to
    `patience` times as often; the slopes are those of `score`. Then follow up to `polish` looks without gradient, along
    the walk's last ray. An image that is already wrong, has no room, or whose first gradient is zero comes back
    unchanged; one that is never fooled comes back as the point of largest margin.
    """
    home, batch = to_levels(inputs).flatten(1), query.batch
    allowed = torch.ones_like(home) if mask is None else mask.expand_as(inputs).flatten(1).float()
    shape = (batch, home.shape[1])
    rows = torch.full((batch,), -1)
    start, best = torch.zeros(shape), torch.zeros(shape)
    room = Room(torch.zeros(shape), torch.zeros(shape))
    step, size, furthest = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch), torch.zeros(batch)
    result = home.clone()
    unpolished = []  # slots' states as they were left: (rows, start, room, ray, best, size)
    waiting = 0
    while True:
        free = (rows < 0).nonzero().flatten()[: len(inputs) - waiting]
        if len(free):
            rows[free] = torch.arange(waiting, waiting + len(free))
            waiting += len(free)
            start[free], best[free], step[free] = home[rows[free]], 0.0, 0
            size[free], furthest[free] = torch.inf, -torch.inf
            room.low[free] = -start[free] * allowed[rows[free]]
            room.high[free] = (LEVELS - start[free]) * allowed[rows[free]]
        if bool((rows < 0).all()):
            break
        first = step == 0
        change = torch.where(first.unsqueeze(1), 0.0, walk.propose(room))
        look = query.gradients(from_levels(start + change).view(batch, *inputs.shape[1:]), rows, score)
        slope = look.slope.flatten(1) / LEVELS * (room.low < room.high)
        fooled = look.margin > floor
        changed = walk.size(change)
        better = torch.where(fooled, changed < size, (size == torch.inf) & (look.margin > furthest)) & ~first
        best = torch.where(better.unsqueeze(1), change, best)
        size = torch.where(better & fooled, changed, size)
        furthest = torch.where(better, look.margin, furthest)
        enough = walk.learn(room, change, floor - look.margin, slope, step, size)
        step += 1
        hopeless = first & (_already_wrong(query, look, rows) | (slope == 0).all(dim=1))
        over = step >= torch.where(size < torch.inf, steps, patience * steps)
        done = (rows >= 0) & (hopeless | enough | over)
        result[rows[done]] = start[done] + best[done]
        ray = walk.ray() if polish else None
        left = done & ~hopeless
        if ray is not None and bool(left.any()):
            state = (rows, start, *room, *ray, best, size)
            unpolished.append([part[left] for part in state])
        rows[done] = -1
    if unpolished:
        _polish(query, inputs.shape[1:], walk, [torch.cat(part) for part in zip(*unpolished, strict=True)], result,
                looks=polish, floor=floor)  # fmt: skip
    return from_levels(result).view_as(inputs)


def _polish(
    query: Query, shape: torch.Size, walk: Walk, state: list[Tensor], result: Tensor, *, looks: int, floor: float
) -> None:
    """Correct the radius along each image's last ray by forwards alone, and put what is smaller into `result`.

    Each image gets up to `looks`, and no more once it fools and hardly anything is left to gain.
    """
    for _ in range(looks):
        unsettled = []
        for at in range(0, len(state[0]), query.batch):
            part = [_padded(values[at : at + query.batch], query.batch) for values in state]
            rows, start, low, high, direction, radius, slope, best, size = part
            rows[len(state[0]) - at :] = -1
            room, ray = Room(low, high), Ray(direction, radius, slope)
            change = ray.at(radius, room)
            excess = query.margins(from_levels(start + change).view(-1, *shape), rows) - floor
            changed = walk.size(change)
            better = (excess > 0) & (changed < size)
            best = torch.where(better.unsqueeze(1), change, best)
            size = torch.where(better, changed, size)
            gained = (slope * change).sum(dim=1)
            radius = ray.reach(gained * (1 + NEAR) - excess, room)
            real = rows >= 0
            result[rows[real]] = (start + best)[real]
            on = real & ((excess <= 0) | (radius < ray.radius * (1 - GAIN)))
            unsettled.append([values[on] for values in (rows, start, low, high, direction, radius, slope, best, size)])
        if not unsettled:
            return
        state = [torch.cat(part) for part in zip(*unsettled, strict=True)]


def _padded(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values[:1].expand(count - len(values), *values.shape[1:])]).clone()


def _already_wrong(query: Query, look: Look, rows: Tensor) -> Tensor:
    return (look.predicted != query.labels[rows.clamp(min=0)]) | (look.margin > 0)
