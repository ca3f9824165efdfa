"""Architectures: one file a net, which takes images float32 (N, C, H, W) in [0, 1] and returns logits (N, classes).

A new net is one file and one line in `MODELS`; it knows nothing of data, training or files.
"""

import inspect
from typing import Any

from torch import nn

from dxray.models.nets.convnet import ConvNet
from dxray.models.nets.densenet import DenseNet
from dxray.models.nets.resnet import ResNet

MODELS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "densenet": DenseNet,
    "resnet": ResNet,
}
GIVEN_BY_DATA = ("classes", "channels", "size")


def parameters_of(net: str) -> dict[str, Any]:
    """The parameters of the net of that name, with their defaults, but for those that the data give.

    Raises:
        ValueError: no net has that name.
    """
    known = inspect.signature(_named(net)).parameters
    return {name: one.default for name, one in known.items() if name not in GIVEN_BY_DATA}


def build(net: str, **parameters: Any) -> nn.Module:
    """The net of that name, with freshly drawn weights (`torch.manual_seed` decides which).

    Raises:
        ValueError: no net has that name, or it has no such parameter.
    """
    made = _named(net)
    try:
        return made(**parameters)
    except TypeError as wrong:
        raise ValueError(f"{net}: {str(wrong).removeprefix(made.__name__ + '.__init__() ')}") from None


def _named(net: str) -> type[nn.Module]:
    if net not in MODELS:
        raise ValueError(f"no net is called '{net}'; known are: {', '.join(MODELS)}")
    return MODELS[net]
