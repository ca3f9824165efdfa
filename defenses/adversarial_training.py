"""Training on adversarial images that are made anew for each batch, within an Linf budget, as objectives of `fit`.

    fit(net, images, labels, objective=adversarial("pgd", eps=8 / 255), judge=guard(...))

A method decides how the images are made and what is learnt from them; `against` trains on those of any attack.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.engine.query import Query
from dxray.models.data.batches import to_device
from dxray.models.training.train import Objective

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # any of `attacks.ATTACKS`, its keyword arguments bound

FALL = 0.1  # of an accuracy; on the few hundred faces of a guard, chance moves it by 0.03


@dataclass(frozen=True)
class Budget:
    """How far the images of a batch may be changed, in Linf and [0, 1] pixel units.

    eps: the most. least: each image draws its own budget between this share of `eps` and `eps`, so that the net learns
    of near and far changes. warmup: the share of the training during which both grow from zero.
    """

    eps: float = 8 / 255
    least: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.eps <= 1 and 0 <= self.least <= 1 and 0 <= self.warmup <= 1):
            raise ValueError(
                f"eps must lie in (0, 1], least and warmup in [0, 1]; got eps={self.eps:g}, least={self.least:g}, "
                f"warmup={self.warmup:g}"
            )

    def draw(self, inputs: Tensor, progress: float) -> Tensor:
        """The budgets (N, 1, 1, 1) of inputs (N, C, H, W) when a share `progress` of the training is done."""
        grown = min(1.0, progress / self.warmup) if self.warmup else 1.0
        shares = self.least + (1 - self.least) * torch.rand(len(inputs), 1, 1, 1)
        return (self.eps * grown * shares).to(inputs.device)


def fgsm(budget: Budget, *, step: float = 1.25, label_smoothing: float = 0.05) -> Objective:
    """One step of `step` times the budget from a random start (Wong et al. 2020, https://arxiv.org/abs/2001.03994).

    The cheapest, and the one that over-fits catastrophically: watch it by `guard`.
    """
    return _on(budget, lambda *at: _ascend(*at, start=1.0, step=step, steps=1), label_smoothing)


def nfgsm(budget: Budget, *, noise: float = 2.0, label_smoothing: float = 0.05) -> Objective:
    """As `fgsm`, from noise of `noise` times the budget and not cut back to it, which hinders the over-fitting.

    N-FGSM (de Jorge et al. 2022, https://arxiv.org/abs/2202.01181): the change is up to 1 + `noise` budgets long.
    """
    return _on(budget, lambda *at: _ascend(*at, start=noise, step=1.0, steps=1, reach=1 + noise), label_smoothing)


def pgd(budget: Budget, *, steps: int = 4, step: float | None = None, label_smoothing: float = 0.05) -> Objective:
    """`steps` steps of `step` times the budget (None: 1.5 / steps) from a random start within it.

    Madry et al. 2017, https://arxiv.org/abs/1706.06083.
    """
    length = 1.5 / steps if step is None else step
    return _on(budget, lambda *at: _ascend(*at, start=1.0, step=length, steps=steps), label_smoothing)


def free(budget: Budget, *, replays: int = 4, label_smoothing: float = 0.05) -> Objective:
    """Learns from each batch `replays` times, and changes it each time by the gradient that the learning gave anyway.

    Shafahi et al. 2019, https://arxiv.org/abs/1904.12843; here each batch starts from noise and not from the change of
    the batch before, so that an epoch follows from its seed alone. An epoch has `replays` times the steps.
    """

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        eps = budget.draw(inputs, progress)
        change = _noise(inputs) * eps
        for _ in range(replays):
            points = _points(inputs, change).requires_grad_()
            logits = net(points).float()
            yield F.cross_entropy(logits, labels, label_smoothing=label_smoothing), logits
            assert points.grad is not None
            change = (change + eps * points.grad.sign()).clamp(-eps, eps)

    return objective


def trades(budget: Budget, *, steps: int = 4, beta: float = 3.0, label_smoothing: float = 0.05) -> Objective:
    """The cross-entropy of the images as they are, plus `beta` times how far their answers can be moved.

    TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573): the divergence of the answers is what the change, made
    in `steps` steps, increases and what the net learns to keep small.
    """

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        eps = budget.draw(inputs, progress)
        with Query(net, labels), torch.no_grad():
            clean = net(inputs).float()
        points = _ascend(
            net, inputs, labels, eps, start=0.1, step=1.5 / steps, steps=steps, score=lambda moved: _apart(clean, moved)
        )
        logits, moved = net(inputs).float(), net(points).float()
        plain = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        yield plain + beta * _apart(logits, moved) / len(inputs), logits

    return objective


def against(attack: Attack, *, label_smoothing: float = 0.05) -> Objective:
    """Learns from what `attack(net, inputs, labels)` makes of each batch: `partial(pgd, eps=8 / 255)`."""

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        logits = net(to_device(attack(net, inputs.cpu(), labels.cpu()), inputs.device)).float()
        yield F.cross_entropy(logits, labels, label_smoothing=label_smoothing), logits

    return objective


METHODS: dict[str, Callable[..., Objective]] = {
    "fgsm": fgsm,
    "nfgsm": nfgsm,
    "pgd": pgd,
    "free": free,
    "trades": trades,
}


def adversarial(
    method: str, *, eps: float = 8 / 255, least: float = 1.0, warmup: float = 0.0, **parameters: Any
) -> Objective:
    """The objective for `train.fit` of that method, of `METHODS`, with its own parameters and a `Budget`'s.

    Raises:
        ValueError: no method has that name, or it has no such parameter, or the budget is none.
    """
    if method not in METHODS:
        raise ValueError(f"no adversarial training is called '{method}'; known are: {', '.join(METHODS)}")
    try:
        return METHODS[method](Budget(eps, least, warmup), **parameters)
    except TypeError as wrong:
        raise ValueError(f"adversarial training {method}: {str(wrong).removeprefix(f'{method}() ')}") from None


def parameters_of(method: str) -> dict[str, Any]:
    """What `adversarial` takes for that method of `METHODS`, with its defaults: a `Budget`'s and the method's own."""
    known = [*signature(Budget).parameters.values(), *signature(METHODS[method]).parameters.values()]
    return {one.name: one.default for one in known if one.name != "budget"}


def guard(
    images: np.ndarray, labels: np.ndarray, *, weak: Attack, strong: Attack
) -> Callable[[nn.Module], dict[str, float]]:
    """A `judge` for `fit`, which then keeps the last net that is not surely worse than one before, on held-out faces.

    Whether the training has collapsed meanwhile, `collapsed` tells from the rows. Short of that, robustness on faces
    not seen falls late in a training (Rice et al. 2020, https://arxiv.org/abs/2002.11569). By robustness alone a net
    of the first epochs would be kept, which has learnt little and so loses little (seen: 74 % right, 63 % attacked);
    by the highest score of a few hundred faces, an earlier one by chance (seen: 83.4 % right in place of 84.6).

    Args:
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`, not those that the net learns from.
        weak, strong: attacks such as `partial(fgsm, eps=8 / 255)` and `partial(pgd, eps=8 / 255, steps=10)`.

    Returns:
        Figures of a net: `weak_accuracy` and `strong_accuracy`, the shares that it has right after each attack, and
        `score`, by which `fit` chooses: the mean of the strong accuracy and that without an attack; with its `doubt`,
        the largest standard error that such a mean of so many faces has.

    Raises:
        ValueError: no images came.
    """
    if len(images) == 0:
        raise ValueError("a guard needs held-out images; none came")

    def judge(net: nn.Module) -> dict[str, float]:
        # On the CPU, where attacks reckon; they bring what they ask about to the net.
        inputs, wanted = from_levels(torch.from_numpy(images)), torch.from_numpy(labels)

        def right(attack: Attack) -> float:
            with Query(net, wanted) as query:
                logits = query.logits(attack(net, inputs, wanted), torch.arange(len(inputs)))
            return float((logits.argmax(dim=1) == wanted).double().mean())

        clean, strongly = right(lambda net, inputs, labels: inputs), right(strong)
        score = {"score": (clean + strongly) / 2, "doubt": 0.5 / math.sqrt(len(images))}
        return {"weak_accuracy": right(weak), "strong_accuracy": strongly, **score}

    return judge


def collapsed(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The first epoch, from 1, after which a training that a `guard` judged has over-fitted catastrophically; or None.

    A net that learns from images of one step may learn to bend its gradients rather than to withstand: robustness
    against many steps, once there, is lost by more than `FALL`, and one step finds less than many by as much
    (https://arxiv.org/abs/2001.03994). A net that never was robust has lost nothing.
    """
    best = 0.0
    for row in history:
        weak, strong = row["weak_accuracy"], row["strong_accuracy"]
        if best - strong > FALL and weak - strong > FALL:
            return int(row["epoch"])
        best = max(best, strong)
    return None


def _on(budget: Budget, make: Callable[..., Tensor], label_smoothing: float) -> Objective:
    """Learns from the images that `make(net, inputs, labels, eps)` makes, and from those alone."""

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Iterator[tuple[Tensor, Tensor]]:
        logits = net(make(net, inputs, labels, budget.draw(inputs, progress))).float()
        yield F.cross_entropy(logits, labels, label_smoothing=label_smoothing), logits

    return objective


def _ascend(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    eps: Tensor,
    *,
    start: float,
    step: float,
    steps: int,
    reach: float = 1.0,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Images within `reach` budgets of the inputs, laid out channels last, after signed steps up the `score`.

    All lengths are shares of `eps` (N, 1, 1, 1). The score is of the logits; None: the labels' cross-entropy. The net
    is attacked in eval mode, as it will be: its dropout draws nothing and its running statistics see no attacked image
    that it does not learn from.
    """
    if steps < 1:
        raise ValueError(f"an adversary needs at least 1 step, got {steps}")
    change = _noise(inputs) * (start * eps)
    with Query(net, labels):
        for _ in range(steps):
            points = _points(inputs, change).requires_grad_()
            logits = net(points).float()
            total = F.cross_entropy(logits, labels, reduction="sum") if score is None else score(logits)
            (slope,) = torch.autograd.grad(total, points)
            change = (change + step * eps * slope.sign()).clamp(-reach * eps, reach * eps)
    return _points(inputs, change)


def _noise(inputs: Tensor) -> Tensor:
    """Uniform in [-1, 1], drawn by the CPU's generator so that a seed means the same on every device."""
    return (torch.rand(inputs.shape) * 2 - 1).to(inputs.device)


def _points(inputs: Tensor, change: Tensor) -> Tensor:
    return to_device((inputs + change).clamp(0, 1), inputs.device)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the answers of two logits (N, classes), summed over the images."""
    return F.kl_div(other.log_softmax(dim=1), one.log_softmax(dim=1), reduction="sum", log_target=True)
