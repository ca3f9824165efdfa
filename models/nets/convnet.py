"""ConvNet: the course's plain convolutional net."""

from torch import Tensor, nn

from dxray.models.nets.layers import Halve, Normalise, check_grid, convolution, head


class ConvNet(nn.Module):
    """Grey faces in [0, 1] to logits: blocks of 3x3 convolutions, each closed by a 2x2 max-pooling.

    Shapes with the defaults (4 blocks of 2 convolutions of 16 filters; 23,752 parameters):
    `(N, 1, 48, 48) -> (N, 16, 24, 24) -> (N, 16, 12, 12) -> (N, 16, 6, 6) -> (N, 16, 3, 3) -> (N, 50) -> (N, 2)`

    Args:
        blocks: blocks, each of which halves height and width.
        convs: 3x3 convolutions in a block.
        filters: filters of each of them.
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
        convs: int = 2,
        filters: int = 16,
        dropout: float = 0.0,
        batch_norm: bool = False,
        classes: int = 2,
        channels: int = 1,
        size: tuple[int, int] = (48, 48),
    ) -> None:
        super().__init__()
        height, width = check_grid(size, blocks=blocks, convs=convs, filters=filters, dropout=dropout)
        self.normalise = Normalise(channels)
        layers: list[nn.Module] = []
        for block in range(blocks):
            for conv in range(convs):
                inputs = channels if block == conv == 0 else filters
                layers.append(convolution(inputs, filters, 3, batch_norm=batch_norm, dropout=dropout))
            layers.append(Halve())
        self.blocks = nn.Sequential(*layers)
        self.head = head(filters * height * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.normalise(images)))
