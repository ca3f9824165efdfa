"""The layers of the nets: dropout by the share asked for, and faster forms that are torch's own to the last bit."""

import pytest
import torch
from torch import nn

from dxray.models.nets.layers import Dropout, Halve, JoinedConv2d, Logits

FEATURES = torch.rand(8, 16, 24, 24, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_the_share_is_dropped_and_the_mean_stays(share: float, layout: torch.memory_format, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    features = FEATURES.to(kind).to(memory_format=layout)
    dropped = Dropout(share)(features)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(float(features.mean()), rel=0.01)
    kept = dropped != 0
    assert torch.equal(dropped[kept], features[kept] * (1 / (1 - share)))
    assert dropped.stride() == features.stride()


def test_values_are_dropped_independently_of_their_neighbours() -> None:
    """Four values share a draw: that they do must not show."""
    torch.manual_seed(0)
    gone = (Dropout(0.5)(torch.ones(64, 4096)) == 0).float() - 0.5
    for step in (1, 2, 3, 4, 5):
        together = float((gone[:, step:] * gone[:, :-step]).mean())
        assert abs(together) < 0.003, step


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    layer = Dropout(0.3)
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(layer(FEATURES))
    first, second, again = found
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert layer.eval()(FEATURES) is FEATURES


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_where_the_value_did(kind: torch.dtype) -> None:
    features = FEATURES.to(kind, copy=True).requires_grad_(True)
    dropped = Dropout(0.3)(features)
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.allclose(features.grad, (dropped != 0) * torch.tensor(1 / 0.7, dtype=kind), rtol=1e-2)


def joined(inputs: list[torch.Tensor], kernel: int, *, bias: bool) -> tuple[JoinedConv2d, nn.Conv2d]:
    """A joined convolution of those inputs, and torch's own of their concatenation with the same weights."""
    channels = sum(features.shape[1] for features in inputs)
    torch.manual_seed(0)
    made = JoinedConv2d(channels, 6, kernel, padding=kernel // 2, bias=bias).double()
    plain = nn.Conv2d(channels, 6, kernel, padding=kernel // 2, bias=bias).double()
    plain.load_state_dict(made.state_dict())
    return made, plain


@pytest.mark.parametrize("widths", [[1, 16, 16], [4, 4, 4, 4, 4, 3], [32, 16], [3], [17, 1, 1]])
@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (3, False), (1, True)])
@pytest.mark.parametrize("image", [True, False])
def test_a_joined_convolution_is_that_of_the_concatenation(
    widths: list[int], kernel: int, bias: bool, image: bool
) -> None:
    """Values and gradients, for inputs of many widths, whether or not the first is an image that needs no gradient."""
    rng = torch.Generator().manual_seed(1)
    inputs = [torch.randn(2, width, 5, 7, generator=rng, dtype=torch.float64) for width in widths]
    for features in inputs[1 if image else 0 :]:
        features.requires_grad_(True)
    made, plain = joined(inputs, kernel, bias=bias)
    ours, theirs = made(*inputs), plain(torch.cat(inputs, dim=1))
    assert torch.allclose(ours, theirs, atol=1e-12)
    weighted = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    wanted = [features for features in inputs if features.requires_grad]
    first = torch.autograd.grad((ours * weighted).sum(), [*wanted, *made.parameters()])
    second = torch.autograd.grad((theirs * weighted).sum(), [*wanted, *plain.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(first, second, strict=True))


def test_a_joined_convolution_keeps_no_concatenation() -> None:
    """What is kept for the backward pass are the inputs themselves and the weights, nothing of their size beside."""
    inputs = [torch.randn(2, 16, 8, 8, requires_grad=True) for _ in range(3)]
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        JoinedConv2d(48, 4, 3, padding=1)(*inputs)
    assert {tensor.data_ptr() for tensor in kept if tensor.dim() == 4 and tensor.shape[0] == 2} == {
        features.data_ptr() for features in inputs
    }


def test_frozen_weights_and_second_derivatives() -> None:
    """What attacks need: gradients of the inputs alone, and gradients of these."""
    inputs = [torch.randn(1, width, 4, 4, dtype=torch.float64, requires_grad=True) for width in (2, 3)]
    made, _ = joined(inputs, 3, bias=True)
    made.requires_grad_(False)
    assert torch.autograd.gradcheck(made, inputs)
    assert torch.autograd.gradgradcheck(made, inputs)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_is_max_pooling_to_the_last_bit(size: tuple[int, int], layout: torch.memory_format) -> None:
    """Ties, which ReLU makes many of, send their gradient where torch sends it."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(4, 5, *size, generator=rng).relu().mul(4).round().div(4)
    features = features.to(torch.bfloat16).to(memory_format=layout)
    ours, theirs = features.clone().requires_grad_(True), features.clone().requires_grad_(True)
    first, second = Halve()(ours), nn.functional.max_pool2d(theirs, 2)
    assert torch.equal(first, second)
    weighted = torch.randn(first.shape, generator=rng).to(torch.bfloat16)
    first.backward(weighted)
    second.backward(weighted)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_halving_of_what_may_be_negative_is_max_pooling_with_gradients_too() -> None:
    features = torch.randn(4, 1, 8, 10, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    ours, theirs = features.clone().requires_grad_(True), features.clone().requires_grad_(True)
    first, second = Halve(signed=True)(ours), nn.functional.max_pool2d(theirs, 2)
    assert torch.equal(first, second)
    for halved, read in ((first, ours), (second, theirs)):
        halved.sum().backward()
        assert read.grad is not None
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 5])
def test_halving_without_gradients_takes_any_values(kind: torch.dtype, channels: int) -> None:
    """An image that was normalised is negative in places."""
    features = torch.randn(4, channels, 7, 10, generator=torch.Generator().manual_seed(0)).to(kind)
    assert torch.equal(Halve()(features), nn.functional.max_pool2d(features, 2))


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_logits_are_those_of_a_dense_layer(classes: int) -> None:
    torch.manual_seed(0)
    made = Logits(50, classes)
    features = torch.randn(64, 50)
    assert torch.allclose(made(features), nn.functional.linear(features, made.weight, made.bias), atol=1e-5)


def test_the_logits_of_a_row_do_not_depend_on_its_place() -> None:
    torch.manual_seed(0)
    made, features, order = Logits(50, 2), torch.randn(64, 50), torch.randperm(64)
    assert torch.equal(made(features)[order], made(features[order]))
