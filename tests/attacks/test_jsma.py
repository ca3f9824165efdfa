"""JSMA's saliency: the exact pair of the paper's formula, checked by a slow loop over all pairs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import to_levels
from dxray.attacks.engine.query import Ledger
from dxray.attacks.jsma import best_pair, jsma


class Linear(nn.Module):
    """Three or more classes, logits `weights` (classes, D) . x, with `lead` logits on top for class 0."""

    def __init__(self, classes: int, values: int, lead: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(classes, values, generator=torch.Generator().manual_seed(3)))
        self.lead = torch.zeros(classes)
        self.lead[0] = lead

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weights.T + self.lead


def slow_pair(gain: Tensor, loss: Tensor, open_: Tensor) -> tuple[set[int], float]:
    """The paper's loop over all pairs of one image's values: the best pair and its product, 0 for none."""
    best, pair = 0.0, set()
    for p in range(len(gain)):
        for q in range(p + 1, len(gain)):
            alpha, beta = gain[p] + gain[q], -(loss[p] + loss[q])
            if open_[p] and open_[q] and alpha > 0 and beta < 0 and float(-alpha * beta) > best:
                best, pair = float(-alpha * beta), {p, q}
    return pair, best


@pytest.mark.parametrize("leaning", [0.0, 1.0, -0.9])
def test_the_pair_is_the_best_of_all_pairs(leaning: float) -> None:
    """Leaning: how much gain and loss go together; where one is the price of the other, few values can be left out."""
    generator = torch.Generator().manual_seed(5)
    gain = torch.randn(12, 40, generator=generator)
    loss = leaning * gain + 0.3 * torch.randn(12, 40, generator=generator)
    open_ = torch.rand(12, 40, generator=generator) < 0.8
    open_[0], open_[1, 1:] = False, False
    loss[2] = -loss[2].abs()  # nothing can be gained
    gain[3], loss[3] = gain[3].round(), loss[3].round()  # many equals
    pair, found = best_pair(gain, loss, open_)
    assert found.tolist()[:3] == [False] * 3
    for i in range(12):
        expected, product = slow_pair(gain[i], loss[i], open_[i])
        assert bool(found[i]) == (product > 0)
        if found[i]:
            assert float(gain[i, pair[i]].sum() * loss[i, pair[i]].sum()) == product
            assert i == 3 or set(pair[i].tolist()) == expected


@pytest.mark.parametrize("supply", [1.2, 0.1])
def test_the_pair_is_found_where_no_value_can_be_left_out(supply: float) -> None:
    gain = torch.linspace(-1, 1, 150)[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    loss = supply - gain - 0.2 * gain.square()  # a front that bulges: no value beats another in both
    pair, found = best_pair(gain[None], loss[None], torch.ones(1, 150, dtype=torch.bool))
    assert bool(found)
    expected, _ = slow_pair(gain, loss, torch.ones(150, dtype=torch.bool))
    assert set(pair[0].tolist()) == expected


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.2])
@pytest.mark.parametrize("targeted", [True, False])
def test_it_changes_the_papers_pairs_one_after_the_other(theta: float, targeted: bool, helpers: Any) -> None:
    net, inputs = Linear(4, 36, lead=60.0), helpers.images(5, (1, 6, 6))
    labels = torch.zeros(5, dtype=torch.int64)
    targets = torch.tensor([1, 2, 3, 1, 2]) if targeted else None
    for steps in (1, 3):
        change = to_levels(jsma(net, inputs, labels, targets=targets, theta=theta, steps=steps)) - to_levels(inputs)
        for i in range(5):
            point = to_levels(inputs[i]).flatten()
            for _ in range(steps):
                wanted = int(targets[i]) if targets is not None else 1 + int(net(point[None] / 255)[0, 1:].argmax())
                gain = net.weights[wanted].detach() / 255
                others = (net.weights.sum(dim=0).detach() / 255) - gain
                open_ = point < 255 if theta > 0 else point > 0
                sign = 1 if theta > 0 else -1
                pair, product = slow_pair(sign * gain, -sign * others, open_)
                assert product > 0
                point[list(pair)] = (point[list(pair)] + 255 * theta).clamp(0, 255)
            assert torch.equal(to_levels(inputs[i]).flatten() + change[i].flatten(), point)


def test_the_slope_of_the_others_counts_not_only_the_targets(helpers: Any) -> None:
    """Value 0 raises the target most, and the others as much; values 1 and 2 raise it less and lower the others."""
    net = Linear(3, 9, lead=50.0)
    with torch.no_grad():
        net.weights.zero_()
        net.weights[1, :3] = torch.tensor([5.0, 1.0, 1.0])
        net.weights[2, :3] = torch.tensor([9.0, -2.0, -2.0])
    inputs = torch.full((1, 1, 3, 3), 100 / 255)
    modified = jsma(net, inputs, torch.tensor([0]), targets=torch.tensor([1]), steps=1)
    assert (modified != inputs).flatten().nonzero().flatten().tolist() == [1, 2]


def test_few_values_move_and_all_the_same_way(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(16, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    ledger = Ledger.empty(16)
    brighter = jsma(net, inputs, labels, steps=4, ledger=ledger) - inputs
    assert (brighter >= 0).all()
    assert ((brighter != 0).flatten(1).sum(dim=1) <= 8).all()
    assert (ledger.gradients <= 2 * (4 + 1)).all()
    assert (ledger.gradients % 2 == 0).all()
    assert (jsma(net, inputs, labels, theta=-1.0, steps=4) <= inputs).all()


def test_by_default_no_more_values_move_than_in_the_paper(helpers: Any) -> None:
    inputs = torch.full((1, 1, 12, 12), 128 / 255)
    modified = jsma(Linear(3, 144, lead=1e4), inputs, torch.tensor([0]))
    changed = int((modified != inputs).sum())
    assert 0.13 * 144 < changed <= 0.145 * 144


def test_it_ends_where_no_pair_is_left(helpers: Any) -> None:
    net, inputs = Linear(3, 36, lead=1e4), helpers.images(2, (1, 6, 6))
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., :2, :2] = True
    ledger = Ledger.empty(2)
    jsma(net, inputs, torch.tensor([0, 0]), mask=mask, steps=50, ledger=ledger)
    assert (ledger.gradients <= 2 * 3).all()


def test_a_one_logit_net_has_a_saliency_too(helpers: Any) -> None:
    class OneLogit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.flatten(1) - 0.5) @ weight.view(-1, 1) - 9

    weight = torch.randn(36, generator=torch.Generator().manual_seed(0))
    inputs = torch.full((1, 1, 6, 6), 128 / 255)
    modified = jsma(OneLogit(), inputs, torch.tensor([0]), steps=1)
    moved = (modified != inputs).flatten().nonzero().flatten()
    assert set(moved.tolist()) == set(weight.topk(2).indices.tolist())


def test_impossible_knobs_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="and not be 0, and steps"):
        jsma(net, inputs, labels, theta=0.0)
    with pytest.raises(ValueError, match="steps=0"):
        jsma(net, inputs, labels, steps=0)
