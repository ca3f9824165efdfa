"""Files of nets as others save them: TorchScript and torch.export, with and without a side file."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.models.victims.checkpoint import CheckpointError
from dxray.models.victims.victim import load_victim

CLASSES = ["male", "female"]
SIDE = {"classes": CLASSES, "channels": 1, "size": [48, 48]}


def scripted(net: nn.Module, path: Path, images: Tensor | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and a tracer warns of what it freezes
        made = torch.jit.script(net) if images is None else torch.jit.trace(net, images, check_trace=False)
        torch.jit.save(made, path)
    return path


def exported(net: nn.Module, path: Path, images: Tensor, *, free: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=shapes), path)
    return path


def write_side(path: Path, **changes: Any) -> Path:
    path.with_suffix(".json").write_text(json.dumps(SIDE | changes))
    return path


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as wrong:
        load_victim(path)
    assert "\n" not in str(wrong.value)
