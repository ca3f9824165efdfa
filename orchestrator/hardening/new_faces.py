"""The faces of a retraining: taken into its folder once, and from then on its own; what is new in their source since.

faces/train/0000.parquet, faces/validation/..., faces/test/...   a table for each generation that brought some
faces/held_out/0000.parquet                                      those that the nets of a generation are judged on
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from dxray.models.data.agreement import counted, swapped
from dxray.models.data.faces import SPLITS, Faces, read
from dxray.models.data.images import decode, encode_png
from dxray.models.victims.checkpoint import ModelCard
from dxray.models.victims.predict import answers_of
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import column, read_table, write_table
from dxray.orchestrator.runs.working_copy import load_net

HELD_OUT = "held_out"
CHECKED = 500  # labelled faces that the net's answers are held against

FACES = pa.schema(
    [
        column("name", pa.string(), "as in the source; unique in the run"),
        column("label", pa.string(), "its class"),
        column("labelled_by", pa.string(), "sha256 of the net that gave the label; null: it came with the face"),
        column("image", pa.binary(), "8-bit PNG at the net's size"),
    ]
)


@dataclass(frozen=True)
class Held:
    """Faces as a training takes them: images uint8 `(N, C, H, W)`, labels int64 `(N,)`, and their names."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def held(run: Place, split: str, card: ModelCard) -> Held:
    """The faces of a split that the run has taken in so far, in the order in which it has."""
    return held_in(files(run / "faces" / split, "*.parquet"), card)


def held_in(tables: Sequence[Place], card: ModelCard) -> Held:
    """The faces of some tables with the columns `name`, `label` and `image`."""
    rows = [row for table in tables for row in read_table(table, columns=["name", "label", "image"]).to_pylist()]
    images = np.empty((len(rows), card.channels, *card.size), np.uint8)
    for i, row in enumerate(rows):
        images[i] = decode(row["image"], size=card.size, channels=card.channels)
    labels = [list(card.classes).index(row["label"]) for row in rows]
    return Held(images, np.array(labels, np.int64), [row["name"] for row in rows])


def take_in(
    run: Place,
    generation: int,
    source: dict[str, Any],
    net: tuple[nn.Module, ModelCard],
    *,
    label_by: str | None,
    held_out: int,
    on_share: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Take the faces of the source that are not there yet into the run's folder.

    Args:
        source: the arguments of `faces.read`, without size and channels.
        net: the one that is retrained, which the labels are held against, and its card.
        label_by: a net that labels faces which came without; None: these are left where they are. They are trained on
            only: a net is not measured by what another net believes.
        on_share: as `faces.read` takes it.
        held_out: of the validation faces so many are what the generation's nets are judged on.

    Returns:
        How many are new: `train`, `validation`, `test`, and of these `labelled_by_net`; `unlabelled`, which were left;
        `unreadable`; `missing`, the classes that no new face has; `labels`, how these were understood, and `swapped`, a
        sentence where they are surely not what the net's answers mean. A generation without new faces writes nothing.

    Raises:
        FacesError: the source has vanished or cannot be read; at the first generation also: it has no faces of a class.
        UserError: at the first generation: the net has learnt the validation faces.
        UserError: a split is empty at the first generation, or the labelling net is of other images or classes.
    """
    for table in files(run / "faces", f"*/{generation:04d}.parquet"):  # of a generation that was killed before it began
        table.unlink()
    known = _names(run)
    judged, card = net
    faces = read(
        **source,
        size=card.size,
        channels=card.channels,
        classes=card.classes,
        unlabelled=True,
        known=known if generation else None,
        on_share=on_share,
    )
    if not generation:
        _must_not_have_learnt_validation(card, faces)
    labels, splits = faces.labels.copy(), faces.splits.copy()
    by: list[str | None] = [None] * len(faces)
    without = labels < 0
    few = np.flatnonzero(~without)
    few = few[shuffled(few)[:CHECKED]]
    table = counted(labels[few], answers_of(judged, faces.images[few]), len(card.classes))
    if label_by and without.any():
        labelling, judge = load_net(label_by)
        _must_agree(judge, card, label_by)
        labels[without] = answers_of(labelling, faces.images[without])
        by, splits[without] = [judge.sha256 if one else None for one in without], "train"
    taken = {split: np.flatnonzero((labels >= 0) & (splits == split)) for split in SPLITS}
    new: dict[str, Any] = {split: len(rows) for split, rows in taken.items()}
    new["labelled_by_net"] = int(without.sum()) if label_by else 0
    new["unlabelled"] = int(without.sum()) - new["labelled_by_net"]
    new["unreadable"] = len([name for name, _ in faces.skipped if name not in known])
    counts = Counter(labels[labels >= 0].tolist())
    new["missing"] = [name for i, name in enumerate(card.classes) if not counts[i]]
    new["labels"], wrong = faces.labelled_by, swapped(table, card.classes, faces.numbers)
    new["swapped"] = "; ".join(wrong) if wrong else None
    if not any(new[split] for split in SPLITS):
        return new
    if not generation and not all(new[split] for split in SPLITS):
        empty = next(split for split in SPLITS if not new[split])
        raise UserError(f"'{faces.source}' has no {empty} images; give a source with more faces")
    for split, rows in taken.items():
        if len(rows):
            _write(run / "faces" / split / f"{generation:04d}.parquet", faces, rows, labels, by, card)
    judged_on = held(run, "validation", card)
    rows = np.sort(shuffled(judged_on)[:held_out])
    _write(held_out_table(run, generation), judged_on, rows, judged_on.labels, [None] * len(judged_on), card)
    return new


def held_out_table(run: Place, generation: int) -> Place:
    """The faces that the nets of a generation are judged on."""
    return run / "faces" / HELD_OUT / f"{generation:04d}.parquet"


def shuffled(faces: Held | np.ndarray) -> np.ndarray:
    """The numbers of the faces in an order of their own, the same each time."""
    return np.random.default_rng(0).permutation(len(faces))


def sample(run: Place, count: int, seed: Sequence[int], target: Place) -> None:
    """Write a table of so many of the training faces that the run has taken in, drawn by the seed; or of all."""
    faces = pa.concat_tables([read_table(file) for file in files(run / "faces" / "train", "*.parquet")])
    rows = np.sort(np.random.default_rng(seed).permutation(len(faces))[:count])
    write_table(target, faces.take(rows), group_rows=512)


def _write(
    path: Place, faces: Faces | Held, rows: np.ndarray, labels: np.ndarray, by: Sequence[str | None], card: ModelCard
) -> None:
    """Those rows of the faces, their labels given anew and the net that gave each, as a table."""
    columns = {
        "name": [str(faces.names[row]) for row in rows],
        "label": [card.classes[labels[row]] for row in rows],
        "labelled_by": [by[row] for row in rows],
        "image": [encode_png(faces.images[row]) for row in rows],
    }
    write_table(path, pa.table(columns, schema=FACES), group_rows=512)


def _names(run: Place) -> set[str]:
    tables = [file for split in SPLITS for file in files(run / "faces" / split, "*.parquet")]
    return {name for table in tables for name in read_table(table, columns=["name"])["name"].to_pylist()}


def _must_not_have_learnt_validation(card: ModelCard, faces: Faces) -> None:
    """UserError for a net of a `refit` on these faces: rounds are judged on validation faces, which it has learnt."""
    made = card.trained
    same = made.get("data_sha256") == faces.sha256() or made.get("data") == faces.source
    if made.get("trial", {}).get("refit") and same:
        raise UserError(
            f"the net has learnt the validation faces of '{faces.source}' as well (refit), and rounds are judged on "
            "these; begin with a net that was trained without --refit, or give other faces"
        )


def _must_agree(judge: ModelCard, card: ModelCard, path: str) -> None:
    for what in ("classes", "channels", "size"):
        theirs, ours = getattr(judge, what), getattr(card, what)
        if tuple(np.atleast_1d(theirs)) != tuple(np.atleast_1d(ours)):
            raise UserError(
                f"--label-by {path} has {what} {theirs}, and the net that is retrained {ours}; give a net of the same"
            )
