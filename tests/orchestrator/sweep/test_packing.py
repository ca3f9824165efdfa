"""How many trainings share a GPU, with a stand-in for the GPU."""

from collections.abc import Mapping
from typing import Any

import pytest

from dxray.models.training.cost import training_bytes
from dxray.orchestrator.ray.limits import GIB
from dxray.orchestrator.sweep.grid import complete
from dxray.orchestrator.sweep.packing import CONTEXT, SPARE, Device, Probe, gpu_share, hungriest
from dxray.orchestrator.sweep.sweep import SweepConfig, share_out

SHAPE = (1, 48, 48)
SMALL = complete({"net": "convnet", "filters": 4, "batch_size": 16})
LARGE = complete({"net": "densenet", "filters": 16, "batch_size": 256})
NO_NET = complete({"net": "convnet", "blocks": 9})


def of(taken: float, whole: float) -> Probe:
    return lambda trial, shape, classes: Device(int(taken * GIB), int(whole * GIB))


@pytest.mark.parametrize(
    ("taken", "whole", "feeders", "share"),
    [
        (2.0, 24.0, 64, 1 / 7),  # 7 x (2 x 1.2 + 0.7) = 21.7 of 24
        (2.0, 24.0, 4, 1 / 4),  # no more than there are CPUs
        (20.0, 24.0, 64, 1.0),
        (40.0, 24.0, 64, 1.0),  # it will be KO for want of memory, alone on its GPU
    ],
)
def test_as_many_share_a_gpu_as_its_memory_and_its_cpus_hold(
    taken: float, whole: float, feeders: int, share: float
) -> None:
    found = gpu_share([SMALL], SHAPE, 2, feeders, of(taken, whole))
    assert found == pytest.approx(share, abs=1e-4)
    together = int(1 / found)
    assert together * found <= 1
    assert together == 1 or together * (taken * SPARE * GIB + CONTEXT) <= whole * GIB


def test_the_hungriest_training_is_measured_and_no_other() -> None:
    asked: list[Mapping[str, Any]] = []

    def probe(trial: Mapping[str, Any], shape: tuple[int, int, int], classes: int) -> Device:
        asked.append(trial)
        return Device(GIB, 24 * GIB)

    gpu_share([SMALL, NO_NET, LARGE], SHAPE, 2, 8, probe)
    assert asked == [LARGE]


def test_the_bound_that_chooses_it_is_that_of_the_cost_model() -> None:
    from dxray.models.nets import build

    def bytes_of(trial: Mapping[str, Any]) -> int:
        return training_bytes(lambda: build(trial["net"], filters=trial["filters"]), (trial["batch_size"], *SHAPE))

    trials = [SMALL, SMALL | {"batch_size": 512}, LARGE | {"batch_size": 8}]
    assert hungriest(trials, SHAPE, 2) == max(trials, key=bytes_of)


@pytest.mark.usefixtures("local_ray")
def test_auto_is_none_where_there_is_no_gpu() -> None:
    from dxray.orchestrator.ray.session import gpus

    if gpus():
        pytest.skip("there is a GPU here")
    config = SweepConfig(gpus_per_trial="auto")
    share_out(config, [SMALL], {})
    assert config.gpus_per_trial == 0
