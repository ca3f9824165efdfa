"""Batches as a net takes them: images laid out for it, as they are or changed at random as a camera might."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def device_of(net: nn.Module) -> torch.device:
    """Where the weights of `net` are; the CPU for a net without any."""
    return next((weight.device for weight in net.parameters()), torch.device("cpu"))


def to_device(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 `(N, C, H, W)` -> float32 in [0, 1], channels last, on `device`; a float32 tensor is only laid out anew.

    The memory is laid out by hand: for one channel torch counts any tensor as contiguous in both formats, so
    `.contiguous(memory_format=channels_last)` would leave the strides, and convolutions would take their slow path.
    """
    n, channels, height, width = images.shape
    strides = (channels * height * width, 1, width * channels, channels)
    batch = torch.empty_strided((n, channels, height, width), strides, dtype=torch.float32, device=device)
    if isinstance(images, Tensor):
        return batch.copy_(images)
    # torch.tensor copies: arrays that come out of Ray's object store are read-only, and shared.
    return batch.copy_(torch.tensor(images)).div_(255)


def augmented(
    images: np.ndarray,
    device: torch.device,
    *,
    turn: float = 12.0,
    zoom: float = 0.12,
    reach: float = 2.5,
    light: float = 0.15,
    strength: float = 1.0,
    random_erasing: float = 0.0,
) -> Tensor:
    """uint8 `(N, C, H, W)` -> float32 in [0, 1], channels last, on `device`: each image changed on its own.

    All is drawn from torch's default generator of the CPU, so that a seed means the same on every device.

    Args:
        turn: degrees that an image is turned at most, either way; half of the images are mirrored as well.
        zoom: the most by which an image is enlarged or shrunk (0.12: to 1.13 or 0.89 of its size).
        reach: pixels by which it is moved at most, in either direction.
        light: the most by which brightness and contrast change, as a share of the whole range.
        strength: what `turn`, `zoom` and `reach` are multiplied by.
        random_erasing: share of images in which a grey rectangle hides a part (Zhong et al. 2017, arXiv 1708.04896).
    """
    n, _, height, width = images.shape
    # Sampled in the order that the sampler is fast in, then laid out: its result is never channels last, and
    # convolutions of a tensor in the other layout take several times as long.
    moved = F.grid_sample(
        torch.tensor(images).to(device).float().div_(255),
        _positions(n, height, width, strength * turn, strength * zoom, strength * reach).to(device),
        padding_mode="border",
        align_corners=False,
    )
    shift, gain = (_between(-light, light, 2, n, 1, 1, 1)).to(device)
    moved.mul_(1 + gain).add_(shift - gain / 2).clamp_(0, 1)
    if random_erasing:
        hidden, shade = _rectangles(n, height, width, random_erasing)
        moved = torch.where(hidden.to(device), shade.to(device), moved)
    return to_device(moved, device)


def _positions(n: int, height: int, width: int, turn: float, zoom: float, reach: float) -> Tensor:
    """Where each pixel of the result is read, `(N, H, W, 2)` in [-1, 1]: turned, zoomed, mirrored and moved.

    Written out: `affine_grid` makes the same by small matrix products and takes four times as long as the sampling.
    """
    angle = _between(-turn, turn, n, 1, 1) * (math.pi / 180)
    size = torch.exp(_between(-zoom, zoom, n, 1, 1))
    mirror = torch.where(torch.rand(n, 1, 1) < 0.5, -1.0, 1.0)
    right, down = (
        _between(-2 * reach / width, 2 * reach / width, n, 1, 1),
        _between(-2 * reach / height, 2 * reach / height, n, 1, 1),
    )
    cos, sin = angle.cos() * size, angle.sin() * size
    x = ((torch.arange(width) + 0.5) * 2 / width - 1)[None, None, :]
    y = ((torch.arange(height) + 0.5) * 2 / height - 1)[None, :, None]
    return torch.stack([mirror * (cos * x - sin * y) + right, sin * x + cos * y + down], dim=-1)


def _rectangles(n: int, height: int, width: int, share: float) -> tuple[Tensor, Tensor]:
    """Where each image is hidden, bool `(N, 1, H, W)`, and by which shade `(N, 1, 1, 1)`.

    A rectangle of an eighth to two fifths of each side, in a `share` of the images.
    """
    sides = _between(0.125, 0.4, 2, n, 1)
    centres = torch.rand(2, n, 1)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    rows = (y - centres[0]).abs() < sides[0] / 2
    columns = (x - centres[1]).abs() < sides[1] / 2
    chosen = torch.rand(n, 1, 1) < share
    return (rows[:, :, None] & columns[:, None, :] & chosen)[:, None], torch.rand(n, 1, 1, 1)


def _between(low: float, high: float, *size: int) -> Tensor:
    return torch.rand(*size) * (high - low) + low
