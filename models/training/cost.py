"""What a training will take, known before it is begun: bytes and multiplications.

The net is built of torch's fake tensors, which have shapes, types and a device and no memory, so that a net that would
not fit can be asked too. They take the very paths that the training takes, autocast's among them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tensors of a parameter's size that stay through a training: the weights, their gradients, the optimizer's moments.
_COPIES = {"adamw": 4, "sgd": 3}


def training_bytes(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *,
    optimizer: str = "adamw",
    device: str = "cpu",
    bfloat16: bool = False,
) -> int:
    """A lower bound of the memory, in bytes, that training `build()` on batches of `shape` `(N, C, H, W)` needs.

    Counted are weights, gradients, moments, and what autograd keeps of one batch for the backward pass, each storage
    once; not what convolutions need besides, nor what the backward pass makes, so a training always takes more.

    Args:
        bfloat16: whether the training runs under autocast to it.

    Raises:
        ValueError: the parameters make no net.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # the storages too, for the address of a freed one would be used again

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage._cdata] = storage
        return value

    with _fake(), torch.device(device):
        net = build().train()
        images, labels = torch.empty(shape), torch.zeros(shape[0], dtype=torch.int64)
        autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16)
        with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            # Held until all is counted, as in a training step: what a graph has kept is freed with it.
            loss = F.cross_entropy(net(images).float(), labels)
    for value in (*net.parameters(), *net.buffers()):
        kept.pop(value.untyped_storage()._cdata, None)
    activations = sum(storage.nbytes() for storage in kept.values())
    del loss
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    return weights * _COPIES.get(optimizer, 2) + activations


def multiplications(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> int:
    """Multiply-adds of one image `(C, H, W)` through the convolutions and dense layers of `build()`.

    Raises:
        ValueError: the parameters make no net.
    """
    found = []

    def count(layer: nn.Conv2d | nn.Linear, _: Any, outputs: Tensor) -> None:
        found.append(outputs.numel() * layer.weight[0].numel())

    with _fake(), torch.no_grad():
        net = build().eval()
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(count)
        net(torch.empty((1, *shape)))
    return sum(found)


def _fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode  # here, not above: it takes a second

    return FakeTensorMode()
