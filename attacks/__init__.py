"""Attacks on image classifiers: `attack(net, inputs, labels, *, targets, mask, seed, ...) -> Tensor`.

Images are float32 (N, C, H, W) in [0, 1], labels and targets int64 (N,); a net takes such images and
returns logits. What comes back lies on the 8-bit lattice.
"""

from collections.abc import Callable

from torch import Tensor

from dxray.attacks.apgd import apgd
from dxray.attacks.ddn import ddn
from dxray.attacks.deepfool import deepfool
from dxray.attacks.dx.minimal import begin as begin_dx
from dxray.attacks.dx.minimal import dx
from dxray.attacks.dx.penalty import dx_penalty
from dxray.attacks.engine.batched_search import Search
from dxray.attacks.fgsm import fgsm
from dxray.attacks.hopskipjump import hopskipjump
from dxray.attacks.jsma import jsma
from dxray.attacks.pgd import pgd
from dxray.attacks.robust import robust
from dxray.attacks.square import square

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "apgd": apgd,
    "ddn": ddn,
    "deepfool": deepfool,
    "dx": dx,
    "dx_penalty": dx_penalty,
    "fgsm": fgsm,
    "hopskipjump": hopskipjump,
    "jsma": jsma,
    "pgd": pgd,
    "robust": robust,
    "square": square,
}

# Of those whose images may come one after the other, see `engine.stream`: the search that they enter.
STREAMS: dict[str, Callable[..., Search]] = {"dx": begin_dx}


def find(name: str) -> Callable[..., Tensor]:
    """The attack called `name`; ValueError with the known names for any other."""
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}; known attacks: {', '.join(ATTACKS)}")
    return ATTACKS[name]
