"""One small net, and the files that it can be saved as."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.models.data.faces import Faces
from dxray.models.victims.checkpoint import load
from tests.models.victims.foreign_files import exported, scripted, write_side


class Affine(nn.Module):
    """What `Normalise` does, in words that TorchScript understands."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalise: Any) -> None:
        super().__init__()
        self.register_buffer("mean", normalise.mean)
        self.register_buffer("std", normalise.std)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


@pytest.fixture(scope="session")
def net(trained: Path) -> nn.Module:
    return load(trained)[0].requires_grad_(False)


@pytest.fixture(scope="session")
def images(faces: Faces) -> Tensor:
    return torch.tensor(faces.images[:40]).float() / 255


@pytest.fixture(scope="session")
def files(net: nn.Module, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("victims")
    parts = dict(net.named_children())
    layers = Affine(parts["normalise"]), parts["blocks"], parts["head"]
    return {
        "traced": write_side(scripted(net, folder / "traced.pt", images[:2])),
        "scripted": write_side(scripted(nn.Sequential(*layers).eval(), folder / "scripted.pt")),
        "exported": write_side(exported(net, folder / "free.pt2", images[:2])),
        "exported, batch 3": write_side(exported(net, folder / "fixed.pt2", images[:3], free=False)),
    }
