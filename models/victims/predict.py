"""The stand-alone check: a net, an image file, its class. It shares nothing with the attacks but the decoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dxray.models.data.batches import device_of, to_device
from dxray.models.data.images import decode
from dxray.models.victims.checkpoint import ModelCard


@dataclass(frozen=True)
class Prediction:
    """label: index of the class; name: its name; probability: its softmax probability; probabilities: of each class."""

    label: int
    name: str
    probability: float
    probabilities: dict[str, float]


@torch.inference_mode()
def answers_of(net: nn.Module, images: np.ndarray | Tensor, *, batch: int = 256) -> np.ndarray:
    """The classes int64 `(N,)` that a net in eval mode says: of uint8 images `(N, C, H, W)`, or of float32 pixels."""
    if not len(images):
        return np.zeros(0, np.int64)
    device = device_of(net)
    parts = [net(to_device(images[at : at + batch], device)) for at in range(0, len(images), batch)]
    logits = torch.cat(parts)
    said: np.ndarray = ((logits > 0).long().flatten() if logits.shape[1] == 1 else logits.argmax(1)).cpu().numpy()
    return said


@torch.inference_mode()
def predict(net: nn.Module, card: ModelCard, image: Path | str | bytes) -> Prediction:
    """What `net` says of one image: a file, or the bytes of one.

    Any size and mode is brought to the net's own; an 8-bit grey image that already has its size goes in untouched.

    Raises:
        UnreadableImage: it cannot be decoded; the text says why.
    """
    pixels = decode(image, size=card.size, channels=card.channels)
    logits = net.eval()(torch.tensor(pixels)[None].float() / 255)[0]
    if len(logits) == 1:  # one logit z is the two-class net with logits (0, z)
        logits = torch.cat([torch.zeros_like(logits), logits])
    shares = logits.softmax(0)
    label = int(shares.argmax())
    named = {name: float(share) for name, share in zip(card.classes, shares, strict=True)}
    return Prediction(label, card.classes[label], named[card.classes[label]], named)
