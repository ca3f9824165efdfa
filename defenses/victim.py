"""Any victim of `models.victim`, and also a net that was saved together with its defence."""

from pathlib import Path

from torch import nn

from defenses import defended
from models import victim
from models.checkpoint import ModelCard


def load_victim(path: Path | str) -> tuple[nn.Module, ModelCard]:
    """As `models.victim.load_victim`; a net whose card names a `defence` comes behind it."""
    return victim.load_victim(path, defend=defended)


def restore(card_bytes: bytes, payload: bytes) -> tuple[nn.Module, ModelCard]:
    """As `load_victim`, from what `models.victim.read` gave."""
    return victim.restore(card_bytes, payload, defend=defended)
