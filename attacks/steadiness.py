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


def steady(
    net: nn.Module, what: str, ask: Ask, few: int, many: torch.Size, lay_out: Callable[[Tensor], Tensor]
) -> bool:
    """Whether `ask` gives the same bits for `many` points (M, C, H, W) at once and for `few` of them at a time.

    It is tried once for each net, shape, device and number of threads; `what` tells what is asked, `lay_out` makes of
    points (N, C, H, W) what the net is given. A net that takes one number of points only, that looks at its points
    together, or that is moved by chance is not steady.
    """
    device = next((weight.device for weight in net.parameters()), None)
    found = _found.setdefault(net, {})
    key = (what, few, many, device, torch.get_num_threads())
    if key not in found:
        # Noise of its own, so that what is found out does not depend on the images at hand.
        points = torch.rand(many, generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
            found[key] = _alike(ask, few, points, lay_out)
    return found[key]


def _alike(ask: Ask, few: int, many: Tensor, lay_out: Callable[[Tensor], Tensor]) -> bool:
    try:
        together = ask(lay_out(many))
        for start in range(0, max(few, min(COMPARED, len(many))), few):
            rows = slice(start, start + few)
            if not all(torch.equal(a[rows], b) for a, b in zip(together, ask(lay_out(many[rows])), strict=True)):
                return False
    except Exception:  # whatever a net says to a number of points that it does not take
        return False
    return True
