"""Square: no gradient, no batch-mates, whole grey levels; it gets past what hides the gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.apgd import apgd
from dxray.attacks.engine.budget import find_budget
from dxray.attacks.engine.lattice import on_grid
from dxray.attacks.engine.masks import box
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger
from dxray.attacks.pgd import pgd
from dxray.attacks.square import L2Search, LinfSearch, Search, square


class Halves(nn.Module):
    """Class 1 where the upper half is brighter by `gap` grey levels; `stairs` rounds the logit, so no slope is left."""

    def __init__(self, gap: float, stairs: float = 0.0) -> None:
        super().__init__()
        self.gap, self.stairs = gap, stairs

    def forward(self, images: Tensor) -> Tensor:
        upper, lower = images.flatten(1).chunk(2, dim=1)
        z = 255 * (upper.mean(dim=1) - lower.mean(dim=1)) - self.gap
        if self.stairs:
            z = z + ((z / self.stairs).floor() * self.stairs - z).detach() - (z - z.detach())
        return torch.stack([-z / 2, z / 2], dim=1)


GREY = torch.full((4, 1, 12, 12), 128 / 255)
ZEROS = torch.zeros(4, dtype=torch.int64)


def test_a_net_of_stairs_stops_gradients_but_not_square(helpers: Any) -> None:
    net, inputs = Halves(gap=9.5, stairs=1.0), GREY + torch.arange(4).view(4, 1, 1, 1) / 255
    for attack in (pgd, apgd):
        assert torch.equal(attack(net, inputs, ZEROS, eps=8 / 255), inputs)
    modified = square(net, inputs, ZEROS, eps=8 / 255)
    assert (helpers.predicted(net, modified) == 1).all()
    assert (find_norm("linf")(modified - inputs) <= 8 / 255 + 1e-6).all()


def test_linf_reaches_a_linear_optimum_just_within_the_budget_and_never_beyond(helpers: Any) -> None:
    for gap, fooled in ((15.4, 1), (16.6, 0)):  # 8 levels up above and 8 down below make 16
        modified = square(Halves(gap), GREY[:1], ZEROS[:1], eps=8 / 255, queries=1000 if fooled else 200)
        assert helpers.predicted(Halves(gap), modified) == fooled
        assert ((modified - GREY[:1]) * 255).round().abs().unique().tolist() == [8]


def test_l2_fools_within_the_budget_and_never_beyond_a_linear_optimum(helpers: Any) -> None:
    eps = 100 / 255  # spread evenly over 144 values: 8.33 levels each, 16.67 between the halves
    for gap, fooled in ((8.0, 1), (16.7, 0)):
        modified = square(Halves(gap), GREY[:1], ZEROS[:1], norm="l2", eps=eps, queries=600)
        assert helpers.predicted(Halves(gap), modified) == fooled
        assert 0.97 * eps < find_norm("l2")(modified - GREY[:1]) <= eps + 1e-6


def test_no_gradient_is_asked_for_and_queries_are_spent_as_documented(helpers: Any) -> None:
    inputs, labels = helpers.images(40, (1, 12, 12)), torch.zeros(40, dtype=torch.int64)
    net = Halves(gap=2.0)
    wrong = helpers.predicted(net, inputs) == 1
    ledger = Ledger.empty(40)
    with torch.inference_mode():  # any backward pass would raise
        modified = square(net, inputs, labels, eps=3 / 255, queries=30, ledger=ledger)
    fooled = (helpers.predicted(net, modified) == 1) & ~wrong
    assert fooled.any()
    assert wrong.any()
    assert (ledger.gradients == 0).all()
    assert (ledger.forwards[wrong] == 1).all()
    assert (ledger.forwards[fooled] <= 31).all()
    assert (ledger.forwards[fooled] < 20).any()
    assert (ledger.forwards[~fooled & ~wrong] == 31).all()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("linf", 5.9 / 255), ("l2", 0.1), ("l2", 0.5)])
def test_the_budget_is_kept_and_used_on_the_lattice(norm: str, eps: float, helpers: Any) -> None:
    net, inputs = Halves(gap=200.0), helpers.images(12, (3, 12, 9))
    modified = square(net, inputs, torch.zeros(12, dtype=torch.int64), norm=norm, eps=eps, queries=40)
    size = find_norm(norm)(modified - inputs)
    assert on_grid(modified)
    assert (size <= eps + 1e-6).all()
    assert (size > 0.7 * eps).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_result_does_not_depend_on_the_company(norm: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(40, (1, 10, 13))
    labels = helpers.predicted(net, inputs)
    options: dict[str, Any] = {"norm": norm, "eps": 0.1 if norm == "l2" else 2 / 255, "queries": 25}
    together = square(net, inputs, labels, **options)
    for rows in ([7], [39, 3, 7, 20], list(range(39, -1, -1))):
        assert torch.equal(square(net, inputs[rows], labels[rows], **options), together[rows])
    assert not torch.equal(square(net, inputs, labels, seed=1, **options), together)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_windows_are_spent_inside_a_small_mask(norm: str, helpers: Any) -> None:
    mask = box(12, 12, 5, 4, 8, 7)
    net, inputs = Halves(gap=0.7), GREY
    modified = square(net, inputs, ZEROS, mask=mask, norm=norm, eps=60 / 255, queries=60)
    assert torch.equal(modified[~mask.expand_as(modified)], inputs[~mask.expand_as(inputs)])
    assert (helpers.predicted(net, modified) == 1).all()


def test_a_search_keeps_what_is_as_good_and_drops_what_is_worse() -> None:
    bounds = torch.full((1, 6, 6), 9.0)
    search = LinfSearch(0, -bounds, bounds, 9.0, 100, torch.Generator().manual_seed(0))
    first = search.propose()
    assert search.learn(-1.0)
    second = search.propose()
    assert not torch.equal(first, second)
    assert not search.learn(-2.0)
    assert search.at is first
    third = search.propose()
    assert search.learn(-1.0)
    assert search.at is third


def test_a_query_is_never_spent_on_the_present_change_again() -> None:
    bounds = torch.full((1, 6, 6), 9.0)
    search = LinfSearch(0, -bounds, bounds, 9.0, 1000, torch.Generator().manual_seed(0))
    search.propose()
    for found in range(0, -60, -1):
        search.learn(float(found))
        assert not torch.equal(search.propose(), search.at)


@pytest.mark.parametrize("kind", [LinfSearch, L2Search])
def test_windows_lie_in_the_smallest_box_around_the_mask(kind: type[Search]) -> None:
    bounds = torch.zeros(1, 20, 20)
    bounds[:, 11:17, 3:8] = 9
    search = kind(0, -bounds, bounds, 9.0, 1000, torch.Generator().manual_seed(0))
    places = set()
    for _ in range(200):
        _, rows, columns = search.window(3)
        places.add((rows.start, rows.stop, columns.start, columns.stop))
    assert places == {(top, top + 3, left, left + 3) for top in range(11, 15) for left in range(3, 6)}


def test_windows_shrink_as_the_paper_has_it() -> None:
    bounds = torch.full((1, 40, 40), 9.0)
    search = LinfSearch(0, -bounds, bounds, 9.0, 10_000, torch.Generator().manual_seed(0))
    sides = {}
    for search.step in (1, 10, 11, 51, 201, 501, 1001, 8001):
        sides[search.step] = search.side()
    assert sides == {1: 36, 10: 36, 11: 25, 51: 18, 201: 13, 501: 9, 1001: 6, 8001: 2}


def test_an_l2_step_moves_the_budget_and_neither_gains_nor_loses_any() -> None:
    bounds = torch.full((2, 20, 15), 100.0)
    search = L2Search(0, -bounds, bounds, 50.0, 100, torch.Generator().manual_seed(0))
    size = find_budget("l2").size
    assert (search.propose() != 0).all()
    emptied = 0
    for found in range(30):
        search.learn(float(found))
        changed = search.propose()
        assert size(changed.view(1, -1)) == pytest.approx(50, rel=1e-4)
        emptied += int((changed == 0).any())
    assert emptied > 10


def test_a_budget_below_one_grey_level_costs_one_look(helpers: Any) -> None:
    ledger = Ledger.empty(4)
    assert torch.equal(square(Halves(0.5), GREY, ZEROS, eps=0.9 / 255, ledger=ledger), GREY)
    assert ledger.forwards.tolist() == [1, 1, 1, 1]


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown norm 'l1'; known norms of square: linf, l2"):
        square(Halves(1.0), GREY, ZEROS, norm="l1")
    for wrong in ({"eps": -0.1}, {"queries": 0}):
        with pytest.raises(ValueError, match="eps must not be negative and queries at least 1"):
            square(Halves(1.0), GREY, ZEROS, **wrong)
