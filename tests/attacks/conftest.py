"""Nets the attack tests share: a linear one whose shortest change is known, and a small random convolutional one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import from_levels

SCALE = 40  # makes the logits of the random net as large as those of a trained one


class LinearNet(nn.Module):
    """Two classes, margin w.x + b; class 0 at mid-grey, `gap` logits away from class 1."""

    def __init__(self, shape: tuple[int, int, int] = (1, 12, 12), seed: int = 0, gap: float = 0.3) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.weight = nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(seed)))
        self.bias = nn.Parameter(-gap - 0.5 * self.weight.detach().sum())

    def forward(self, images: Tensor) -> Tensor:
        z = images.flatten(1) @ self.weight + self.bias
        return torch.stack([-z / 2, z / 2], dim=1)


class ConvNet(nn.Module):
    """A small random net with a ReLU, a stride and a pooled head; any image size."""

    def __init__(self, channels: int = 1, classes: int = 3, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 12, 3, stride=2),
                nn.ReLU(),
            )
            self.head = nn.Linear(12, classes)
            # Centred, so that random images lie near a border and small changes do.
            with torch.no_grad():
                self.head.bias.sub_(self.eval()(torch.rand(64, channels, 12, 12)).mean(dim=0) / SCALE)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body((images - 0.5) * 4).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits * SCALE


class Helpers:
    """What several test files need, in one fixture because test folders are not packages."""

    LinearNet = LinearNet
    ConvNet = ConvNet

    @staticmethod
    def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
        """Random 8-bit images (count, *shape) in [0, 1], no two alike."""
        generator = torch.Generator().manual_seed(seed)
        return from_levels(torch.randint(0, 256, (count, *shape), generator=generator))

    @staticmethod
    def predicted(net: nn.Module, images: Tensor) -> Tensor:
        """The classes (N,) the net gives in eval mode; its training flag is left as it was."""
        training = net.training
        with torch.no_grad():
            classes: Tensor = net.eval()(images).argmax(dim=1)
        net.train(training)
        return classes


@pytest.fixture
def helpers() -> type[Helpers]:
    return Helpers


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets as small as these gain nothing from a second thread, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
