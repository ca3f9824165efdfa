"""What a net wants in place of RGB or grey pixels in [0, 1]: a mean, a deviation, another order of channels.

A side file says it, `"mean": 0.5, "std": 0.5` for pixels in [-1, 1]; so does the preprocessor of Hugging Face. Where
neither does, labelled faces tell: a net sees them best as it was trained to (`better_form`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dxray.models.data.agreement import counted, surely_above_chance, surely_below_chance
from dxray.models.victims.predict import answers_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = (0.485, 0.458, 0.408)  # the mean that VGG's nets take off pixels in [0, 255], here in [0, 1]
SURE = 1e-5  # of McNemar's exact test at each look, of which there are at most about 150
SETTLED = 256  # images, after which only what is ahead is followed further


@dataclass(frozen=True)
class Form:
    """`(pixels - mean) / std`, a number for each channel or one for all, of pixels in [0, 1]; in the order BGR, or not.

    said: for people.
    """

    said: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def of(self, pixels: Tensor) -> Tensor:
        pixels = pixels.flip(1) if self.bgr else pixels
        mean, std = (pixels.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    @property
    def in_side_file(self) -> str:
        """The keys of a side file that ask for it."""
        mean, std = (f"[{', '.join(f'{value:.6g}' for value in values)}]" for values in (self.mean, self.std))
        return f'"mean": {mean}, "std": {std}' + (', "channel_order": "bgr"' if self.bgr else "")


class Better(NamedTuple):
    """A form of inputs, and the shares of so many images that a net has right as it gets them (`usual`) and with it."""

    form: Form
    usual: float
    share: float
    images: int


class Preprocessed(nn.Module):
    """A net behind the arithmetic that it wants: `pixels * scale + shift`, a number for each channel or one for all."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, scale: list[float], shift: list[float], bgr: bool) -> None:
        super().__init__()
        self.net, self.bgr = net, bgr
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = images.flip(1) if self.bgr else images
        found: Tensor = self.net(images * self.scale + self.shift)
        return found


def of_side_file(said: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Preprocessed` that the keys `mean`, `std` and `channel_order` mean; none without such keys.

    Raises:
        ValueError: they are not numbers, one for all channels or one for each, or the order is neither rgb nor bgr.
    """
    if not said.keys() & {"mean", "std", "channel_order"}:
        return {}
    mean, std = (_numbers(said.get(name, usual)) for name, usual in (("mean", 0.0), ("std", 1.0)))
    many = max(len(mean), len(std))
    order = said.get("channel_order", "rgb")
    if {len(mean), len(std)} - {1, many} or many not in (1, 3) or 0.0 in std or order not in ("rgb", "bgr"):
        raise ValueError("they do not fit")
    mean, std = (values * (many if len(values) == 1 else 1) for values in (mean, std))
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    return {"scale": [1 / s for s in std], "shift": shift, "bgr": order == "bgr"}


def of_preprocessor(steps: dict[str, Any], channels: int) -> dict[str, Any]:
    """The same of what `preprocessor_config.json` says.

    Raises:
        ValueError: it has no mean and std for each channel.
    """
    scale, shift = [255.0] * channels, [0.0] * channels
    if steps.get("do_rescale", True):
        scale = [255 * steps.get("rescale_factor", 1 / 255)] * channels
        shift = [-1.0 if steps.get("rescale_offset") else 0.0] * channels
    if steps.get("do_normalize", True):
        mean, std = (_per_channel(steps.get(which), channels) for which in ("image_mean", "image_std"))
        scale = [s / d for s, d in zip(scale, std, strict=True)]
        shift = [(b - m) / d for b, m, d in zip(shift, mean, std, strict=True)]
        if steps.get("include_top"):  # EfficientNet divides by std once more
            scale, shift = ([v / d for v, d in zip(values, std, strict=True)] for values in (scale, shift))
    return {"scale": scale, "shift": shift, "bgr": bool(steps.get("do_flip_channel_order"))}


def _per_channel(given: Any, channels: int) -> list[float]:
    values = _numbers(given)
    if isinstance(given, list) and len(values) != channels:
        raise ValueError(f"{len(values)} values for {channels} channels")
    return values if isinstance(given, list) else values * channels


def _numbers(given: Any) -> list[float]:
    values = given if isinstance(given, list) else [given]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError("they are no numbers")
    return [float(value) for value in values]


def better_form(net: nn.Module, batches: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> Better | None:
    """The usual form of inputs with which a net is surely right more often than with [0, 1], if there is one.

    A net that is surely wrong more often than chance has its labels swapped, and no form is looked for.

    Args:
        net: pixels to logits.
        batches: images uint8 `(N, C, H, W)` and their labels int64 `(N,)`, none unknown; taken as long as a form may
            still turn out better, so that for a net that wants [0, 1] few are.
    """
    usual = np.zeros((classes, classes), np.int64)
    left: list[tuple[Form, np.ndarray, list[int]]] = []  # counts of answers; better and worse than as it is
    for images, labels in batches:
        pixels = torch.from_numpy(images).float() / 255
        said = answers_of(net, pixels)
        if not usual.any():
            left = [(form, np.zeros_like(usual), [0, 0]) for form in forms(images.shape[1])]
        usual += counted(labels, said, classes)
        if surely_below_chance(usual):
            return None
        right = said == labels
        for form, table, won in left:
            answers = answers_of(net, form.of(pixels))
            table += counted(labels, answers, classes)
            won[0] += int(((answers == labels) & ~right).sum())
            won[1] += int((right & (answers != labels)).sum())
        sure = [one for one in left if _mcnemar(*one[2]) < SURE and surely_above_chance(one[1])]
        if sure:
            best, table, _ = max(sure, key=lambda one: int(one[1].trace()))
            total = int(usual.sum())
            return Better(best, float(usual.trace()) / total, float(table.trace()) / total, total)
        late = usual.sum() >= SETTLED
        left = [one for one in left if one[2][0] - one[2][1] > (0 if late else -math.sqrt(sum(one[2])) - 1)]
        if not left:
            return None
    return None


def forms(channels: int) -> list[Form]:
    """Those that nets are usually trained with, but for [0, 1]."""
    grey = channels == 1
    mean, std = ((sum(values) / 3,) if grey else values for values in IMAGENET)
    plain = [
        Form("in [-1, 1]", (0.5,), (0.5,)),
        Form("less ImageNet's mean, by its std", mean, std),
        Form("in [0, 255]", (0.0,), (1 / 255,)),
    ]
    inverted = Form("as negatives", (1.0,), (-1.0,))
    if grey:
        return [*plain, inverted]
    plain.append(Form("in [0, 255] less ImageNet's mean", CAFFE, (1 / 255,)))
    turned = [Form(f"{form.said}, blue first (BGR)", form.mean[::-1], form.std[::-1], bgr=True) for form in plain]
    return [*plain, Form("blue first (BGR)", bgr=True), *turned, inverted]


def _mcnemar(better: int, worse: int) -> float:
    """The chance that of so many that differ as many would be better, where it makes none (McNemar 1947, exact)."""
    many = better + worse
    return sum(math.comb(many, i) for i in range(better, many + 1)) / 2**many
