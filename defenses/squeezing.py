"""Squeezing (Xu et al. 2017, https://arxiv.org/abs/1704.01155): images lose what a small change could hide in.

Baselines that an attack which knows them mostly passes. A gradient goes through them as if they were not there.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dxray.defenses.front import InFront, straight_through


class BitDepth(nn.Module):
    """Images in [0, 1] on the nearest of 2^bits grey levels."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2**bits - 1

    def forward(self, images: Tensor) -> Tensor:
        return straight_through(images, (images.detach() * self.top).round() / self.top)


class Jpeg(nn.Module):
    """Images in [0, 1] of 1 or 3 channels as they come back from a JPEG file, by Pillow."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        kept = np.stack([self._through_file(picture) for picture in pixels])
        squeezed = torch.from_numpy(kept).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255
        return straight_through(images, squeezed)

    def _through_file(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C), as all that is written and read here."""
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(
            file, "JPEG", quality=self.quality
        )
        with Image.open(file) as image:
            return np.asarray(image).reshape(picture.shape)


def bit_depth(net: nn.Module, *, bits: int = 3) -> nn.Module:
    """`net` behind images of 2^bits grey levels, `bits` in 1..8; with 8, an 8-bit image is left as it is."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: an image has 1 to 8 bits a channel")
    return InFront(BitDepth(bits), net)


def jpeg(net: nn.Module, *, quality: int = 50) -> nn.Module:
    """`net` behind JPEG compression of that `quality`, in 1..95."""
    if not 1 <= quality <= 95:
        raise ValueError(f"quality={quality}: that of a JPEG file lies in 1..95")
    return InFront(Jpeg(quality), net)
