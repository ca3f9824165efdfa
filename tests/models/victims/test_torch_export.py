"""Graphs of torch.export are run as torch would run them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.checks import check
from dxray.models.nets import build
from dxray.models.victims.checkpoint import load
from dxray.models.victims.victim import load_victim
from tests.models.victims.foreign_files import exported


class Sizes(nn.Module):
    """What a graph holds beside layers: sizes in arithmetic, several outputs of one call, constants, types, None."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(1, 8, 6))
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        patches = nn.functional.unfold((images - self.mean).to(torch.float64).float(), height // 2, stride=width // 2)
        first, second = patches.view(count, 8, -1)[:, :, :12].chunk(2, dim=2)
        mixed = nn.functional.scaled_dot_product_attention(first, second + self.table.expand(count, -1, -1), second)
        top, _ = torch.cat([mixed, images.new_zeros(count, 8, 2)], dim=2).max(dim=1)
        return top * (count + 1) / (count + 1)


@pytest.mark.parametrize("build_net", [Sizes, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.GELU())])
def test_a_graph_of_many_operators_is_run_as_torch_would(build_net: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images = build_net().eval(), torch.rand(7, 3, 8, 8)
    victim, card = load_victim(exported(net, tmp_path / "net.pt2", images[:2]))
    assert (len(card.classes), card.channels, card.size) == (8, 3, (8, 8))
    assert torch.allclose(victim(images), net(images), atol=1e-6)


def test_an_exported_file_says_itself_what_it_takes(files: dict[str, Path], tmp_path: Path) -> None:
    alone = shutil.copy(files["exported"], tmp_path / "net.pt2")
    card = load_victim(alone)[1]
    assert (card.classes, card.channels, card.size) == (("class 0", "class 1"), 1, (48, 48))


def test_a_net_exported_in_training_mode_is_found_by_the_checks(trained: Path, images: Tensor, tmp_path: Path) -> None:
    net = load(trained)[0].train()
    victim, _ = load_victim(exported(net, tmp_path / "net.pt2", images[:2]))
    assert [finding.name for finding in check(victim, images)] in (["batch_mates"], ["random"])


def test_a_one_logit_net_is_one_of_two_classes(tmp_path: Path) -> None:
    net = build("convnet", filters=2, classes=1).eval()
    victim, card = load_victim(exported(net, tmp_path / "net.pt2", torch.rand(2, 1, 48, 48)))
    assert len(card.classes) == 2
    assert victim(torch.rand(3, 1, 48, 48)).shape == (3, 1)
