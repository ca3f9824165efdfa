"""The stand-alone check: a net, an image file, its class. It shares nothing with the attacks but the decoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dxray.models.data.batches import to_device
from dxray.models.data.images import decode
from dxray.models.victims.checkpoint import ModelCard

# By so much, in logits and as a share of the largest, may the answers to an image alone and to it among others differ
# for rounding. Seen: 3e-7. An attack goes on until a margin is 1e-3, so that hardly any of its images is that close.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Prediction:
    """label: index of the class; name: its name; probability: its softmax probability; probabilities: of each class."""

    label: int
    name: str
    probability: float
    probabilities: dict[str, float]


@torch.inference_mode()
def predict(net: nn.Module, card: ModelCard, image: Path | str | bytes) -> Prediction:
    """What `net` says of one image: a file, or the bytes of one.

    Any size and mode is brought to the net's own; an 8-bit grey image that already has its size goes in untouched.

    Raises:
        UnreadableImage: it cannot be decoded; the text says why.
    """
    return _predicted(net, card, decode(image, size=card.size, channels=card.channels))


@torch.inference_mode()
def labels_of(net: nn.Module, card: ModelCard, images: np.ndarray) -> list[int]:
    """The label that `predict` gives each of the images uint8 `(N, C, H, W)`, in a fraction of its time.

    The net is asked about all at once. Where two classes are so close that rounding could decide, it is asked about the
    image alone, as `predict` asks; so it is about every image if it does not answer to the first as it does alone.
    """
    logits = _logits(net, to_device(images, torch.device("cpu")))
    near = ROUNDING * (1 + logits.abs().amax(dim=1))
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    sure = first - second > near
    if not bool(((_alone(net, images[0]) - logits[0]).abs() <= near[0]).all()):
        sure = torch.zeros_like(sure)
    labels = logits.argmax(dim=1).tolist()
    return [
        label if safe else _predicted(net, card, image).label
        for label, safe, image in zip(labels, sure.tolist(), images, strict=True)
    ]


def _predicted(net: nn.Module, card: ModelCard, pixels: np.ndarray) -> Prediction:
    shares = _alone(net, pixels).softmax(0)
    label = int(shares.argmax())
    named = {name: float(share) for name, share in zip(card.classes, shares, strict=True)}
    return Prediction(label, card.classes[label], named[card.classes[label]], named)


def _alone(net: nn.Module, pixels: np.ndarray) -> Tensor:
    return _logits(net, torch.tensor(pixels)[None].float() / 255)[0]


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = net.eval()(images)
    if logits.shape[1] == 1:  # one logit z is the two-class net with logits (0, z)
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits
