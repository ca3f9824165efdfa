"""The range test finds the band of a net whose best rate is known, and the ends of those of others."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.models.doctor.lr_range_test import MOST_STEPS, TRIED, range_test

rng = np.random.default_rng(0)
LABELS = rng.integers(0, 2, 32)
INPUTS = (rng.integers(0, 100, (32, 1, 8, 8)) + 100 * LABELS[:, None, None, None]).astype(np.uint8)


class Scaled(nn.Module):
    """A dense layer whose output is multiplied: plain gradient descent then needs a rate smaller by its square."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.dense = scale, nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(images.flatten(1) - 0.5) * self.scale


def test_the_band_moves_with_the_curvature() -> None:
    one = range_test(Scaled(1.0), INPUTS, LABELS, optimizer="sgd")
    steep = range_test(Scaled(10.0), INPUTS, LABELS, optimizer="sgd")
    assert one.lower is not None
    assert one.upper is not None
    assert steep.lower is not None
    assert steep.upper is not None
    assert one.lower < one.upper
    assert 20 < one.lower / steep.lower < 500
    assert steep.upper < one.upper


def test_a_rate_within_the_band_learns_and_one_beyond_it_breaks() -> None:
    found = range_test(Scaled(10.0), INPUTS, LABELS, optimizer="sgd")
    assert found.upper is not None
    assert found.losses[-1] < 0.5 * found.losses[0]
    assert found.rates[0] == pytest.approx(1e-5)
    assert found.rates[-1] == pytest.approx(found.upper)
    assert found.upper < TRIED[-1]


def test_a_net_that_cannot_learn_has_no_lower_end() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(64, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.dense(0 * images.flatten(1))

    labels = np.arange(32) % 2
    assert range_test(Blind(), INPUTS, labels).lower is None


def test_weights_are_drawn_anew_the_same_each_time_and_each_step_is_told() -> None:
    net = Scaled(1.0)
    steps: list[int] = []
    first = range_test(net, INPUTS, LABELS, on_step=lambda: steps.append(1))
    assert 0 < len(steps) <= MOST_STEPS
    with torch.no_grad():
        net.dense.weight.fill_(1e6)
    assert range_test(net, INPUTS, LABELS) == first
