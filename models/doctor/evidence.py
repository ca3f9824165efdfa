"""What is known of a training: the evidence that the doctor's findings rest on, and how it is taken from a net."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dxray.models.data.agreement import counted
from dxray.models.data.batches import device_of, to_device
from dxray.models.doctor.copies import Copies, copies
from dxray.models.doctor.lr_range_test import RateRange
from dxray.models.training.layer_stats import LAYERS, layer_figures

BATCH = 256
SAMPLE = 2000  # training images whose logits are taken: an accuracy to about a point
PROBED = 256  # images on which layers are measured; on fewer, units that fire seldom would look dead
FEW, FAR = 32, 1e4  # images that show the range of the outputs, and how far outside [0, 1] the drawn ones lie


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 `(N, C, H, W)` and labels int64 `(N,)` of a split, their names where they have some, and the net's
    logits `(M, classes)` for the first M images where they were taken."""

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answered(self) -> np.ndarray:
        """The labels of the images whose logits are known."""
        return self.labels[: 0 if self.logits is None else len(self.logits)]

    @property
    def answers(self) -> np.ndarray:
        return np.zeros(0, np.int64) if self.logits is None else self.logits.argmax(1)

    @property
    def accuracy(self) -> float | None:
        return float((self.answers == self.answered).mean()) if len(self.answered) else None

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, `(M, classes)`."""
        return np.zeros((0, 2)) if self.logits is None else torch.tensor(self.logits).double().softmax(1).numpy()

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy, in nats."""
        if not len(self.answered):
            return None
        chosen = self.probabilities[np.arange(len(self.answered)), self.answered]
        return float(-np.log(np.maximum(chosen, 1e-30)).mean())


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that may be known of a training; what is not known is None or empty, and what needs it is not checked.

    Attributes:
        classes: their names, in the order of the logits.
        splits: "train" and, of images that the net did not learn from, "validation" and "test"; as far as there are.
        history: the rows of `train.fit`.
        diverged: the reason why the training ended without a net.
        lr: its learning rate, the highest of its schedule.
        layers: `layer_stats.layer_figures` of the net as it is now.
        inputs: (mean, standard deviation) of what enters the first layer with weights, of the channel furthest off.
        outputs: raw outputs for some images and for noise far outside [0, 1].
        rates: what a range test of the learning rate gave.
        strange: the net has not learnt from these labels, as far as is known, so that they may mean something else.
        numbers: the names that numbers counted, where labels were numbers.
        absent: why something is not known, by the name of the attribute.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    history: Sequence[Mapping[str, Any]] = ()
    diverged: str | None = None
    lr: float | None = None
    layers: Sequence[Mapping[str, Any]] = ()
    inputs: tuple[float, float] | None = None
    outputs: np.ndarray | None = None
    rates: RateRange | None = None
    strange: bool = False
    numbers: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def held_out(self) -> dict[str, Split]:
        """The splits that the net did not learn from, those that hold images."""
        return {name: split for name, split in self.splits.items() if name != "train" and len(split)}

    @cached_property
    def copies(self) -> Copies | None:
        """Training images among the test images; None where there are not both."""
        train, test = self.splits.get("train"), self.splits.get("test")
        return copies(train.images, test.images) if train and test else None

    @cached_property
    def answered_labels(self) -> np.ndarray:
        """How often the net answered a class to images of each label, int64 `(classes, classes)`."""
        classes = len(self.classes)
        tables = [counted(split.answered, split.answers, classes) for split in self.splits.values()]
        return np.sum([np.zeros((classes, classes), np.int64), *tables], axis=0)

    @property
    def chance(self) -> float | None:
        """The loss of a net that knows only how frequent the classes are: ln(classes) where they are balanced."""
        if "train" not in self.splits or not len(self.splits["train"]):
            return None
        shares = np.bincount(self.splits["train"].labels) / len(self.splits["train"])
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())

    @property
    def final_loss(self) -> float | None:
        """The lowest of the losses at the end that are known: of training and of each split, measured or remembered."""
        last = self.history[-1] if self.history else {}
        known = [last.get("loss"), last.get("validation_loss"), *(split.loss for split in self.splits.values())]
        return min((loss for loss in known if loss is not None), default=None)


def examine(
    net: nn.Module, splits: Mapping[str, Split], *, on_share: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """What a net itself shows, as keyword arguments of `Evidence`; the net is left as it was.

    Args:
        net: `(N, C, H, W)` in [0, 1] to logits `(N, classes)`, or `(N, 1)`: one logit, for the second of two classes.
        splits: logits are taken of up to 2,000 training images, and of all others.
        on_share: called after each batch of them with the share that is answered, in (0, 1].
    """
    asked = {name: split.images[: SAMPLE if name == "train" else None] for name, split in splits.items()}
    done, count = 0, sum(map(len, asked.values()))

    def answered(images: int) -> None:
        nonlocal done
        done += images
        if on_share:
            on_share(done / count)

    seen = {name: _answered(net, split, asked[name], answered) for name, split in splits.items()}
    some = next(split for split in splits.values() if len(split))
    outputs = _outputs(net, _far(net, some.images[:FEW])).numpy()
    found: dict[str, Any] = {"splits": seen, "outputs": outputs, "absent": {}}
    if not any(isinstance(module, LAYERS) for module in net.modules()):
        why = "the file shows no layers, only answers"
        return found | {"absent": {"layers": why, "inputs": why}}
    found["inputs"] = _entering(net, some.images[:PROBED])
    if outputs.shape[1] == 1:
        return found | {"absent": {"layers": "the net has one logit, and cross-entropy needs one for each class"}}
    return found | {"layers": layer_figures(net, some.images[:PROBED], some.labels[:PROBED])}


def _answered(net: nn.Module, split: Split, images: np.ndarray, answered: Callable[[int], None]) -> Split:
    if not len(split):
        return split

    def batches() -> Iterator[Tensor]:
        for at in range(0, len(images), BATCH):
            yield to_device(images[at : at + BATCH], device_of(net))
            answered(len(images[at : at + BATCH]))

    logits = _outputs(net, batches()).numpy()
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return Split(split.images, split.labels, split.names, logits)


def _far(net: nn.Module, images: np.ndarray) -> Iterator[Tensor]:
    """Images, and noise far outside of [0, 1]."""
    device = device_of(net)
    noise = torch.randn((FEW, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
    yield to_device(images, device)
    yield from (to_device(sign * FAR * noise, device) for sign in (1, -1))


@torch.no_grad()
def _outputs(net: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """What a net, perhaps one without any weights to tell its device by, gives in eval mode."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        return torch.cat([net(batch).float().cpu() for batch in batches])
    finally:
        for module, training in modes:
            module.training = training


class _Entered(Exception):
    """What entered the first layer, and that no more of the net need run."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


@torch.no_grad()
def _entering(net: nn.Module, images: np.ndarray) -> tuple[float, float] | None:
    def enter(module: nn.Module, features: tuple[Tensor, ...]) -> None:
        raise _Entered(features[0])

    hooks = [m.register_forward_pre_hook(enter) for m in net.modules() if isinstance(m, LAYERS)]
    try:
        net(to_device(images, device_of(net)))
    except _Entered as entered:
        features = entered.features.float()
    else:
        return None
    finally:
        for hook in hooks:
            hook.remove()
    # A dense layer as the first reads pixels, each a feature of its own: taken together as one channel.
    channels = features.movedim(1, 0).flatten(1) if features.dim() == 4 else features.reshape(1, -1)
    std, mean = torch.std_mean(channels, dim=1)
    worst = int((mean.abs() / std.clamp(min=1e-12)).argmax())
    return float(mean[worst]), float(std[worst])
