"""The walk of `dx` in L2: turn a direction towards the gradients seen near the border, correct its length, repeat.

At the optimum the change is parallel to the gradient there, so the direction v is a fixed point of "the gradient seen
along v". Following it alone oscillates; Anderson's mixing of the last few pairs (doi:10.1145/321296.321305) finds it in
a few looks, and averages away the noise that rounding and the net's kinks put on every gradient. Where there are many
looks, going ever less far from the last direction averages more of it away than the mixing does.
"""

import torch
from torch import Tensor

from dxray.attacks.engine.batched_search import Bounds, Ray

RIDGE = 0.2  # how far the mixing leans to plain averaging, against noise
FIRST = 0.85  # share of the way to the linear model's border that the first look goes: margins mostly curve towards it
# The margin aimed at, as a share of the first gap, at the first and the last look: most looks must fool.
AIM = (0.06, 0.008)
# A look that fools by more than this share of the first gap, and this many steepest single levels, went too far.
OVERSHOT, QUANTA = 0.25, 2
TURNED = 0.7  # cosine of a slope with the direction it was seen along, below which it tells little of the one to take
SETTLED = 0.7  # share of the looks after which a radius moves but little


class L2Walk:
    """Direction `v` (B, D) of unit length and radius `r` (B,) in grey levels; the change is round(r v) in the bounds.

    turn: how far to trust each new direction against the one it was seen along, at the first look and the last.
    memory: pairs that are mixed; with 1 it is the last alone.
    """

    def __init__(
        self, slots: int, shape: torch.Size, steps: int, *, turn: tuple[float, float], memory: int = 6
    ) -> None:
        values = shape.numel()
        self.steps, self.turn, self.memory = steps, turn, memory
        self.v, self.r, self.slope = torch.zeros(slots, values), torch.zeros(slots), torch.zeros(slots, values)
        self.depth, self.failures = torch.zeros(slots), torch.zeros(slots)  # the first gap; misses in a row
        self.turns, self.uncounted = torch.zeros(2, slots, dtype=torch.int64)  # looks that turned; that do not count
        self.seen, self.moved = torch.zeros(2, slots, memory, values)
        self.products = torch.zeros(slots, memory, memory)

    def size(self, change: Tensor) -> Tensor:
        return change.square().sum(dim=1).sqrt()

    def propose(self, bounds: Bounds) -> Tensor:
        return self.last().at(self.r, bounds)

    def last(self) -> Ray:
        return Ray(self.v, self.r, self.slope)

    def learn(self, bounds: Bounds, change: Tensor, gap: Tensor, slope: Tensor, step: Tensor, best: Tensor) -> Tensor:
        begins, found, fooled = step == 0, best < torch.inf, gap < 0
        self.turns[begins] = self.uncounted[begins] = 0
        step = step - self.uncounted
        late = ((step - 1) / max(self.steps - 1, 1)).clamp(0, 1)
        self.depth = torch.where(begins, gap, self.depth)
        seen = unit(slope)
        agreed = (seen * self.v).sum(dim=1)
        mixed = self._mix(seen, step, self.turn[0] + (self.turn[1] - self.turn[0]) * late)
        # What is seen far beyond the border says nothing of it: only the radius follows.
        overshot = ~begins & (gap < -OVERSHOT * self.depth - QUANTA * slope.abs().amax(dim=1))
        # Where the net is flat around the image, much is spent on finding the border, or on coming back to it. That
        # does not count, or the image would leave with the first point that fools, far too large.
        lost = ~begins & ~found & (self.failures > 0)
        # Nor, up to as many looks again, does what is spent where the net bends: the pair is not mixed, either.
        turned = ~(begins | overshot | lost) & (agreed < TURNED) & (self.turns < self.steps)
        self.turns += turned
        self.uncounted += overshot | lost | turned
        # A look that shows no slope leaves the direction as it is.
        flat = ((seen == 0).all(dim=1) & ~begins) | overshot
        self.v = torch.where(flat.unsqueeze(1), self.v, torch.where(begins.unsqueeze(1), seen, mixed))
        # Only values with room left lengthen the change any further.
        moving = ((self.v > 0) & (change < bounds.high)) | ((self.v < 0) & (change > bounds.low))
        gain = (slope * self.v * moving).sum(dim=1)
        self.slope = slope
        aim = AIM[0] * (AIM[1] / AIM[0]) ** late * self.depth
        need = (gap + aim + (slope * change * moving).sum(dim=1)) / gain.clamp(min=1e-12)
        near = Ray(self.v, need.clamp(0, 1e4), slope).reach(gap + aim + (slope * change).sum(dim=1), bounds)
        need = torch.where(gain > 0, torch.where(begins, need, near), torch.inf)
        self.failures = torch.where(begins | fooled, 0.0, self.failures + 1)
        loose = (1 - (step - 1).clamp(min=0) / (SETTLED * self.steps)).clamp(min=0)
        shorter = torch.clamp(need, self.r * (0.985 - 0.3 * loose), self.r * 0.997)
        # Not below half: where the margin curves upwards the secant falls far short of the border.
        secant = self.r * (self.depth / (self.depth - gap).clamp(min=1e-12)).clamp(min=0.5)
        shorter = torch.where(overshot, torch.minimum(shorter, secant), shorter)
        longer = torch.clamp(need, self.r * 1.002, self.r * (1.01 + 0.3 * loose))
        # Ever faster, for one image that lags behind keeps a whole batch of places busy.
        pressed = self.failures.square()
        never = torch.clamp(need, self.r * (1 + 0.04 * pressed), self.r * (1.03 + 0.15 * pressed))
        r = torch.where(fooled, shorter, torch.where(found, longer, never))
        self.r = torch.where(begins, FIRST * need, r).nan_to_num(0.0, 1e4, 0.0).clamp(0, 1e4)
        return found & (step + 1 >= self.steps)

    def _mix(self, seen: Tensor, step: Tensor, turn: Tensor) -> Tensor:
        """The next direction (B, D) from `seen` at the current one and the pairs before; `turn` (B,) is trust in it."""
        place = (step - 1).clamp(min=0) % self.memory
        slots = torch.arange(len(step))
        self.seen[slots, place], self.moved[slots, place] = seen, seen - self.v
        row = (self.moved @ (seen - self.v).unsqueeze(2)).squeeze(2)
        self.products[slots, place], self.products[slots, :, place] = row, row
        used = torch.arange(self.memory) < step.unsqueeze(1)
        both = used.unsqueeze(1) & used.unsqueeze(2)
        diagonal = torch.diagonal(self.products, dim1=1, dim2=2)
        lean = RIDGE * (diagonal * used).sum(dim=1) / used.sum(dim=1).clamp(min=1) + 1e-9
        # Unused places get a unit diagonal and no weight, so that all slots are solved at one shape.
        system = torch.where(both, self.products, 0.0) + torch.diag_embed(torch.where(used, lean.unsqueeze(1), 1.0))
        weights = torch.linalg.solve(system, used.float()) * used
        weights = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)).unsqueeze(1)
        # moved = seen - v, so seen - (1 - turn) * moved lies between the two.
        between = weights @ self.seen - (1 - turn).view(-1, 1, 1) * (weights @ self.moved)
        return unit(between.squeeze(1))


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, D) of length 1; zero stays zero."""
    return vectors / vectors.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
