"""The lattice, the norms and the masks by hand."""

import pytest
import torch

from dxray.attacks.engine import masks
from dxray.attacks.engine.lattice import from_levels, on_grid, snap, to_levels, to_uint8
from dxray.attacks.engine.norms import find_norm


def test_levels_survive_the_way_through_uint8_bit_for_bit() -> None:
    levels = torch.arange(256)
    images = from_levels(levels)
    assert torch.equal(to_uint8(images).float() / 255, images)
    assert torch.equal(to_levels(images), levels.float())
    assert on_grid(images)


def test_off_the_grid_is_seen_and_snapped_by_rounding() -> None:
    off = torch.tensor([0.5, 1.2, -0.1, 3.9 / 255])
    assert not on_grid(off)
    assert not on_grid(torch.tensor([torch.nan]))
    assert not on_grid(torch.tensor([256 / 255]))
    assert torch.equal(to_levels(snap(off)), torch.tensor([128.0, 255.0, 0.0, 4.0]))


def test_norms_by_hand() -> None:
    change = torch.zeros(2, 2, 2, 2)
    change[1, :, 0, 0], change[1, 0, 1, 1] = torch.tensor([3.0, -4.0]), 12.0
    expected = {"l0": 2, "l1": 19, "l2": 13, "linf": 12}
    for name, value in expected.items():
        assert find_norm(name)(change).tolist() == [0, value]
    with pytest.raises(ValueError, match="known norms: l0, l1, l2, linf"):
        find_norm("lp")


def test_masks_by_hand() -> None:
    assert masks.box(3, 4, 1, 1, 3, 2)[0, 0].int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert not masks.box(3, 4, 1, 1, 1, 4).any()
    with pytest.raises(ValueError, match="does not fit"):
        masks.box(3, 4, 0, 0, 4, 4)
    assert masks.ellipse(3, 5, (1, 2), (1, 2))[0, 0].int().tolist() == [[0, 0, 1, 0, 0], [1] * 5, [0, 0, 1, 0, 0]]
    with pytest.raises(ValueError, match="positive"):
        masks.ellipse(3, 3, (1, 1), (0, 1))
    drawn = torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8)
    assert masks.from_image(drawn).tolist() == [[[[False, False, True, True]]]]
    assert masks.from_image(torch.rand(5, 3, 2, 2)).shape == (5, 1, 2, 2)
    with pytest.raises(ValueError, match="shape"):
        masks.from_image(torch.zeros(3))
