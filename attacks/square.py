"""The Square attack (https://arxiv.org/abs/1912.00049): random windows of change, kept where the score gains.

No gradient is asked for, so nets that hide theirs are no better off. The net is shown only lattice points within the
budget; in Linf every change is a whole number of grey levels to begin with.
"""

from functools import cache
from itertools import islice
from math import floor, sqrt

import torch
from torch import Tensor, nn

from dxray.attacks.engine.budget import SLACK, find_budget, stream
from dxray.attacks.engine.lattice import LEVELS, from_levels, to_levels
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, margin, validate

WINDOW = 0.8  # the first window's share of the pixels; halved after each of these queries of 10,000, as in the paper
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # along each side of the first L2 change


def square(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "linf",
    eps: float = 8 / 255,
    queries: int = 1000,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns images within `eps` of the inputs, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    norm: "linf" or "l2", in [0, 1] pixel units. queries: forwards an image, after the one at the image itself; it stops
    where one fools. Each image draws its random numbers from the seed and its own pixels. The other arguments and the
    errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    if norm not in SEARCHES:
        raise ValueError(f"unknown norm {norm!r}; known norms of square: {', '.join(SEARCHES)}")
    if eps < 0 or queries < 1:
        raise ValueError(f"eps must not be negative and queries at least 1, got eps={eps}, queries={queries}")
    home, budget = to_levels(inputs), find_budget(norm)
    result = home.clone()
    allowed = torch.ones_like(home) if mask is None else mask.expand_as(inputs).float()
    reach = floor(eps * LEVELS + SLACK)
    low, high = -home.clamp(max=reach) * allowed, (LEVELS - home).clamp(max=reach) * allowed
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        waiting = iter(_worth_searching(query, inputs, low < high))
        searches: list[Search] = []
        while True:
            for row in islice(waiting, batch - len(searches)):
                generator = stream(home[row], str(seed))
                searches.append(SEARCHES[norm](row, low[row], high[row], eps * LEVELS, queries, generator))
            if not searches:
                return from_levels(result)
            changes = torch.zeros(batch, *inputs.shape[1:])
            for slot, search in enumerate(searches):
                changes[slot] = search.propose()
            changes = budget.finish(changes.flatten(1), eps * LEVELS).view_as(changes)[: len(searches)]
            rows = torch.tensor([search.row for search in searches])
            margins = query.margins(from_levels(home[rows] + changes), rows).tolist()
            for search, change, found in zip(searches, changes, margins, strict=True):
                if search.learn(found):
                    result[search.row] = home[search.row] + change
            searches = [search for search in searches if search.best <= FLOOR + confidence and search.step < queries]


def _worth_searching(query: Query, inputs: Tensor, bounds: Tensor) -> list[int]:
    """The images that the net gets right and of which some value may change; bounds: bool (N, C, H, W)."""
    if not len(inputs):
        return []
    rows = torch.arange(len(inputs))
    logits = query.logits(inputs, rows)
    right = (logits.argmax(dim=1) == query.labels) & (margin(logits, query.labels, query.targets) <= 0)
    return rows[right & bounds.flatten(1).any(dim=1)].tolist()


class Search:
    """One image's search in grey levels: `at` is the change (C, H, W) of largest margin so far, that margin `best`.

    Windows lie in the smallest box around what may change. Every tensor has one image's shape, so nothing depends on
    other images. A change as good as the best takes its place: on a net of steps there is no other way across.
    """

    def __init__(
        self, row: int, low: Tensor, high: Tensor, eps: float, queries: int, generator: torch.Generator
    ) -> None:
        self.row, self.low, self.high, self.eps, self.queries, self.generator = row, low, high, eps, queries, generator
        self.at = self.tried = torch.zeros_like(low)
        self.best, self.step = -torch.inf, 0
        rows, columns = (low < high).any(dim=0).nonzero().unbind(dim=1)
        self.top, self.left = int(rows.min()), int(columns.min())
        self.height, self.width = int(rows.max()) + 1 - self.top, int(columns.max()) + 1 - self.left

    def propose(self) -> Tensor:
        """The next change (C, H, W) to look at, inside the bounds; the caller brings it onto the lattice."""
        self.tried = self.begin() if self.step == 0 else self.vary()
        return self.tried

    def learn(self, found: float) -> bool:
        """Take in the margin of the last proposal; returns whether it is the best so far."""
        self.step += 1
        gained = found >= self.best
        if gained:
            self.at, self.best = self.tried, found
        return gained

    def begin(self) -> Tensor:
        raise NotImplementedError

    def vary(self) -> Tensor:
        raise NotImplementedError

    def side(self) -> int:
        """The side of this query's windows."""
        halvings = sum(self.step * 10_000 > past * self.queries for past in HALVED)
        return max(1, round(sqrt(WINDOW / 2**halvings * self.height * self.width)))

    def window(self, side: int) -> tuple[slice, slice, slice]:
        """A random window, in all channels, cut to the box where that is smaller."""
        height, width = min(side, self.height), min(side, self.width)
        top = self.top + int(torch.randint(self.height - height + 1, (), generator=self.generator))
        left = self.left + int(torch.randint(self.width - width + 1, (), generator=self.generator))
        return slice(None), slice(top, top + height), slice(left, left + width)

    def signs(self, *shape: int) -> Tensor:
        return torch.randint(2, shape, generator=self.generator) * 2.0 - 1


class LinfSearch(Search):
    """Every value at one end of its bounds: upright stripes at first, then a window a query."""

    def begin(self) -> Tensor:
        channels, _, width = self.at.shape
        return self._extreme(self.signs(channels, 1, width).expand_as(self.at))

    def vary(self) -> Tensor:
        window, signs = self.window(self.side()), self.signs(len(self.at), 1, 1)
        for sign in (signs, -signs):  # the other way round where the first changes nothing
            changed = self.at.clone()
            changed[window] = self._extreme(sign.expand_as(self.at))[window]
            if not torch.equal(changed, self.at):
                break
        return changed

    def _extreme(self, signs: Tensor) -> Tensor:
        return torch.where(signs > 0, self.high, self.low)


class L2Search(Search):
    """The whole budget in bumps of both signs: tiled at first; a query takes from one window and gives to another."""

    def begin(self) -> Tensor:
        changed = torch.zeros_like(self.at)
        height, width = max(1, self.height // TILES), max(1, self.width // TILES)
        for top in range(self.top, self.top + self.height - height + 1, height):
            for left in range(self.left, self.left + self.width - width + 1, width):
                tile = slice(None), slice(top, top + height), slice(left, left + width)
                changed[tile] = self._bump(height, width) * self.signs(len(changed), 1, 1)
        return self._whole_budget(changed)

    def vary(self) -> Tensor:
        side = max(3, self.side() // 2 * 2 + 1)
        to, source = self.window(side), self.window(side)
        changed, touched = self.at.clone(), torch.zeros_like(self.at)
        touched[to] = touched[source] = 1
        old = changed[to]
        unspent = (self.eps**2 - changed.square().sum()).clamp(min=0) / len(changed)
        mass = ((changed * touched).square().sum(dim=(1, 2), keepdim=True) + unspent).sqrt()
        new = self._bump(*old.shape[1:]) * self.signs(len(changed), 1, 1) + old / _length(old)
        new = new / _length(new) * mass
        changed[source] = 0
        changed[to] = new
        return self._whole_budget(changed)

    def _bump(self, height: int, width: int) -> Tensor:
        """A hill beside a hollow (height, width) of length 1, one above or beside the other by chance."""
        if bool(torch.randint(2, (), generator=self.generator)):
            return _pair(width, height).T
        return _pair(height, width)

    def _whole_budget(self, change: Tensor) -> Tensor:
        inside = change.clamp(self.low, self.high)
        length = inside.square().sum().sqrt().clamp(min=1e-12)
        return (inside * (self.eps / length)).clamp(self.low, self.high)


def _length(change: Tensor) -> Tensor:
    """The length of each channel, (C, 1, 1)."""
    return change.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)


@cache
def _pair(height: int, width: int) -> Tensor:
    """A hill above a hollow, together (height, width) and of length 1."""
    pair = torch.cat([_hill(height // 2, width), -_hill(height - height // 2, width)])
    return pair / pair.square().sum().sqrt()


def _hill(height: int, width: int) -> Tensor:
    """Square terraces (height, width) around the middle, of length 1; the nth from within is 1 / n^2 above the next."""
    rows = (torch.arange(height) - height // 2).abs().view(-1, 1)
    columns = (torch.arange(width) - width // 2).abs()
    steps = 1 / torch.arange(1, max(height, width) // 2 + 2).square()
    heights = steps.flip(0).cumsum(0).flip(0)[torch.maximum(rows, columns)]
    return heights / heights.square().sum().sqrt().clamp(min=1e-12)


SEARCHES: dict[str, type[Search]] = {"linf": LinfSearch, "l2": L2Search}
