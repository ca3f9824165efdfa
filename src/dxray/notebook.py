"""What `import dxray` gives back: results that a notebook displays and a script prints, with their rows as a frame."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from dxray.attacks.engine.scoring import Outcome, amplify
from dxray.models.data.images import encode_png
from dxray.orchestrator.console import Console
from dxray.orchestrator.hardening.retrain import CONFIG as RETRAIN
from dxray.orchestrator.hardening.retrain import result_of
from dxray.orchestrator.reports.attack_report import contact_sheet, show_run
from dxray.orchestrator.reports.heatmap import save_picture
from dxray.orchestrator.reports.rounds_table import show_rounds
from dxray.orchestrator.reports.show import SHEET, show
from dxray.orchestrator.reports.trial_table import show_table
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.runs.rows import CONFIG as ATTACK
from dxray.orchestrator.runs.rows import scan
from dxray.orchestrator.runs.store import IMAGES, TRIPLE, write_bytes
from dxray.orchestrator.runs.summary import summarise
from dxray.orchestrator.sweep.tables import best_of, read_trials

if TYPE_CHECKING:
    import pandas as pd

LINES = 10  # of the rows, in a result that a notebook displays by itself


class Result(ABC):
    """What came of some work: as text one sentence, in a notebook also its first and last rows."""

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    @abstractmethod
    def rows(self) -> "pd.DataFrame":
        """All of its rows as a pandas frame."""

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.rows.to_html(max_rows=LINES)}"


@dataclass(frozen=True, repr=False, eq=False)
class Scores(Result):
    """What an attack did to some images, see `dxray.score`.

    Attributes:
        outcome: status, classes, probabilities and distances of each image, as numpy `(N,)`.
        original, modified: the images, uint8 `(N, C, H, W)`.
        labels: the true classes, numpy `(N,)`. targets: those to reach, if any.
        classes: their names, in the order of the labels; None: unknown.
    """

    outcome: Outcome
    original: Tensor
    modified: Tensor
    labels: np.ndarray
    targets: np.ndarray | None
    classes: Sequence[str] | None

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """A row for each image; the columns are called as in the rows of an attack."""
        import pandas as pd

        columns = asdict(self.outcome)
        given = {"status": columns.pop("status"), "label": self.labels}
        return pd.DataFrame(given | ({} if self.targets is None else {"target": self.targets}) | columns)

    def __repr__(self) -> str:
        fooled = self.outcome.status == "fooled"
        right = int((self.outcome.status != "already_wrong").sum())
        return _fooled(int(fooled.sum()), right, float(np.median(self.outcome.l2[fooled])) if fooled.any() else None)

    def show(self, count: int = 6, *, out: str | Path = SHEET) -> None:
        """The first `count` triples of those fooled, and of those missed; elsewhere than in a notebook as a file.

        Args:
            out: the picture's file, PNG.
        """
        found = {status: np.flatnonzero(self.outcome.status == status) for status in ("fooled", "missed")}
        drawn = {
            f"{status}: {min(count, len(at)):,} of {len(at):,}": [self._triple(i) for i in at[:count]]
            for status, at in found.items()
            if len(at)
        }
        if not drawn:
            _print(f"{self}; there is nothing to draw")
            return
        most = max(self.labels.max(), self.outcome.predicted_after.max())
        sheet = contact_sheet(drawn, self.classes or [f"class {i}" for i in range(most + 1)])
        if not _displayed(sheet):
            write_bytes(Path(out), sheet)
            _print(f"{self}\nthe picture: {out}")

    def _triple(self, i: int) -> dict[str, Any]:
        """A row as the contact sheet draws it."""
        told = ("predicted_after", "probability_before", "probability_after", "l2")
        row = {"label": self.labels[i], **{name: getattr(self.outcome, name)[i] for name in told}}
        images = self.original[i], self.modified[i], amplify(self.original[i], self.modified[i])
        pictures = (encode_png(image.numpy()) for image in images)
        return row | {name: {"bytes": picture} for name, picture in zip(TRIPLE, pictures, strict=True)}


@dataclass(frozen=True, repr=False)
class Run(Result):
    """What a run left on disk or in a bucket, read when it is asked for.

    Attributes:
        out: its folder.
        record: the file there that says what was asked.
    """

    record: ClassVar[str]
    out: Place

    @property
    @abstractmethod
    def net(self) -> Place:
        """The net of the run, as `dxray.load` takes it."""

    @abstractmethod
    def show(self) -> None:
        """Display it in a notebook; elsewhere print its tables, and say where its picture is."""


class SweepRun(Run):
    """A sweep: `net` is the best on the validation split, `rows` are its `trials.parquet` with the seconds of each."""

    record = "sweep.json"

    @property
    def net(self) -> Place:
        return self.out / "best"

    @cached_property
    def rows(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(read_trials(self.out))

    def __repr__(self) -> str:
        rows = read_trials(self.out)
        best = best_of(rows)
        which = f"the best, trial {best['trial']}, {best['accuracy']:.1%} on the test split" if best else "none trained"
        return f"a sweep of {len(rows)} nets in {self.out}: {which}"

    def show(self) -> None:
        """The table of the nets: in a notebook as a picture, elsewhere as text."""
        rows, console = read_trials(self.out), Console()
        picture = save_picture(rows, self.out, console)
        if picture and _displayed(picture.read_bytes()):
            return
        show_table(rows, console)
        if picture:
            console.say(f"the same as a picture: {picture}")


class AttackRun(Run):
    """An attack: `net` is the one that was attacked, `rows` are its images', without the images themselves."""

    record = ATTACK

    @property
    def net(self) -> Place:
        return self.out / "model"

    @cached_property
    def rows(self) -> "pd.DataFrame":
        schema = pa.schema([field for field in IMAGES if field.name not in TRIPLE])
        batches = [batch.select(schema.names) for batch in scan(self.out, schema.names)]
        return pa.Table.from_batches(batches, schema).to_pandas()

    def __repr__(self) -> str:
        found = summarise(self.out)
        distances = found["distances"]["l2"]
        said = _fooled(found["counts"]["fooled"], found["right"], distances and distances["median"])
        return f"an attack on {found['inputs']:,} images in {self.out}: {said}"

    def show(self, where: str | None = None, *, count: int = 6, out: str | Place | None = None) -> None:
        """The hardest and the easiest images as triples; elsewhere than in a notebook a picture, and tables as text.

        Args:
            where: only the images for which this holds: "status == 'fooled' and l2 > 0.5".
            count: of images of each kind.
            out: a folder for the picture (the run's own).

        Raises:
            UserError: `where` is not understood, or the picture cannot be written.
        """
        found = show(self.out, where=where, count=count, out=place(out) if isinstance(out, str) else out)
        sheet = found["contact_sheet"]
        if not sheet or not _displayed(place(sheet).read_bytes()):
            show_run(found, Console())


class RetrainRun(Run):
    """A retraining: `net` is the one in use, `rows` are its `rounds.parquet`."""

    record = RETRAIN

    @property
    def net(self) -> Place:
        return self.out / "current"

    @cached_property
    def rows(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(result_of(self.out)["rounds"])

    def __repr__(self) -> str:
        found = result_of(self.out)
        count = len(found["rounds"]) - len(found["generations"])  # the first row of each is of the net it begins with
        rounds = f"{count} round{'s' * (count != 1)}"
        return f"a retraining of {rounds} in {self.out}: the net of round {found['current']} is in use"

    def show(self) -> None:
        """The rounds as a table."""
        show_rounds(result_of(self.out), Console())


RUNS = (SweepRun, AttackRun, RetrainRun)


def _fooled(fooled: int, right: int, median: float | None) -> str:
    size = "" if median is None else f"; median L2 {median:.3f}"
    return f"{fooled:,} of {right:,} images that the net had right are fooled{size}"


def _displayed(picture: bytes) -> bool:
    """Whether a PNG could be displayed: there is a notebook, that is, IPython with a kernel behind a page."""
    ipython = sys.modules.get("IPython")
    if getattr(ipython and ipython.get_ipython(), "kernel", None) is None:
        return False
    from IPython.display import Image, display

    display(Image(data=picture))
    return True


def _print(text: str) -> None:
    Console().say(text)
