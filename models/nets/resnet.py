"""ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385), small and for small faces."""

import torch
from torch import Tensor, nn

from dxray.models.nets.layers import Dropout, Halve, Logits, Normalise, check_grid


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, added to what they read: `(N, inputs, H, W) -> (N, outputs, H, W)`.

    Where the channels differ, what is added is brought to `outputs` by a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.first_relu = nn.ReLU(inplace=True)
        self.dropout = Dropout(dropout)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.match: nn.Module = nn.Identity()
        if inputs != outputs:
            self.match = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.dropout(self.first_relu(self.first_norm(self.first(features))))
        return self.relu(self.second_norm(self.second(changed)) + self.match(features))


class ResNet(nn.Module):
    """Grey faces in [0, 1] to logits; batch norm throughout.

    One convolution at full size and residuals there if asked for, then blocks that halve it and work there. Shapes with
    the defaults (3 blocks of 4 convolutions, 32 filters in the first; 690,802 parameters):
    `(N, 1, 48, 48) -> (N, 16, 48, 48) -> (N, 32, 24, 24) -> (N, 64, 12, 12) -> (N, 128, 6, 6) -> (N, 128) -> (N, 2)`

    Args:
        blocks: blocks, each of which halves height and width.
        convs: 3x3 convolutions in a block, an even number: two for each residual.
        filters: filters of each convolution of the first block; each block has twice those of the one before, and the
            convolution at full size half of them.
        stem_blocks: residuals at full size, with the filters of the convolution there; 0 or more.
        dropout: share of values dropped within each residual and before the last layer, in [0, 1).
        tta_flip: in eval mode the logits are the mean of those of the image and its mirror image, for twice the time.
        tta_shift: in eval mode also of the image moved by a pixel up, down, left and right, for five times the time.
        classes, channels, size: what goes in and out; `size` is (height, width) in pixels.

    Raises:
        ValueError: the parameters make no net (less than 1 of something, an odd `convs`, more halvings than pixels).
    """

    def __init__(
        self,
        *,
        blocks: int = 3,
        convs: int = 4,
        filters: int = 32,
        stem_blocks: int = 0,
        dropout: float = 0.0,
        tta_flip: bool = False,
        tta_shift: bool = False,
        classes: int = 2,
        channels: int = 1,
        size: tuple[int, int] = (48, 48),
    ) -> None:
        super().__init__()
        check_grid(size, blocks=blocks, convs=convs, filters=filters, dropout=dropout)
        if convs % 2:
            raise ValueError(f"convs={convs}: a residual has two convolutions, so a ResNet needs an even number")
        if stem_blocks < 0:
            raise ValueError(f"stem_blocks={stem_blocks}: residuals at full size must be 0 or more")
        self.tta_flip, self.tta_shift = tta_flip, tta_shift
        self.normalise = Normalise(channels)
        inputs = max(1, filters // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = [Residual(inputs, inputs, dropout=dropout) for _ in range(stem_blocks)]
        for block in range(blocks):
            layers.append(Halve())
            for _ in range(convs // 2):
                layers.append(Residual(inputs, filters << block, dropout=dropout))
                inputs = filters << block
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), Logits(inputs, classes))

    def forward(self, images: Tensor) -> Tensor:
        if self.training or not (self.tta_flip or self.tta_shift):
            return self._logits(images)
        views = [images, *_moved(images)] if self.tta_shift else [images]
        if self.tta_flip:
            views += [view.flip(3) for view in views]
        return torch.stack([self._logits(view) for view in views]).mean(0)

    def _logits(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(self.normalise(images)))
        return self.head(features.mean((2, 3)))


def _moved(images: Tensor) -> list[Tensor]:
    """Images `(N, C, H, W)` moved by a pixel up, down, left and right, the row at the edge standing for the new one."""
    return [
        torch.cat([images[:, :, 1:], images[:, :, -1:]], 2),
        torch.cat([images[:, :, :1], images[:, :, :-1]], 2),
        torch.cat([images[..., 1:], images[..., -1:]], 3),
        torch.cat([images[..., :1], images[..., :-1]], 3),
    ]
