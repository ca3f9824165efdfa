"""Batches: laid out as convolutions are fast in, and changed at random in the ways and by as much as was asked."""

from typing import Any

import numpy as np
import pytest
import torch

from dxray.models.data.batches import augmented, to_device

CPU = torch.device("cpu")
STILL: dict[str, float] = {"turn": 0, "zoom": 0, "reach": 0, "light": 0}


def dots(n: int = 64, size: int = 48) -> np.ndarray:
    """Black images with one white square of 4x4 pixels each, above and left of the middle."""
    images = np.zeros((n, 1, size, size), np.uint8)
    images[:, :, 12:16, 8:12] = 255
    return images


def centres(images: torch.Tensor) -> torch.Tensor:
    """Row and column, `(N, 2)`, of the mean of the light in each image."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    place = torch.arange(images.shape[-1]) + 0.5
    return torch.stack([(weights.sum(2) * place).sum(1), (weights.sum(1) * place).sum(1)], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_have_channels_last_strides(channels: int) -> None:
    images = np.zeros((4, channels, 8, 6), np.uint8)
    strides = (48 * channels, 1, 6 * channels, channels)
    assert to_device(images, CPU).stride() == augmented(images, CPU, random_erasing=0.5).stride() == strides


def test_no_change_is_the_image_or_its_mirror() -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 48, 40), dtype=np.uint8)
    torch.manual_seed(0)
    plain, moved = to_device(images, CPU), augmented(images, CPU, **STILL)
    mirrored = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, moved, strict=True)]
    assert 8 < sum(mirrored) < 24
    expected = torch.where(torch.tensor(mirrored)[:, None, None, None], plain.flip(3), plain)
    assert torch.allclose(moved, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [({"reach": 3.0}, 2.5, 3.0 * 2**0.5), ({"turn": 10.0}, 1.5, 2.7), ({"zoom": 0.2}, 2.0, 3.8)],
)
@pytest.mark.parametrize("strength", [1.0, 0.5, 2.0])
def test_each_change_moves_as_far_as_was_asked_and_no_farther(
    change: dict[str, Any], least: float, most: float, strength: float
) -> None:
    """The square lies 17.2 pixels from the middle: 10 degrees move it by 3.0, a zoom of 0.2 by up to 3.8."""
    torch.manual_seed(0)
    change = {name: size / strength for name, size in change.items()}
    found = centres(augmented(dots(256), CPU, **STILL | change, strength=strength))
    found[:, 1] = torch.minimum(found[:, 1], 48 - found[:, 1])  # the mirrored ones mirrored back
    far = (found - torch.tensor([14.0, 10.0])).norm(dim=1).max()
    assert least < float(far) < most + 0.4


def test_light_changes_every_image_on_its_own_and_stays_in_range() -> None:
    torch.manual_seed(0)
    grey = augmented(np.full((64, 1, 48, 48), 128, np.uint8), CPU, **STILL | {"light": 0.2})
    means = grey.mean((1, 2, 3))
    assert float(means.max() - means.min()) > 0.2
    assert float((means - 0.5).abs().max()) < 0.31
    white = augmented(np.full((64, 1, 48, 48), 255, np.uint8), CPU, light=0.5)
    assert float(white.max()) <= 1
    assert float(white.min()) >= 0


def test_the_share_asked_for_has_a_part_hidden() -> None:
    torch.manual_seed(0)
    images = np.full((400, 1, 48, 48), 128, np.uint8)
    hidden = (augmented(images, CPU, **STILL, random_erasing=0.25) - 128 / 255).abs() > 1e-3
    share = hidden.float().mean((1, 2, 3))
    assert 0.18 < float((share > 0).float().mean()) < 0.32
    assert float(share.max()) < 0.4**2 + 0.03


def test_a_seed_gives_the_same_batch() -> None:
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(augmented(dots(8), CPU, random_erasing=0.5))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
