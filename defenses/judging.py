"""How much a defended net withstands, judged by attacks that know the defence.

Three ways in (after Carlini et al. 2019, https://arxiv.org/abs/1902.06705): along the net's own gradients, with what
was made for another net, and by its answers alone. The first knows most. Where it finds less than one of the others,
the gradients are masked: the net hides how to fool it, and its figure is worth nothing.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.apgd import apgd
from attacks.query import Query
from attacks.square import square
from defenses import defended
from defenses.adversarial_training import Attack
from models.batches import device_of, to_device

BUDGETS = (("linf", 2 / 255), ("linf", 4 / 255), ("linf", 8 / 255), ("l2", 0.25), ("l2", 0.5), ("l2", 1.0))
SURE = 1.96  # standard deviations: 95 %


class Expected(nn.Module):
    """The mean logits of `draws` looks at a net that draws at random: its gradient is that of the expectation.

    EOT (Athalye et al. 2017, https://arxiv.org/abs/1707.07397).
    """

    def __init__(self, net: nn.Module, draws: int) -> None:
        super().__init__()
        self.net = net
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.net(images) for _ in range(self.draws)]).mean(dim=0)


def judged(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    plain: nn.Module,
    budgets: Sequence[tuple[str, float]] = BUDGETS,
    steps: int = 50,
    queries: int = 1000,
    draws: int = 16,
    batch: int = 32,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The accuracy that is left to `net` within each budget, whoever attacks it.

    Every figure is of 8-bit images. A net that gives other logits for the same images is looked at `draws` times for
    each answer and each gradient.

    Args:
        net: the defended net, images in [0, 1] to logits.
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`.
        plain: an undefended net of the same classes, on which the transferred images are made.
        budgets: norm ("linf" or "l2") and size in [0, 1] pixel units.
        steps: gradients an image, of each attack that uses them. queries: answers an image, of the one that does not.

    Returns:
        A row for the unchanged images (`eps` 0) and one for each budget: `norm`, `eps`; `robust_accuracy`, the share
        of images right after every one of the attacks, with its 95 % interval `low`, `high` (Wilson); `white_box`,
        `transfer` and `gradient_free`, the accuracy after each alone; `masked`, whether the first is surely higher than
        one of the other two; `majority`, the share of the larger class, which answering always the same would reach;
        `n`.

    Raises:
        ValueError: no images came, or an unknown norm.
    """
    if len(images) == 0:
        raise ValueError("there is nothing to judge a defence on: no images came")
    device = device_of(net)
    inputs, wanted = to_device(images, device), torch.tensor(labels, device=device)
    rows = torch.arange(len(inputs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = Expected(net, draws) if _draws(net, inputs[:batch]) else net

        def right(points: Tensor) -> np.ndarray:
            with Query(known, wanted, batch=batch) as query:
                return (query.logits(points, rows).argmax(dim=1) == wanted).cpu().numpy()

        clean = right(inputs)
        majority = float(np.bincount(labels).max() / len(labels))
        found = [{"norm": "", "eps": 0.0, **_figures(clean, clean, clean), "majority": majority}]
        for norm, eps in budgets:
            climb = partial(apgd, norm=norm, eps=eps, steps=steps, batch=batch, seed=seed)
            white = right(climb(known, inputs, wanted)) & clean
            transferred = right(climb(plain, inputs, wanted)) & clean
            free = right(square(known, inputs, wanted, norm=norm, eps=eps, queries=queries, batch=batch, seed=seed))
            found.append({"norm": norm, "eps": eps, **_figures(white, transferred, free & clean), "majority": majority})
    return found


def trade_off(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    attack: Attack,
    defence: str,
    settings: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What a defence costs and gives at each of `settings`, its parameters; such as `[{"kappa": 0.0}, {"kappa": 0.1}]`.

    Args:
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`.

    Returns:
        For each setting: its parameters, and the accuracy of the defended net on three sets of 8-bit images. `clean`;
        `naive`: what `attack` makes of them for the undefended net, as one who does not know of the defence would;
        `adaptive`: what it makes for the defended one.
    """
    naive = attack(net, to_device(images, device_of(net)), torch.tensor(labels, device=device_of(net)))
    return [
        {**setting, **accuracies(defended(net, defence, **setting), images, labels, naive=naive, attack=attack)}
        for setting in settings
    ]


def accuracies(
    net: nn.Module, images: np.ndarray, labels: np.ndarray, *, naive: Tensor, attack: Attack
) -> dict[str, float]:
    """`clean`, `naive` and `adaptive` of one defended net, as `trade_off` gives them; `naive` holds those images."""
    device = device_of(net)
    inputs, wanted = to_device(images, device), torch.tensor(labels, device=device)
    sets = {"clean": inputs, "naive": naive, "adaptive": attack(net, inputs, wanted)}
    with Query(net, wanted) as query:
        answers = {name: query.logits(points, torch.arange(len(points))).argmax(dim=1) for name, points in sets.items()}
    return {name: float((answer == wanted).double().mean()) for name, answer in answers.items()}


def _draws(net: nn.Module, inputs: Tensor) -> bool:
    """Whether a second look gives other logits."""
    with Query(net, torch.zeros(len(inputs), dtype=torch.int64)), torch.no_grad():
        return not torch.equal(net(inputs), net(inputs))


def _figures(white: np.ndarray, transferred: np.ndarray, free: np.ndarray) -> dict[str, Any]:
    """Of what each attack left right, bool `(N,)`."""
    n = len(white)
    robust = white & transferred & free
    low, high = interval(int(robust.sum()), n)
    return {
        "robust_accuracy": float(robust.mean()),
        "low": low,
        "high": high,
        "white_box": float(white.mean()),
        "transfer": float(transferred.mean()),
        "gradient_free": float(free.mean()),
        "masked": _surely_more(white, transferred) or _surely_more(white, free),
        "n": n,
    }


def _surely_more(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether more of the same images are right in `one`, beyond chance: McNemar's test, one-sided at 2.5 %."""
    more, less = int((one & ~other).sum()), int((other & ~one).sum())
    return more - less > SURE * math.sqrt(more + less)


def interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z = count / n, SURE
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
