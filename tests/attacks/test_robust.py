"""The ensemble: each attack gets what withstood the ones before it, for two classes, one logit and many."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.apgd import apgd
from dxray.attacks.engine.lattice import on_grid
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger
from dxray.attacks.robust import AIMS, _survey, robust
from dxray.attacks.square import square


class Masked(nn.Module):
    """A net whose logits go in steps for the images whose corner is bright: these have no gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        stairs = (logits * 4).floor() / 4 + 0.01 * torch.arange(1, 1 + logits.shape[1])  # never a tie
        logits = torch.where(images[:, :1, 0, 0] > 0.5, stairs, logits)
        return logits


def counted(net: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Ledger]:
    ledger = Ledger.empty(len(inputs))
    return robust(net, inputs, labels, ledger=ledger, **options), ledger


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_it_fools_whatever_any_of_its_attacks_fools(classes: int, helpers: Any) -> None:
    net, inputs = Masked(helpers.ConvNet(classes=classes)), helpers.images(40, (1, 12, 12))
    with torch.no_grad():
        logits = net.eval()(inputs)
    labels = (logits[:, 0] > 0).long() if classes == 1 else logits.argmax(dim=1)
    options: dict[str, Any] = {"eps": 3 / 255}

    def fooled(modified: Tensor) -> Tensor:
        with torch.no_grad():
            after = net(modified)
        return ((after[:, 0] > 0).long() if classes == 1 else after.argmax(dim=1)) != labels

    modified = robust(net, inputs, labels, steps=20, queries=20, **options)
    assert on_grid(modified)
    assert (find_norm("linf")(modified - inputs) <= 3 / 255 + 1e-6).all()
    by_slope = fooled(apgd(net, inputs, labels, steps=20, **options))
    by_queries = fooled(square(net, inputs, labels, queries=20, **options))
    assert (by_queries & ~by_slope).any()
    assert (by_slope & ~by_queries).any()
    assert (fooled(modified) | ~(by_slope | by_queries)).all()
    assert not fooled(modified).all()


def test_looks_are_spent_as_documented(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=4.0), helpers.images(20, (1, 12, 12))
    labels = torch.zeros(20, dtype=torch.int64)
    wrong = helpers.predicted(net, inputs) == 1
    modified, ledger = counted(net, inputs, labels, eps=6 / 255, steps=5, queries=7)
    fooled = (helpers.predicted(net, modified) == 1) & ~wrong
    withstood = ~fooled & ~wrong
    assert wrong.any()
    assert fooled.any()
    assert withstood.any()
    assert torch.equal(modified[wrong], inputs[wrong])
    assert (ledger.gradients[wrong] == 0).all()
    assert (ledger.forwards[wrong] == 1).all()
    assert (ledger.gradients[fooled] == 2).all()  # by the first step of the first attack
    assert (ledger.forwards[fooled] == 2).all()
    assert (ledger.gradients[withstood] == 2 * (1 + 5)).all()
    assert (ledger.forwards[withstood] == 1 + 3 + 1 + 7).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 12])
def test_each_other_class_is_aimed_at_where_there_are_more_than_two(classes: int, helpers: Any) -> None:
    class Steep(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :classes] - torch.tensor([9.0] + [10.0] * (classes - 1))

    inputs = helpers.images(5, (1, 4, 4)) / 2
    labels = torch.zeros(5, dtype=torch.int64)
    modified, ledger = counted(Steep(), inputs, labels, steps=3, queries=2)
    aims = {1: 1, 2: 1, 3: 2, 12: AIMS}[classes]
    assert (ledger.gradients == (1 + 3) * (1 + aims)).all()
    assert (ledger.forwards == 1 + 1 + aims + 1 + 1 + 2).all()
    assert (modified != inputs).any()


def test_the_likeliest_classes_are_aimed_at_first() -> None:
    inputs = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.5, 0.6, 0.1, 0.2]]).view(2, 1, 2, 2)
    aims, right = _survey(nn.Flatten(), inputs, torch.tensor([0, 0]), None, batch=2, ledger=Ledger.empty(2))
    assert torch.stack([aim for aim in aims if aim is not None]).tolist() == [[2, 1], [3, 3], [1, 2]]
    assert right.tolist() == [True, False]


def test_a_target_is_reached_and_nothing_else_counts(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(classes=4), helpers.images(24, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    targets = (labels + 2) % 4
    modified, ledger = counted(net, inputs, labels, targets=targets, eps=8 / 255, steps=20, queries=20)
    after = helpers.predicted(net, modified)
    plain = apgd(net, inputs, labels, targets=targets, eps=8 / 255, steps=20)
    assert (helpers.predicted(net, plain) == targets).any()
    assert ((after == targets) | (helpers.predicted(net, plain) != targets)).all()
    astray = (after != targets) & (after != labels)
    assert astray.any()
    assert (ledger.gradients[astray] == 2 * (1 + 20)).all()


def test_masks_of_one_and_of_each_image_are_kept(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(6, (1, 9, 9))
    labels = helpers.predicted(net, inputs)
    each = torch.rand(6, 1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.3
    for mask in (each, each[:1]):
        modified = robust(net, inputs, labels, mask=mask, steps=5, queries=10)
        outside = ~mask.expand_as(inputs)
        assert torch.equal(modified[outside], inputs[outside])
        assert (modified != inputs).flatten(1).any(dim=1).all()


def test_one_that_withstands_comes_back_as_the_attempt_of_largest_margin(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=50.0), helpers.images(4, (1, 12, 12))
    labels = torch.zeros(4, dtype=torch.int64)
    modified = robust(net, inputs, labels, eps=3 / 255, steps=4, queries=5)
    assert torch.equal(modified, apgd(net, inputs, labels, eps=3 / 255, steps=4))


def test_no_images_and_impossible_arguments(helpers: Any) -> None:
    net, labels = helpers.ConvNet(), torch.zeros(0, dtype=torch.int64)
    assert robust(net, torch.zeros(0, 1, 9, 9), labels).shape == (0, 1, 9, 9)
    for wrong, sentence in (({"norm": "l1"}, "of square"), ({"steps": 0}, "steps"), ({"queries": 0}, "queries")):
        with pytest.raises(ValueError, match=sentence):
            robust(net, torch.zeros(0, 1, 9, 9), labels, **wrong)
