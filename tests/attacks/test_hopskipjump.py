"""HopSkipJump: how near it comes on a linear net, for how many queries, and that it is told nothing but the class."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import on_grid
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger
from dxray.attacks.hopskipjump import Border, hopskipjump

# What the median found L2 may be, as a multiple of the closed form's (not rounded, so a little less than the grid's).
WITHIN = {500: 1.5, 1500: 1.2, 3000: 1.1}


@pytest.fixture
def near(helpers: Any) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear net, 8 images in class 0, their labels, and the L2 that the closed form says they need."""
    net, inputs = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    chosen = ((gap > 1.5) & (gap < 4)).nonzero().flatten()[:8]
    return net, inputs[chosen], torch.zeros(8, dtype=torch.int64), gap[chosen] / net.weight.detach().norm()


def test_it_converges_on_a_linear_net_and_spends_no_gradient(near: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    net, inputs, labels, optimum = near
    for queries, factor in WITHIN.items():
        ledger = Ledger.empty(8)
        modified = hopskipjump(net, inputs, labels, queries=queries, ledger=ledger)
        ratio = find_norm("l2")(modified - inputs) / optimum
        assert ratio.median() <= factor
        assert ratio.min() > 0.99
        assert (ledger.gradients == 0).all()
        assert (ledger.forwards <= queries).all()
        assert (ledger.forwards > 0.9 * queries).all()


def test_it_learns_nothing_but_the_predicted_class(helpers: Any) -> None:
    class HardLabel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            assert on_grid(images), "asked for more than a file holds"
            return nn.functional.one_hot(sharp(images).argmax(dim=1), 3).float()

    class Sharp(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = net(images)
            return logits * 1e6  # no margin is within the floor

    net, sharp, inputs = helpers.ConvNet(), Sharp(), helpers.images(6, (1, 9, 9))
    labels = helpers.predicted(net, inputs)
    modified = hopskipjump(HardLabel(), inputs, labels, queries=300)
    assert torch.equal(modified, hopskipjump(sharp, inputs, labels, queries=300))
    assert (helpers.predicted(net, modified) != labels).all()


def test_more_queries_find_less(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(8, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    few, many = (find_norm("l2")(hopskipjump(net, inputs, labels, queries=queries) - inputs) for queries in (150, 1200))
    assert (many <= few).all(), "a longer search begins as the shorter one"
    assert many.mean() < 0.6 * few.mean()


def test_the_budget_is_kept_however_small(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(3, (1, 9, 9))
    labels = helpers.predicted(net, inputs)
    for queries in (1, 2, 20, 47):
        ledger = Ledger.empty(3)
        modified = hopskipjump(net, inputs, labels, queries=queries, ledger=ledger)
        assert (ledger.forwards <= queries).all()
        same = (modified == inputs).flatten(1).all(dim=1)
        assert ((helpers.predicted(net, modified) != labels) | same).all(), "came back changed and not fooling"


def test_it_starts_from_what_it_is_given_where_random_images_do_not_fool() -> None:
    place = torch.arange(100)
    normal, aside = (1 - 2 * (place // 10 % 2 ^ place % 2)) / 10, (1 - 2 * (place // 50)) / 10
    assert normal @ aside == 0

    class Slab(nn.Module):
        """Class 1 lies between two close planes, 2.0 and 2.4 from grey: too far for noise, too thin for a long jump."""

        def forward(self, images: Tensor) -> Tensor:
            inside = 0.2 - ((images.flatten(1) - 0.5) @ normal - 2.2).abs()
            return torch.stack([-inside, inside], dim=1)

    inputs, labels = torch.full((2, 1, 10, 10), 128 / 255), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(hopskipjump(Slab(), inputs, labels), inputs)
    starts = inputs.clone()
    starts[0] += (2.2 * normal + 1.2 * aside).view(1, 10, 10)
    modified = hopskipjump(Slab(), inputs, labels, starts=starts, queries=2000)
    assert 1.98 < (modified[0] - inputs[0]).norm() < 2.12  # 2.28 on the way from the start
    assert torch.equal(modified[1], inputs[1]), "its start does not fool, nor does any random one"


def test_the_normal_is_found_where_most_neighbours_lie_on_one_side_and_against_the_box() -> None:
    black = torch.zeros(144)
    border = Border(black, torch.ones(144), torch.Size([1, 12, 12]), seed=0, queries=5000, start=None)
    weight = torch.randn(144, generator=torch.Generator().manual_seed(0))
    asking, answer = border._normal(black, turn=100), None
    fooled = []
    try:
        while True:
            points = next(asking) if answer is None else asking.send(answer)
            answer = points @ weight > -5
            fooled.append(answer)
    except StopIteration as end:
        normal = end.value
    share = torch.cat(fooled).float().mean()
    assert 0.65 < share < 0.9
    assert normal @ weight / weight.norm() > 0.8


def test_another_seed_searches_elsewhere(near: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    net, inputs, labels, _ = near
    first, second = (hopskipjump(net, inputs[:2], labels[:2], seed=seed, queries=200) for seed in (0, 1))
    assert (first != second).flatten(1).any(dim=1).all()


def test_it_changes_nothing_off_the_mask_of_a_colour_image(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(channels=3), helpers.images(4, (3, 10, 17))
    labels = helpers.predicted(net, inputs)
    mask = torch.rand(4, 1, 10, 17, generator=torch.Generator().manual_seed(0)) < 0.6
    modified = hopskipjump(net, inputs, labels, mask=mask, queries=300)
    assert ((modified == inputs) | mask).all()
    assert (helpers.predicted(net, modified) != labels).all()


def test_an_image_that_fools_as_it_is_ends_the_search(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(2, (1, 9, 9))
    assert torch.equal(hopskipjump(net, inputs, helpers.predicted(net, inputs), starts=inputs, confidence=-1e6), inputs)


def test_impossible_knobs_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="queries must be at least 1, got 0"):
        hopskipjump(net, inputs, labels, queries=0)
    with pytest.raises(ValueError, match="starts must be"):
        hopskipjump(net, inputs, labels, starts=inputs[:, :, :4])
