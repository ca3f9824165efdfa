"""What one training step does to each layer of a net, measured without taking it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from dxray.models.data.batches import device_of, to_device

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


def layer_figures(net: nn.Module, inputs: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """The state of each convolution and dense layer: one forward and backward pass in float32, at a step's cost.

    The pass is that of training: batch norm uses the statistics of this batch, and dropout drops (by a seed of its
    own). In eval mode both gradient and activity would be those of another net: one whose running statistics lag
    behind its weights in the first epochs, and whose units fire less often than dropout's noise makes them fire while
    they learn. Nothing remains of it: mode, gradients, running statistics and random state stay as they were.

    Args:
        net: `(N, C, H, W)` in [0, 1] to logits; on any device, its weights frozen or not.
        inputs, labels: uint8 `(N, C, H, W)` and int64 `(N,)`. 64 images are enough for a gradient's size; a unit that
            fires on fewer than one image in so many counts as dead.

    Returns:
        In the order of `net.named_modules()`, for each layer that was used: `layer` (its name), `weight_norm` and
        `gradient_norm` (L2 norms of the weights and of the gradient of the mean cross-entropy with regard to them;
        not finite where these are not), and `dead_share`: of the ReLU that follows, the share of units, or of whole
        channels, that give zero for every image (and everywhere in it), so that nothing can teach them; None where no
        ReLU follows.
    """
    layers: dict[str, nn.Module] = {name: m for name, m in net.named_modules() if isinstance(m, LAYERS)}
    parameters = {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in net.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    device = device_of(net)
    batch = to_device(inputs, device)
    with _training(net, device), torch.enable_grad(), _Watch(layers) as watch:
        logits = functional_call(net, parameters | buffers, batch)
        loss = F.cross_entropy(logits, torch.tensor(labels, device=device))
        used = {name: parameters[f"{name}.weight"] for name in watch.order}
        gradients = torch.autograd.grad(loss, list(used.values()), allow_unused=True, materialize_grads=True)
    return [
        {
            "layer": name,
            "weight_norm": float(used[name].detach().norm()),
            "gradient_norm": float(gradient.norm()),
            "dead_share": watch.dead.get(name),
        }
        for name, gradient in zip(used, gradients, strict=True)
    ]


@contextmanager
def _training(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Training mode in float32, with random draws that are the same every time; all is put back afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), torch.autocast(device.type, enabled=False):
            torch.manual_seed(0)
            net.train()
            yield
    finally:
        for module, training in modes:
            module.training = training


class _Watch(TorchFunctionMode):
    """Which layers run, and how much of the ReLU after each is dead, be it a module or a function call."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self._layers = layers
        self._ran: list[str] = []
        self.dead: dict[str, float] = {}

    @property
    def order(self) -> list[str]:
        return [name for name in self._layers if name in self._ran]

    def __enter__(self) -> "_Watch":
        self._hooks = [
            layer.register_forward_hook(lambda *_, name=name: self._ran.append(name))
            for name, layer in self._layers.items()
        ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _RELUS and self._ran:
            name = self._ran[-1]
            layer = self._layers[name]
            units = (result.detach() != 0).movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
            # A ReLU of other features than the last layer's, such as of a concatenation, says nothing of that layer.
            if len(units) == len(layer.weight):  # type: ignore[arg-type]
                self.dead[name] = float((~units.any(dim=1)).double().mean())
        return result
