"""Slopes in bfloat16, where a CPU multiplies in it: half to two thirds of the time, and nearly the same direction.

What they miss by (cosines of 0.984 to 0.998 on three nets) is less than what rounding an image to whole grey levels
changes in a slope. Margins are off by some thousandths, so nothing counts as fooled by them.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batch_invariance import Ask

AGREED = 0.9  # mean cosine of the two slopes of a point, from which on bfloat16 will do
TRIED = 4  # points

_found: WeakKeyDictionary[nn.Module, dict[Any, tuple[int, bool]]] = WeakKeyDictionary()


def low_precision_suffices(net: nn.Module, exact: Ask, low: Ask, shape: torch.Size) -> bool:
    """Whether slopes of `net` are worth having in bfloat16: here that is faster, and they show the same way.

    It is tried once for each net and `shape` (C, H, W) of images, and again when weights have changed: on noise, so
    that it does not depend on the images at hand. Both kinds of asking give logits and slopes.
    """
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    if not _multiplies(device):
        return False
    found = _found.setdefault(net, {})
    key, changes = (shape, device), sum(weight._version for weight in net.parameters())
    if key not in found or found[key][0] != changes:
        noise = torch.rand((TRIED, *shape), generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]):
            found[key] = changes, _alike(exact, low, (noise * 255).round() / 255)
    return found[key][1]


def _multiplies(device: torch.device) -> bool:
    probes = (getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(probe() for probe in probes)


def _alike(exact: Ask, low: Ask, points: Tensor) -> bool:
    try:
        (_, fine), (_, rough) = exact(points), low(points)
    except Exception:  # whatever a net says to autocast, or to this many points
        return False
    cosines = nn.functional.cosine_similarity(fine.flatten(1), rough.flatten(1))
    return bool(cosines.mean() >= AGREED)  # not where one is no number
