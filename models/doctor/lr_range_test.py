"""At which learning rates a net can be trained: a range test (Smith 2015, https://arxiv.org/abs/1506.01186)."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxray.models.data.batches import device_of, to_device
from dxray.models.training.train import optimizer_of

IMAGES = 32
JUMP = 2.0  # times the first loss: rates that learn stay below 1.5 of it, and a factor of two further it is above 4
TRIED = tuple(10.0 ** (-4 + third / 3) for third in range(16))  # 1e-4 to 10
TRIES = 10  # steps at each of them
LOWEST, STEPS = 1e-5, 100  # where the rise begins, and its steps
SMOOTHING = 0.8  # dropout and the steps themselves make the loss jump; compared is the mean of about five
FALL = 0.1  # share of the first loss that it must fall by, for a rate to count as usable
MOST_STEPS = len(TRIED) * TRIES + STEPS


@dataclass(frozen=True)
class RateRange:
    """What a range test gave.

    Attributes:
        rates, losses: of each step of the rise, the losses smoothed.
        lower: where the loss has fallen by a tenth of all that it falls by in the rise; None where it does not fall.
        upper: the highest rate tried whose steps do not make the loss jump; None where all do.
    """

    rates: list[float]
    losses: list[float]
    lower: float | None
    upper: float | None


def range_test(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    optimizer: str = "adamw",
    weight_decay: float = 0.01,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> RateRange:
    """Train fresh copies of `net` for up to 260 steps at many rates, and watch the loss.

    Smith lets the rate rise from step to step until the loss does. That shows the lower end of the band, but not the
    upper one: a net that has fitted its images has no gradient left that could break it, and a plain one dies without a
    sound. So the upper end is sought first, by ten steps at each of a row of rates, always from the start; the rise
    then goes up to there.

    Every step is taken on the same 32 images. On new ones the loss differs from batch to batch by more than it falls,
    and a plain net needs hundreds of steps before it falls at all; what is asked is at which rates this net moves, not
    what it learns.

    The net and the random state stay as they were. The copies begin with weights drawn anew, by `reset_parameters` of
    each module that has it, for a trained net would show at which rates it forgets.

    Args:
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`; the first 32 are taken.
        optimizer, weight_decay: as `train.fit` takes them; those of the training that is examined.
        on_step: called after each step, `MOST_STEPS` times at most.
    """
    device = device_of(net)
    batch, wanted = to_device(images[:IMAGES], device), torch.tensor(labels[:IMAGES], device=device)
    cuda = [device] if device.type == "cuda" else []

    def losses_at(rates: list[float], most: float) -> list[float]:
        torch.manual_seed(seed)
        fresh = _fresh(net)
        return _losses(
            fresh, optimizer_of(optimizer, fresh, rates[0], weight_decay), batch, wanted, rates, most, on_step
        )

    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        upper = None
        for rate in TRIED:
            losses = losses_at([rate] * TRIES, JUMP)
            if len(losses) < TRIES:
                break
            upper = rate
        if upper is None:
            return RateRange([], [], None, None)
        rates = np.geomspace(LOWEST, upper, STEPS).tolist()
        losses = _smoothed(losses_at(rates, math.inf))
    return RateRange(rates[: len(losses)], losses, _lower(rates, losses), upper)


def _losses(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Tensor,
    labels: Tensor,
    rates: list[float],
    most: float,
    on_step: Callable[[], None] | None,
) -> list[float]:
    """The loss before a step at each rate; it ends where the loss is more than `most` times the first, or no number."""
    losses: list[float] = []
    for rate in rates:
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(net(batch).float(), labels)
        value = float(loss.detach())
        if not math.isfinite(value) or (losses and value > most * losses[0]):
            break
        losses.append(value)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if on_step:
            on_step()
    return losses


def _smoothed(losses: list[float]) -> list[float]:
    """Running means, as in Adam: the first of them are means of few, not too small."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))
    return smoothed


def _lower(rates: list[float], losses: list[float]) -> float | None:
    fall = losses[0] - min(losses)
    if fall < FALL * losses[0]:
        return None
    last_above = max((i for i in range(int(np.argmin(losses))) if losses[i] > losses[0] - fall / 10), default=0)
    return rates[last_above]


def _fresh(net: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(net).train().requires_grad_(True)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh
