"""A run whose faces lie elsewhere now, on another machine or disk: new ones are looked for there from then on."""

from typing import Any

import numpy as np

from dxray.models.data.faces import SPLITS, read
from dxray.models.data.images import decode
from dxray.models.victims.checkpoint import net_of_round
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import read_table
from dxray.orchestrator.runs.working_copy import load_net


def must_hold(run: Place, source: dict[str, Any], console: Console) -> None:
    """UserError where a source lacks a face that the run has taken in, or has another image or label of that name.

    Args:
        source: the arguments of `faces.read`, without what follows from the net.
    """
    _, card = load_net(net_of_round(run, 0))
    size, channels, classes = card.size, card.channels, list(card.classes)
    with console.share(f"reading {source['spec']}") as on_share:
        faces = read(**source, size=size, channels=channels, classes=classes, unlabelled=True, on_share=on_share)
    at = {name: row for row, name in enumerate(faces.names.tolist())}

    def wrong(face: dict[str, Any]) -> str | None:
        row = at.get(face["name"])
        if row is None:
            return "is not there"
        if not np.array_equal(faces.images[row], decode(face["image"], size=size, channels=channels)):
            return "is another image there"
        told = face["labelled_by"] is None and faces.labels[row] != classes.index(face["label"])
        return "has another label there" if told else None

    for table in (file for split in SPLITS for file in files(run / "faces" / split, "*.parquet")):
        for face in read_table(table).to_pylist():
            if differs := wrong(face):
                raise UserError(
                    f"'{faces.source}' does not hold the faces of '{run}': '{face['name']}' {differs}; say where the "
                    f"same faces are now, or begin a run with these in another folder"
                )
