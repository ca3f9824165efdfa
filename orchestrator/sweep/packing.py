"""How many trainings share a GPU: as many as its memory holds of the hungriest, and as there are CPUs to feed.

What a training takes is measured on a GPU of the cluster, not worked out: convolution libraries choose their own
workspace. The measuring needs CUDA and was written without any at hand; what follows from it is tested by a stand-in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dxray.models.nets import build
from dxray.models.training.cost import training_bytes
from dxray.models.training.train import fit
from dxray.orchestrator.ray.limits import GIB
from dxray.orchestrator.sweep.grid import of_fit, of_net

CONTEXT = 0.7 * GIB  # a process's own on a CUDA device, which torch's allocator does not count
SPARE = 1.2  # what another batch, or a fragmented allocator, may take beyond what was seen


@dataclass(frozen=True)
class Device:
    """What was seen of a GPU: bytes that a training took at its highest, and bytes that there are."""

    taken: int
    whole: int


Probe = Callable[[Mapping[str, Any], tuple[int, int, int], int], Device]


def gpu_share(
    trials: Sequence[Mapping[str, Any]], shape: tuple[int, int, int], classes: int, feeders: int, probe: Probe
) -> float:
    """The share of a GPU for each training of `trials`, in (0, 1].

    Args:
        shape: of an image, `(C, H, W)`.
        feeders: CPUs for each GPU; a training without one of its own would wait for it.
        probe: `measured`, or what runs it on a GPU.
    """
    seen = probe(hungriest(trials, shape, classes), shape, classes)
    held = int(seen.whole / (seen.taken * SPARE + CONTEXT))
    together = max(1, min(held, feeders))
    return int(1e4 / together) / 1e4  # Ray counts GPUs in such steps, and three thirds must not be more than one


def hungriest(trials: Sequence[Mapping[str, Any]], shape: tuple[int, int, int], classes: int) -> Mapping[str, Any]:
    """The trial that takes most memory by `cost.training_bytes`; trials that make no net are left out."""

    def needed(trial: Mapping[str, Any]) -> int:
        try:
            return training_bytes(
                lambda: _net(trial, shape, classes), (trial["batch_size"], *shape), optimizer=trial["optimizer"]
            )
        except (ValueError, RuntimeError):
            return 0  # its training will say why

    return max(trials, key=needed)


def measured(trial: Mapping[str, Any], shape: tuple[int, int, int], classes: int) -> Device:
    """Train `trial` for two batches of noise on this process's GPU, and look what it took."""
    count = 2 * trial["batch_size"]
    noise = torch.randint(0, 256, (count, *shape), dtype=torch.uint8).numpy()
    labels = (torch.arange(count) % classes).numpy()
    torch.cuda.reset_peak_memory_stats()
    fit(_net(trial, shape, classes), noise, labels, validation=(noise, labels), **of_fit(trial) | {"epochs": 1})
    whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return Device(torch.cuda.max_memory_reserved(), whole)


def on_a_gpu(trial: Mapping[str, Any], shape: tuple[int, int, int], classes: int) -> Device:
    """`measured`, on whichever node of the connected cluster has a GPU."""
    import ray

    seen: Device = ray.get(ray.remote(num_gpus=1, max_calls=1)(measured).remote(trial, shape, classes))
    return seen


def _net(trial: Mapping[str, Any], shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
    return build(trial["net"], **of_net(trial), channels=shape[0], size=shape[1:], classes=classes)
