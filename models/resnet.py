"""ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385), small and for small faces: little at full size."""

from torch import Tensor, nn

from models.layers import Dropout, Normalise, check_grid


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, added to what they read: `(N, inputs, H, W) -> (N, outputs, H', W')`.

    With `halved` the first of them has stride 2 and H', W' are half of H and W, rounded up; what is added to it is then
    pooled, and wherever the channels differ brought to `outputs` by a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, *, halved: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2 if halved else 1, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.dropout = Dropout(dropout)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if halved else nn.Identity()
        self.match: nn.Module = nn.Identity()
        if inputs != outputs:
            self.match = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.dropout(self.relu(self.first_norm(self.first(features))))
        changed = self.second_norm(self.second(changed))
        return self.relu(changed + self.match(self.pool(features)))


class ResNet(nn.Module):
    """Grey faces in [0, 1] to logits; batch norm throughout.

    Shapes with the defaults (4 blocks of 4 convolutions, 24 filters at first; 1,573,610 parameters):
    `(N, 1, 48, 48) -> (N, 24, 24, 24) -> (N, 48, 12, 12) -> (N, 96, 6, 6) -> (N, 192, 3, 3) -> (N, 192) -> (N, 2)`

    Args:
        blocks: blocks, each of which works at half the height and width of the one before.
        convs: 3x3 convolutions in a block, an even number: two for each residual.
        filters: filters of each convolution of the first block; each block has twice those of the one before.
        dropout: share of values dropped within each residual and before the last layer, in [0, 1).
        classes, channels, size: what goes in and out; `size` is (height, width) in pixels.

    Raises:
        ValueError: the parameters make no net (less than 1 of something, an odd `convs`, more halvings than pixels).
    """

    def __init__(
        self,
        *,
        blocks: int = 4,
        convs: int = 4,
        filters: int = 24,
        dropout: float = 0.0,
        classes: int = 2,
        channels: int = 1,
        size: tuple[int, int] = (48, 48),
    ) -> None:
        super().__init__()
        check_grid(size, blocks=blocks, convs=convs, filters=filters, dropout=dropout)
        if convs % 2:
            raise ValueError(f"convs={convs}: a residual has two convolutions, so a ResNet needs an even number")
        self.normalise = Normalise(channels)
        # The first convolution halves at once: what is done at full size costs most and is worth least.
        self.stem = nn.Sequential(
            nn.Conv2d(channels, filters, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
        )
        residuals: list[nn.Module] = []
        inputs = filters
        for block in range(blocks):
            for pair in range(convs // 2):
                halved = block > 0 and pair == 0
                residuals.append(Residual(inputs, filters << block, halved=halved, dropout=dropout))
                inputs = filters << block
        self.residuals = nn.Sequential(*residuals)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.residuals(self.stem(self.normalise(images)))
        return self.head(features.mean((2, 3)))
