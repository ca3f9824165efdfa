"""DeepFool against optima that are known: the shortest way out of a linear class, among several borders."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.deepfool import deepfool
from dxray.attacks.engine.lattice import on_grid, to_levels
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import FLOOR, Ledger

OVERSHOOT = 0.02  # its default, which it is allowed to cost


class Planes(nn.Module):
    """Class 0's logit is 0; each other class's is `weights` (classes - 1, D) . (x - 0.5) - `depths` (classes - 1,)."""

    def __init__(self, weights: Tensor, depths: Tensor) -> None:
        super().__init__()
        self.weights, self.depths = nn.Parameter(weights), nn.Parameter(depths)

    def forward(self, images: Tensor) -> Tensor:
        others = (images.flatten(1) - 0.5) @ self.weights.T - self.depths
        return torch.cat([torch.zeros(len(images), 1), others], dim=1)


class OnGridOnly(nn.Module):
    """A net that refuses what a file cannot hold."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        assert on_grid(images.detach())
        logits: Tensor = self.net(images)
        return logits


@pytest.fixture
def planes() -> Planes:
    """Class 1 is the likelier one, at a gap of 1 but far away; class 2 is at a gap of 2, and near."""
    weights = torch.randn(2, 144, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.2], [1.0]])
    return Planes(weights, torch.tensor([1.0, 2.0]))


@pytest.fixture
def grey() -> tuple[Tensor, Tensor]:
    return torch.full((1, 1, 12, 12), 128 / 255), torch.zeros(1, dtype=torch.int64)


def shortest(weight: Tensor, gap: float, start: Tensor, norm: str) -> float:
    """The smallest size in grey levels of a change in the box that gains `gap`: the closed form's scale, by scan."""
    scale = torch.arange(0, 60, 0.002 if norm == "l2" else 1).view(-1, 1)
    way = weight / weight.abs().max() if norm == "l2" else weight.sign()
    change = torch.minimum(torch.maximum((scale * way).round(), -start), 255 - start)
    enough = (change @ weight) / 255 > gap
    assert enough.any()
    first = int(enough.float().argmax())
    return float(find_norm(norm)(change[first].view(1, 1, 1, -1)))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_costs_no_more_than_the_overshoot_on_a_linear_net(norm: str, helpers: Any) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    near = (gap > 0.5) & (gap < 4)
    inputs, gap = inputs[near][:8], gap[near][:8] + FLOOR
    ledger = Ledger.empty(8)
    found = find_norm(norm)(deepfool(net, inputs, torch.zeros(8, dtype=torch.int64), norm=norm, ledger=ledger) - inputs)
    for i, size in enumerate((found * 255).tolist()):
        way = net.weight.detach(), float(gap[i]), to_levels(inputs[i]).flatten()
        assert shortest(*way, norm) <= size + 1e-3
        # In L2 one rounded value more or less, in Linf a whole level more, decides: 1.005 on top of the overshoot.
        assert size <= 1.005 * shortest(way[0], (1 + OVERSHOOT) * way[1], way[2], norm)
    assert ledger.gradients.tolist() == [2] * 8, "a linear net takes one step: a look before and one after"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_takes_the_nearest_border_not_the_likeliest_class(
    norm: str, planes: Planes, grey: tuple[Tensor, Tensor], helpers: Any
) -> None:
    ledger = Ledger.empty(1)
    near, far = deepfool(planes, *grey, norm=norm, ledger=ledger), deepfool(planes, *grey, norm=norm, classes=1)
    assert ledger.gradients.item() == 4, "two borders, seen before and after the one step"
    assert helpers.predicted(planes, near).item() == 2
    assert helpers.predicted(planes, far).item() == 1
    size, gap = find_norm(norm)(near - grey[0]).item() * 255, -planes(grey[0])[0, 2].item() + FLOOR
    start = to_levels(grey[0]).flatten()
    assert size <= 1.005 * shortest(planes.weights[1].detach(), (1 + OVERSHOOT) * gap, start, norm)


def test_the_nearest_border_is_that_within_the_mask(planes: Planes, grey: tuple[Tensor, Tensor], helpers: Any) -> None:
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    mask[..., :6, :] = False
    with torch.no_grad():
        planes.weights[1, 72:] *= 0.01
    assert helpers.predicted(planes, deepfool(planes, *grey)).item() == 2
    modified = deepfool(planes, *grey, mask=mask)
    assert helpers.predicted(planes, modified).item() == 1
    within = planes.weights[0].detach() * mask.flatten()
    gap = -planes(grey[0])[0, 1].item() + FLOOR
    size = find_norm("l2")(modified - grey[0]).item() * 255
    assert size <= 1.005 * shortest(within, (1 + OVERSHOOT) * gap, to_levels(grey[0]).flatten(), "l2")


def test_which_border_is_the_nearest_depends_on_the_norm(grey: tuple[Tensor, Tensor], helpers: Any) -> None:
    weights = torch.full((2, 144), 0.5)
    weights[1] = torch.eye(144)[70] * 10
    net = Planes(weights, torch.tensor([1.0, 1.1]))  # 1/72 against 1.1/10 in Linf, 1/6 against 1.1/10 in L2
    assert helpers.predicted(net, deepfool(net, *grey, norm="linf")).item() == 1
    assert helpers.predicted(net, deepfool(net, *grey, norm="l2")).item() == 2


def test_each_border_costs_a_gradient(helpers: Any) -> None:
    inputs = helpers.images(4, (1, 9, 9))
    for classes, borders in ((2, 1), (3, 2), (5, 3)):
        net = helpers.ConvNet(classes=classes)
        ledger = Ledger.empty(4)
        deepfool(net, inputs, helpers.predicted(net, inputs), classes=3, ledger=ledger)
        assert (ledger.gradients % borders == 0).all()
        assert (ledger.gradients >= 2 * borders).all()
        assert (ledger.forwards == 0).all()


def test_the_overshoot_is_a_share_of_each_images_own_gap(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(40, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    modified = deepfool(net, inputs, labels, overshoot=0.5)
    with torch.no_grad():
        gap, margin = (net(images).diff(dim=1).flatten().abs() for images in (inputs, modified))
    assert (margin >= 0.5 * gap).all()
    assert (margin <= 0.5 * gap + 0.05).all()


def test_the_overshoot_counts_from_the_first_gap_at_later_steps_too(grey: tuple[Tensor, Tensor]) -> None:
    weight = 0.2 * torch.randn(144, generator=torch.Generator().manual_seed(0))
    weight -= weight.mean()  # 0 for an even grey

    class Bent(nn.Module):
        """Its slope falls on the way to the border, so the first step ends before it."""

        def forward(self, images: Tensor) -> Tensor:
            z = 3 * (1 - torch.exp(images.flatten(1) @ weight)) - 1
            return torch.stack([-z / 2, z / 2], dim=1)

    ledger = Ledger.empty(1)
    modified = deepfool(Bent(), *grey, overshoot=0.1, ledger=ledger)
    assert ledger.gradients.item() == 3
    assert 0.07 < Bent()(modified).diff().item() < 0.15


def test_the_last_grey_level_is_found_however_short_the_step_to_it(helpers: Any) -> None:
    """One level of all values at once, far more than the linear model asks for, is what rounding leaves to choose."""

    class Even(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            z = images.flatten(1).mean(dim=1) * 255 - threshold
            return torch.stack([-z / 2, z / 2], dim=1)

    inputs, labels = torch.full((1, 1, 9, 9), 100 / 255), torch.zeros(1, dtype=torch.int64)
    for threshold in (100.0, 100.5, 101.0, 101.0001, 103.0001):
        for norm in ("l2", "linf"):
            ledger = Ledger.empty(1)
            modified = deepfool(Even(), inputs, labels, norm=norm, overshoot=0.0, ledger=ledger)
            assert ledger.gradients.item() == 2
            assert helpers.predicted(Even(), modified).item() == 1
            assert find_norm("linf")(modified - inputs).item() * 255 <= threshold - 100 + 1.01


def test_it_goes_on_over_a_curved_border_and_looks_at_saved_images_only(helpers: Any) -> None:
    net, inputs = OnGridOnly(helpers.ConvNet()), helpers.images(64, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    one, many = (helpers.predicted(net, deepfool(net, inputs, labels, steps=steps)) != labels for steps in (1, 50))
    assert 0 < one.sum() < 64
    assert many.all()


def test_a_net_of_two_logits_and_its_one_logit_equal_give_the_same(helpers: Any) -> None:
    two, inputs = helpers.ConvNet(classes=2), helpers.images(8, (1, 9, 9))
    labels = helpers.predicted(two, inputs)

    class OneLogit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = two(images)
            return logits.diff(dim=1)

    change = (deepfool(two, inputs, labels) - deepfool(OneLogit(), inputs, labels)).abs()
    assert change.amax() <= 1.01 / 255  # a value that lies between two levels may round to either


def test_impossible_knobs_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="known norms of DeepFool: l2, linf"):
        deepfool(net, inputs, labels, norm="l1")
    with pytest.raises(ValueError, match="got classes=0"):
        deepfool(net, inputs, labels, classes=0)
