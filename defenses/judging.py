"""How much a defended net withstands, judged by attacks that know the defence.

Three ways in (after Carlini et al. 2019, https://arxiv.org/abs/1902.06705): along the net's own gradients, with what
was made for another net, and by its answers alone. The first knows most. Where it finds less than one of the others,
the gradients are masked: the net hides how to fool it, and its figure is worth nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dxray.attacks.apgd import apgd
from dxray.attacks.dx.minimal import dx
from dxray.attacks.engine.lattice import from_levels, to_uint8
from dxray.attacks.engine.query import BATCH, Query
from dxray.attacks.engine.scoring import score
from dxray.attacks.square import square
from dxray.defenses.adversarial_training import Attack
from dxray.models.data.batches import device_of, to_device
from dxray.models.doctor.finding import wilson

BUDGETS = (("linf", 2 / 255), ("linf", 4 / 255), ("linf", 8 / 255), ("l2", 0.25), ("l2", 0.5), ("l2", 1.0))
WAYS = ("white_box", "transfer", "gradient_free")
SURE = 1.96  # standard deviations: 95 %
SEARCHED = 60  # looks at the net that the smallest change of an image takes, about: only for telling the share done


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
    plain: nn.Module | None,
    budgets: Sequence[tuple[str, float]] = BUDGETS,
    steps: int = 50,
    queries: int = 1000,
    draws: int = 16,
    smallest: bool = False,
    batch: int = BATCH,
    seed: int = 0,
    on_share: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """The accuracy that is left to `net` within each budget, whoever attacks it.

    Every figure is of 8-bit images. A net that gives other logits for the same images is looked at `draws` times for
    each answer and each gradient. What fools within a budget also does within a larger one of its norm.

    Args:
        net: the defended net, images in [0, 1] to logits.
        images, labels: uint8 `(N, C, H, W)` and int64 `(N,)`.
        plain: an undefended net of the same classes, on which the transferred images are made: the net without its
            defence, for what one who does not know of the defence would find. None, or `net`: nothing is transferred.
        budgets: norm ("linf" or "l2") and size in [0, 1] pixel units.
        steps: gradients an image, of each attack that uses them. queries: answers an image, of the one that does not;
            0: it is left out.
        smallest: also search the smallest change of each image in each norm, by `dx`.
        on_share: told, each time that a net is looked at, about which share of the work is done, in [0, 1].

    Returns:
        A row for the unchanged images (`eps` 0) and one for each budget: `norm`, `eps`; `robust_accuracy`, the share
        of images right after every one of the attacks, with its 95 % interval `low`, `high` (Wilson); `white_box`,
        `transfer` and `gradient_free`, the accuracy after each alone, None where it was left out; `masked`, whether the
        first is surely higher than one of the other two; `majority`, the share of the larger class, which answering
        always the same would reach; `median`, of the smallest changes that fool what the net has right, in that norm,
        None where most could not be fooled or none were searched; `n`.

    Raises:
        ValueError: no images came, or an unknown norm.
    """
    if len(images) == 0:
        raise ValueError("there is nothing to judge a defence on: no images came")
    inputs, wanted = from_levels(torch.from_numpy(images)), torch.tensor(labels)  # attacks bring them to the net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = Expected(net, draws) if _draws(net, inputs[:batch]) else net

        def right(points: Tensor, rows: Tensor) -> np.ndarray:
            with Query(known, wanted[rows], batch=batch) as query:
                answers = query.logits(points, torch.arange(len(rows))).argmax(dim=1)
            return (answers == wanted[rows]).numpy()

        def left(before: np.ndarray, attack: Attack, made_for: nn.Module, looks: int) -> np.ndarray:
            """Of the images that were right `before`, bool `(N,)`, those that are after an attack on them."""
            rows, found = torch.from_numpy(before.nonzero()[0]), before.copy()
            with share.part(made_for, len(rows) * looks):
                if len(rows):
                    found[before] = right(attack(made_for, inputs[rows], wanted[rows]), rows)
            return found

        clean = right(inputs, torch.arange(len(inputs)))
        fair = {"majority": float(np.bincount(labels).max() / len(labels)), "median": None}
        unchanged = dict.fromkeys(WAYS, clean)
        found = [{"norm": "", "eps": 0.0, **_figures(unchanged), **fair}]
        norms = dict.fromkeys(norm for norm, _ in budgets) if smallest else {}
        transferred = plain is not None and plain is not net
        share = _Share(len(norms) + len(budgets) * (1 + transferred + bool(queries)), on_share)
        medians = {}
        for norm in norms:
            with share.part(known, len(inputs) * SEARCHED):
                medians[norm] = _median(known, inputs, wanted, norm, batch)
        done: list[tuple[str, float, dict[str, np.ndarray]]] = []
        for norm, eps in budgets:
            climb: Attack = partial(apgd, norm=norm, eps=eps, steps=steps, batch=batch, seed=seed)
            ask: Attack = partial(square, norm=norm, eps=eps, queries=queries, batch=batch, seed=seed)
            ways = {"white_box": (climb, known, steps)}
            ways |= {"transfer": (climb, plain, steps)} if plain is not None and transferred else {}
            ways |= {"gradient_free": (ask, known, queries)} if queries else {}
            smaller = [after for of_norm, of_eps, after in done if of_norm == norm and of_eps <= eps]
            after: dict[str, np.ndarray] = {}
            for way, (attack, made_for, looks) in ways.items():
                before = np.logical_and.reduce([clean, *(earlier[way] for earlier in smaller)])
                after[way] = left(before, attack, made_for, looks)
            done.append((norm, eps, after))
            found.append({"norm": norm, "eps": eps, **_figures(after), **fair, "median": medians.get(norm)})
    return found


class _Share:
    """Tells the share of some parts of a work that is done, each by the looks at its net: no attack says how far it is.

    A part is told to be whole once it has ended; how many looks it takes is known only roughly beforehand.
    """

    def __init__(self, parts: int, tell: Callable[[float], None] | None) -> None:
        self._parts, self._tell, self._done = parts, tell, 0

    @contextmanager
    def part(self, net: nn.Module, looks: int) -> Iterator[None]:
        if not self._tell:
            yield
            return
        tell, seen = self._tell, 0

        def look(module: nn.Module, args: Any, logits: Tensor) -> None:
            nonlocal seen
            seen += len(logits)
            tell((self._done + min(1.0, seen / looks)) / self._parts)

        hook = net.register_forward_hook(look)
        try:
            yield
        finally:
            hook.remove()
        self._done += 1
        tell(self._done / self._parts)


def _median(net: nn.Module, inputs: Tensor, labels: Tensor, norm: str, batch: int) -> float | None:
    """Over the images that the net has right; the saved image counts, not what the search believes of it."""
    changed = dx(net, inputs, labels, norm=norm, batch=batch)
    outcome = score(net, to_uint8(inputs), to_uint8(changed), labels, batch=batch)
    sizes = np.where(outcome.status == "fooled", getattr(outcome, norm), np.inf)[outcome.status != "already_wrong"]
    median = float(np.median(sizes)) if len(sizes) else np.inf
    return median if np.isfinite(median) else None


def _draws(net: nn.Module, inputs: Tensor) -> bool:
    """Whether a second look gives other logits."""
    with Query(net, torch.zeros(len(inputs), dtype=torch.int64)), torch.no_grad():
        looked_at = to_device(inputs, device_of(net))
        return not torch.equal(net(looked_at), net(looked_at))


def _figures(after: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the images that each attack left right, bool `(N,)`."""
    white, *others = after.values()
    robust = np.logical_and.reduce([white, *others])
    low, high = interval(int(robust.sum()), len(robust))
    return {
        "robust_accuracy": float(robust.mean()),
        "low": low,
        "high": high,
        **{way: float(after[way].mean()) if way in after else None for way in WAYS},
        "masked": any(_surely_more(white, other) for other in others),
        "n": len(robust),
    }


def _surely_more(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether more of the same images are right in `one`, beyond chance: McNemar's test, one-sided at 2.5 %."""
    more, less = int((one & ~other).sum()), int((other & ~one).sum())
    return more - less > SURE * math.sqrt(more + less)


def interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    return wilson(count, n, z=SURE)
