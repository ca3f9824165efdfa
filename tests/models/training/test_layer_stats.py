"""What is measured of a net's layers is what a training step would do to them, and leaves no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxray.models.nets import build
from dxray.models.training.layer_stats import layer_figures

generator = np.random.default_rng(0)
INPUTS = generator.integers(0, 256, (16, 1, 16, 16), dtype=np.uint8)
LABELS = generator.integers(0, 2, 16)


def net_of(**parameters: object) -> nn.Module:
    torch.manual_seed(0)
    return build("densenet", blocks=2, convs=2, filters=4, size=(16, 16), **parameters)


class Functional(nn.Module):
    """ReLU as a function call, once after a convolution and once after a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(1, 8, 3), nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.conv(images))
        return self.dense(torch.cat([features, features], 1).mean((2, 3)).relu())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_norms_are_those_of_a_training_step(batch_norm: bool) -> None:
    net = net_of(batch_norm=batch_norm)
    rows = layer_figures(net.eval(), INPUTS, LABELS)
    net.train()
    F.cross_entropy(net(torch.tensor(INPUTS) / 255), torch.tensor(LABELS)).backward()
    layers = {name: module.weight for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert [row["layer"] for row in rows] == list(layers)
    for row in rows:
        weight = layers[row["layer"]]
        assert weight.grad is not None
        assert row["weight_norm"] == pytest.approx(float(weight.detach().norm()))
        assert row["gradient_norm"] == pytest.approx(float(weight.grad.norm()), rel=1e-4)


@pytest.mark.parametrize("between", [nn.Identity(), nn.BatchNorm2d(8), nn.Dropout(0.5)])
@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), Functional])
def test_a_channel_that_is_zero_for_every_image_is_dead(between: nn.Module, relu: nn.Module | type) -> None:
    if relu is Functional:
        net: nn.Module = Functional()
        net.conv = nn.Sequential(conv := nn.Conv2d(1, 8, 3), between)
    else:
        assert isinstance(relu, nn.Module)
        net = nn.Sequential(conv := nn.Conv2d(1, 8, 3), between, relu, nn.Flatten(), nn.Linear(8 * 14 * 14, 2))
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias.fill_(100.0)
        conv.weight[:3], conv.bias[:3] = 0.0, -1.0
        if isinstance(between, nn.BatchNorm2d):
            assert between.weight is not None
            between.weight[:3], between.bias[:3] = 0.0, -1.0
    first, last = layer_figures(net, INPUTS, LABELS)
    assert first["dead_share"] == 3 / 8
    assert last["dead_share"] is None


def test_one_image_that_makes_it_fire_keeps_a_unit_alive() -> None:
    net = nn.Sequential(nn.Flatten(), dense := nn.Linear(256, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = np.zeros_like(INPUTS)
    inputs[7] = 255
    with torch.no_grad():
        dense.weight[:] = 1.0
        dense.bias[:] = torch.tensor([-300.0, -300.0, -255.0, -300.0])
    assert layer_figures(net, inputs, LABELS)[0]["dead_share"] == 3 / 4


def test_nothing_remains_of_a_look() -> None:
    net = net_of(batch_norm=True, dropout=0.5).train()
    net.get_submodule("head").eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random = torch.random.get_rng_state()
    first = layer_figures(net, INPUTS, LABELS)
    assert torch.equal(random, torch.random.get_rng_state())
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    torch.manual_seed(5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer_figures(net, INPUTS, LABELS) == first


def test_frozen_layers_are_measured_and_unused_ones_left_out() -> None:
    net = net_of()
    expected = layer_figures(net, INPUTS, LABELS)
    net.add_module("unused", nn.Linear(3, 3))
    assert layer_figures(net.requires_grad_(False), INPUTS, LABELS) == expected
