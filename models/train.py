"""Training and evaluating a net on faces in memory: plain functions that know nothing of Ray."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.training_state import load_state, save_state

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine")


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


def device_of_choice() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` trains faster in bfloat16 than in float32.

    A CPU does where it has matrix tiles (AMX). Instructions for bfloat16 alone (AVX512-BF16) are not enough: a step of
    the DenseNet took 1.3 times as long as in float32 there, most of it in the backward passes of convolution and ReLU.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 `(N, C, H, W)` -> float32 in [0, 1], channels last, on `device`.

    The memory is laid out by hand: for one channel torch counts any tensor as contiguous in both formats, so
    `.contiguous(memory_format=channels_last)` would leave the strides, and convolutions would take their slow path.
    """
    n, channels, height, width = images.shape
    strides = (channels * height * width, 1, width * channels, channels)
    batch = torch.empty_strided((n, channels, height, width), strides, dtype=torch.float32, device=device)
    # torch.tensor copies: arrays that come out of Ray's object store are read-only, and shared.
    return batch.copy_(torch.tensor(images)).div_(255)


def fit(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 12,
    batch_size: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 0.01,
    optimizer: str = "adamw",
    schedule: str = "onecycle",
    label_smoothing: float = 0.05,
    augment: bool = True,
    precision: str = "auto",
    seed: int = 0,
    device: torch.device | None = None,
    state: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train `net` in place; afterwards it is in eval mode on `device`.

    Same arguments, thread count and kind of machine, same weights: order, augmentation and dropout of an epoch follow
    from `(seed, epoch)` alone, and the random state of the caller is left as it was.

    Args:
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`. The net's `normalise` layer, where it has one, takes
            its statistics from them.
        validation: a second such pair, evaluated after each epoch.
        lr: the highest learning rate of the schedule.
        schedule: "onecycle" (linear rise over a quarter of the steps, then a cosine to zero) or "cosine" (no rise).
        augment: mirrored at random, moved by up to 2 pixels, brightness and contrast changed by up to 15 %.
        precision: "auto" (bfloat16 where the hardware is faster in it), "float32" or "bfloat16".
        state: a file that keeps the state after each epoch; where it exists, the training goes on from it.
        on_epoch: called with the row of each epoch that is trained.

    Returns:
        A row per epoch: `epoch` (from 1), `loss`, `train_accuracy` (of the augmented images, as seen while learning),
        `seconds`, `images_per_second`, and with `validation` also `validation_loss` and `validation_accuracy`.

    Raises:
        Diverged: the loss of an epoch is not finite.
        ValueError: an unknown optimizer, schedule or precision, or no images.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"training needs images with a label each; {len(images)} images and {len(labels)} labels came")
    device = device or device_of_choice()
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    _set_statistics(net, images)
    optimiser = _optimizer(optimizer, net, lr, weight_decay)
    autocast = _autocast(precision, device)
    steps = math.ceil(len(images) / batch_size)
    rate = _schedule(schedule, epochs * steps)
    history = load_state(state, net, optimiser) if state else []
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for epoch in range(len(history), epochs):
            started = time.perf_counter()
            torch.manual_seed(_epoch_seed(seed, epoch))
            net.train()
            total = torch.zeros((), device=device)
            right = torch.zeros((), device=device)
            for step, rows in enumerate(_batches(len(images), batch_size)):
                for group in optimiser.param_groups:
                    group["lr"] = lr * rate(epoch * steps + step)
                batch = images[rows.numpy()]
                inputs = to_device(_augmented(batch) if augment else batch, device)
                if augment:
                    _relight(inputs)
                wanted = torch.tensor(labels[rows.numpy()], device=device)
                with autocast():
                    logits = net(inputs).float()
                    loss = F.cross_entropy(logits, wanted, label_smoothing=label_smoothing)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                # Summed on the device: reading a number here would make CUDA wait at every step.
                total += loss.detach() * len(rows)
                right += (logits.detach().argmax(1) == wanted).sum()
            if not torch.isfinite(total):
                raise Diverged(
                    f"the loss of epoch {epoch + 1} is {float(total / len(images))}; lr={lr} may be too high"
                )
            net.eval()
            seconds = time.perf_counter() - started
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": float(total / len(images)),
                "train_accuracy": float(right / len(images)),
                "seconds": seconds,
                "images_per_second": len(images) / seconds,
            }
            if validation is not None:
                row |= {f"validation_{name}": value for name, value in evaluate(net, *validation).items()}
            history.append(row)
            if state:
                save_state(state, net, optimiser, history)
            if on_epoch:
                on_epoch(row)
    net.eval()
    return history


@torch.inference_mode()
def logits_of(net: nn.Module, images: np.ndarray, *, batch_size: int = 256) -> Tensor:
    """Logits `(N, classes)`, float32 on the CPU, of uint8 images `(N, C, H, W)`; the net's mode is left as it was."""
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    try:
        parts = [
            net(to_device(images[i : i + batch_size], device)).float().cpu() for i in range(0, len(images), batch_size)
        ]
    finally:
        net.train(training)
    return torch.cat(parts)


def evaluate(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy` and cross-entropy `loss` of `net`, in float32 and eval mode, on uint8 images and their labels.

    Raises:
        ValueError: no images came: an accuracy over nothing is not a number.
    """
    if len(images) == 0:
        raise ValueError("there is nothing to evaluate on: no images came")
    logits = logits_of(net, images)
    wanted = torch.tensor(labels)
    return {
        "accuracy": float((logits.argmax(1) == wanted).double().mean()),
        "loss": float(F.cross_entropy(logits, wanted)),
    }


def _set_statistics(net: nn.Module, images: np.ndarray) -> None:
    normalise = getattr(net, "normalise", None)
    if normalise is None:
        return
    # 4,096 faces give mean and deviation to well under a grey level.
    sample = images[:: max(1, len(images) // 4096)].astype(np.float32) / 255
    with torch.no_grad():
        for name, values in (("mean", sample.mean((0, 2, 3))), ("std", sample.std((0, 2, 3)).clip(1 / 255))):
            buffer = getattr(normalise, name)
            buffer.copy_(torch.tensor(values).view_as(buffer))


def _optimizer(name: str, net: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    # Decay pulls weights towards zero; on biases and batch-norm scales that only hurts.
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    raise ValueError(f"no optimizer is called '{name}'; known are: {', '.join(OPTIMIZERS)}")


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision '{precision}' is not one of: auto, float32, bfloat16")
    if precision == "bfloat16" or (precision == "auto" and has_fast_bf16(device)):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def _schedule(name: str, steps: int) -> Callable[[int], float]:
    """The share of the highest learning rate at each of `steps` steps."""
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called '{name}'; known are: {', '.join(SCHEDULES)}")
    rise = steps // 4 if name == "onecycle" else 0

    def rate(step: int) -> float:
        if step < rise:
            return 0.05 + 0.95 * step / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return rate


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def _batches(n: int, batch_size: int) -> Iterator[Tensor]:
    yield from torch.randperm(n).split(batch_size)


def _augmented(images: np.ndarray, *, reach: int = 2) -> np.ndarray:
    """uint8 `(N, C, H, W)`: each image mirrored with probability 1/2 and moved by up to `reach` pixels."""
    n, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    moves = torch.randint(0, 2 * reach + 1, (2, n)).numpy()
    mirrored = (torch.rand(n) < 0.5).numpy()
    rows = moves[0][:, None] + np.arange(height)
    columns = moves[1][:, None] + np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    picked: np.ndarray = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.transpose(0, 3, 1, 2)  # picking puts the channels last


def _relight(inputs: Tensor, *, reach: float = 0.15) -> None:
    """Brightness and contrast of each image changed in place by up to `reach`, staying in [0, 1]."""
    shift, gain = ((torch.rand(2, len(inputs), 1, 1, 1) * 2 - 1) * reach).to(inputs.device)
    inputs.mul_(1 + gain).add_(shift - gain / 2).clamp_(0, 1)
