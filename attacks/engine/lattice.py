"""The 8-bit lattice: the k/255 points of the unit box, the only images that survive being saved.

Levels are the whole numbers 0..255 held as float32, so that arithmetic on them is exact. An image read from disk is
`uint8.float() / 255`; `from_levels` divides in the same way, bit for bit, and must never multiply by 1/255 instead.
"""

import torch
from torch import Tensor

LEVELS = 255


def to_levels(images: Tensor) -> Tensor:
    """Images (...) in [0, 1] to their nearest grey levels, float32 whole numbers in 0..255."""
    return (images.float() * LEVELS).round().clamp(0, LEVELS)


def from_levels(levels: Tensor) -> Tensor:
    """Grey levels (...) 0..255 to float32 images in [0, 1], as a reader of the saved file computes them."""
    return levels.float() / LEVELS


def to_uint8(images: Tensor) -> Tensor:
    """Images (...) in [0, 1] to uint8, rounded (never floored)."""
    return to_levels(images).to(torch.uint8)


def snap(images: Tensor) -> Tensor:
    """The nearest points (...) on the lattice inside the box."""
    return from_levels(to_levels(images))


def on_grid(images: Tensor) -> bool:
    """Whether every value is exactly a float32 k/255 inside [0, 1]; NaN is not."""
    return bool(torch.equal(images, snap(images)))
