"""Any victim of `victims.victim`, and also a net that was saved together with its defence."""

from pathlib import Path
from typing import Any

from torch import nn

from dxray.defenses import TAUGHT, defended, text_of
from dxray.models.victims import victim
from dxray.models.victims.checkpoint import ModelCard


def load_victim(path: Path | str) -> tuple[nn.Module, ModelCard]:
    """As `victim.load_victim`; a net whose card names a `defence` comes behind it."""
    return victim.load_victim(path, defend=defended)


def restore(card_bytes: bytes, payload: bytes) -> tuple[nn.Module, ModelCard]:
    """As `load_victim`, from what `victim.read` gave."""
    return victim.restore(card_bytes, payload, defend=defended)


def behind(card_bytes: bytes, payload: bytes, defence: dict[str, Any]) -> tuple[bytes, bytes]:
    """Card and payload of the net that these hold, behind a defence that `defenses.parse` gave; as they are for `{}`.

    Raises:
        CheckpointError: as `restore`, or it is behind a defence already.
        ValueError: the net is none that this defence can defend, or the defence would have to learn first.
    """
    if not defence:
        return card_bytes, payload
    if defence["name"] in TAUGHT:
        raise ValueError(
            f"the defence {defence['name']} must learn before it defends: `dxray sweep --defense {text_of(defence)}` "
            "trains nets with it, `dxray robustness` teaches it in front of a net; give the net that these save"
        )
    return victim.behind(card_bytes, payload, defence, defended)
