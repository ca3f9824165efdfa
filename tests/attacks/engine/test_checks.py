"""Each planted fault gives its own finding and no other; a healthy net gives none, trained or not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.checks import check
from dxray.models.data.faces import Faces
from dxray.models.nets import build
from dxray.models.victims.checkpoint import load


class Wrapped(nn.Module):
    """`net` with something wrong before or behind it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[..., object] = lambda x: x,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, images: Tensor) -> object:
        return self.after(self.net(self.before(images)))


class OneLogit(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        return logits[:, 1:] - logits[:, :1]


class Rounded(torch.autograd.Function):
    """To 15 steps, with the gradient of no rounding at all."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return (images * 15).round() / 15

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        return slopes[0]


@pytest.fixture(scope="module")
def net(trained: Path) -> nn.Module:
    return load(trained)[0]


@pytest.fixture(scope="module")
def images(faces: Faces) -> Tensor:
    return torch.tensor(faces.images[:32]).float() / 255


@pytest.fixture(scope="module")
def labels(faces: Faces) -> Tensor:
    return torch.tensor(faces.labels[:32])


def names(net: nn.Module, images: Tensor, labels: Tensor | None = None) -> list[str]:
    return [finding.name for finding in check(net, images, labels)]


def sampled(images: Tensor) -> Tensor:
    return images[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)


FAULTS: list[tuple[str, Callable[[nn.Module], nn.Module]]] = [
    ("output", lambda net: Wrapped(net, after=lambda logits: logits.argmax(1))),
    ("output", lambda net: Wrapped(net, after=lambda logits: {"logits": logits})),
    ("output", lambda net: Wrapped(net, after=lambda logits: logits / 0)),
    ("random", lambda net: Wrapped(net, before=lambda x: x + 0.05 * torch.randn_like(x))),
    ("random", lambda net: Wrapped(net, before=lambda x: nn.functional.dropout(x, 0.1))),
    ("batch_mates", lambda net: Wrapped(net, before=lambda x: 0.5 + 0.1 * (x - x.mean(0)) / (x.std(0) + 0.1))),
    ("constant", lambda net: Wrapped(net, before=lambda x: x * 0)),
    ("input_range", lambda net: Wrapped(net, before=lambda x: x / 255)),
    ("input_range", lambda net: Wrapped(OneLogit(net), before=lambda x: x.floor() / 255)),
    ("probabilities", lambda net: Wrapped(net, after=lambda logits: logits.softmax(1))),
    ("probabilities", lambda net: Wrapped(net, after=lambda logits: (1e4 * logits).softmax(1))),
    ("probabilities", lambda net: Wrapped(OneLogit(net), after=lambda logit: logit.sigmoid())),
    ("nan_gradient", lambda net: Wrapped(net, before=lambda x: x + 0 * (x - x).sqrt())),
    ("dead_gradient", lambda net: Wrapped(net, before=lambda x: x.detach())),
    ("blocky_gradient", lambda net: Wrapped(net, before=sampled)),
    ("quantised", lambda net: Wrapped(net, before=lambda x: (x * 15).round() / 15)),
    ("quantised", lambda net: Wrapped(net, before=lambda x: (x * 255).round() / 255)),
    ("quantised", lambda net: Wrapped(net, before=Rounded.apply)),
    ("chance", lambda net: Wrapped(net, after=lambda logits: logits.flip(1))),
]


@pytest.mark.parametrize(("name", "plant"), FAULTS)
def test_a_planted_fault_gives_its_finding_alone(
    name: str, plant: Callable[[nn.Module], nn.Module], net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    faulty = plant(net).eval()
    assert names(faulty, images, labels) == [name]
    if name != "chance":
        assert names(faulty, images) == [name]


def test_a_single_output_that_is_a_probability_is_always_the_second_class_and_that_is_said(
    net: nn.Module, images: Tensor
) -> None:
    (finding,) = check(Wrapped(OneLogit(net), after=lambda logit: logit.sigmoid()).eval(), images)
    assert "to every image the answer is the second class, and nothing below means anything" in finding.consequence
    assert "without the closing sigmoid" in finding.remedy


def test_what_is_said_of_the_range_is_what_was_seen(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    faulty = Wrapped(net, before=lambda x: x / 255).eval()
    shares = [float((faulty(seen).argmax(1) == labels).float().mean()) for seen in (images, images * 255)]
    (found,) = check(faulty, images, labels)
    assert found.evidence == f"the net is right on {shares[0]:.0%} on [0, 1], and on {shares[1]:.0%} on [0, 255]"
    (found,) = check(faulty, images)
    assert "on [0, 1] the net says class" in found.evidence


def test_a_trained_net_has_no_finding(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    for count in (1, 2, 32):
        assert names(net, images[:count], labels[:count]) == []
    assert names(OneLogit(net).eval(), images, labels) == []


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("kind", "classes"), [("convnet", 2), ("densenet", 2), ("densenet", 1), ("convnet", 10)])
def test_a_net_that_was_never_trained_has_no_finding(kind: str, classes: int, batch_norm: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    assert names(build(kind, blocks=3, filters=4, batch_norm=batch_norm, classes=classes).eval(), images[:8]) == []


def test_training_mode_is_a_finding_where_it_makes_a_difference(trained: Path, images: Tensor, labels: Tensor) -> None:
    assert names(load(trained)[0].train(), images, labels) == ["training_mode"]
    assert names(build("convnet", filters=4).train(), images) == []


def test_rounding_to_8_bits_that_passes_gradients_loses_nothing(net: nn.Module, images: Tensor) -> None:
    def rounded(x: Tensor) -> Tensor:
        return x + ((x * 255).round() / 255 - x).detach()

    assert names(Wrapped(net, before=rounded).eval(), images) == []


def test_images_of_one_class_are_no_fault(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert names(net, images[labels == 0], labels[labels == 0]) == []


def test_labels_that_are_not_known_are_left_out(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    wrong = 1 - labels
    wrong[15:] = -1  # 15 known, too few to speak of chance
    assert names(net, images, wrong) == []
    assert names(net, images, 1 - labels) == ["chance"]


def test_a_finding_says_what_was_measured_what_follows_and_what_to_do(net: nn.Module, images: Tensor) -> None:
    (finding,) = check(Wrapped(net, before=lambda x: x.detach()).eval(), images)
    assert "for 32 of 32 images" in finding.evidence
    for sentence in (finding.consequence, finding.remedy):
        assert sentence[0].isupper()
        assert not sentence.endswith(".")
    assert str(finding).startswith("dead_gradient: the gradient is exactly 0")


def test_the_net_and_the_random_state_are_left_as_they_were(trained: Path, images: Tensor) -> None:
    net = load(trained)[0].train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.random.get_rng_state()
    check(Wrapped(net, before=lambda x: x + torch.randn_like(x)), images)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_no_images_no_findings(net: nn.Module) -> None:
    assert check(net, torch.zeros(0, 1, 48, 48)) == []
