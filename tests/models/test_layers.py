"""Dropout as the nets use it: the share that was asked for, the mean kept, the seed obeyed."""

import pytest
import torch

from models.layers import Dropout

FEATURES = torch.rand(8, 16, 24, 24, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_the_share_is_dropped_and_the_mean_stays(share: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    features = FEATURES.to(memory_format=layout)
    dropped = Dropout(share)(features)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(float(features.mean()), rel=0.01)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], features[kept] / (1 - share))
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


def test_the_gradient_passes_where_the_value_did() -> None:
    features = FEATURES.clone().requires_grad_(True)
    dropped = Dropout(0.3)(features)
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad != 0, dropped != 0)
