"""The one place that scores: what an attack did, measured on the 8-bit images as they were read back from disk."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.engine.norms import NORMS
from dxray.attacks.engine.query import BATCH, Query, margin

WINDOW, SIGMA = 11, 1.5  # SSIM's window in pixels and its standard deviation, as in the paper
SCORED = 128  # images that are in memory at a time as floats
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # its stabilisers for the range [0, 1]


@dataclass(frozen=True)
class Outcome:
    """One entry per image, all numpy (N,).

    status: "fooled", "missed", or "already_wrong" (the net did not give the label before any change).
    predicted, probability: the class the net gives and its softmax probability, before and after.
    margin: the attack's own measure in logits, > 0 where it has its way, before and after; see `query.margin`.
    l0 (changed pixels, a pixel of several channels once), l1, l2, linf: size of the change in [0, 1] pixel units.
    psnr: dB, infinite for an unchanged image. ssim: 1 for an unchanged image.
    """

    status: np.ndarray
    predicted_before: np.ndarray
    predicted_after: np.ndarray
    probability_before: np.ndarray
    probability_after: np.ndarray
    margin_before: np.ndarray
    margin_after: np.ndarray
    l0: np.ndarray
    l1: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray


def score(
    net: nn.Module,
    original: Tensor,
    modified: Tensor,
    labels: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    said: tuple[Tensor, Tensor] | None = None,
    batch: int = BATCH,
) -> Outcome:
    """Score `modified` against `original`, both uint8 (N, C, H, W), the first as read back from where it was saved.

    labels: the true classes int64 (N,); None takes what the net gives the originals, and nothing is then already wrong.
    targets: fooled means this class is given; None: any other than the label.
    said: the net's logits (N, K) at the two, where they are known already.
    Raises ValueError unless both are uint8 of one shape.
    """
    if original.dtype != torch.uint8 or modified.dtype != torch.uint8 or original.shape != modified.shape:
        raise ValueError(
            "original and modified must be uint8 (N, C, H, W) of one shape, got "
            f"{original.dtype} {tuple(original.shape)} and {modified.dtype} {tuple(modified.shape)}"
        )
    if said is None:
        known = labels if labels is not None else torch.zeros(len(original), dtype=torch.int64)
        rows = torch.arange(len(original))
        with Query(net, known, targets, batch=batch) as query:
            said = query.logits(from_levels(original), rows), query.logits(from_levels(modified), rows)
    before, after = said
    predicted = before.argmax(dim=1), after.argmax(dim=1)
    labels = labels if labels is not None else predicted[0]
    fooled = predicted[1] != labels if targets is None else predicted[1] == targets
    status = np.where(fooled.numpy(), "fooled", "missed")
    pieces = zip(original.split(SCORED), modified.split(SCORED), strict=True)
    measured = [_measured(from_levels(clean), from_levels(changed)) for clean, changed in pieces]
    return Outcome(
        status=np.where((predicted[0] != labels).numpy(), "already_wrong", status),
        predicted_before=predicted[0].numpy(),
        predicted_after=predicted[1].numpy(),
        probability_before=before.softmax(dim=1).amax(dim=1).numpy(),
        probability_after=after.softmax(dim=1).amax(dim=1).numpy(),
        margin_before=margin(before, labels, targets).numpy(),
        margin_after=margin(after, labels, targets).numpy(),
        **{name: torch.cat([piece[name] for piece in measured]).numpy() for name in measured[0]},
    )


def _measured(clean: Tensor, changed: Tensor) -> dict[str, Tensor]:
    """The columns (N,) of `Outcome` that the images alone decide, float32 (N, C, H, W) in [0, 1]."""
    change = changed - clean
    sizes = {name: size(change) for name, size in NORMS.items()}
    return sizes | {"psnr": psnr(clean, changed), "ssim": ssim(clean, changed)}


def psnr(clean: Tensor, changed: Tensor) -> Tensor:
    """Peak signal to noise ratio (N,) in dB of images (N, C, H, W) in [0, 1]; infinite where they are equal."""
    return -10 * (changed - clean).square().flatten(1).mean(dim=1).log10()


def ssim(clean: Tensor, changed: Tensor) -> Tensor:
    """Structural similarity (N,) of images (N, C, H, W) in [0, 1] (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    A Gaussian window of 11 x 11 pixels, sigma 1.5, only where it lies inside the image; channels and places averaged.
    An image smaller than 11 pixels has a window as large as its smaller side, odd or not.
    """
    height, width = clean.shape[2:]
    side = min(WINDOW, height, width)
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    bell = (-place.square() / (2 * SIGMA**2)).exp()
    down, across = _sliding(bell / bell.sum(), height), _sliding(bell / bell.sum(), width).T
    x, y = clean.double(), changed.double()

    def mean(values: Tensor) -> Tensor:
        # The window is the product of a column and a row; a matrix for each image, so that none rounds by another.
        images = values.flatten(0, 1)
        return down.expand(len(images), -1, -1).bmm(images).bmm(across.expand(len(images), -1, -1))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x + y * y) - mean_x**2 - mean_y**2  # the sum of both
    covariance = mean(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + LUMINANCE) * (2 * covariance + CONTRAST)
    similar /= (mean_x**2 + mean_y**2 + LUMINANCE) * (variances + CONTRAST)
    return similar.view(len(x), -1).mean(dim=1)


def _sliding(window: Tensor, length: int) -> Tensor:
    """The matrix (places, length) whose rows are the window at each place inside that length."""
    places = length - len(window) + 1
    matrix = torch.zeros(places, length, dtype=window.dtype)
    for place in range(places):
        matrix[place, place : place + len(window)] = window
    return matrix


def amplify(original: Tensor, modified: Tensor, gain: int = 50) -> Tensor:
    """The change made visible: abs(modified - original) * gain clipped to 255, uint8 like the two images."""
    return ((modified.short() - original.short()).abs() * gain).clamp(max=255).to(torch.uint8)
