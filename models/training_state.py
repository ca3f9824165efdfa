"""The state of an unfinished training as one safetensors file: what goes on after a kill is what would have gone on.

Order, augmentation and dropout of an epoch follow from its number and the seed, so weights, the optimizer's moments
and the rows of the epochs done are all there is to keep.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_NET, _MOMENTS, _HISTORY = "net/", "optimizer/", "history"


def save_state(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]) -> None:
    """Write the state after the last epoch of `history`; a kill leaves the file before or this one, whole."""
    tensors = {_NET + name: value for name, value in net.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_MOMENTS}{number}/{name}": value for name, value in moments.items() if value is not None}
    contiguous = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(contiguous, partial, metadata={_HISTORY: json.dumps(history)})
    partial.replace(path)


def load_state(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Put the state into `net` and `optimizer`; returns the rows of the epochs that are done.

    No file is no epoch done. A file that is damaged, or of another net, is the same: the training starts anew.
    """
    try:
        with safe_open(path, framework="pt") as file:
            history: list[dict[str, Any]] = json.loads(file.metadata()[_HISTORY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        net.load_state_dict({k.removeprefix(_NET): v for k, v in tensors.items() if k.startswith(_NET)})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return []
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_MOMENTS):
            _, number, moment = name.split("/")
            state.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return history
