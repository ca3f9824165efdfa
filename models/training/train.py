"""Training and evaluating a net on faces in memory: plain functions that know nothing of Ray."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dxray.models.data.batches import augmented, device_of, to_device
from dxray.models.training.auxiliary import AuxiliaryHeads
from dxray.models.training.layer_stats import layer_figures
from dxray.models.training.state import load_state, save_state

# What a batch teaches: `objective(net, inputs, labels, progress)` yields, for each step of the optimizer, a loss (a
# scalar) and the logits `(N, classes)` that it is of. Inputs are float32 in [0, 1], channels last; the net is in
# training mode; `progress` is the share of the training that is done, in [0, 1). Chance comes from torch's generator.
Objective = Callable[[nn.Module, Tensor, Tensor, float], Iterator[tuple[Tensor, Tensor]]]

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine")


# Times ln(classes), the loss of a net that knows nothing: a mean over an epoch that no training comes back from. Adam
# bounds its steps, so a learning rate of 1,000 may well leave a loss that is a number, such as 1e12.
ABSURD = 100.0
PROBED = 64  # images on which each layer is measured after an epoch


class Diverged(RuntimeError):
    """The training loss is no longer a finite number, or an absurd one."""


def device_of_choice() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` trains faster in bfloat16 than in float32.

    A CPU does where it multiplies in it (AVX512-BF16, AMX), `tests/bench/training.py` shows by how much; one without
    these instructions converts to float32 and back.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = (getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(probe() for probe in probes)


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
    augment_strength: float = 1.0,
    random_erasing: float = 0.0,
    ema: float = 0.0,
    precision: str = "auto",
    objective: Objective | None = None,
    auxiliary: Mapping[str, np.ndarray] | None = None,
    judge: Callable[[nn.Module], dict[str, Any]] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    state: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_share: Callable[[float], None] | None = None,
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
        augment: each image is mirrored, turned, zoomed, moved and lit at random, see `batches.augmented`.
        augment_strength: how far `augment` turns, zooms and moves, as a multiple of `augmented`'s own.
        random_erasing: share of the images, in [0, 1], of which `augment` also hides a part.
        ema: the net at the end, and at each validation, is an exponential average of the weights over the steps
            (Polyak and Juditsky 1992), which keeps this share of itself at each, in [0, 1); 0: the last weights.
        precision: "auto" (bfloat16 where the hardware is faster in it), "float32" or "bfloat16".
        objective: what is learnt from a batch, such as `adversarial_training.adversarial("pgd")`; None: its
            cross-entropy, with `label_smoothing`. One that steps more than once a batch does so at one learning rate.
        auxiliary: further labels of the images by name, int64 `(N,)`, -1 unknown; learnt too, see `training.auxiliary`.
        judge: gives figures of the net after each epoch, among them a `score`, and by how much that may be off, its
            `doubt` (none: 0); the net at the end is that of the last epoch whose score is, for all one can tell, not
            below an earlier one.
        state: a file that keeps the state after each epoch; where it exists, the training goes on from it.
        on_epoch: called with the row of each epoch that is trained.
        on_share: called after each batch with the share of the training that is done, in (0, 1].

    Returns:
        A row per epoch: `epoch` (from 1), `loss`, `train_accuracy` (of the augmented images, as seen while learning),
        `seconds`, `images_per_second`, `layers` (see `layer_stats.layer_figures`, after the epoch), with
        `validation` also `validation_loss` and `validation_accuracy`, and the figures of `judge`.

    Raises:
        Diverged: the loss of an epoch is not finite, or more than `ABSURD` times that of guessing.
        ValueError: an unknown optimizer, schedule or precision, or no images.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"training needs images with a label each; {len(images)} images and {len(labels)} labels came")
    device = device or device_of_choice()
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    _set_statistics(net, images)
    heads = _auxiliary_heads(net, auxiliary, seed, device)
    optimiser = optimizer_of(optimizer, nn.ModuleList([net, heads]) if heads else net, lr, weight_decay)
    autocast = _autocast(precision, device)
    objective = objective or cross_entropy(label_smoothing)
    steps = math.ceil(len(images) / batch_size)
    rate = _schedule(schedule, epochs * steps)
    averaged = _averaged(net, ema)
    best = copy.deepcopy(net) if judge else None
    nets: dict[str, nn.Module] = {"net": net} | ({"ema": averaged} if averaged else {})
    nets |= ({"best": best} if best else {}) | ({"auxiliary": heads} if heads else {})
    history = load_state(state, nets, optimiser) if state else []
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), heads.watching() if heads else nullcontext():
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
                if augment:
                    inputs = augmented(batch, device, strength=augment_strength, random_erasing=random_erasing)
                else:
                    inputs = to_device(batch, device)
                wanted = torch.tensor(labels[rows.numpy()], device=device)
                losses = objective(net, inputs, wanted, (epoch * steps + step) / (epochs * steps))
                for loss, logits in _under(autocast, losses):  # noqa: B007  # the last ones are counted below
                    optimiser.zero_grad(set_to_none=True)
                    (loss + heads.loss(rows) if heads else loss).backward()
                    optimiser.step()
                if averaged:
                    averaged.update_parameters(net)
                # Summed on the device: reading a number here would make CUDA wait at every step.
                total += loss.detach() * len(rows)
                right += (logits.detach().argmax(1) == wanted).sum()
                if on_share:
                    on_share((epoch * steps + step + 1) / (epochs * steps))
            loss_of_epoch = float(total / len(images))
            # Written so that a loss that is no number fails it too.
            if not loss_of_epoch < ABSURD * math.log(max(2, logits.shape[1])):
                raise Diverged(f"the loss of epoch {epoch + 1} is {loss_of_epoch:.4g}; lr={lr:g} may be too high")
            net.eval()
            seconds = time.perf_counter() - started
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": loss_of_epoch,
                "train_accuracy": float(right / len(images)),
                "seconds": seconds,
                "images_per_second": len(images) / seconds,
            }
            row["layers"] = layer_figures(net, images[:PROBED], labels[:PROBED])
            judged = averaged.module if averaged else net
            if validation is not None:
                row |= {f"validation_{name}": value for name, value in evaluate(judged, *validation).items()}
            if judge and best:
                row |= judge(judged)
                if all(row["score"] + row.get("doubt", 0.0) >= earlier["score"] for earlier in history):
                    best.load_state_dict(judged.state_dict())
            history.append(row)
            if state:
                save_state(state, nets, optimiser, history)
            if on_epoch:
                on_epoch(row)
    kept = best or (averaged.module if averaged else net)
    net.load_state_dict(kept.state_dict())
    net.eval()
    return history


@torch.inference_mode()
def logits_of(net: nn.Module, images: np.ndarray, *, batch_size: int = 256) -> Tensor:
    """Logits `(N, classes)`, float32 on the CPU, of uint8 images `(N, C, H, W)`; the net's mode is left as it was."""
    device = device_of(net)
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


def optimizer_of(name: str, net: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of that name, of `OPTIMIZERS`, over the weights of `net`; ValueError for any other."""
    # Decay pulls weights towards zero; on biases and batch-norm scales that only hurts.
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    raise ValueError(f"no optimizer is called '{name}'; known are: {', '.join(OPTIMIZERS)}")


def _averaged(net: nn.Module, share: float) -> AveragedModel | None:
    if not 0 <= share < 1:
        raise ValueError(f"ema={share}: it is the share that the average keeps of itself at each step, in [0, 1)")
    if not share:
        return None

    def update(averages: Any, current: Any, steps: Any) -> None:
        # The first steps count for less, or the weights that were drawn at random would stay in it for long.
        get_ema_multi_avg_fn(min(share, (1 + int(steps)) / (10 + int(steps))))(averages, current, steps)

    return AveragedModel(net, multi_avg_fn=update, use_buffers=True).eval()


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of plain training: the cross-entropy of the inputs as they are."""

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        logits = net(inputs).float()
        yield F.cross_entropy(logits, labels, label_smoothing=label_smoothing), logits

    return objective


def _under(
    autocast: Callable[[], AbstractContextManager[Any]], losses: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of `losses` is computed in a context of its own, which would else keep weights cast before a step."""
    while True:
        with autocast():
            found = next(losses, None)
        if found is None:
            return
        yield found


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision '{precision}' is not one of: auto, float32, bfloat16")
    if precision == "bfloat16" or (precision == "auto" and has_fast_bf16(device)):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def _auxiliary_heads(
    net: nn.Module, labels: Mapping[str, np.ndarray] | None, seed: int, device: torch.device
) -> AuxiliaryHeads | None:
    if not labels:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AuxiliaryHeads(net, labels).to(device)


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
