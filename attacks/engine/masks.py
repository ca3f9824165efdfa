"""Where an attack may change an image: bool masks (1, 1, H, W) or (N, 1, H, W), True inside.

One mask serves every image, N masks one image each; all channels of a pixel are allowed or none.
"""

import torch
from torch import Tensor


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    """A rectangle, rows top..bottom-1 and columns left..right-1, as bool (1, 1, height, width).

    Raises ValueError if it does not lie inside the image; an empty one (top == bottom) is allowed.
    """
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise ValueError(f"box ({top}, {left}, {bottom}, {right}) does not fit an image of {height} x {width} pixels")
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., top:bottom, left:right] = True
    return mask


def ellipse(height: int, width: int, center: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """Pixels whose middle lies in the ellipse with `center` (row, column) and `radii` (rows, columns), in pixels.

    Returns bool (1, 1, height, width). Raises ValueError if a radius is not positive.
    """
    if min(radii) <= 0:
        raise ValueError(f"the radii of an ellipse must be positive, got {radii}")
    rows = (torch.arange(height).view(-1, 1) - center[0]) / radii[0]
    columns = (torch.arange(width).view(1, -1) - center[1]) / radii[1]
    return (rows.square() + columns.square() <= 1).view(1, 1, height, width)


def from_image(image: Tensor, threshold: float = 0.5) -> Tensor:
    """A picture (H, W), (C, H, W) or (N, C, H, W) as mask: True where any channel is above `threshold`.

    uint8 pictures are read as 0..255, float ones as [0, 1]. Returns bool (1 or N, 1, H, W).
    """
    if image.dim() not in (2, 3, 4):
        raise ValueError(f"a mask image has the shape (H, W), (C, H, W) or (N, C, H, W), got {tuple(image.shape)}")
    values = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    while values.dim() < 4:
        values = values.unsqueeze(0)
    return (values > threshold).any(dim=1, keepdim=True)
