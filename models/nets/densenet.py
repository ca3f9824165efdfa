"""DenseNet (Huang et al. 2016, https://arxiv.org/abs/1608.06993) in the small form of the course."""

from torch import Tensor, nn

from dxray.models.nets.layers import Halve, Normalise, check_grid, convolution, head


class DenseBlock(nn.Module):
    """`convs` 3x3 convolutions, each concatenated to all it read; then 2x2 max-pooling; then 1x1 to `out_channels`.

    `(N, inputs, H, W) -> (N, out_channels, H/2, W/2)`; `signed`: what comes in may be negative.
    """

    def __init__(
        self,
        inputs: int,
        *,
        convs: int,
        filters: int,
        out_channels: int,
        batch_norm: bool,
        dropout: float,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            convolution(inputs + i * filters, filters, 3, batch_norm=batch_norm, dropout=dropout, joined=True)
            for i in range(convs)
        )
        self.pool_inputs = Halve(signed=signed)
        self.pool = Halve()
        self.squeeze = convolution(
            inputs + convs * filters, out_channels, 1, batch_norm=batch_norm, dropout=dropout, joined=True
        )

    def forward(self, features: Tensor) -> Tensor:
        found = [features]
        for conv in self.convs:
            found.append(conv(*found))
        return self.squeeze(self.pool_inputs(features), *(self.pool(made) for made in found[1:]))


class DenseNet(nn.Module):
    """Grey faces in [0, 1] to logits.

    Shapes with the defaults (4 blocks of 3 convolutions of 16 filters; 93,672 parameters):
    `(N, 1, 48, 48) -> (N, 32, 24, 24) -> (N, 32, 12, 12) -> (N, 32, 6, 6) -> (N, 32, 3, 3) -> (N, 50) -> (N, 2)`

    Args:
        blocks: dense blocks, each of which halves height and width (3 or 4 in the course).
        convs: 3x3 convolutions in a block.
        filters: filters of each of them.
        out_channels: channels that a block's closing 1x1 convolution leaves.
        dropout: share of values dropped after each convolution, in [0, 1).
        batch_norm: batch normalisation after each convolution.
        classes, channels, size: what goes in and out; `size` is (height, width) in pixels.

    Raises:
        ValueError: the parameters make no net (less than 1 of something, more halvings than pixels).
    """

    def __init__(
        self,
        *,
        blocks: int = 4,
        convs: int = 3,
        filters: int = 16,
        out_channels: int = 32,
        dropout: float = 0.0,
        batch_norm: bool = False,
        classes: int = 2,
        channels: int = 1,
        size: tuple[int, int] = (48, 48),
    ) -> None:
        super().__init__()
        height, width = check_grid(
            size, blocks=blocks, convs=convs, filters=filters, dropout=dropout, out_channels=out_channels
        )
        self.normalise = Normalise(channels)
        self.blocks = nn.Sequential(
            *(
                DenseBlock(
                    channels if i == 0 else out_channels,
                    convs=convs,
                    filters=filters,
                    out_channels=out_channels,
                    batch_norm=batch_norm,
                    dropout=dropout,
                    signed=i == 0,  # a normalised image
                )
                for i in range(blocks)
            )
        )
        self.head = head(out_channels * height * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.normalise(images)))
