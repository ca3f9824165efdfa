"""DX, the minimal form: the smallest change of whole grey levels that fools the net.

Like DDN (https://arxiv.org/abs/1811.09600) it looks only at 8-bit images, so what it finds is what a saved file holds,
but it takes the length of the change from a linear model of the net at the last look, not from fixed factors.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dxray.attacks.dx.l2 import L2Walk
from dxray.attacks.dx.linf import LinfWalk
from dxray.attacks.dx.sparse import SparseWalk
from dxray.attacks.engine.batched_search import Search, Walk
from dxray.attacks.engine.query import BATCH, FLOOR, Ledger, Query, validate

PATIENCE = 4  # an image never fooled is searched up to this many times as long

EFFORTS = ("fast", "default", "thorough")


class Plan(NamedTuple):
    """How a norm is searched at one effort: gradients an image, forwards at its end at most, and the walk.

    low_precision: gradients in bfloat16 where that is faster and will do, see `engine.low_precision`.
    """

    steps: int
    polish: int
    walk: Callable[[int, torch.Size, int], Walk]  # of the slots, the images' shape and the gradients
    low_precision: bool = False


L1_WALK = partial(SparseWalk, norm="l1", trust=16.0, error=(0.07, 0.2), memory=0.5)
L0_WALK = partial(SparseWalk, norm="l0", trust=64.0, error=(0.25, 0.6), memory=0.6, loyalty=3.0)

PLANS: dict[str, dict[str, Plan]] = {
    "l2": {
        "fast": Plan(4, 6, partial(L2Walk, turn=(0.65, 0.65)), low_precision=True),
        "default": Plan(6, 6, partial(L2Walk, turn=(0.65, 1.0)), low_precision=True),
        "thorough": Plan(28, 6, partial(L2Walk, turn=(0.8, 0.02), memory=1), low_precision=True),
    },
    "linf": {
        "fast": Plan(8, 0, partial(LinfWalk, tries=2), low_precision=True),
        "default": Plan(14, 0, partial(LinfWalk, tries=5), low_precision=True),
        "thorough": Plan(40, 0, partial(LinfWalk, tries=15), low_precision=True),
    },
    "l1": {
        "fast": Plan(15, 0, L1_WALK),
        "default": Plan(30, 0, L1_WALK),
        "thorough": Plan(90, 0, L1_WALK),
    },
    "l0": {
        "fast": Plan(15, 16, L0_WALK),
        "default": Plan(30, 16, L0_WALK),
        "thorough": Plan(90, 16, L0_WALK),
    },
}


def dx(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "l2",
    effort: str = "default",
    steps: int | None = None,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the changed images, float32 (N, C, H, W) on the k/255 lattice in [0, 1]; nothing here is random.

    net: logits (N, classes) or (N, 1) from images float32 (N, C, H, W) in [0, 1].
    inputs, labels: images and the class int64 (N,) each is to leave. targets: the class to reach, None for any other.
    mask: bool (N or 1, 1, H, W), True where change is allowed.
    effort: "fast", "default" or "thorough": how many looks the smallness of the change is worth. In L2 and Linf
        gradients are in bfloat16 where the CPU multiplies in it; what fools is decided in the net's own precision.
    steps: gradients an image, instead of the effort's; one that is never fooled, or in L2 one at which the net bends,
        gets up to four times as many.
    confidence: margin in logits to be reached beyond the small one that keeps a saved image fooling.
    batch: the fixed shape at which the net is run. ledger: counts gradients and forwards per image.

    Images the net already gets wrong come back unchanged; where nothing fools, the best attempt comes back.
    Raises ValueError for arguments no attack can work with and for a net whose logits are not finite.
    """
    validate(inputs, labels, targets, mask)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        search = begin(query, inputs.shape[1:], norm=norm, effort=effort, steps=steps, confidence=confidence)
        return search.all(inputs, mask)


def begin(
    query: Query,
    shape: torch.Size,
    *,
    norm: str = "l2",
    effort: str = "default",
    steps: int | None = None,
    confidence: float = 0.0,
) -> Search:
    """The search of `dx` for images of a shape (C, H, W), which enter one by one or many at a time.

    Arguments and errors are those of `dx`.
    """
    if norm not in PLANS:
        raise ValueError(f"unknown norm {norm!r}; known norms: {', '.join(PLANS)}")
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r}; known efforts: {', '.join(EFFORTS)}")
    plan = PLANS[norm][effort]
    looks = plan.steps if steps is None else steps
    if looks < 1:
        raise ValueError(f"steps must be at least 1, got {looks}")
    return Search(
        query,
        shape,
        plan.walk(query.batch, shape, looks),
        # In L2 the walk itself says when an image has had its looks: some do not count.
        steps=PATIENCE * looks if norm == "l2" else looks,
        floor=FLOOR + confidence,
        patience=1 if norm == "l2" else PATIENCE,
        polish=plan.polish,
        low_precision=plan.low_precision,
    )
