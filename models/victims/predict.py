"""The stand-alone check: a net, an image file, its class. It shares nothing with the attacks but the decoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dxray.models.data.batches import device_of, to_device
from dxray.models.data.images import decode
from dxray.models.victims.checkpoint import ModelCard

# How far apart the answers to an image alone and to it among others may be, as a share of the largest logit and 1: for
# rounding, and in bfloat16. Seen: 3e-7 and 2e-3. An attack goes on to a margin of 1e-3, which is more than rounding.
ROUNDING, LOW_PRECISION = 1e-4, 0.1


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
    parts = [_logits(net, to_device(images[at : at + batch], device)) for at in range(0, len(images), batch)]
    said: np.ndarray = torch.cat(parts).argmax(1).cpu().numpy()
    return said


@torch.inference_mode()
def predict(net: nn.Module, card: ModelCard, image: Path | str | bytes) -> Prediction:
    """What `net` says of one image: a file, or the bytes of one.

    Any size and mode is brought to the net's own; an 8-bit grey image that already has its size goes in untouched.

    Raises:
        UnreadableImage: it cannot be decoded; the text says why.
    """
    return _prediction(card, _alone(net, decode(image, size=card.size, channels=card.channels)))


@torch.inference_mode()
def labels_of(net: nn.Module, card: ModelCard, images: np.ndarray, *, low_precision: bool = False) -> list[int]:
    """The label that `predict` gives each of the images uint8 `(N, C, H, W)`, in a fraction of its time.

    The net is asked about many at once. Where two classes are so close that this could decide, it is asked about the
    image alone, as `predict` asks; so it is about all, where it does not answer to the first as it does alone.

    Args:
        low_precision: first ask in bfloat16, for which the CPU should have instructions. It is worth it for images of
            which few are near a border between classes.
    """
    first = _alone(net, images[0])
    labels = [_prediction(card, first).label, *[-1] * (len(images) - 1)]
    for error in ([LOW_PRECISION] if low_precision else []) + [ROUNDING]:
        left = [i for i, label in enumerate(labels) if label < 0]
        with torch.autocast("cpu", torch.bfloat16, enabled=error == LOW_PRECISION):
            logits = _logits(net, to_device(images[[0, *left]], torch.device("cpu"))).float()
        near = error * (1 + logits.abs().amax(dim=1))
        if bool(((first - logits[0]).abs() <= near[0] / 4).all()):
            top = logits.topk(2, dim=1)
            sure = top.values[:, 0] - top.values[:, 1] > near
            for i, label, known in zip(left, top.indices[1:, 0].tolist(), sure[1:].tolist(), strict=True):
                labels[i] = label if known else -1
    return [_prediction(card, _alone(net, images[i])).label if label < 0 else label for i, label in enumerate(labels)]


def _prediction(card: ModelCard, logits: Tensor) -> Prediction:
    shares = logits.softmax(0)
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
