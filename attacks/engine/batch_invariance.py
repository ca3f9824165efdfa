"""Whether a net answers few points as it answers many, to the bit: then few need not be filled up to many.

A CPU's kernels are chosen by the shape alone. Where the answers at two shapes are equal for a handful of points, the
kernels round alike, and are equal for all; where they do not, most points show it (seen: four in five).
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

COMPARED = 8  # points

Ask = Callable[[Tensor], tuple[Tensor, ...]]

_found: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


class BatchInvariance:
    """Of a net, as one attack asks it. What is found out is kept beyond that, what it is found out by is not."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._together: dict[Any, tuple[Tensor, ...]] = {}

    def holds(self, what: str, ask: Ask, few: int, many: torch.Size) -> bool:
        """Whether `ask` gives the same bits for `many` points (M, C, H, W) at once and for `few` of them at a time.

        It is tried once for each net, shape, device and number of threads; `what` tells what is asked. A net that takes
        one number of points only, that looks at its points together, or that is moved by chance is not invariant.
        """
        device = next((weight.device for weight in self._net.parameters()), torch.device("cpu"))
        found = _found.setdefault(self._net, {})
        key = (what, few, many, device, torch.get_num_threads())
        if key not in found:
            gpu = [device] if device.type == "cuda" else []
            with torch.random.fork_rng(devices=gpu):
                for place in (torch.device("cpu"), *gpu):
                    torch.rand(few, device=place)  # or chance would do to few what it did to many
                found[key] = self._alike(what, ask, few, many)
        return found[key]

    def _alike(self, what: str, ask: Ask, few: int, many: torch.Size) -> bool:
        # Noise of its own, so that what is found out does not depend on the images at hand.
        points = torch.rand(many, generator=torch.Generator().manual_seed(0))
        try:
            if (what, many) not in self._together:
                self._together[what, many] = ask(points)
            together = self._together[what, many]
            for start in range(0, max(few, min(COMPARED, len(points))), few):
                rows = slice(start, start + few)
                alone = ask(points[rows])
                if not all(torch.equal(a[rows], b) for a, b in zip(together, alone, strict=True)):
                    return False
        except Exception:  # whatever a net says to a number of points that it does not take
            return False
        return True
