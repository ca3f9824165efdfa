"""What stands in front of a net: images to images, and then the net."""

from typing import Any

import torch
from torch import Tensor, nn

from dxray.models.data.batches import to_device


class InFront(nn.Module):
    """`net(part(images))`: `part` takes and gives images `(N, C, H, W)` in [0, 1]."""

    def __init__(self, part: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        # Laid out anew: of what arithmetic makes of images of one channel, a convolution takes its slow path.
        logits: Tensor = self.net(to_device(self.part(images), images.device))
        return logits


def straight_through(images: Tensor, squeezed: Tensor) -> Tensor:
    """`squeezed`, whose gradient is taken to be that of `images`.

    The true one is zero nearly everywhere and would stop only an attacker who knows nothing of the defence: this is
    what one who does would use (BPDA, Athalye et al. 2018, https://arxiv.org/abs/1802.00420).
    """
    found: Tensor = _StraightThrough.apply(images, squeezed)
    return found


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, squeezed: Tensor) -> Tensor:
        return squeezed.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
