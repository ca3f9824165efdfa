"""Defences: one file each; an attack reaches a defence as an argument.

Those in `DEFENSES` change a trained net or stand in front of it. `adversarial_training` is a way to train one.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dxray.defenses.denoising_autoencoder import denoising_autoencoder, teach
from dxray.defenses.jumprelu import jumprelu
from dxray.defenses.squeezing import bit_depth, jpeg

DEFENSES: dict[str, Callable[..., nn.Module]] = {
    "jumprelu": jumprelu,
    "denoising_autoencoder": denoising_autoencoder,
    "bit_depth": bit_depth,
    "jpeg": jpeg,
}
TAUGHT: dict[str, Callable[..., None]] = {"denoising_autoencoder": teach}  # those that must learn before they defend
NONE = "none"  # what stands for no defence where one may be named


def defended(net: nn.Module, name: str, **parameters: Any) -> nn.Module:
    """`net` with the defence of that name: images in [0, 1] to logits, and as `net` in training or eval mode.

    Its gradients are those that an attacker who knows the defence would use. The net given is left as it is; a defence
    in front of it shares its weights.

    Raises:
        ValueError: no defence has that name, it has no such parameter, or the net is none that it can defend.
    """
    if name not in DEFENSES:
        raise ValueError(f"no defence is called '{name}'; known are: {', '.join(DEFENSES)}")
    try:
        return DEFENSES[name](net, **parameters).train(net.training)
    except TypeError as wrong:
        raise ValueError(f"defence {name}: {str(wrong).removeprefix(f'{name}() ')}") from None


def parse(text: str, *, channels: int = 1) -> dict[str, Any]:
    """`NAME[:PARAMETER=VALUE,...]` as a net's card holds it: `name`, and `parameters` with all defaults; "none": `{}`.

    Args:
        channels: of the images, for a defence that asks.

    Raises:
        ValueError: no defence has that name, it has no such parameter, or a value is none of it.
    """
    name, _, given = text.partition(":")
    if text == NONE:
        return {}
    if name not in DEFENSES:
        raise ValueError(f"no defence is called '{name}'; known are: {NONE}, {', '.join(DEFENSES)}")
    known = {key: one.default for key, one in inspect.signature(DEFENSES[name]).parameters.items() if key != "net"}
    of_images = {"channels": channels} if "channels" in known else {}
    asked = {}
    for word in given.split(",") if given else []:
        key, _, value = word.partition("=")
        if key not in known or key in of_images:
            names = ", ".join(key for key in known if key not in of_images)
            raise ValueError(f"defence {name} has no parameter '{key}'; it has: {names}, as in {name}:{names}=VALUE")
        try:
            asked[key] = type(known[key])(value)
        except ValueError:
            kind = "whole number" if isinstance(known[key], int) else "number"
            raise ValueError(f"defence {name}: {word} is no {kind}; without it, it is {known[key]}") from None
    parameters = known | of_images | asked
    defended(nn.Sequential(nn.ReLU()), name, **parameters)  # for what it says of values out of range
    return {"name": name, "parameters": parameters}


def text_of(defence: Mapping[str, Any]) -> str:
    """What `parse` makes this of, in one form: `jumprelu:kappa=0.1`; "none" for `{}`."""
    if not defence:
        return NONE
    parameters = [f"{key}={value}" for key, value in defence["parameters"].items() if key != "channels"]
    return f"{defence['name']}:{','.join(parameters)}"
