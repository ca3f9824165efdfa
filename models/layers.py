"""Layers that every net of the project shares: the normalisation in front and the dense head behind."""

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """`(x - mean) / std` per channel, as the net's first layer, so that everything outside the net stays in [0, 1].

    The statistics are buffers: they travel in the checkpoint; `models.train.fit` sets them from the training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 0.25))

    def forward(self, images: Tensor) -> Tensor:
        features = (images - self.mean) / self.std
        kind = images.device.type
        # Under autocast a float32 image would be concatenated with bfloat16 features, and the whole first dense block,
        # the largest, would be float32 again.
        return features.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else features


class Dropout(nn.Module):
    """Drops a `share` of values, in [0, 1), while training, and scales the rest so that the mean stays.

    On a CPU torch draws a random number for each value, one after the other: at 48x48 that takes longer than
    the convolution before it. Here one draw of 64 bits serves four values, so `share` is exact to 1/65,536.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return features
        if features.device.type != "cpu":
            return nn.functional.dropout(features, self.share)
        draws = torch.empty(-(-features.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        # Laid out in memory as the features are, or the product of the two would be slow.
        draws = draws.view(torch.int16).as_strided(features.size(), features.stride())
        kept = draws >= round(self.share * 2**16) - 2**15
        return features * kept.to(features.dtype).mul_(1 / (1 - self.share))

    def extra_repr(self) -> str:
        return f"share={self.share}"


def convolution(inputs: int, outputs: int, kernel: int, *, batch_norm: bool, dropout: float) -> nn.Sequential:
    """A convolution that keeps height and width, then batch norm (optional), ReLU and dropout (a share in [0, 1))."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.ReLU(inplace=True))
    if dropout > 0:
        layers.append(Dropout(dropout))
    return nn.Sequential(*layers)


def head(features: int, classes: int, *, hidden: int = 50) -> nn.Sequential:
    """`(N, C, H, W)` with `C*H*W == features` -> logits `(N, classes)`, through one dense layer of `hidden`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes))


def check_grid(
    size: tuple[int, int], *, blocks: int, convs: int, filters: int, dropout: float, out_channels: int = 1
) -> tuple[int, int]:
    """Height and width after `blocks` halvings; ValueError in one sentence where the parameters make no net."""
    for name, value in (("blocks", blocks), ("convs", convs), ("filters", filters), ("out_channels", out_channels)):
        if value < 1:
            raise ValueError(f"{name}={value}: a net needs at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: it is the share of values dropped, in [0, 1)")
    height, width = size[0] >> blocks, size[1] >> blocks
    if height < 1 or width < 1:
        raise ValueError(f"blocks={blocks}: images of {size[0]}x{size[1]} can be halved fewer times than that")
    return height, width
