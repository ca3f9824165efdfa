"""The options of an attack: whether it can be called with them, and all that are in effect."""

import inspect
import math
from pathlib import Path
from typing import Any

import torch

from dxray.attacks import find
from dxray.models.data.labels import class_of
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.errors import UserError

# Arguments of an attack that its caller sees to: they differ from image to image, or decide nothing.
_NO_OPTIONS = frozenset({"targets", "mask", "seed", "starts", "batch", "ledger"})


def in_effect(attack: str, given: dict[str, Any]) -> dict[str, Any]:
    """Every option of the attack, by its name: the one that is given, else the default.

    Raises:
        UserError: there is no such attack, or it has no such option.
    """
    try:
        arguments = inspect.signature(find(attack)).parameters
    except ValueError as wrong:
        raise UserError(str(wrong)) from None
    for option in given:
        if option not in arguments:
            raise UserError(f"attack '{attack}' has no option '{option}'; choose another --attack or leave it out")
    defaults = {
        name: argument.default
        for name, argument in arguments.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY and name not in _NO_OPTIONS
    }
    return defaults | given


def must_be_usable(
    attack: str, options: dict[str, Any], card: ModelCard, *, seed: int, target: str | None, name: str | None
) -> None:
    """UserError where the attack cannot be called so, on this net: said before any work, not by each worker."""
    if target is not None:
        class_named(target, card)
    if name is not None and (Path(name).name != name or not name.isprintable()):
        raise UserError(f"--name '{name}' is no plain name; give one without slashes, such as curie_marie")
    # A net of one layer that answers 0 to all, and so is wrong already: nothing but the options is looked at.
    dense = torch.nn.Linear(math.prod((card.channels, *card.size)), 2)
    torch.nn.init.zeros_(dense.weight)
    torch.nn.init.zeros_(dense.bias)
    net, image = torch.nn.Sequential(torch.nn.Flatten(), dense), torch.zeros(1, card.channels, *card.size)
    try:
        find(attack)(net, image, torch.tensor([1]), seed=seed, **options)
    except ValueError as wrong:
        raise UserError(f"the attack '{attack}' cannot be run so: {wrong}") from None


def class_named(word: str, card: ModelCard) -> str:
    """The class of the net that a word means; UserError where it means none."""
    found = class_of(word, card.classes)
    if found is None:
        raise UserError(f"the net knows no class '{word}'; its classes are: {', '.join(card.classes)}")
    return card.classes[found]
