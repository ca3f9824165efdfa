"""APGD: fools exactly where the budget is enough, halves its steps where it stalls, and is right for two classes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.apgd import AutoWalk, apgd, checkpoints, log_odds
from dxray.attacks.engine.batched_search import Bounds
from dxray.attacks.engine.budget import find_budget
from dxray.attacks.engine.lattice import on_grid
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import FLOOR, Ledger, cross_entropy, margin
from dxray.attacks.pgd import pgd


class Sines(nn.Module):
    """Two classes of a rugged landscape: many hills on the way, a few of them over the border."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.wave = nn.Parameter(torch.randn(16, 200, generator=generator) * 30)
        self.phase = nn.Parameter(torch.rand(200, generator=generator) * 7)

    def forward(self, images: Tensor) -> Tensor:
        z = (images.flatten(1) @ self.wave + self.phase).sin().sum(dim=1) - 45
        return torch.stack([torch.zeros_like(z), z], dim=1)


def within_reach(net: Any, inputs: Tensor, levels: int) -> Tensor:
    """Whether a change of so many grey levels a value can cross the border of a linear net, bool (N,)."""
    weight, whole = net.weight.detach(), (inputs * 255).round().flatten(1)
    bounds = torch.where(weight > 0, 255 - whole, whole).clamp(max=levels) / 255
    with torch.no_grad():
        return (net(inputs).diff(dim=1).flatten() + (bounds * weight.abs()).sum(dim=1)) > FLOOR


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [False, True])
def test_linf_fools_exactly_the_images_that_the_budget_can_reach(loss: str, random_start: bool, helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=4.0), helpers.images(60, (1, 12, 12))
    inputs = inputs[helpers.predicted(net, inputs) == 0]
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    for levels in (6, 12):
        able = within_reach(net, inputs, levels)
        assert able.any()
        assert not able.all()
        modified = apgd(net, inputs, labels, eps=levels / 255, loss=loss, random_start=random_start)
        assert torch.equal(helpers.predicted(net, modified) == 1, able)


def test_l2_fools_just_above_the_needed_length_and_never_below(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=9.0), torch.full((1, 1, 12, 12), 128 / 255)
    with torch.no_grad():
        needed = float(-net(inputs).diff(dim=1)) / float(net.weight.norm())
    labels = torch.zeros(1, dtype=torch.int64)
    assert helpers.predicted(net, apgd(net, inputs, labels, norm="l2", eps=1.02 * needed)) == 1
    assert helpers.predicted(net, apgd(net, inputs, labels, norm="l2", eps=0.995 * needed)) == 0


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("linf", 5.9 / 255), ("l2", 0.1), ("l1", 0.4)])
def test_the_budget_is_kept_and_used_on_the_lattice(norm: str, eps: float, helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=12.0), helpers.images(12, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    modified = apgd(net, inputs, labels, norm=norm, eps=eps, steps=20)
    size = find_norm(norm)(modified - inputs)
    assert on_grid(modified)
    assert (size <= eps + 1e-6).all()
    assert (size > 0.7 * eps).all()


def test_gradients_are_spent_as_documented(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=4.0), helpers.images(30, (1, 12, 12))
    labels = torch.zeros(30, dtype=torch.int64)
    right, able = helpers.predicted(net, inputs) == 0, within_reach(net, inputs, 8)
    for restarts in (1, 3):
        ledger = Ledger.empty(30)
        apgd(net, inputs, labels, eps=8 / 255, steps=7, restarts=restarts, ledger=ledger)
        assert (ledger.forwards == 0).all()
        assert (ledger.gradients[~right] == 1).all()
        assert (ledger.gradients[right & able] == 2).all()  # the first step, twice the budget, ends in the corner
        assert (ledger.gradients[right & ~able] == 1 + 7 * restarts).all()


def test_a_further_run_starts_elsewhere_and_finds_more_in_a_rugged_landscape(helpers: Any) -> None:
    net, inputs = Sines(), helpers.images(48, (1, 4, 4))
    labels = torch.zeros(48, dtype=torch.int64)
    assert (helpers.predicted(net, inputs) == 0).all()
    eps = 8 / 255
    plain = pgd(net, inputs, labels, eps=eps, steps=60)
    once, thrice = (apgd(net, inputs, labels, eps=eps, steps=20, restarts=restarts) for restarts in (1, 3))
    found = [int(helpers.predicted(net, modified).sum()) for modified in (plain, once, thrice)]
    assert 0 < found[0] < found[2] < 48
    assert found[1] < found[2]
    again = apgd(net, inputs, labels, eps=eps, steps=20, restarts=3)
    other = apgd(net, inputs, labels, eps=eps, steps=20, restarts=3, seed=1)
    assert torch.equal(again, thrice)
    assert not torch.equal(other, thrice)


def test_steps_are_halved_only_where_they_do_not_help(helpers: Any) -> None:
    """A narrow ridge, which steps of twice the budget jump over for ever; a slope, on which they are right."""

    class Ridge(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first, rest = images.flatten(1)[:, 0], images.flatten(1)[:, 1:].mean(dim=1)
            z = rest - 60 * (first - 135 / 255).abs() - 0.52
            return torch.stack([torch.zeros_like(z), z], dim=1)

    inputs = torch.full((1, 1, 4, 4), 128 / 255)
    labels = torch.zeros(1, dtype=torch.int64)
    modified = apgd(Ridge(), inputs, labels, eps=10 / 255, steps=40)
    assert helpers.predicted(Ridge(), modified) == 1
    assert (modified - inputs).flatten()[0] * 255 == pytest.approx(7)


def test_a_walk_moves_as_the_paper_has_it() -> None:
    """One value, budget 8: full steps of 16, a quarter of the last move kept, and back to the best at a checkpoint."""
    walk = AutoWalk(1, torch.Size([1]), budget=find_budget("linf"), eps=8.0, steps=10, random_start=False, seed=0)
    bounds = Bounds(torch.full((1, 1), -100.0), torch.full((1, 1), 100.0))
    seen = []
    for step, (gap, slope) in enumerate([(5.0, 1.0), (1.0, -1.0), (4.0, -1.0), (6.0, 1.0)]):
        walk.learn(bounds, walk.propose(bounds), torch.tensor([gap]), torch.tensor([[slope]]), torch.tensor([step]),
                   torch.tensor([torch.inf]))  # fmt: skip
        seen.append((float(walk.at), float(walk.length)))
    # 0 -> 8 (16, cut) -> 8 - 0.75 * 16 + 0.25 * 8 -> -2 - 0.75 * 6 - 0.25 * 10
    # then the checkpoint at 3: back to 8, where the slope was -1, by 0.75 of half the length
    assert seen == [(8, 16), (-2, 16), (-8, 16), (2, 8)]


def test_the_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


def test_the_loss_does_not_vanish_where_cross_entropy_does() -> None:
    logits = torch.tensor([[0.0, 40.0]], requires_grad=True)
    labels = torch.tensor([1])
    flat = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)[0]
    steep = torch.autograd.grad(log_odds(logits, labels).sum(), logits)[0]
    assert flat[0, 1] == 0
    assert steep.tolist() == [[1, -1]]


def test_a_sure_net_of_one_logit_is_fooled(helpers: Any) -> None:
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 4000 * (images.flatten(1).mean(dim=1, keepdim=True) - 0.49)

    inputs, labels = torch.full((2, 1, 6, 6), 128 / 255), torch.ones(2, dtype=torch.int64)
    ledger = Ledger.empty(2)
    modified = apgd(Sure(), inputs, labels, eps=4 / 255, ledger=ledger)
    assert (Sure()(modified) < 0).all()
    assert (ledger.gradients == 2).all()


def test_both_losses_are_cross_entropy_and_margin_with_three_classes() -> None:
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(9) % 3, (torch.arange(9) + 1) % 3
    for aim in (None, targets):
        assert torch.allclose(
            nn.functional.softplus(log_odds(logits, labels, aim) * (1 if aim is None else -1)),
            cross_entropy(logits, labels, aim) * (1 if aim is None else -1),
        )
    two = logits[:, :2]
    assert torch.allclose(log_odds(two, labels % 2), margin(two, labels % 2))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_it_finds_at_least_what_pgd_finds(norm: str, loss: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(64, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    eps = {"linf": 2 / 255, "l2": 0.15, "l1": 1.0}[norm]
    plain, auto = (
        int((helpers.predicted(net, modified) != labels).sum())
        for modified in (
            pgd(net, inputs, labels, norm=norm, eps=eps, steps=20),
            apgd(net, inputs, labels, norm=norm, eps=eps, steps=20, loss=loss),
        )
    )
    assert 0 < plain <= auto < 64


def test_projection_and_start_stay_inside_mask_and_box(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(gap=60.0), helpers.images(4, (1, 12, 12)).round()
    labels = helpers.predicted(net, inputs)
    mask = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(5)) > 0.5
    modified = apgd(net, inputs, labels, mask=mask, random_start=True, steps=3)
    assert on_grid(modified)
    assert torch.equal(modified[~mask], inputs[~mask])
    assert (find_budget("linf").size((modified - inputs).flatten(1)) > 0).all()


def test_impossible_arguments_are_refused(helpers: Any) -> None:
    net, inputs, labels = helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0])
    with pytest.raises(ValueError, match="unknown loss 'dlr'; known losses: ce, margin"):
        apgd(net, inputs, labels, loss="dlr")
    with pytest.raises(ValueError, match="known norms of a budget: linf, l2, l1"):
        apgd(net, inputs, labels, norm="l0")
    for wrong in ({"eps": -0.1}, {"steps": 0}, {"restarts": 0}):
        with pytest.raises(ValueError, match="must not be negative, steps and restarts at least 1"):
            apgd(net, inputs, labels, **wrong)
