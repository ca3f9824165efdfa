"""How trials are described to people: parameters as text, and in one line all in which the trials are alike."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dxray.orchestrator.sweep.grid import PARAMETERS, UNLIMITED, varied

_TOGETHER = "\N{NO-BREAK SPACE}"  # between a name and its value, which must come on one line


def in_effect(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the net of a complete trial, or of its row in the table, has; with "all" for no limit."""
    known = {name: UNLIMITED.get(name) if trial.get(name) is None else trial[name] for name in PARAMETERS}
    return {name: value for name, value in known.items() if value is not None}


def value_text(name: str, value: Any) -> str:
    """A parameter's value as it is typed on the command line; "-" where a net has no such parameter."""
    if value is None:
        return UNLIMITED.get(name, "-")
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def alike(trials: Sequence[Mapping[str, Any]], width: int) -> str:
    """In what trials are alike, `all: lr 0.002, ...`, and below it in what those of each net are, `convnet: convs 2`.

    Args:
        trials: complete, or rows of the table; at least one.
        width: characters in which the text is wrapped.
    """
    differing = varied(trials)
    nets = {
        trial["net"]: {name: value for name, value in in_effect(trial).items() if name not in differing}
        for trial in trials
    }
    first, *others = nets.values()
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    parts = {"all": shared}
    parts |= {net: {name: known[name] for name in known if name not in shared} for net, known in nets.items()}
    return "\n".join(_wrapped(part, known, width) for part, known in parts.items() if known)


def _wrapped(part: str, known: Mapping[str, Any], width: int) -> str:
    listed = ", ".join(f"{name}{_TOGETHER}{value_text(name, value)}" for name, value in known.items())
    lines = textwrap.wrap(
        f"{part}: {listed}", width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace(_TOGETHER, " ")
