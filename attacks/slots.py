"""Many small searches in one batch of fixed shape: each image leaves when it is done, the next one takes its place.

All arithmetic on a search's state has the shape of the slots, never of the images at hand, so an image's result does
not depend on who else is searched. A `Walk` decides where each search looks next; the rest is here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from attacks.lattice import LEVELS, from_levels, to_levels
from attacks.query import Query, Score, margin

GAIN = 3e-4  # share of the radius that a further look along a ray must promise
NEAR = 5e-4  # how far beyond the border the last looks along a ray aim, as a share of the whole way


class Room(NamedTuple):
    """How far each value of each slot may move, in grey levels (B, D): `low` <= change <= `high`, both 0 off-mask."""

    low: Tensor
    high: Tensor

    def inside(self, change: Tensor) -> Tensor:
        return change.clamp(self.low, self.high)


class Last(Protocol):
    """The looks without gradient that follow a walk, as a tuple of tensors (B, ...)."""

    def look(self, room: Room, best: Tensor) -> Tensor:
        """The change (B, D) to look at next; `best` (B, D) is the one to be made smaller."""
        ...

    def learn(self, room: Room, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Last", Tensor]:
        """What follows from `excess` (B,) logits beyond the border (< 0: not fooled) at `change`.

        `best` is that of before the look. Also returns bool (B,): whether a further look is worth it.
        """
        ...


class Confirming(NamedTuple):
    """One look at what a walk by coarse slopes ended at."""

    def look(self, room: Room, best: Tensor) -> Tensor:
        return best

    def learn(self, room: Room, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Confirming", Tensor]:
        return self, torch.zeros_like(excess, dtype=torch.bool)


class Ray(NamedTuple):
    """A last direction (B, D), the radius (B,) to look at along it, and the last slope (B, D) seen, per grey level."""

    direction: Tensor
    radius: Tensor
    slope: Tensor

    def look(self, room: Room, best: Tensor) -> Tensor:
        return self.at(self.radius, room)

    def learn(self, room: Room, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Ray", Tensor]:
        gained = (self.slope * change).sum(dim=1)
        radius = self.reach(gained * (1 + NEAR) - excess, room)
        return self._replace(radius=radius), (excess <= 0) | (radius < self.radius * (1 - GAIN))

    def at(self, radius: Tensor, room: Room) -> Tensor:
        return room.inside((radius.unsqueeze(1) * self.direction).round_())

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

    def last(self) -> Last | None:
        """The looks without gradient that are to follow; None where the norm has no use for them."""
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
    coarse: bool = False,
) -> Tensor:
    """The smallest fooling points `walk` finds, float32 (N, C, H, W) on the lattice.

    A point fools when its margin exceeds `floor`. An image is looked at `steps` times, one that is never fooled up to
    `patience` times as often; the slopes are those of `score`. Then follow up to `polish` looks without gradient, as
    the walk has them. An image that is already wrong, has no room, or whose first gradient is zero comes back
    unchanged; one that is never fooled comes back as the point of largest margin.

    With `coarse` the walks go by slopes in bfloat16, where these will do, and the looks without gradient, then at least
    one, say what fools; where none of them does, an image is searched again without.
    """
    result, sizes = to_levels(inputs).flatten(1), torch.full((len(inputs),), torch.inf)
    rows = torch.arange(len(inputs))
    coarse = coarse and query.coarse_will_do(inputs)
    if coarse:
        margins, predicted = query.answers(inputs, rows)
        rows = rows[~_already_wrong(query, rows, margins, predicted)]
        # Far from the border first: they mostly take more looks, and the last few in a batch take longer each.
        rows = rows[margins[rows].argsort(stable=True)]
    for rough in (True, False) if coarse else (False,):
        left = _walked(
            query,
            inputs,
            mask,
            walk,
            rows,
            result,
            steps=steps,
            floor=floor,
            patience=patience,
            polish=polish,
            score=score,
            coarse=rough,
        )
        looks = max(polish, 1) if rough else polish
        _polish(query, inputs.shape[1:], walk, left, result, sizes, floor=floor, times=looks)
        rows = rows[sizes[rows] == torch.inf]
    return from_levels(result).view_as(inputs)


def _walked(
    query: Query,
    inputs: Tensor,
    mask: Tensor | None,
    walk: Walk,
    todo: Tensor,
    result: Tensor,
    *,
    steps: int,
    floor: float,
    patience: int,
    polish: int,
    score: Score,
    coarse: bool,
) -> list["Unpolished"]:
    """Walk from each image that is `todo` (M,); where that ends goes into `result`, and who may be polished comes back.

    What coarse looks take for fooled comes back as not fooled yet.
    """
    gradients = query.coarse_gradients if coarse else query.gradients
    home, batch = to_levels(inputs).flatten(1), query.batch
    allowed = torch.ones_like(home) if mask is None else mask.expand_as(inputs).flatten(1).float()
    shape = (batch, home.shape[1])
    rows = torch.full((batch,), -1)
    start, best = torch.zeros(shape), torch.zeros(shape)
    room = Room(torch.zeros(shape), torch.zeros(shape))
    step, size, furthest = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch), torch.zeros(batch)
    unpolished = []
    waiting = 0
    while True:
        free = (rows < 0).nonzero().flatten()[: len(todo) - waiting]
        if len(free):
            rows[free] = todo[waiting : waiting + len(free)]
            waiting += len(free)
            start[free], best[free], step[free] = home[rows[free]], 0.0, 0
            size[free], furthest[free] = torch.inf, -torch.inf
            room.low[free] = -start[free] * allowed[rows[free]]
            room.high[free] = (LEVELS - start[free]) * allowed[rows[free]]
        if bool((rows < 0).all()):
            break
        first = step == 0
        change = torch.where(first.unsqueeze(1), 0.0, walk.propose(room))
        look = gradients(from_levels(start + change).view(batch, *inputs.shape[1:]), rows, score)
        slope = look.slope.flatten(1) / LEVELS * (room.low < room.high)
        fooled = look.margin > floor
        changed = walk.size(change)
        better = torch.where(fooled, changed < size, (size == torch.inf) & (look.margin > furthest)) & ~first
        best = torch.where(better.unsqueeze(1), change, best)
        size = torch.where(better & fooled, changed, size)
        furthest = torch.where(better, look.margin, furthest)
        enough = walk.learn(room, change, floor - look.margin, slope, step, size)
        step += 1
        hopeless = first & (_already_wrong(query, rows, look.margin, look.predicted) | (slope == 0).all(dim=1))
        over = step >= torch.where(size < torch.inf, steps, patience * steps)
        done = (rows >= 0) & (hopeless | enough | over)
        result[rows[done]] = start[done] + best[done]
        last = walk.last() if polish else None
        if coarse and last is None:
            last = Confirming()
        left = done & ~hopeless & ~(coarse & (size == torch.inf))
        if last is not None and bool(left.any()):
            known = torch.full_like(size, torch.inf) if coarse else size
            unpolished.append(Unpolished(rows, start, room, best, known, last).picked(left))
        rows[done] = -1
    return unpolished


class Unpolished(NamedTuple):
    """Images whose walk is over, as it left them: see `search`."""

    rows: Tensor
    start: Tensor
    room: Room
    best: Tensor
    size: Tensor
    last: Last

    def picked(self, which: Tensor) -> "Unpolished":
        return _mapped(lambda values: values[which], self)

    def padded(self, at: int, count: int) -> "Unpolished":
        """`count` of them from `at` on; what is missing is filled up, with -1 for a row."""
        few = _mapped(lambda values: values[at : at + count], self)
        missing = count - len(few.rows)
        full = _mapped(lambda values: torch.cat([values, values[:1].expand(missing, *values.shape[1:])]), few)
        full.rows[count - missing :] = -1
        return full


def _polish(
    query: Query,
    shape: torch.Size,
    walk: Walk,
    left: list[Unpolished],
    result: Tensor,
    sizes: Tensor,
    *,
    floor: float,
    times: int,
) -> None:
    """Up to so many looks without gradient at each image; what is smaller goes into `result`, its size into `sizes`."""
    for _ in range(times):
        if not left:
            break
        together = _mapped(lambda *values: torch.cat(values), *left)
        left = _polished(query, shape, walk, together, result, sizes, floor=floor)


def _polished(
    query: Query, shape: torch.Size, walk: Walk, images: Unpolished, result: Tensor, sizes: Tensor, *, floor: float
) -> list[Unpolished]:
    """One look without gradient at each of the `images`; returns those that may gain by a further one."""
    still = []
    for at in range(0, len(images.rows), query.batch):
        rows, start, room, best, size, last = images.padded(at, query.batch)
        change = last.look(room, best)
        excess = query.margins(from_levels(start + change).view(-1, *shape), rows) - floor
        last, worth = last.learn(room, best, change, excess)
        changed = walk.size(change)
        better = (excess > 0) & (changed < size)
        best = torch.where(better.unsqueeze(1), change, best)
        size = torch.where(better, changed, size)
        real = rows >= 0
        result[rows[real]], sizes[rows[real]] = (start + best)[real], size[real]
        still.append(Unpolished(rows, start, room, best, size, last).picked(real & worth))
    return [images for images in still if len(images.rows)]


def _mapped(of: Callable[..., Tensor], *parts: Any) -> Any:
    """`of` the tensors at the same place in named tuples of one kind, which may hold named tuples."""
    if isinstance(parts[0], Tensor):
        return of(*parts)
    return type(parts[0])(*(_mapped(of, *place) for place in zip(*parts, strict=True)))


def _already_wrong(query: Query, rows: Tensor, margins: Tensor, predicted: Tensor) -> Tensor:
    return (predicted != query.labels[rows.clamp(min=0)]) | (margins > 0)
