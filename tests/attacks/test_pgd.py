"""Fixed budgets: never exceeded on the lattice, and used."""

from typing import Any

import pytest
import torch

from dxray.attacks.engine.budget import find_budget
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.fgsm import fgsm
from dxray.attacks.pgd import pgd


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("linf", 5.9 / 255), ("l2", 0.1), ("l1", 0.4)])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_budget_is_kept_and_used_on_the_lattice(attack: Any, norm: str, eps: float, helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=9.0), helpers.images(12, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    size = find_norm(norm)(attack(net, inputs, labels, norm=norm, eps=eps) - inputs)
    assert (size <= eps + 1e-6).all()
    assert (size > 0.7 * eps).all()


def test_a_budget_below_one_grey_level_changes_nothing(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(3, (1, 9, 9))
    assert torch.equal(pgd(net, inputs, helpers.predicted(net, inputs), eps=0.9 / 255), inputs)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_it_fools_whatever_one_step_fools_and_more(norm: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(64, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    eps = {"linf": 2 / 255, "l2": 0.15, "l1": 1.0}[norm]
    one, many, drifting = (
        (helpers.predicted(net, modified) != labels).sum()
        for modified in (
            fgsm(net, inputs, labels, norm=norm, eps=eps),
            pgd(net, inputs, labels, norm=norm, eps=eps),
            pgd(net, inputs, labels, norm=norm, eps=eps, momentum=0.75),
        )
    )
    assert 0 < one <= min(many, drifting)
    assert many < 64


@pytest.mark.parametrize("random_start", [False, True])
def test_it_takes_as_many_steps_as_asked_for(random_start: bool, helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=30.0), helpers.images(2, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    clean = helpers.predicted(net, inputs)
    assert torch.equal(clean, labels)
    one = pgd(net, inputs, labels, eps=8 / 255, steps=1, random_start=random_start)
    # Of a linear net, one step of 2.5 budgets leads to the corner that all others lead to.
    assert torch.equal(one, pgd(net, inputs, labels, eps=8 / 255, steps=9, random_start=random_start))


def test_another_seed_starts_elsewhere(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=30.0), helpers.images(2, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    first, second = (pgd(net, inputs, labels, seed=seed, steps=1, step_size=1 / 255) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_projections_agree_with_a_slow_search(helpers: Any) -> None:
    change = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 4
    for norm in ("linf", "l2", "l1"):
        budget = find_budget(norm)
        inside = budget.project(change, 6.0)
        assert (budget.size(inside) <= 6.0001).all()
        distance = (change - inside).square().sum(dim=1)
        for trial in range(200):  # no point of the ball is nearer
            other = torch.randn(5, 30, generator=torch.Generator().manual_seed(trial)) * 0.3 + inside
            other = other * (6.0 / budget.size(other)).clamp(max=1).unsqueeze(1)
            assert (distance <= (change - other).square().sum(dim=1) + 1e-3).all()


def test_impossible_budgets_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="eps must not be negative"):
        pgd(net, inputs, labels, eps=-0.1)
    with pytest.raises(ValueError, match="known norms of a budget: linf, l2, l1"):
        pgd(net, inputs, labels, norm="l0")
