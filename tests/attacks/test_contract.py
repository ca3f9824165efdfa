"""What every attack in ATTACKS owes its caller; a new one is covered by its name in that dict."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks import ATTACKS, find
from dxray.attacks.engine.lattice import on_grid, to_uint8
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger
from dxray.attacks.engine.scoring import Outcome, score

Attack = Callable[..., Tensor]

# What they try until one fools, or to the end, where the default would take seconds.
FEW: dict[str, dict[str, int]] = {
    "robust": {"steps": 10, "queries": 50},
    "square": {"queries": 100},
    "hopskipjump": {"queries": 400},
}


def quick(name: str) -> Attack:
    return partial(find(name), **FEW.get(name, {}))


def recorded(
    net: nn.Module, inputs: Tensor, modified: Tensor, labels: Tensor, targets: Tensor | None = None
) -> Outcome:
    """What the table of a run would say of the saved images."""
    return score(net, to_uint8(inputs), to_uint8(modified), labels, targets)


def check_contract(attack: Attack, net: nn.Module, inputs: Tensor, labels: Tensor, mask: Tensor) -> None:
    """Assert what an attack owes on images the net gets right and that lie close enough to the border to be fooled."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept = inputs.clone(), labels.clone(), mask.clone()
    net.train()
    frozen = next(net.parameters()).requires_grad_(False)
    modified = attack(net, inputs, labels, mask=mask, seed=3)
    assert all(module.training for module in net.modules()), "left the net in eval mode"
    assert [p.requires_grad for p in net.parameters()] == [p is not frozen for p in net.parameters()]
    assert all(p.grad is None for p in net.parameters()), "left gradients on the weights"
    frozen.requires_grad_(True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "changed the net"
    assert all(torch.equal(now, then) for now, then in zip((inputs, labels, mask), kept, strict=True))
    assert modified.shape == inputs.shape
    assert modified.dtype == torch.float32
    assert not modified.requires_grad
    assert on_grid(modified), "left the lattice or the box"
    outside = ~mask.expand_as(inputs)
    assert torch.equal(modified[outside], inputs[outside]), "changed something off the mask"
    with torch.no_grad():
        fooled = net.eval()(modified).argmax(dim=1) != labels
    assert fooled.all(), f"fooled only {int(fooled.sum())} of {len(labels)} easy images"


@pytest.fixture
def easy(helpers: Any) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear net, 20 images just inside class 0, and a mask of all but one column."""
    net = helpers.LinearNet()
    inputs = helpers.images(200, (1, 12, 12))
    with torch.no_grad():
        gap = net(inputs).diff(dim=1).flatten()
    inputs = inputs[(gap < 0) & (gap > -3)][:20]
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    mask[..., 4] = False
    return net, inputs, torch.zeros(len(inputs), dtype=torch.int64), mask


@pytest.mark.parametrize("name", ATTACKS)
def test_keeps_the_contract(name: str, easy: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    check_contract(find(name), *easy)


def test_the_contract_rejects_an_attack_that_returns_its_input(easy: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    def identity(net: nn.Module, inputs: Tensor, labels: Tensor, **_: Any) -> Tensor:
        return inputs.clone()

    with pytest.raises(AssertionError, match="fooled only 0"):
        check_contract(identity, *easy)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_result_does_not_depend_on_the_company(name: str, helpers: Any) -> None:
    attack, net, inputs = quick(name), helpers.ConvNet(), helpers.images(64, (1, 11, 14))
    labels = helpers.predicted(net, inputs)
    labels[5] = (labels[5] + 1) % 3  # leaves its slot early, so the others' slots differ between the runs
    together = attack(net, inputs, labels, seed=1)
    alone = torch.cat([attack(net, inputs[i : i + 1], labels[i : i + 1], seed=1) for i in (0, 5, 33, 63)])
    assert torch.equal(alone, together[[0, 5, 33, 63]])
    seven = torch.tensor([63, 2, 33, 5, 17, 40, 8])
    assert torch.equal(attack(net, inputs[seven], labels[seven], seed=1), together[seven])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    ledger = Ledger.empty(64)
    assert torch.equal(attack(net, inputs[order], labels[order], seed=1, ledger=ledger), together[order])
    assert ((ledger.gradients + ledger.forwards) > 0).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_images(name: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(5, (1, 9, 9))
    labels = helpers.predicted(net, inputs)
    first = quick(name)(net, inputs, labels, seed=4)
    torch.manual_seed(123)  # the global generator is none of an attack's business
    assert torch.equal(quick(name)(net, inputs, labels, seed=4), first)


@pytest.mark.parametrize("name", ATTACKS)
def test_reaches_a_target_on_colour_images_that_are_not_square(name: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(channels=3, classes=4), helpers.images(12, (3, 10, 17))
    labels = helpers.predicted(net, inputs)
    with torch.no_grad():
        targets = net.eval()(inputs).topk(2, dim=1).indices[:, 1]
    modified = quick(name)(net, inputs, labels, targets=targets)
    assert modified.shape == inputs.shape
    assert (helpers.predicted(net, modified) == targets).float().mean() >= 0.75


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [name for name in ATTACKS if "eps" in signature(ATTACKS[name]).parameters])
def test_a_budget_is_kept(name: str, norm: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(12, (1, 11, 14))
    labels = helpers.predicted(net, inputs)
    eps = {"linf": 2 / 255, "l2": 0.05}[norm]
    size = find_norm(norm)(quick(name)(net, inputs, labels, norm=norm, eps=eps) - inputs)
    assert (size <= eps + 1e-6).all()
    assert (size > 0).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_images_already_wrong_come_back_unchanged_and_are_recorded_as_such(name: str, helpers: Any) -> None:
    net, inputs = helpers.ConvNet(), helpers.images(6, (1, 9, 9))
    labels = (helpers.predicted(net, inputs) + 1) % 3
    for targets in (None, (labels + 1) % 3):
        modified = quick(name)(net, inputs, labels, targets=targets)
        assert torch.equal(modified, inputs)
        assert recorded(net, inputs, modified, labels, targets).status.tolist() == ["already_wrong"] * 6


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_whose_mask_has_no_area_is_missed_and_the_others_are_not(
    name: str, easy: tuple[nn.Module, Tensor, Tensor, Tensor]
) -> None:
    net, inputs, labels, _ = easy
    mask = torch.ones(len(inputs), 1, 12, 12, dtype=torch.bool)
    mask[2] = False
    modified = find(name)(net, inputs, labels, mask=mask)
    assert torch.equal(modified[2], inputs[2])
    outcome = recorded(net, inputs, modified, labels)
    assert outcome.status.tolist() == ["missed" if i == 2 else "fooled" for i in range(len(inputs))]
    assert outcome.l2[2] == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_constant_black_and_white_images_are_fooled_inside_the_box(name: str, helpers: Any) -> None:
    net = helpers.LinearNet()
    inputs = torch.stack([torch.full((1, 12, 12), value) for value in (0.0, 1.0, 128 / 255)])
    with torch.no_grad():  # each is left just inside its class
        for image in inputs:
            gap = net(image.unsqueeze(0)).diff(dim=1).item()
            net.bias.sub_(gap + 0.3)
            # JSMA only ever brightens, or only ever darkens: nothing is left to do on white but the latter.
            options = {"theta": -1.0} if name == "jsma" and bool((image == 1).all()) else {}
            modified = find(name)(net, image.unsqueeze(0), torch.tensor([0]), **options)
            assert on_grid(modified)
            assert recorded(net, image.unsqueeze(0), modified, torch.tensor([0])).status.item() == "fooled"


class Blind(nn.Module):
    """Answers without a look at the image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)


class Flat(nn.Module):
    """Its logits follow from the image and have a gradient, which is zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([mean.round() * 0 + 1, mean.ceil() * 0], dim=1)


@pytest.mark.parametrize("net", [Blind(), Flat()], ids=["none", "zero"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_net_without_gradient_ends_as_missed(name: str, net: nn.Module, helpers: Any) -> None:
    inputs, labels = helpers.images(3, (1, 9, 9)), torch.zeros(3, dtype=torch.int64)
    modified = quick(name)(net, inputs, labels)
    assert on_grid(modified)
    assert recorded(net, inputs, modified, labels).status.tolist() == ["missed"] * 3


@pytest.mark.parametrize("name", ATTACKS)
def test_a_one_logit_net_is_a_two_class_net(name: str, easy: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    two, inputs, labels, _ = easy

    class OneLogit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return two(images).diff(dim=1)

    modified = find(name)(OneLogit(), inputs, labels)
    assert (OneLogit()(modified) > 0).all()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"targets": torch.tensor([1, 2])}, "must differ from the label"),
        ({"inputs": torch.full((2, 1, 9, 9), torch.nan)}, r"NaN or values outside"),
        ({"inputs": torch.full((2, 1, 9, 9), 1.5)}, r"lie in \[0, 1\]"),
        ({"inputs": torch.zeros(2, 9, 9)}, "float32"),
        ({"labels": torch.tensor([1])}, "one per image"),
        ({"labels": torch.tensor([1, 7])}, "has 3 classes"),
        ({"mask": torch.ones(2, 1, 9, 9)}, "mask must be bool"),
    ],
)
def test_impossible_arguments_are_refused_with_a_sentence(
    name: str, change: dict[str, Tensor], sentence: str, helpers: Any
) -> None:
    arguments = {"inputs": helpers.images(2, (1, 9, 9)), "labels": torch.tensor([1, 0])} | change
    with pytest.raises(ValueError, match=sentence):
        find(name)(helpers.ConvNet(), **arguments)


class Broken(nn.Module):
    """NaN for the images that are very dark."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([mean, 0.4 - mean], dim=1) / (mean > 0.1)


@pytest.mark.parametrize("name", [name for name in ATTACKS if "steps" in signature(ATTACKS[name]).parameters])
def test_no_steps_are_no_attack(name: str, helpers: Any) -> None:
    """Every face would be missed, which reads as if the net withstood."""
    net, inputs = helpers.ConvNet(), helpers.images(2, (1, 9, 9))
    with pytest.raises(ValueError, match="steps"):
        find(name)(net, inputs, helpers.predicted(net, inputs), steps=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_net_that_gives_nan_is_named_and_so_is_the_image(name: str, helpers: Any) -> None:
    inputs = helpers.images(3, (1, 9, 9))
    inputs[1] = 0
    with pytest.raises(ValueError, match=r"the net Broken gave NaN or infinite logits for images \[1\]"):
        find(name)(Broken(), inputs, torch.zeros(3, dtype=torch.int64))


def test_an_unknown_attack_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown attack 'nope'; known attacks: .*dx"):
        find("nope")
