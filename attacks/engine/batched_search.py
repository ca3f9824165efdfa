"""Many small searches in one batch of fixed shape: each image leaves when it is done, the next one takes its place.

All arithmetic on a search's state has the shape of the slots, never of the images at hand, so an image's result does
not depend on who else is searched. A `Walk` decides where each search looks next; the rest is here.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dxray.attacks.engine.lattice import LEVELS, from_levels, to_levels
from dxray.attacks.engine.query import Query, Score, margin

GAIN = 3e-4  # share of the radius that a further look along a ray must promise
NEAR = 5e-4  # how far beyond the border the last looks along a ray aim, as a share of the whole way


class Bounds(NamedTuple):
    """How far each value of each slot may move, in grey levels (B, D): `low` <= change <= `high`, both 0 off-mask."""

    low: Tensor
    high: Tensor

    def inside(self, change: Tensor) -> Tensor:
        return change.clamp(self.low, self.high)


class Last(Protocol):
    """The looks without gradient that follow a walk, as a tuple of tensors (B, ...)."""

    def look(self, bounds: Bounds, best: Tensor) -> Tensor:
        """The change (B, D) to look at next; `best` (B, D) is the one to be made smaller."""
        ...

    def learn(self, bounds: Bounds, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Last", Tensor]:
        """What follows from `excess` (B,) logits beyond the border (< 0: not fooled) at `change`.

        `best` is that of before the look. Also returns bool (B,): whether a further look is worth it.
        """
        ...


class Confirming(NamedTuple):
    """One look at what a walk by low-precision slopes ended at."""

    def look(self, bounds: Bounds, best: Tensor) -> Tensor:
        return best

    def learn(self, bounds: Bounds, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Confirming", Tensor]:
        return self, torch.zeros_like(excess, dtype=torch.bool)


class Ray(NamedTuple):
    """A last direction (B, D), the radius (B,) to look at along it, and the last slope (B, D) seen, per grey level."""

    direction: Tensor
    radius: Tensor
    slope: Tensor

    def look(self, bounds: Bounds, best: Tensor) -> Tensor:
        return self.at(self.radius, bounds)

    def learn(self, bounds: Bounds, best: Tensor, change: Tensor, excess: Tensor) -> tuple["Ray", Tensor]:
        gained = (self.slope * change).sum(dim=1)
        radius = self.reach(gained * (1 + NEAR) - excess, bounds)
        return self._replace(radius=radius), (excess <= 0) | (radius < self.radius * (1 - GAIN))

    def at(self, radius: Tensor, bounds: Bounds) -> Tensor:
        return bounds.inside((radius.unsqueeze(1) * self.direction).round_())

    def reach(self, wanted: Tensor, bounds: Bounds) -> Tensor:
        """The smallest radius (B,), at most a quarter off the present one, where slope . change is at least `wanted`.

        It is the rounded change that counts, not the ray: near the border single grey levels decide.
        """
        low, high = 0.8 * self.radius, 1.25 * self.radius
        for _ in range(14):
            middle = (low + high) / 2
            enough = (self.slope * self.at(middle, bounds)).sum(dim=1) >= wanted
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return high


class Walk(Protocol):
    """Where each slot's search looks next. Changes are whole grey levels (B, D); a walk changes only its own state."""

    def size(self, change: Tensor) -> Tensor:
        """The size (B,) to be made smallest."""
        ...

    def propose(self, bounds: Bounds) -> Tensor:
        """The next change (B, D) to look at, whole levels within the bounds."""
        ...

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        """Take in what was seen at `change`: `gap` (B,) logits to go (< 0: fooled), `slope` (B, D) per grey level.

        `step` (B,) is the number of earlier looks of each slot, 0 for one that has just begun (its change was zero);
        `best` (B,) is the smallest fooled size so far, infinite before the first. Returns bool (B,): nothing to gain
        by further looks.
        """
        ...

    def last(self) -> Last | None:
        """The looks without gradient that are to follow; None where the norm has no use for them."""
        ...


class Search:
    """The smallest fooling points `walk` finds, for images that enter, each in its own time.

    A point fools when its margin exceeds `floor`. An image is looked at `steps` times, one that is never fooled up to
    `patience` times as often; the slopes are those of `score`. Then follow up to `polish` looks without gradient, as
    the walk has them. An image that is already wrong, may not change, or whose first gradient is zero comes back
    unchanged; one that is never fooled comes back as the point of largest margin.

    With `low_precision` the walks go by slopes in bfloat16, where these will do, and the looks without gradient,
    then at least one, say what fools; where none of them does, an image is searched again without.

    A row is an image's number in the query's labels, which hold it before it enters. Once that image has left, the row
    may be another's.
    """

    def __init__(
        self,
        query: Query,
        shape: torch.Size,
        walk: Walk,
        *,
        steps: int,
        floor: float,
        patience: int = 1,
        polish: int = 0,
        score: Score = margin,
        low_precision: bool = False,
    ) -> None:
        self.query, self.shape = query, shape
        self.images = Images.none(shape.numel())
        places = partial(Slots, query, shape, self.images, steps=steps, floor=floor, patience=patience, score=score)
        # In the order in which an image may take them.
        self._slots = [places(walk=walk, polish=polish, low_precision=False)]
        if low_precision and query.low_precision_suffices(shape):
            self._slots.insert(0, places(walk=deepcopy(walk), polish=max(polish, 1), low_precision=True))

    def all(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """What is found for all images of the query, float32 (N, C, H, W) on the lattice."""
        rows = torch.arange(len(inputs))
        self.enter(rows, inputs, mask)
        while len(self.look(full=False)):
            pass
        return self.changed(rows)

    def enter(self, rows: Tensor, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Images (M, C, H, W), which are to be changed where `mask` (M or 1, 1, H, W) is True only, begin.

        Low-precision looks are preceded by one without gradient: an image that is already wrong does not stay.
        """
        self.images.put(rows, inputs, mask)
        first = self._slots[0]
        if first.low_precision:
            margins, predicted = self.query.answers(inputs, rows)
            wrong = _already_wrong(self.query, rows, margins, predicted)
            self.images.inside[rows[wrong]] = False
            # Far from the border first: they mostly take more looks, and the last few in a batch take longer each.
            rows = rows[~wrong][margins[~wrong].argsort(stable=True)]
        first.enter(rows)

    def look(self, *, full: bool) -> Tensor:
        """Look at a batch of points; returns whose they are. None: all have left, or with `full` no batch is full.

        Where several batches could be, the one that is furthest on its way comes first; where none is full, the one
        that is least, for it fills the others.
        """
        batch = self.query.batch
        for slots in reversed(self._slots):
            if slots.polishing >= batch:
                return self._left(slots, *slots.polish_once())
            if slots.walking >= batch:
                return self._left(slots, *slots.walk_once())
        for slots in [] if full else self._slots:
            if slots.walking:
                return self._left(slots, *slots.walk_once())
            if slots.polishing:
                return self._left(slots, *slots.polish_once())
        return torch.zeros(0, dtype=torch.int64)

    def changed(self, rows: Tensor) -> Tensor:
        """What was found for images that have left, float32 (M, C, H, W) on the lattice."""
        return from_levels(self.images.best[rows]).view(-1, *self.shape)

    def _left(self, slots: "Slots", looked: Tensor, left: Tensor) -> Tensor:
        if slots.low_precision:
            missed = self.images.size[left] == torch.inf
            self._slots[-1].enter(left[missed])
            left = left[~missed]
        self.images.inside[left] = False
        return looked


@dataclass
class Images:
    """Those of a search, by their rows, in grey levels.

    home, best: (N, D), as they came and as found so far. allowed: bool (N, D), where they may be changed.
    size: (N,) of the smallest change that fools, as far as looks without gradient have seen, else infinite.
    inside: bool (N,), the search goes on.
    """

    home: Tensor
    best: Tensor
    allowed: Tensor
    size: Tensor
    inside: Tensor

    @classmethod
    def none(cls, values: int) -> "Images":
        home, allowed = torch.zeros(0, values), torch.zeros(0, values, dtype=torch.bool)
        return cls(home, home, allowed, torch.zeros(0), torch.zeros(0, dtype=torch.bool))

    def put(self, rows: Tensor, inputs: Tensor, mask: Tensor | None) -> None:
        missing = int(rows.max()) + 1 - len(self.home) if len(rows) else 0
        if missing > 0:
            for name, values in vars(self).items():
                setattr(self, name, torch.cat([values, values.new_zeros(missing, *values.shape[1:])]))
        self.home[rows] = self.best[rows] = to_levels(inputs).flatten(1)
        self.allowed[rows] = True if mask is None else mask.expand_as(inputs).flatten(1)
        self.size[rows], self.inside[rows] = torch.inf, True


class Slots:
    """Places for a batch of images at a time, which walk, are polished, and leave.

    With `low_precision` what looks take for fooled while walking comes to polishing as not fooled yet.
    """

    def __init__(
        self,
        query: Query,
        shape: torch.Size,
        images: Images,
        *,
        walk: Walk,
        steps: int,
        floor: float,
        patience: int,
        polish: int,
        score: Score,
        low_precision: bool,
    ) -> None:
        self.query, self.shape, self.images, self.walk = query, shape, images, walk
        self.steps, self.floor, self.patience = steps, floor, patience
        self.looks, self.score, self.low_precision = polish, score, low_precision
        batch, values = query.batch, shape.numel()
        self.waiting = torch.zeros(0, dtype=torch.int64)
        self.rows = torch.full((batch,), -1)
        self.start, self.best = torch.zeros(2, batch, values)
        self.bounds = Bounds(*torch.zeros(2, batch, values))
        self.step = torch.zeros(batch, dtype=torch.int64)
        self.size, self.furthest = torch.zeros(2, batch)
        self.unpolished: list[Unpolished] = []

    def enter(self, rows: Tensor) -> None:
        self.waiting = torch.cat([self.waiting, rows])

    @property
    def walking(self) -> int:
        return int((self.rows >= 0).sum()) + len(self.waiting)

    @property
    def polishing(self) -> int:
        return sum(len(images.rows) for images in self.unpolished)

    def walk_once(self) -> tuple[Tensor, Tensor]:
        """A look with gradient at the image in each slot; returns whose, and those that leave with it."""
        self._fill()
        query, rows = self.query, self.rows
        first = self.step == 0
        change = torch.where(first.unsqueeze(1), 0.0, self.walk.propose(self.bounds))
        gradients = query.low_precision_gradients if self.low_precision else query.gradients
        look = gradients(from_levels(self.start + change).view(-1, *self.shape), rows, self.score)
        slope = look.slope.flatten(1) / LEVELS * (self.bounds.low < self.bounds.high)
        fooled = look.margin > self.floor
        changed = self.walk.size(change)
        further = (self.size == torch.inf) & (look.margin > self.furthest)
        better = torch.where(fooled, changed < self.size, further) & ~first
        self.best = torch.where(better.unsqueeze(1), change, self.best)
        self.size = torch.where(better & fooled, changed, self.size)
        self.furthest = torch.where(better, look.margin, self.furthest)
        enough = self.walk.learn(self.bounds, change, self.floor - look.margin, slope, self.step, self.size)
        self.step += 1
        hopeless = first & (_already_wrong(query, rows, look.margin, look.predicted) | (slope == 0).all(dim=1))
        over = self.step >= torch.where(self.size < torch.inf, self.steps, self.patience * self.steps)
        done = (rows >= 0) & (hopeless | enough | over)
        looked = rows[rows >= 0]
        self.images.best[rows[done]] = self.start[done] + self.best[done]
        last = self.walk.last() if self.looks else None
        if self.low_precision and last is None:
            last = Confirming()
        left = done & ~hopeless & ~(self.low_precision & (self.size == torch.inf))
        if last is None:
            left = torch.zeros_like(left)
        elif bool(left.any()):
            known = torch.full_like(self.size, torch.inf) if self.low_precision else self.size
            looks = torch.full_like(rows, self.looks)
            walked = Unpolished(rows, self.start, self.bounds, self.best, known, looks, last)
            self.unpolished.append(walked.picked(left))
        gone = rows[done & ~left]
        self.rows = torch.where(done, -1, rows)
        return looked, gone

    def polish_once(self) -> tuple[Tensor, Tensor]:
        """A look without gradient at a batch of images that have walked; returns whose, and those that leave with it.

        What is smaller goes into the images' best, its size beside it.
        """
        batch = self.query.batch
        together: Unpolished = _mapped(lambda *values: torch.cat(values), *self.unpolished)
        rest, few = together.picked(slice(batch, None)), together.padded(batch)
        rows, start, bounds, best, size, looks, last = few
        change = last.look(bounds, best)
        excess = self.query.margins(from_levels(start + change).view(-1, *self.shape), rows) - self.floor
        last, worth = last.learn(bounds, best, change, excess)
        changed = self.walk.size(change)
        better = (excess > 0) & (changed < size)
        best = torch.where(better.unsqueeze(1), change, best)
        size = torch.where(better, changed, size)
        real = rows >= 0
        self.images.best[rows[real]], self.images.size[rows[real]] = (start + best)[real], size[real]
        again = real & worth & (looks > 1)
        still = Unpolished(rows, start, bounds, best, size, looks - 1, last).picked(again)
        self.unpolished = [images for images in (still, rest) if len(images.rows)]
        return rows[real], rows[real & ~again]

    def _fill(self) -> None:
        """Have the images that wait take the places that are free."""
        free = (self.rows < 0).nonzero().flatten()[: len(self.waiting)]
        if not len(free):
            return
        coming, self.waiting = self.waiting[: len(free)], self.waiting[len(free) :]
        self.rows[free] = coming
        self.start[free], self.best[free], self.step[free] = self.images.home[coming], 0.0, 0
        self.size[free], self.furthest[free] = torch.inf, -torch.inf
        allowed = self.images.allowed[coming]
        self.bounds.low[free] = -self.start[free] * allowed
        self.bounds.high[free] = (LEVELS - self.start[free]) * allowed


class Unpolished(NamedTuple):
    """Images whose walk is over, as it left them, and how many looks each may still have."""

    rows: Tensor
    start: Tensor
    bounds: Bounds
    best: Tensor
    size: Tensor
    looks: Tensor
    last: Last

    def picked(self, which: Tensor | slice) -> "Unpolished":
        picked: Unpolished = _mapped(lambda values: values[which], self)
        return picked

    def padded(self, count: int) -> "Unpolished":
        """The first `count` of them; what is missing is the last again, with -1 for a row."""
        real = min(count, len(self.rows))
        full = self.picked(torch.arange(count).clamp(max=real - 1))
        full.rows[real:] = -1
        return full


def _mapped(of: Callable[..., Tensor], *parts: Any) -> Any:
    """`of` the tensors at the same place in named tuples of one kind, which may hold named tuples."""
    if isinstance(parts[0], Tensor):
        return of(*parts)
    return type(parts[0])(*(_mapped(of, *place) for place in zip(*parts, strict=True)))


def _already_wrong(query: Query, rows: Tensor, margins: Tensor, predicted: Tensor) -> Tensor:
    return (predicted != query.labels[rows.clamp(min=0)]) | (margins > 0)
