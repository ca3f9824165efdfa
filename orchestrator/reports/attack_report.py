"""What a person sees of a finished run: closing tables, and a contact sheet of triples."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import TRIPLE

TITLE = 28  # pixels of a band's title in a contact sheet
DIGITS = {"l2": 4, "linf": 4, "l1": 3, "l0": 0}  # of each distance, in a table


def show_attack(result: Mapping[str, Any], console: Console) -> None:
    """Counts by status and the distances of those that fool."""
    _show_summary(result, console)
    right = result["right"]
    share = f"{result['fooled_share']:.1%}" if right else "none"
    speed = f", {result['images_per_second']:.0f} images/s" if result.get("images_per_second") else ""
    console.say(
        f"of {right:,} faces that the net had right, {result['counts']['fooled']:,} are fooled ({share}){speed}"
    )
    if result["passed_over"]:
        console.say(f"passed over: {told_by_ending(result['passed_over'])}")
    console.say(f"results in {result['out']}; check the saved files with: dxray verify '{result['out']}'")


def told_by_ending(passed_over: Mapping[str, int], most: int = 8) -> str:
    """Files that are no images, counted by the endings of their names, the most frequent first."""
    counted = [(count, ending) for ending, count in passed_over.items()]
    told = [f"{count:,} {ending}" for count, ending in counted[:most]]
    rest = sum(count for count, _ in counted[most:])
    return ", ".join([*told, *([f"{rest:,} others"] if rest else [])])


def show_run(result: Mapping[str, Any], console: Console) -> None:
    """The same of a run, or of a part of it, and which images were hard, easy and slow."""
    _show_summary(result, console)
    titles = {
        "hardest": f"hardest: missed, or fooled by the largest {result['norm']}",
        "easiest": f"easiest: fooled by the smallest {result['norm']}",
        "slowest": "slowest: the most gradients",
    }
    for which, title in titles.items():
        rows = [
            [row["name"], row["status"], *(f"{row[norm]:.{n}f}" for norm, n in DIGITS.items()), row["gradients"]]
            for row in result[which]
        ]
        if rows:
            console.table(title, ["name", "status", *DIGITS, "gradients"], rows)
    if not result["finished"]:
        console.say(
            f"the run is not finished: it was asked for {result['expected']:,} images; "
            f"if it does not run now, go on with: dxray attack --resume '{result['out']}'"
        )
    picture = result["contact_sheet"]
    console.say(f"the picture: {picture}" if picture else "no image was fooled or missed, so there is nothing to draw")


def _show_summary(result: Mapping[str, Any], console: Console) -> None:
    meaning = {
        "fooled": "the saved image fools the net",
        "missed": "the attack found nothing",
        "already_wrong": "the net was wrong before any change",
        "is_target": "the face's class is the target already",
        "unreadable": "not an image that can be read",
        "failed": "net or attack failed at it",
    }
    counts = [[name, f"{n:,}", meaning[name]] for name, n in result["counts"].items() if n or name == "fooled"]
    console.table(f"{result['inputs']:,} images", ["status", "images", "meaning"], counts)
    rows = [
        [name, *(f"{values[q]:.{digits}f}" for q in ("min", "q10", "median", "q90", "max", "mean"))]
        for name, digits in DIGITS.items()
        if (values := result["distances"].get(name))
    ]
    if rows:
        header = ["distance", "smallest", "10 %", "median", "90 %", "largest", "mean"]
        console.table("size of DX on the saved images (pixels in [0, 1])", header, rows)
    for reason, count in result["reasons"].items():
        console.say(f"unreadable or failed: {count:,}: {reason}")


def show_verified(result: Mapping[str, Any], console: Console) -> None:
    """How many saved images still fool, and which do not."""
    fooled, still = result["fooled"], result["still_fools"]
    share = f" ({still / fooled:.1%})" if fooled else ""
    whose = "the net that was attacked" if result["same_net"] else "another net than was attacked"
    console.say(f"verify: {still:,} of {fooled:,} images still fool{share}, re-read from {result['read']}, by {whose}")
    if result["rows"] != result["inputs"]:
        console.say(
            f"the run is not finished: {result['rows']:,} of {result['inputs']:,} images are done; "
            f"go on with: dxray attack --resume '{result['out']}'"
        )
    if result["same_net"]:
        for failure in result["failed"][:10]:
            console.say(f"does not fool: {failure}")
        if len(result["failed"]) > 10:
            console.say(f"... and {len(result['failed']) - 10:,} more")


def contact_sheet(
    bands: Mapping[str, Sequence[Mapping[str, Any]]], classes: Sequence[str], *, columns: int = 3
) -> bytes:
    """The triples of each band of rows below the band's title, as one PNG."""
    tiles = {title: [_tile(row, classes) for row in rows] for title, rows in bands.items()}
    width, height = next(tile for band in tiles.values() for tile in band).size
    heights = {title: TITLE + height * -(-len(band) // columns) for title, band in tiles.items()}
    widest = min(columns, max(map(len, tiles.values())))
    sheet = Image.new("RGB", (width * widest, sum(heights.values())), "white")
    pen = ImageDraw.Draw(sheet)
    top = 0
    for title, band in tiles.items():
        pen.text((6, top + 4), title, fill="black", font=ImageFont.load_default(size=16))
        for i, tile in enumerate(band):
            sheet.paste(tile, (i % columns * width, top + TITLE + i // columns * height))
        top += heights[title]
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(row: Mapping[str, Any], classes: Sequence[str], *, side: int = 120, gap: int = 6) -> Image.Image:
    """The three images of a face side by side, and under each what the net says or how large the change is."""
    captions = (
        f"{classes[row['label']]} {row['probability_before']:.0%}",
        f"{classes[row['predicted_after']]} {row['probability_after']:.0%}",
        f"|DX| x 50, L2 {row['l2']:.2f}",
    )
    tile = Image.new("RGB", (3 * (side + gap) + 2 * gap, side + 30), "white")
    pen = ImageDraw.Draw(tile)
    font = ImageFont.load_default(size=12)
    for i, (which, caption) in enumerate(zip(TRIPLE, captions, strict=True)):
        with Image.open(io.BytesIO(row[which]["bytes"])) as picture:
            # Nearest: a person must see the pixels as they are.
            shown = picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        left = gap + i * (side + gap)
        tile.paste(shown, (left, gap))
        pen.text((left + side / 2, side + gap + 3), caption, fill="black", font=font, anchor="ma")
    return tile


def open_picture(path: Path) -> None:
    """Open a picture in the desktop's viewer; UserError where there is no desktop to show it on."""
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    if opener == "xdg-open" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"--show needs a desktop, and none is here (DISPLAY is not set); open '{path}' yourself")
    try:
        subprocess.run([opener, str(path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as wrong:
        raise UserError(f"'{opener}' could not show '{path}' ({wrong}); open it yourself") from None
