"""HopSkipJump (https://arxiv.org/abs/1904.02144): all that the net tells of an image is whether it is fooled.

From a fooling image go back to the border, estimate the border's normal there from random neighbours, step along it,
and go back again. The net is shown only 8-bit images, so neighbours differ by at least one grey level in every value,
where the paper's lie far closer than a file can hold.
"""

import math
from collections.abc import Generator

import torch
from torch import Tensor, nn

from dxray.attacks.engine.budget import stream
from dxray.attacks.engine.lattice import LEVELS, from_levels, to_levels
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, validate

NEIGHBOURS = 100  # of the first estimate; the t-th takes sqrt(t) times as many, as in the paper
SPREAD = 0.1  # how far neighbours lie, as a share of the change's mean size in a value
PIECE = 16  # points one search asks for at once
ROUNDS = 15  # random starts are drawn as many times, at every coarseness
RESERVE = 16  # queries kept for the jump after the last estimate and the way back

# Yields points (m, D) in grey levels, is sent bool (m,): which of them fool; what it returns differs.
Asking = Generator[Tensor, Tensor, Tensor]


def hopskipjump(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    queries: int = 1000,
    starts: Tensor | None = None,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the fooling images of smallest L2 met, float32 (N, C, H, W) on the k/255 lattice in [0, 1].

    queries: forwards an image at most; there are no gradients. starts: images like the inputs from which to start where
    they fool, such as some of the target's class; None, or where one does not, starts from random images. The random
    numbers come from the seed and the image itself, so they do not depend on the other images.
    The one bit asked of a point is whether its margin exceeds FLOOR + confidence: whether the wanted class is the
    predicted one, but for ties that another batch shape could turn over. An image for which no start is found within
    its mask comes back unchanged. The other arguments and the errors are those of `dx`.
    """
    validate(inputs, labels, targets, mask)
    if queries < 1:
        raise ValueError(f"queries must be at least 1, got {queries}")
    if starts is not None:
        if starts.shape != inputs.shape:
            raise ValueError(f"starts must be {tuple(inputs.shape)}, one per image, got {tuple(starts.shape)}")
        validate(starts, labels, targets, mask)
    home = to_levels(inputs).flatten(1)
    allowed = torch.ones_like(home) if mask is None else mask.expand_as(inputs).flatten(1).float()
    result, shape = home.clone(), inputs.shape[1:]
    searches: dict[int, Asking] = {}
    asked: dict[int, Tensor] = {}

    def advance(row: int, answer: Tensor | None = None) -> None:
        try:
            asked[row] = next(searches[row]) if answer is None else searches[row].send(answer)
        except StopIteration as end:
            result[row] = end.value
            del searches[row]
            asked.pop(row, None)

    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        clean = query.logits(inputs, torch.arange(len(inputs)))
        waiting = ((clean.argmax(dim=1) == labels) & allowed.any(dim=1)).nonzero().flatten().tolist()
        while waiting or searches:
            begun = waiting[: batch - len(searches)]
            waiting = waiting[len(begun) :]
            for row in begun:
                start = None if starts is None else to_levels(starts[row]).flatten()
                border = Border(home[row], allowed[row], shape, seed=seed, queries=queries - 1, start=start)
                searches[row] = border.search()
                advance(row)
            if asked:
                counts = [len(points) for points in asked.values()]
                rows = torch.tensor(list(asked)).repeat_interleave(torch.tensor(counts))
                points = from_levels(torch.cat(list(asked.values()))).view(-1, *shape)
                fooled = query.margins(points, rows) > FLOOR + confidence
                for row, answer in zip(list(asked), fooled.split(counts), strict=True):
                    advance(row, answer)
    return from_levels(result).view_as(inputs)


class Border:
    """One image's search. Changes are float32 (..., D) in grey levels off `home` (D,) and are rounded to be asked.

    `left` is the number of queries left, `best` (D,) the smallest change known to fool and `size` its length.
    """

    def __init__(
        self, home: Tensor, allowed: Tensor, shape: torch.Size, *, seed: int, queries: int, start: Tensor | None
    ) -> None:
        self.home, self.shape, self.left, self.start = home, shape, queries, start
        self.low, self.high = -home * allowed, (LEVELS - home) * allowed
        self.free = max(1, int(allowed.sum()))
        self.best, self.size = torch.zeros_like(home), math.inf
        self.random = stream(torch.cat([self.low, self.high]), str(seed))

    def search(self) -> Asking:
        """Returns the point (D,) in grey levels: the nearest that fools, or home."""
        yield from self._begin()
        far, turn = self.best, 0
        while 0 < self.size < math.inf and self.left > 0:
            turn += 1
            at = yield from self._return(far)
            normal = yield from self._normal(at, turn)
            far = yield from self._jump(at, normal, turn)
        return self.home + self.best

    def _begin(self) -> Generator[Tensor, Tensor, None]:
        if self.start is not None:
            yield from self._ask((self.start - self.home).unsqueeze(0))
        height, width = self.shape[1:]
        # A net sees nearly the same in any two fine noises; coarse ones, up to a flat image, differ more.
        cells = [2**power for power in range(max(height, width).bit_length() + 1)]
        for _ in range(ROUNDS):
            if self.size < math.inf:
                break
            yield from self._ask(torch.stack([self._noise(cell) for cell in cells]) - self.home)

    def _noise(self, cell: int) -> Tensor:
        channels, height, width = self.shape
        noise = torch.rand(channels, -(-height // cell), -(-width // cell), generator=self.random) * LEVELS
        return noise.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :height, :width].flatten()

    def _return(self, far: Tensor) -> Asking:
        """The change on the way home from the fooling `far` that lies just outside the border."""
        length, inner, outer = float(far.norm()), 0.0, 1.0
        while (outer - inner) * length > 0.25 * self._spread(outer * length) and self.left > 0:
            middle = (inner + outer) / 2
            if bool((yield from self._ask(middle * far.unsqueeze(0))).any()):
                outer = middle
            else:
                inner = middle
        return outer * far

    def _normal(self, at: Tensor, turn: int) -> Asking:
        """The direction (D,) away from home's side of the border, of length 1; zero where no query is left for it."""
        center = self._whole(at)
        spread = self._spread(float(at.norm()))
        count = max(0, min(int(NEIGHBOURS * math.sqrt(turn)), self.left - RESERVE))
        pull, drift, balance = torch.zeros_like(at), torch.zeros_like(at), 0.0
        for begin in range(0, count, PIECE):
            signs = torch.randint(0, 2, (min(PIECE, count - begin), len(at)), generator=self.random) * 2 - 1
            neighbours = self._whole(center + spread * signs)
            side = (yield from self._ask(neighbours)).float() * 2 - 1
            pull += side @ (neighbours - center)
            drift += (neighbours - center).sum(dim=0)
            balance += float(side.sum())
        # Measured against the mean side, which takes out what the point's distance from the border adds.
        mean = balance / max(count, 1)
        normal = mean * drift if abs(mean) == 1 else pull - mean * drift
        return normal / normal.norm().clamp(min=1e-12)

    def _jump(self, at: Tensor, normal: Tensor, turn: int) -> Asking:
        """A fooling change away from `at` along the normal: as far as it goes of the paper's length, halved."""
        length = float(at.norm()) / math.sqrt(turn)
        while length > 0.5 and self.left > 0:
            far = torch.clamp(at + length * normal, self.low, self.high)
            if bool((yield from self._ask(far.unsqueeze(0))).any()):
                return far
            length /= 2
        return at

    def _ask(self, changes: Tensor) -> Asking:
        """Which of the changes (m, D) fool, bool (m,); none of those for which no query is left."""
        changes = self._whole(changes)
        asked = changes[: self.left]
        fooled = torch.zeros(len(changes), dtype=torch.bool)
        self.left -= len(asked)
        if len(asked):
            fooled[: len(asked)] = yield self.home + asked
        lengths = torch.where(fooled, changes.square().sum(dim=1).sqrt(), torch.inf)
        if float(lengths.min()) < self.size:
            self.size, self.best = float(lengths.min()), changes[lengths.argmin()]
        return fooled

    def _whole(self, changes: Tensor) -> Tensor:
        return torch.clamp(changes.round(), self.low, self.high)

    def _spread(self, length: float) -> int:
        return max(1, round(SPREAD * length / math.sqrt(self.free)))
