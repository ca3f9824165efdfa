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


def steady(net: nn.Module, what: str, ask: Ask, few: int, many: Tensor) -> bool:
    """Whether `ask` gives the same bits for `many` different points (M, C, H, W) at once and for `few` at a time.

    It is tried once for each net, shape and number of threads; what is asked for is told by `what`. A net that takes
    one number of points only, that looks at its points together, or that is moved by chance is not steady.
    """
    key = (what, few, many.shape, many.device, torch.get_num_threads())
    found = _found.setdefault(net, {})
    if key not in found:
        with torch.random.fork_rng(devices=[many.device] if many.device.type == "cuda" else []):
            found[key] = _alike(ask, few, many)
    return found[key]


def _alike(ask: Ask, few: int, many: Tensor) -> bool:
    try:
        together = ask(many)
        for start in range(0, min(COMPARED, len(many)) // few * few or few, few):
            rows = slice(start, start + few)
            if not all(torch.equal(a[rows], b) for a, b in zip(together, ask(many[rows]), strict=True)):
                return False
    except Exception:  # whatever a net says to a number of points that it does not take
        return False
    return True
