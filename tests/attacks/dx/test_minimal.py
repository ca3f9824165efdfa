"""The minimal DX attack against optima that can be computed otherwise."""

from typing import Any

import pytest
import torch

from dxray.attacks.dx.l2 import L2Walk
from dxray.attacks.dx.minimal import EFFORTS, PLANS, dx
from dxray.attacks.dx.sparse import Pruning, SparseWalk
from dxray.attacks.engine import low_precision
from dxray.attacks.engine.batched_search import Bounds, Ray, Search
from dxray.attacks.engine.lattice import on_grid, to_levels
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import FLOOR, Ledger, Query


def best_on_lattice(weight: torch.Tensor, gap: float, start: torch.Tensor) -> float:
    """L2 in levels of the best round(s * weight) in the box that gains more than `gap`: the closed form, by scan."""
    scale = torch.linspace(0, 60, 40_001).view(-1, 1) / weight.abs().max()
    best = float("inf")
    for part in scale.split(20_000):
        change = torch.minimum(torch.maximum((part * weight).round(), -start), 255 - start)
        enough = (change @ weight) / 255 > gap
        if enough.any():
            best = min(best, float(change[enough].square().sum(dim=1).sqrt().min()))
    return best


@pytest.mark.parametrize("effort", EFFORTS)
def test_l2_reaches_the_closed_form_optimum_of_a_linear_net(effort: str, helpers: Any) -> None:
    net = helpers.LinearNet()
    inputs = helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    near = (gap > 0.5) & (gap < 4)
    inputs, gap = inputs[near][:16], gap[near][:16]
    modified = dx(net, inputs, torch.zeros(16, dtype=torch.int64), effort=effort)
    found = find_norm("l2")(modified - inputs) * 255
    for i in range(16):
        best = best_on_lattice(net.weight.detach(), float(gap[i]) + FLOOR, to_levels(inputs[i]).flatten())
        assert float(found[i]) <= 1.02 * best


def greedy_on_lattice(norm: str, weight: torch.Tensor, gap: float, start: torch.Tensor) -> float:
    """The exact smallest Linf (levels), L1 (levels) or L0 (pixels) that gains more than `gap` on a linear net."""
    bounds = torch.where(weight > 0, 255 - start, start)
    gain = weight.abs() / 255
    if norm == "linf":
        return next(float(k) for k in range(1, 256) if (gain * bounds.clamp(max=k)).sum() > gap)
    order = (gain if norm == "l1" else gain * bounds).argsort(descending=True)
    size, left = 0.0, gap
    for i in order.tolist():
        if gain[i] * bounds[i] > left:
            return size + (1 if norm == "l0" else float((left / gain[i]).ceil()))
        size, left = size + (1 if norm == "l0" else float(bounds[i])), left - float(gain[i] * bounds[i])
    return float("inf")


@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.0), ("l1", 1.02), ("l0", 1.0)])
@pytest.mark.parametrize("effort", EFFORTS)
def test_the_other_norms_reach_the_optimum_of_a_linear_net(norm: str, factor: float, effort: str, helpers: Any) -> None:
    net = helpers.LinearNet()
    inputs = helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    near = (gap > 0.5) & (gap < 12)
    inputs, gap = inputs[near][:16], gap[near][:16]
    modified = dx(net, inputs, torch.zeros(16, dtype=torch.int64), norm=norm, effort=effort)
    found = find_norm(norm)(modified - inputs) * (1 if norm == "l0" else 255)
    for i in range(16):
        best = greedy_on_lattice(norm, net.weight.detach(), float(gap[i]) + FLOOR, to_levels(inputs[i]).flatten())
        assert float(found[i]) <= factor * best + 0.01


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_a_slope_that_turns_round_does_not_send_a_pixel_out_of_the_box(norm: str) -> None:
    walk = SparseWalk(1, torch.Size([1, 1, 2]), 30, norm=norm, trust=64.0, error=(0.1, 0.5), memory=0.0)
    bounds = Bounds(torch.tensor([[-250.0, -128.0]]), torch.tensor([[5.0, 127.0]]))
    slope, best = torch.tensor([[1.0, 0.5]]), torch.tensor([100.0])
    walk.learn(bounds, torch.zeros(1, 2), torch.tensor([50.0]), -slope, torch.tensor([0]), torch.tensor([torch.inf]))
    walk.learn(bounds, torch.tensor([[-100.0, 0.0]]), torch.tensor([150.0]), slope, torch.tensor([1]), best)
    assert torch.equal(walk.propose(bounds), bounds.inside(walk.propose(bounds)))


def test_l0_counts_a_pixel_of_several_channels_once(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(channels=3), helpers.images(6, (3, 10, 12))
    labels = helpers.predicted(net, inputs)
    modified = dx(net, inputs, labels, norm="l0")
    change = modified - inputs
    assert (helpers.predicted(net, modified) != labels).all()
    assert (change != 0).flatten(1).sum(dim=1).float().mean() > 1.5 * find_norm("l0")(change).mean()


@pytest.mark.parametrize("norm", ["linf", "l1", "l0"])
def test_every_norm_keeps_to_the_mask_the_box_and_itself(norm: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(40, (1, 11, 14))
    labels, mask = helpers.predicted(net, inputs), torch.zeros(1, 1, 11, 14, dtype=torch.bool)
    mask[..., 2:9, 3:12] = True
    modified = dx(net, inputs, labels, norm=norm, mask=mask)
    assert on_grid(modified)
    assert torch.equal(modified[~mask.expand_as(inputs)], inputs[~mask.expand_as(inputs)])
    assert (helpers.predicted(net, modified) != labels).float().mean() > 0.9
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:7]
    assert torch.equal(dx(net, inputs[order], labels[order], norm=norm, mask=mask), modified[order])
    sizes = {other: find_norm(norm)(dx(net, inputs, labels, norm=other, mask=mask) - inputs).mean() for other in PLANS}
    assert min(sizes, key=lambda other: sizes[other]) == norm


def test_confidence_is_a_margin_kept(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(8, (1, 12, 12))
    labels = helpers.predicted(net, inputs)
    modified = dx(net, inputs, labels, confidence=2.0)
    with torch.no_grad():
        logits = net(modified)
    margin = logits.gather(1, 1 - labels.unsqueeze(1)) - logits.gather(1, labels.unsqueeze(1))
    assert (margin > 2.0).all()


def test_more_steps_never_cost_distance_on_average(helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(32, (1, 16, 16))
    labels = helpers.predicted(net, inputs)
    few, many = (find_norm("l2")(dx(net, inputs, labels, steps=steps) - inputs).mean() for steps in (4, 32))
    assert many < few


@pytest.mark.parametrize("norm", PLANS)
def test_no_steps_are_no_attack(norm: str, helpers: Any) -> None:
    """Every face would be missed, which reads as if the net withstood."""
    net, inputs = helpers.ConvNet(), helpers.images(2, (1, 9, 9))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        dx(net, inputs, helpers.predicted(net, inputs), norm=norm, steps=0)


def test_the_ledger_counts_the_steps(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_precision, "_multiplies", lambda device: False)
    net, inputs = helpers.ConvNet(), helpers.images(40, (1, 9, 9))
    ledger = Ledger.empty(40)
    labels = helpers.predicted(net, inputs)
    labels[7] = (labels[7] + 1) % 3
    dx(net, inputs, labels, steps=6, ledger=ledger)
    assert ledger.gradients[7] == 1
    assert ledger.forwards[7] == 0
    assert ((ledger.gradients >= 6) & (ledger.gradients <= 24)).sum() == 39


def test_an_unknown_norm_lists_the_known_ones(helpers: Any) -> None:
    with pytest.raises(ValueError, match="unknown norm 'l3'"):
        dx(helpers.ConvNet(), helpers.images(1, (1, 9, 9)), torch.tensor([0]), norm="l3")


class FlatAtFirst(torch.nn.Module):
    """Margin 4 t^3 + 0.02 t - 1 at a distance t along one direction from grey: nearly flat there, steep at the border.

    The linear model at the image puts the border 80 times too far away; it lies at t = 0.627.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        t = (images - 128 / 255).flatten(1).mean(dim=1) * images[0].numel() ** 0.5
        return torch.stack([torch.zeros_like(t), 4 * t**3 + 0.02 * t - 1], dim=1)


def test_a_net_that_is_flat_at_the_image_does_not_send_the_search_astray() -> None:
    """What is spent on coming back to the border does not count as a look, so the change still becomes small."""
    image = torch.full((1, 1, 12, 12), 128 / 255)
    found = dx(FlatAtFirst(), image, torch.zeros(1, dtype=torch.int64))
    assert FlatAtFirst()(found).argmax(dim=1).item() == 1
    assert float((found - image).norm()) < 1.1 * 0.627


class Curved(torch.nn.Module):
    """Margin a + b/2 + b^2 / 4 - 30 at 6a grey levels along one random direction from grey, 6b along another."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = torch.linalg.qr(torch.randn(144, 2, generator=torch.Generator().manual_seed(0)))[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a, b = ((images * 255 - 128).flatten(1) @ self.ways / 6).unbind(dim=1)
        return torch.stack([torch.zeros_like(a), a + b / 2 + b.square() / 4 - 30], dim=1)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_direction_that_the_first_slope_hardly_shows_is_found(effort: str) -> None:
    """Along the first slope the border is 1.6 times as far as the least."""
    b = torch.linspace(0, 12, 10_001)
    least = 6 * ((30 - b / 2 - b.square() / 4).square() + b.square()).sqrt().min()
    image = torch.full((1, 1, 12, 12), 128 / 255)
    found = dx(Curved(), image, torch.zeros(1, dtype=torch.int64), effort=effort)
    assert Curved()(found).argmax(dim=1).item() == 1
    assert ((found - image) * 255).norm() <= 1.02 * least


class FarAndBent(torch.nn.Module):
    """Margin 4 t^6 + 0.02 t - 1 at a distance t / `near` from grey along a random direction: 0 at t = 0.78."""

    def __init__(self, near: float) -> None:
        super().__init__()
        weight = torch.randn(144, generator=torch.Generator().manual_seed(0))
        self.weight = near * weight / weight.norm()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        t = ((images - 128 / 255).flatten(1) @ self.weight).clamp(min=0)
        return torch.stack([torch.zeros_like(t), 4 * t**6 + 0.02 * t - 1], dim=1)


@pytest.mark.parametrize("near", [0.5, 0.3])
def test_l1_reaches_a_border_that_many_values_must_go_all_the_way_for(near: float) -> None:
    """The net is monotone in each value, so that the smallest L1 is that of its steepest values, gone all the way."""
    net, image = FarAndBent(near), torch.full((1, 1, 12, 12), 128 / 255)
    found = dx(net, image, torch.zeros(1, dtype=torch.int64), norm="l1", effort="fast")
    assert net(found).argmax(dim=1).item() == 1
    bounds = torch.where(net.weight > 0, 127.0, 128.0) / 255
    order = net.weight.abs().argsort(descending=True)
    reached, spent = (net.weight.abs() * bounds)[order].cumsum(0), bounds[order].cumsum(0)
    border = next(t / 1000 for t in range(1000) if 4 * (t / 1000) ** 6 + 0.02 * t / 1000 >= 1)
    assert (found - image).abs().sum() <= 1.02 * spent[int((reached >= border).nonzero()[0])]


@pytest.mark.parametrize(("best", "trust"), [(torch.inf, 16.0), (9.0, 8.0)])
def test_a_model_that_foretold_badly_is_trusted_less_only_once_the_image_has_fooled(best: float, trust: float) -> None:
    walk = SparseWalk(1, torch.Size((1, 4, 4)), 9, norm="l1", trust=16.0, error=(0.07, 0.2), memory=0.5)
    bounds = Bounds(torch.full((1, 16), -99.0), torch.full((1, 16), 99.0))
    change = torch.zeros(1, 16)
    for step, smallest in enumerate((torch.inf, best)):  # the margin stays where it was, whatever was promised
        walk.learn(
            bounds, change, torch.tensor([5.0]), torch.ones(1, 16), torch.tensor([step]), torch.tensor([smallest])
        )
        change = walk.propose(bounds)
    assert walk.trust.tolist() == [trust]


def test_looks_at_which_the_net_bends_do_not_count_up_to_as_many_again() -> None:
    """One slot sees the same slope at every look, another each time one at right angles to all before."""
    walk, looks = L2Walk(2, torch.Size((1, 4, 4)), 6, turn=(0.65, 0.65)), torch.zeros(2, dtype=torch.int64)
    bounds, best = Bounds(torch.full((2, 16), -99.0), torch.full((2, 16), 99.0)), torch.tensor([torch.inf, torch.inf])
    done = torch.zeros(2, dtype=torch.bool)
    for look in range(16):
        slope = torch.eye(16)[[0, look]]
        gap = torch.full((2,), 1.0 if look == 0 else -0.01)
        enough = walk.learn(bounds, walk.propose(bounds), gap, slope, torch.full((2,), look), best)
        done, looks, best = done | enough, looks + ~done, torch.ones(2)
    assert looks.tolist() == [6, 12]


class TooFar(L2Walk):
    """Ends at its first look, a fifth beyond the border, with a slope `steeper` times as steep as it saw."""

    steeper = 1.0

    def learn(
        self, bounds: Bounds, change: torch.Tensor, gap: torch.Tensor, slope: torch.Tensor, step: torch.Tensor, *_: Any
    ) -> torch.Tensor:
        length = slope.norm(dim=1, keepdim=True)
        self.v, self.r, self.slope = slope / length, torch.where(step == 0, 1.2 * gap / length[:, 0], self.r), slope
        return step > 0

    def last(self) -> Ray:
        return Ray(self.v, self.r, self.slope * self.steeper)


class TooMany(SparseWalk):
    """Ends at its first look, at which the forty values of largest slope go half as far as they may."""

    def learn(
        self, bounds: Bounds, change: torch.Tensor, gap: torch.Tensor, slope: torch.Tensor, step: torch.Tensor, *_: Any
    ) -> torch.Tensor:
        far = torch.where(slope > 0, bounds.high, bounds.low)
        few = slope.abs() >= slope.abs().topk(40, dim=1).values[:, -1:]
        self.v, self.at = slope, torch.where(step.unsqueeze(1) == 0, (far / 2).round() * few, self.at)
        return step > 0


def test_pixels_that_l0_does_not_need_are_left_out_without_gradients(helpers: Any) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    inputs, gap = inputs[(gap > 1) & (gap < 8)][:16], gap[(gap > 1) & (gap < 8)][:16]
    walk = TooMany(4, inputs.shape[1:], 1, norm="l0", trust=1.0, error=(0.1, 0.2), memory=0.0)
    with Query(net, torch.zeros(16, dtype=torch.int64), batch=4) as query:
        found = Search(query, inputs.shape[1:], walk, steps=9, floor=FLOOR, polish=16).all(inputs)
    sizes = find_norm("l0")(found - inputs).tolist()
    weight = net.weight.detach()
    best = [greedy_on_lattice("l0", weight, float(gap[i]) + FLOOR, to_levels(inputs[i]).flatten()) for i in range(16)]
    assert len(set(best)) > 2
    assert sizes == best


def test_a_pixel_that_l0_cannot_spare_is_not_tried_again_and_the_others_are() -> None:
    """Four changed pixels, of which the slope takes the one that is needed for the least; two are left out at first."""
    bounds = Bounds(torch.full((1, 6), -9.0), torch.full((1, 6), 9.0))
    best = torch.tensor([[3.0, -3.0, 3.0, 3.0, 0.0, 0.0]])
    last = Pruning(
        torch.tensor([[1.0, -2.0, 3.0, 4.0, 9.0, 0.0]]), torch.ones(1, 6, dtype=torch.bool), torch.tensor([2])
    )
    seen, worth = [], torch.tensor([True])
    while worth:
        change = last.look(bounds, best)
        fooled = bool(change[0, 0] != 0)
        seen.append((change[0].tolist(), fooled))
        last, worth = last.learn(bounds, best, change, torch.tensor([1.0 if fooled else -1.0]))
        best = change if fooled else best
    assert seen == [
        ([0, 0, 9, 9, 0, 0], False),
        ([0, -9, 9, 9, 0, 0], False),
        ([9, 0, 9, 9, 0, 0], True),
        ([9, 0, 0, 9, 0, 0], True),
        ([9, 0, 0, 0, 0, 0], True),
    ]


@pytest.mark.parametrize(("steeper", "looks"), [(1.0, (2, 3)), (2.0, (5, 6)), (0.75, (4, 6))])
def test_the_radius_is_corrected_without_gradients_for_as_long_as_that_helps(
    steeper: float, looks: tuple[int, int], helpers: Any
) -> None:
    net, inputs = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(inputs).diff(dim=1).flatten()
    inputs, gap = inputs[(gap > 1) & (gap < 4)][:5], gap[(gap > 1) & (gap < 4)][:5]
    ledger, walk = Ledger.empty(5), TooFar(4, inputs.shape[1:], 1, turn=(1.0, 1.0))
    walk.steeper = steeper
    with Query(net, torch.zeros(5, dtype=torch.int64), batch=4, ledger=ledger) as query:
        found = Search(query, inputs.shape[1:], walk, steps=9, floor=FLOOR, polish=6).all(inputs)
    assert ((ledger.forwards >= looks[0]) & (ledger.forwards <= looks[1])).all()
    for i, size in enumerate((find_norm("l2")(found - inputs) * 255).tolist()):
        best = best_on_lattice(net.weight.detach(), float(gap[i]) + FLOOR, to_levels(inputs[i]).flatten())
        assert size <= 1.02 * best
