"""Nets, faces, training and checkpoints: everything that needs no Ray."""

from typing import Any

from torch import nn

from models.convnet import ConvNet
from models.densenet import DenseNet
from models.resnet import ResNet

MODELS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "densenet": DenseNet,
    "resnet": ResNet,
}


def build(net: str, **parameters: Any) -> nn.Module:
    """The net of that name, with freshly drawn weights (`torch.manual_seed` decides which).

    Raises:
        ValueError: no net has that name, or it has no such parameter.
    """
    if net not in MODELS:
        raise ValueError(f"no net is called '{net}'; known are: {', '.join(MODELS)}")
    try:
        return MODELS[net](**parameters)
    except TypeError as wrong:
        raise ValueError(f"{net}: {str(wrong).removeprefix(MODELS[net].__name__ + '.__init__() ')}") from None
