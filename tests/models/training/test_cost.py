"""What a training will take: never more than it does take, and close enough to be of use."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from dxray.models.nets import build
from dxray.models.training.cost import multiplications, training_bytes
from dxray.models.training.train import has_fast_bf16

# Measures in a process of its own, whose memory no other test has used.
MEASURED = """
import json, sys
import numpy as np, torch
from dxray.models.nets import build
from dxray.models.training.train import fit
from dxray.orchestrator.ray.limits import Peak
torch.set_num_threads(1)
asked = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
batch = asked["batch"]
images, labels = rng.integers(0, 256, (batch, 1, 48, 48), dtype=np.uint8), rng.integers(0, 2, batch)
peak = Peak()
fit(build(asked["net"], **asked["parameters"]), images, labels, epochs=1, batch_size=batch)
print(peak.gib() * 2**30)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc, of Linux")
@pytest.mark.parametrize(
    ("net", "parameters", "batch"),
    [
        ("densenet", {"convs": 3, "filters": 16, "batch_norm": True, "dropout": 0.1}, 256),
        ("densenet", {"convs": 8, "filters": 16, "blocks": 3}, 64),
        ("convnet", {"convs": 4, "filters": 64}, 128),
    ],
)
def test_no_training_takes_less_than_the_lower_bound(net: str, parameters: dict[str, Any], batch: int) -> None:
    asked = json.dumps({"net": net, "parameters": parameters, "batch": batch})
    measured = float(subprocess.check_output([sys.executable, "-c", MEASURED, asked], text=True))
    bfloat16 = has_fast_bf16(torch.device("cpu"))
    bound = training_bytes(lambda: build(net, **parameters), (batch, 1, 48, 48), bfloat16=bfloat16)
    assert measured / 5 < bound < measured


class Two(nn.Module):
    """6 -> 4 -> 2 with a square between, so that all that is kept can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs).square())


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 4), ("sgd", 3)])
def test_bytes_are_weights_gradients_moments_and_each_kept_storage_once(optimizer: str, copies: int) -> None:
    parameters = 6 * 4 + 4 + 4 * 2 + 2
    # Kept of three inputs: themselves, what is squared, the squares; by the loss its log-softmax, labels and weight.
    kept = 3 * (6 + 4 + 4) * 4 + 3 * 2 * 4 + 3 * 8 + 4
    assert training_bytes(Two, (3, 6), optimizer=optimizer) == copies * parameters * 4 + kept


def test_multiplications_are_those_of_convolutions_and_dense_layers() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5))

    assert multiplications(net, (1, 6, 6)) == 6 * 6 * 8 * 9 + 8 * 6 * 6 * 5


def test_a_net_too_large_for_any_machine_can_be_asked() -> None:
    assert training_bytes(lambda: build("convnet", filters=100_000), (64, 1, 48, 48)) > 2**40


def test_asking_draws_no_random_number() -> None:
    """The weights of the net that is trained afterwards follow from the seed alone."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    training_bytes(lambda: build("densenet", dropout=0.1), (2, 1, 48, 48))
    assert torch.equal(torch.get_rng_state(), before)
