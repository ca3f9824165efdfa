"""DDN against the closed form on a linear net, and what its sphere and its steps owe."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.ddn import SphereWalk, ddn
from dxray.attacks.deepfool import deepfool
from dxray.attacks.engine.batched_search import Bounds
from dxray.attacks.engine.lattice import on_grid, to_levels
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import FLOOR, Ledger


def shortest(weight: Tensor, gap: float, start: Tensor) -> float:
    """L2 in grey levels of the first round(s * weight) in the box that gains `gap`, s rising by small steps."""
    scale = torch.arange(0, 25, 0.001).view(-1, 1) / weight.abs().max()
    change = torch.minimum(torch.maximum((scale * weight).round(), -start), 255 - start)
    enough = (change @ weight) / 255 > gap
    assert enough.any()
    first = int(enough.float().argmax())
    return float(change[first].norm())


def test_it_reaches_the_closed_form_optimum_of_a_linear_net(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    near = (gap > 0.5) & (gap < 4)
    inputs, gap = inputs[near][:8], gap[near][:8]
    modified = ddn(net, inputs, torch.zeros(8, dtype=torch.int64))
    for i, size in enumerate((find_norm("l2")(modified - inputs) * 255).tolist()):
        assert size <= 1.01 * shortest(net.weight.detach(), float(gap[i]) + FLOOR, to_levels(inputs[i]).flatten())


def test_it_looks_at_saved_images_only(helpers: Any) -> None:
    class OnGridOnly(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert on_grid(images.detach())
            logits: Tensor = net(images)
            return logits

    net, inputs = helpers.ConvNet(), helpers.images(8, (1, 9, 9))
    labels = helpers.predicted(net, inputs)
    ledger = Ledger.empty(8)
    modified = ddn(OnGridOnly(), inputs, labels, steps=30, ledger=ledger)
    assert (helpers.predicted(net, modified) != labels).all()
    assert ledger.gradients.tolist() == [31] * 8
    assert ledger.forwards.tolist() == [0] * 8


def test_it_finds_less_than_deepfool_and_with_more_steps_less_still(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(classes=2), helpers.images(32, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    once, few, many = (
        find_norm("l2")(modified - inputs).mean()
        for modified in (
            deepfool(net, inputs, labels),
            ddn(net, inputs, labels, steps=60),
            ddn(net, inputs, labels, steps=150),
        )
    )
    assert many < few < once


def test_the_losses_differ_with_more_than_two_classes_only(helpers: Any) -> None:
    inputs = helpers.images(16, (1, 16, 16))
    for classes in (2, 3):
        net = helpers.ConvNet(classes=classes)
        labels = helpers.predicted(net, inputs)
        ce, margin = (
            find_norm("l2")(ddn(net, inputs, labels, loss=loss, steps=60) - inputs).mean() for loss in ("ce", "margin")
        )
        assert margin == pytest.approx(float(ce), rel=1e-3) if classes == 2 else margin < ce


def test_a_net_that_is_very_sure_is_attacked_like_any_other(helpers: Any) -> None:
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = net(images)
            return logits * 300

    net, inputs = helpers.LinearNet(gap=2.0), torch.full((1, 1, 12, 12), 128 / 255)
    labels = torch.zeros(1, dtype=torch.int64)
    modified = ddn(Sure(), inputs, labels)
    assert helpers.predicted(net, modified).item() == 1
    plain = find_norm("l2")(ddn(net, inputs, labels) - inputs).item()
    assert find_norm("l2")(modified - inputs).item() == pytest.approx(plain, rel=0.01)


def test_the_sphere_grows_until_it_reaches_the_border(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=9.0), torch.full((1, 1, 12, 12), 128 / 255)
    labels = torch.zeros(1, dtype=torch.int64)
    short, long = (ddn(net, inputs, labels, steps=steps, radius=0.1) for steps in (10, 60))
    assert helpers.predicted(net, short).item() == 0, "0.1 * 1.05 ** 10 is less than the border's distance"
    assert find_norm("l2")(short - inputs).item() == pytest.approx(0.1 * 1.05**9, rel=0.15)
    assert helpers.predicted(net, long).item() == 1


def test_steps_shorten_along_a_cosine() -> None:
    bounds = Bounds(torch.full((1, 2), -1e4), torch.full((1, 2), 1e4))
    walk = SphereWalk(1, torch.Size([2]), steps=100, radius=100.0, gamma=0.05)
    turned = []
    for step in (1, 50, 100):
        walk.at, walk.r = torch.tensor([[100.0, 0.0]]), torch.tensor([100.0])
        state = torch.tensor([1.0]), torch.tensor([[0.0, 7.0]]), torch.tensor([step]), torch.tensor([torch.inf])
        walk.learn(bounds, walk.propose(bounds), *state)
        assert walk.at.norm().item() == pytest.approx(105.0)
        turned.append(float(walk.at[0, 1] / walk.at[0, 0] * 100 / 255))
    assert turned == pytest.approx([1.0, 0.505, 0.01], abs=1e-3)


def test_impossible_knobs_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="got steps=0, radius"):
        ddn(net, inputs, labels, steps=0)
    with pytest.raises(ValueError, match="unknown loss 'dlr'; known losses: ce, margin"):
        ddn(net, inputs, labels, loss="dlr")
