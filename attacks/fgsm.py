"""The fast gradient sign method (https://arxiv.org/abs/1412.6572): one step of the whole budget."""

from torch import Tensor, nn

from dxray.attacks.engine.query import BATCH, Ledger
from dxray.attacks.pgd import pgd


def fgsm(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    norm: str = "linf",
    eps: float = 8 / 255,
    confidence: float = 0.0,
    batch: int = BATCH,
    ledger: Ledger | None = None,
) -> Tensor:
    """Returns images within `eps` of the inputs, float32 (N, C, H, W) on the lattice; nothing here is random.

    Norms, arguments and errors are those of `pgd`, of which this is one step as long as the budget.
    """
    return pgd(
        net,
        inputs,
        labels,
        targets=targets,
        mask=mask,
        seed=seed,
        norm=norm,
        eps=eps,
        steps=1,
        step_size=eps,
        random_start=False,
        confidence=confidence,
        batch=batch,
        ledger=ledger,
    )
