"""A finding of the doctor, and the statistics that its checks share."""

import math
from dataclasses import dataclass

FAULT, NOTE = "fault", "note"


class NotChecked(Exception):
    """A check could not be made; its text says why."""


@dataclass(frozen=True)
class Finding:
    """What is wrong: the evidence with its numbers, and a remedy; a sentence each, without a full stop.

    Attributes:
        severity: "fault", or "note" for what is worth knowing and spoils no figure.
    """

    name: str
    evidence: str
    remedy: str
    severity: str = FAULT

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.remedy}."


def wilson(hits: int, count: int, *, z: float = 2.0) -> tuple[float, float]:
    """The interval in which a share lies of which `hits` of `count` were seen, at `z` deviations (Wilson 1927)."""
    share = hits / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)
