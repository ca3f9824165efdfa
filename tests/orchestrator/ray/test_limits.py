"""The bound of a training's memory on a GPU, of which a stand-in tells what is asked; on a CPU see `test_trial.py`."""

from types import SimpleNamespace

import pytest
import torch

from dxray.orchestrator.ray.limits import GIB, Peak, bounded_memory


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The shares of an 80 GiB device that a process has been allowed, in order."""
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * GIB)
    return shares


@pytest.mark.parametrize(
    ("gib", "gpu_share", "share"),
    [(None, 1.0, 1.0), (None, 0.25, 0.25), (8.0, 1.0, 0.1), (8.0, 0.05, 0.05), (200.0, 0.5, 0.5)],
)
def test_a_training_may_take_its_share_of_the_gpu_and_no_more_than_its_limit(
    asked: list[float], gib: float | None, gpu_share: float, share: float
) -> None:
    with bounded_memory(gib, gpu_share=gpu_share) as allowed:
        assert asked == [pytest.approx(share)]
        assert allowed == pytest.approx(80 * share)


@pytest.mark.usefixtures("asked")
def test_what_it_took_is_the_device_s_memory() -> None:
    assert Peak().gib() == 3
