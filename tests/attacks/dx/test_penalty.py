"""The course's claim: a larger weight gives a smaller DX, until it no longer fools."""

from typing import Any

import pytest
import torch

from dxray.attacks.dx.penalty import dx_penalty
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger


@pytest.mark.parametrize(("norm", "weights"), [("l2", (0, 3, 5)), ("l1", (0, 0.3, 0.6)), ("linf", (0, 20, 45))])
def test_a_larger_weight_gives_a_smaller_change_until_it_no_longer_fools(
    norm: str, weights: tuple[float, ...], helpers: Any
) -> None:
    net = helpers.LinearNet(gap=2.0)
    inputs = torch.full((1, 1, 12, 12), 128 / 255)
    labels = torch.zeros(1, dtype=torch.int64)
    sizes = []
    for weight in weights:
        modified = dx_penalty(net, inputs, labels, norm=norm, weight=weight, steps=120)
        assert helpers.predicted(net, modified).item() == 1
        sizes.append(find_norm(norm)(modified - inputs).item())
    assert sizes == sorted(sizes, reverse=True)
    priced_out = dx_penalty(net, inputs, labels, norm=norm, weight=1e6)
    assert helpers.predicted(net, priced_out).item() == 0


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_a_price_above_all_that_a_change_gains_leaves_the_image(norm: str, helpers: Any) -> None:
    """So near to the border that Adam's first step, one grey level in every value whatever the weight, would fool."""
    net, inputs = helpers.LinearNet(gap=0.05), torch.full((1, 1, 12, 12), 128 / 255)
    slope = net.weight.detach().abs()
    dearest = {"l2": slope.norm(), "l1": slope.max(), "linf": slope.sum()}[norm].item()
    labels, ledger = torch.zeros(1, dtype=torch.int64), Ledger.empty(1)
    assert torch.equal(dx_penalty(net, inputs, labels, norm=norm, weight=dearest, ledger=ledger), inputs)
    assert ledger.gradients.item() == 1
    assert helpers.predicted(net, dx_penalty(net, inputs, labels, norm=norm, weight=dearest / 10)).item() == 1


def test_an_unknown_norm_lists_the_known_ones(helpers: Any) -> None:
    with pytest.raises(ValueError, match="unknown norm 'l0'; known norms of the penalty: l2, l1, linf"):
        dx_penalty(helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0]), norm="l0")
