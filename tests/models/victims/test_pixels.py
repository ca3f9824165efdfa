"""Pixels in another form than [0, 1]: said by a side file, or told by labelled images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.models.victims.pixels import better_form, of_side_file
from dxray.models.victims.victim import load_victim
from tests.models.victims.foreign_files import exported, refused, scripted, write_side


class FromForm(nn.Module):
    """Tells grey images from those of much contrast, where they come as `(x - mean) / std`."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        contrast = (images * self.std + self.mean - 0.5).square().flatten(1).mean(1, keepdim=True)
        return torch.cat([torch.full_like(contrast, 0.05), contrast], dim=1)


class SeesBlueFirst(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        blue = images[:, 0].flatten(1).mean(1, keepdim=True)
        return torch.cat([torch.full_like(blue, 0.5), blue], dim=1)


def pictures(count: int, *, channels: int = 1, shades: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Of class 1 are those of much contrast, or (`shades`) whose last channel is bright; the first is at random."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    if shades:
        light = np.stack([rng.integers(0, 2, count), labels, labels], axis=1) * 100 + 70
        return np.broadcast_to(light[:, :, None, None], (count, 3, 8, 8)).astype(np.uint8), labels
    spread = np.where(labels, 120, 10)[:, None, None, None]
    signs = rng.choice([-1, 1], (count, channels, 8, 8))
    return (128 + spread * signs).astype(np.uint8), labels


def batches(images: np.ndarray, labels: np.ndarray, size: int = 32) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images[at : at + size], labels[at : at + size]) for at in range(0, len(labels), size)]


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (FromForm(0.5, 0.5), "in [-1, 1]"),
        (FromForm(0.0, 1 / 255), "in [0, 255]"),
        (FromForm(0.0, 1.0), None),
    ],
)
def test_the_form_that_a_net_is_surely_better_with_is_named(net: nn.Module, said: str | None) -> None:
    found = better_form(net, batches(*pictures(128)), 2)
    assert (found and found.form.said) == said
    if found:
        assert found.share == 1
        assert found.usual == 0.5


def test_the_order_of_channels_is_told() -> None:
    found = better_form(SeesBlueFirst(), batches(*pictures(128, shades=True)), 2)
    assert found is not None
    assert found.form.said == "blue first (BGR)"
    assert '"channel_order": "bgr"' in found.form.in_side_file


def test_swapped_labels_are_no_matter_of_the_form() -> None:
    images, labels = pictures(128)
    assert better_form(FromForm(0.0, 1.0), batches(images, 1 - labels), 2) is None


def test_few_images_and_a_net_that_is_right_take_few_looks() -> None:
    assert better_form(FromForm(0.5, 0.5), batches(*pictures(16)), 2) is None
    taken = []

    def counting() -> Any:
        for images, labels in batches(*pictures(1024)):
            taken.append(len(labels))
            yield images, labels

    assert better_form(FromForm(0.0, 1.0), counting(), 2) is None
    assert sum(taken) <= 256


@pytest.mark.parametrize("save", [lambda net, path, some: scripted(net, path), exported])
def test_a_side_file_says_what_pixels_a_net_wants(save: Callable[..., Path], tmp_path: Path) -> None:
    images = torch.rand(4, 1, 8, 8)
    path = write_side(save(FromForm(0.5, 0.5).eval(), tmp_path / "net.pt2", images), size=8, mean=0.5, std=0.5)
    net, card = load_victim(path)
    torch.testing.assert_close(net(images), FromForm(0.5, 0.5)((images - 0.5) / 0.5))
    write_side(path, size=8)
    assert load_victim(path)[1].sha256 != card.sha256


def test_each_channel_may_have_its_own_and_blue_may_be_first(tmp_path: Path) -> None:
    side = {"channels": 3, "size": 8, "mean": [0.1, 0.2, 0.3], "std": 0.5, "channel_order": "bgr"}
    net, _ = load_victim(write_side(scripted(SeesBlueFirst().eval(), tmp_path / "net.pt"), **side))
    images = torch.rand(4, 3, 8, 8)
    wanted = (images.flip(1) - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5
    torch.testing.assert_close(net(images), SeesBlueFirst()(wanted))
    assert of_side_file({"size": 8}) == {}


@pytest.mark.parametrize(
    "said",
    [{"std": 0}, {"mean": [0.5, 0.5]}, {"mean": "half"}, {"channel_order": "gbr"}, {"mean": [0.1, 0.2, 0.3]}],
)
def test_what_makes_no_sense_in_a_side_file_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    path = write_side(scripted(FromForm(0.5, 0.5).eval(), tmp_path / "net.pt"), size=8, **said)
    refused(path, "cannot be used" if said != {"mean": [0.1, 0.2, 0.3]} else "speaks of three channels")
