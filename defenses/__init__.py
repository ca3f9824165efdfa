"""Defences: one file each; an attack reaches a defence as an argument.

Those in `DEFENSES` change a trained net or stand in front of it. `adversarial_training` is a way to train one.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from defenses.denoising_autoencoder import denoising_autoencoder
from defenses.jumprelu import jumprelu
from defenses.squeezing import bit_depth, jpeg

DEFENSES: dict[str, Callable[..., nn.Module]] = {
    "jumprelu": jumprelu,
    "denoising_autoencoder": denoising_autoencoder,
    "bit_depth": bit_depth,
    "jpeg": jpeg,
}


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
