"""The table of a sweep as a picture: colour for accuracy, hatched where a trial failed, words for what is no number."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.trial_table import (
    Figure,
    Key,
    Pivot,
    Row,
    course_shape,
    figure,
    pivot,
    rank,
    title,
)
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import write_bytes
from dxray.orchestrator.sweep.describe import alike, value_text
from dxray.orchestrator.sweep.tables import TRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

PICTURE = "table.png"
_MOST = 60  # rows of a picture that is no table but a list
_PLACE = (0.74, 0.4)  # inches: width and height of a place
_LINE = 0.17  # inches: height of a line of labels
_NOTE = (0.05, 0.1)  # inches: width of a character, height of a line of what is said below
_GREY = "#e6e6e6"
_WORDS = {"under majority": "under maj.", "pending": "not run"}


def save_picture(rows: Sequence[Row], folder: Place, console: Console) -> Place | None:
    """Draw the table to `table.png` in a sweep's folder; None, and a sentence, where that cannot be done."""
    try:
        content = io.BytesIO()
        draw(rows).savefig(content, format="png")
        write_bytes(folder / PICTURE, content.getvalue())
    except Exception as wrong:  # the sweep is done, and must end well whatever goes wrong in its picture
        console.say(f"{folder / PICTURE} could not be drawn ({type(wrong).__name__}: {wrong}); the tables are whole")
        return None
    return folder / PICTURE


def draw(rows: Sequence[Row]) -> "Picture":
    """The trials in the course's shape; of a random search, mostly empty there, the best as a list."""
    # Imported here, for it takes a second; not pyplot, which keeps its figures, and chooses a screen, for the process.
    from matplotlib.figure import Figure as Picture

    table = course_shape(rows)
    if table.sparse:
        table = pivot(rows, ())
        table = replace(table, rows=sorted(table.rows, key=lambda row: rank(table.groups[row, ()]))[:_MOST])
    levels = [_level_width(name, [row[i] for row in table.rows]) for i, name in enumerate(table.down)]
    across, down = len(table.columns) * _PLACE[0], len(table.rows) * _PLACE[1]
    left, above = 0.15 + sum(levels), 0.45 + _LINE * max(1, len(table.across))
    heading = title(rows)
    width = max(left + across + 1.3, 0.3 + 0.085 * len(heading))
    rest = alike(rows, int((width - 0.3) / _NOTE[0]))
    below = 0.2 + _NOTE[1] * len(rest.splitlines())
    height = above + down + below
    picture = Picture(figsize=(width, height), dpi=150)
    picture.text(0.15 / width, 1 - 0.1 / height, heading, va="top", fontsize=9, weight="bold")
    picture.text(0.15 / width, 0.1 / height, rest, va="bottom", fontsize=6, linespacing=1.2)
    axes = picture.add_axes((left / width, below / height, across / width, down / height))
    colours = _fill(axes, table, rows)
    _label(axes, table, levels)
    scale = picture.add_axes(((left + across + 0.15) / width, below / height, 0.12 / width, down / height))
    picture.colorbar(colours, cax=scale).ax.tick_params(labelsize=7)
    return picture


def _level_width(name: str, values: Sequence[Any]) -> float:
    return 0.12 + 0.075 * max(len(name), *(len(value_text(name, value)) for value in values))


def _fill(axes: "Axes", table: Pivot, rows: Sequence[Row]) -> Any:
    """The places; colours run from the share of the larger class, where nothing is learnt, to the best accuracy."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    places = {
        (i, j): figure(table.groups[row, column])
        for i, row in enumerate(table.rows)
        for j, column in enumerate(table.columns)
        if (row, column) in table.groups
    }
    accuracies = np.ma.masked_all((len(table.rows), len(table.columns)))
    for place, found in places.items():
        if found.accuracy is not None:
            accuracies[place] = 100 * found.accuracy
    trained = [row for row in rows if row["status"] in TRAINED]
    low = max((100 * row["majority_share"] for row in trained), default=50.0)
    high = max([low + 1, *(100 * row["accuracy"] for row in trained)])
    colours = axes.pcolormesh(accuracies, cmap="viridis", norm=Normalize(low, high), edgecolors="white", linewidth=0.5)
    axes.invert_yaxis()
    axes.set(xticks=[], yticks=[])
    for (i, j), found in places.items():
        if found.accuracy is None:
            hatch = "////" if found.failed else None
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=_GREY, edgecolor="white", hatch=hatch, linewidth=0.5))
        elif "one class" in found.remarks or "under majority" in found.remarks:
            axes.add_patch(Rectangle((j + 0.04, i + 0.06), 0.92, 0.88, fill=False, edgecolor="#ff4040", linewidth=1.2))
        _write(axes, i, j, found, dark=found.accuracy is not None and 100 * found.accuracy < (low + high) / 2)
    return colours


def _write(axes: "Axes", i: int, j: int, found: Figure, *, dark: bool) -> None:
    """A figure with its spread in a place, and below it, smaller, in words what else is to be known."""
    ink = "white" if dark else "black"
    figures = "KO" if found.accuracy is None and found.failed else found.mean_text
    words = [_WORDS.get(remark, remark) for remark in found.remarks]
    if found.failed:
        words += [f"KO {found.share}" if found.share else "", *found.failed]
    words += [f"{name} {100 * accuracy:.1f}" for name, accuracy in found.others.items()]
    below = " ".join(filter(None, words))
    paper = None if found.accuracy is not None else {"facecolor": _GREY, "edgecolor": "none", "pad": 0.5}
    lines = [
        (figures, 0.36 if below else 0.5, 8 if len(figures) < 7 else 6.5),
        (below, 0.72 if figures else 0.5, 6 if len(below) < 13 else 4.5),
    ]
    for text, y, size in lines:
        if text:
            axes.text(j + 0.5, i + y, text, color=ink, fontsize=size, ha="center", va="center", bbox=paper)


def _label(axes: "Axes", table: Pivot, levels: Sequence[float]) -> None:
    """Values of the parameters along both sides, outermost first; one value for all places that share it."""
    points = 72  # in an inch
    middle: dict[str, Any] = {"va": "center", "fontsize": 8, "textcoords": "offset points", "annotation_clip": False}
    name = middle | {"xycoords": "axes fraction", "fontsize": 7.5, "style": "italic"}
    value = middle | {"ha": "center"}
    for level, parameter in enumerate(table.across):
        up = (len(table.across) - level - 0.4) * _LINE * points
        axes.annotate(parameter, (1, 1), xytext=(6, up), **name)
        for first, last, text in _runs(table.columns, level, parameter):
            axes.annotate(text, ((first + last) / 2, 1), xytext=(0, up), xycoords=("data", "axes fraction"), **value)
            if first and level < len(table.across) - 1:
                axes.axvline(first, color="black", linewidth=1)
    for level, parameter in enumerate(table.down):
        out = (levels[level] / 2 - sum(levels[level:])) * points
        axes.annotate(parameter, (0, 1), xytext=(out, 0.6 * _LINE * points), ha="center", **name)
        for first, last, text in _runs(table.rows, level, parameter, alone=not table.across):
            axes.annotate(text, (0, (first + last) / 2), xytext=(out, 0), xycoords=("axes fraction", "data"), **value)
            if first and table.across and level < len(table.down) - 1:
                axes.axhline(first, color="black", linewidth=1)


def _runs(keys: Sequence[Key], level: int, name: str, *, alone: bool = False) -> Iterator[tuple[int, int, str]]:
    """First, one past the last, and value: of the neighbours that are alike up to this level; of each `alone`."""
    alone = alone or level == len(keys[0]) - 1
    first = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or alone or keys[i][: level + 1] != keys[first][: level + 1]:
            yield first, i, value_text(name, keys[first][level])
            first = i
