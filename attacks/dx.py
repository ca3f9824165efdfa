"""DX, the minimal form: the smallest change of whole grey levels that fools the net.

Like DDN (https://arxiv.org/abs/1811.09600) it looks only at 8-bit images, so what it finds is what a saved file holds,
but it takes the length of the change from a linear model of the net at the last look, not from fixed factors.
"""

from torch import Tensor, nn

from attacks.dx_l2 import L2Walk
from attacks.query import FLOOR, Ledger, Query, validate
from attacks.slots import search

PATIENCE = 4  # an image never fooled is searched up to this many times as long

# Gradients, forwards along the last direction, and how far to trust each new direction, at first and at last.
EFFORTS = {
    "fast": (4, 1, (0.65, 0.65)),
    "default": (7, 2, (0.65, 0.65)),
    "thorough": (45, 3, (0.65, 0.3)),
}

WALKS = {"l2": L2Walk}


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
    batch: int = 32,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns the changed images, float32 (N, C, H, W) on the k/255 lattice in [0, 1]; nothing here is random.

    net: logits (N, classes) or (N, 1) from images float32 (N, C, H, W) in [0, 1].
    inputs, labels: images and the class int64 (N,) each is to leave. targets: the class to reach, None for any other.
    mask: bool (N or 1, 1, H, W), True where change is allowed.
    effort: "fast", "default" or "thorough": how many looks the smallness of the change is worth.
    steps: gradients an image, instead of the effort's; one that is never fooled gets up to four times as many.
    confidence: margin in logits to be reached beyond the small one that keeps a saved image fooling.
    batch: the fixed shape at which the net is run. ledger: counts gradients and forwards per image.

    Images the net already gets wrong come back unchanged; where nothing fools, the best attempt comes back.
    Raises ValueError for arguments no attack can work with and for a net whose logits are not finite.
    """
    validate(inputs, labels, targets, mask)
    if norm not in WALKS or effort not in EFFORTS:
        raise ValueError(
            f"unknown norm {norm!r} or effort {effort!r}; known norms: {', '.join(WALKS)}; "
            f"known efforts: {', '.join(EFFORTS)}"
        )
    gradients, forwards, turn = EFFORTS[effort]
    gradients = gradients if steps is None else steps
    walk = WALKS[norm](gradients, turn)
    with Query(net, labels, targets, batch=batch, ledger=ledger) as query:
        return search(
            query,
            inputs,
            mask,
            walk,
            steps=gradients,
            floor=FLOOR + confidence,
            patience=PATIENCE,
            polish=forwards,
        )
