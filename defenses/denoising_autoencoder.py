"""A denoising auto-encoder in front of a net (Vincent et al. 2008, https://doi.org/10.1145/1390156.1390294).

    net = defended(net, "denoising_autoencoder")
    fit(net, images, labels, objective=reconstruction(gaussian(0.1), partial(pgd, eps=8 / 255)))

The auto-encoder learns to give back the images that noise was added to; the net behind it stays as it is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxray.attacks.pgd import pgd
from dxray.defenses.adversarial_training import Attack
from dxray.defenses.front import InFront
from dxray.models.data.batches import to_device
from dxray.models.nets.layers import Normalise
from dxray.models.training.train import Objective, fit


class AutoEncoder(nn.Module):
    """Images in [0, 1] to images in [0, 1]: two halvings, two doublings, no way around them.

    `(N, C, H, W) -> (N, filters, H, W) -> (N, 2 filters, H/2, W/2) -> (N, 2 filters, H/4, W/4)`, and back.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        wide = 2 * filters
        self.normalise = Normalise(channels)
        self.encode = nn.ModuleList(
            [_layer(channels, filters), _layer(filters, wide, stride=2), _layer(wide, wide, stride=2)]
        )
        self.decode = nn.ModuleList([_layer(wide, wide), _layer(wide, filters)])
        self.last = nn.Conv2d(filters, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features, sizes = self.normalise(images), []
        for layer in self.encode:
            features = layer(features)
            sizes.append(features.shape[2:])
        for layer, size in zip(self.decode, sizes[-2::-1], strict=True):  # of any height and width
            features = layer(F.interpolate(features, size=size))
        cleaned: Tensor = self.last(features).float().sigmoid()
        return cleaned


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU(inplace=True))


class Denoised(InFront):
    """A net behind an auto-encoder; the net itself stays in eval mode, and its statistics are what they were."""

    def train(self, mode: bool = True) -> "Denoised":
        super().train(mode)
        self.net.eval()
        return self


def denoising_autoencoder(net: nn.Module, *, channels: int = 1, filters: int = 16) -> nn.Module:
    """`net` behind an auto-encoder with freshly drawn weights, which `fit` is to train by `reconstruction`.

    Args:
        channels: of the images. filters: of the auto-encoder at full size; twice as many below it.
    """
    if channels < 1 or filters < 1:
        raise ValueError(f"an auto-encoder needs at least 1 channel and 1 filter; got {channels} and {filters}")
    return Denoised(AutoEncoder(channels, filters), net)


def gaussian(sigma: float) -> Attack:
    """Noise of standard deviation `sigma`, in [0, 1] pixel units; what leaves [0, 1] is cut off."""

    def noise(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return (inputs + sigma * torch.randn(inputs.shape)).clamp(0, 1)

    return noise


def reconstruction(*noises: Attack) -> Objective:
    """The mean squared error of what a `Denoised` makes of noisy images to these images as they were.

    Args:
        noises: each is a step of its own in each batch. `gaussian(0.1)`, or any attack, which is made for the net
            behind the auto-encoder: `partial(dxray.attacks.pgd.pgd, eps=8 / 255)`.
    """

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        assert isinstance(net, Denoised)
        for noise in noises:
            noisy = to_device(noise(net.net, inputs.cpu(), labels.cpu()), inputs.device)
            cleaned = net.part(noisy)
            with torch.no_grad():
                logits = net.net(to_device(cleaned, inputs.device)).float()
            yield F.mse_loss(cleaned, inputs), logits

    return objective


def teach(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int = 4,
    sigma: float = 0.1,
    eps: float | None = 8 / 255,
    seed: int = 0,
    state: Path | None = None,
    on_share: Callable[[float], None] | None = None,
) -> None:
    """Train the auto-encoder of a `Denoised` on images with Gaussian noise, and on attacks on the net behind it.

    Args:
        images, labels, epochs, seed, state, on_share: as `fit` takes them.
        sigma: standard deviation of the noise. eps: Linf budget of the attacks, of 4 steps; None: none. Both in [0, 1]
            pixel units.
    """
    noises: list[Attack] = [gaussian(sigma)]
    if eps is not None:
        noises.append(partial(pgd, eps=eps, steps=4, batch=64))
    learnt = reconstruction(*noises)
    fit(net, images, labels, epochs=epochs, lr=3e-3, objective=learnt, seed=seed, state=state, on_share=on_share)
