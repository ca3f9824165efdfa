"""The state of an unfinished training as one safetensors file: what goes on after a kill is what would have gone on.

Order, augmentation and dropout of an epoch follow from its number and the seed, so weights, the optimizer's moments
and the rows of the epochs done are all there is to keep.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

_MOMENTS, _HISTORY = "optimizer/", "history"


def save_state(
    path: Path, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
) -> None:
    """Write the state after the last epoch of `history`; a kill leaves the file before or this one, whole.

    Args:
        nets: by name: the one that learns and, where there are such, its EMA, the best so far and the auxiliary heads.
    """
    tensors = _of_nets(nets)
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_MOMENTS}{number}/{name}": value for name, value in moments.items() if value is not None}
    contiguous = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # Not `save_file`, which says of a full disk that the tensors are wrong.
    partial.write_bytes(save(contiguous, metadata={_HISTORY: json.dumps(history)}))
    partial.replace(path)


def load_state(path: Path, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Put the state into `nets` and `optimizer`; returns the rows of the epochs that are done.

    No file is no epoch done. A file that is damaged, or of another net, is the same: the training starts anew.
    """
    try:
        with safe_open(path, framework="pt") as file:
            history: list[dict[str, Any]] = json.loads(file.metadata()[_HISTORY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return []
    of_nets = _of_nets(nets)
    # Before anything is loaded: a net that took half of another's weights would not start anew.
    if any(name not in tensors or tensors[name].shape != value.shape for name, value in of_nets.items()):
        return []
    for name, value in of_nets.items():
        value.copy_(tensors[name])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_MOMENTS):
            _, number, moment = name.split("/")
            like = parameters[int(number)]
            # A fused optimizer walks weights and moments in the order of their memory, which a file does not keep.
            laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(number), {})[moment] = laid_out
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return history


def _of_nets(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for part, net in nets.items() for name, value in net.state_dict().items()}


def load_judged(path: Path, net: nn.Module) -> list[dict[str, Any]]:
    """Put into `net` the weights that `fit` would end with after the last epoch done: the best, the EMA or the last.

    Returns the rows of the epochs that are done.

    Raises:
        OSError, SafetensorError, KeyError, RuntimeError: there is no such file, or it is damaged, or of another net.
    """
    with safe_open(path, framework="pt") as file:
        history: list[dict[str, Any]] = json.loads(file.metadata()[_HISTORY])
    tensors = load(path.read_bytes())
    kept = ("best/", "ema/module.", "net/")
    prefix = next(prefix for prefix in kept if any(name.startswith(prefix) for name in tensors))
    net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return history
