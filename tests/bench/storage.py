"""What storing a run costs, beside the usual folder of PNG files with a CSV file; how fast its figures are read.

    python -m tests.bench.storage                    # needs duckdb (dxray[dev]), and 3 GB of disk below --folder
    python -m tests.bench.storage --faces 2000 --rows 20000 --folder /mnt/data

1. Faces drawn by dxray, changed ones and what changed, made PNG and read again by `data.images` and, in turn, by
   Pillow, which it used before.
2. The same faces, a small change of each, and its amplified image, encoded beforehand, are written as a run does
   (parts of 256, made durable) and as one PNG file for each image with the figures in a CSV file (not made durable);
   then all are read and decoded. Bytes are those of the contents, and those that the file system sets aside.
   Both are read just after they were written, so from memory: the disk itself is not measured.
3. Runs of a tenth of `--rows` rows and of all: DuckDB over the figures, `dxray show`, and `dxray export` of ten faces,
   before and after `dxray compact`; the commands with the most memory that they held.
"""

import argparse
import csv
import io
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dxray.models.data.faces import read
from dxray.models.data.images import decode, encode_png
from dxray.orchestrator.runs.store import IMAGES, TRIPLE, parts, read_rows, write_json, write_part

PART = 256
QUERY = """
    SELECT status, count(*), avg(gradients), quantile_cont(l2, [0.1, 0.5, 0.9]), median(linf), avg(probability_after)
    FROM '{}/images/*.parquet' GROUP BY status
"""


def attacked_faces(count: int) -> list[dict[str, Any]]:
    """Rows as of a run on faces: a change of one level in a tenth of the pixels, figures without meaning."""
    rng = np.random.default_rng(0)
    faces = read(f"synthetic:{count}")
    drawn = [name for name in IMAGES.names if name.startswith(("probability", "margin", "psnr", "ssim"))]
    rows = []
    for original, label in zip(faces.images, faces.labels.tolist(), strict=True):
        change = rng.integers(-1, 2, original.shape) * (rng.random(original.shape) < 0.1)
        modified = (original + change).clip(0, 255).astype(np.uint8)
        moved = np.abs(modified.astype(int) - original)
        images = {"original": original, "modified": modified, "amplified": (moved * 50).astype(np.uint8)}
        row: dict[str, Any] = {"label": label, "predicted_before": label, "predicted_after": 1 - label, "seed": 0}
        row |= {"status": "fooled" if rng.random() < 0.95 else "missed", "label_known": True, "target": 1 - label}
        row |= {"l0": int((moved > 0).sum()), "l1": float(moved.sum() / 255), "linf": 1 / 255, "forwards": 1}
        row |= {"l2": float(np.sqrt((moved**2).sum()) / 255), "gradients": int(rng.integers(5, 40))}
        row |= {name: float(rng.random()) for name in drawn}
        row |= {"input_sha256": rng.bytes(32).hex(), "net_sha256": "ab" * 32}
        rows.append(row | {which: encode_png(picture) for which, picture in images.items()})
    return rows


def named(rows: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """The row of input number `index`; there may be more inputs than faces."""
    row = rows[index % len(rows)]
    images = {which: {"bytes": row[which], "path": f"triples/adv_{index:07d}_{which[:3]}.png"} for which in TRIPLE}
    return row | images | {"name": f"{index:07d}.png"}


def write_parts(rows: list[dict[str, Any]], count: int, run: Path) -> None:
    for part, first in enumerate(range(0, count, PART)):
        batch = [named(rows, index) for index in range(first, min(first + PART, count))]
        write_part(run / "images" / f"part-{part:05d}.parquet", batch)
    record = {"inputs": count, "classes": ["male", "female"], "config": {"options": {}, "png": False}, "counts": {}}
    write_json(run / "attack.json", record)


def write_files(rows: list[dict[str, Any]], folder: Path) -> None:
    (folder / "triples").mkdir(parents=True)
    figures = [name for name in IMAGES.names if name not in TRIPLE]
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, figures, extrasaction="ignore")
        table.writeheader()
        for index in range(len(rows)):
            row = named(rows, index)
            table.writerow(row)
            for which in TRIPLE:
                (folder / row[which]["path"]).write_bytes(row[which]["bytes"])


def read_files(folder: Path) -> Iterator[bytes]:
    with (folder / "rows.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for which in TRIPLE:
                yield (folder / "triples" / f"adv_{Path(row['name']).stem}_{which[:3]}.png").read_bytes()


def read_parts(run: Path) -> Iterator[bytes]:
    for row in read_rows(run):
        for which in TRIPLE:
            yield row[which]["bytes"]


def decoded(images: Iterator[bytes]) -> int:
    return sum(decode(image, size=(48, 48), channels=1).size == 48 * 48 for image in images)


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of the contents, and those set aside."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size for file in found), sum(file.st_blocks * 512 for file in found)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pillow_png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture[0]).save(buffer, format="PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def pillow_pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        return np.array(image)[None]


def codecs(rows: list[dict[str, Any]], repeats: int) -> None:
    """The time of `data.images` as a share of Pillow's."""
    contents = [row[which] for row in rows for which in TRIPLE]
    pictures = [decode(content, size=(48, 48), channels=1) for content in contents]
    assert all(
        np.array_equal(pillow_pixels(content), picture) for content, picture in zip(contents, pictures, strict=True)
    )
    ours, theirs = sum(map(len, contents)), sum(len(pillow_png(picture)) for picture in pictures)
    print(f"{len(pictures):,} PNG images of 48x48: {ours / theirs:.3f} of the bytes of Pillow's")
    ways: dict[str, tuple[Callable[[Any], object], Callable[[Any], object], list[Any]]] = {
        "made": (encode_png, pillow_png, pictures),
        "read": (partial(decode, size=(48, 48), channels=1), pillow_pixels, contents),
    }
    for what, (ours_way, pillows_way, given) in ways.items():
        took = [
            [seconds(lambda: [way(one) for one in given]) for way in (ours_way, pillows_way)]  # noqa: B023
            for _ in range(repeats)
        ]
        ratios = [one / other for one, other in took]
        per_image = statistics.median(one for one, _ in took) / len(given) * 1e6
        spread = f"({min(ratios):.2f} - {max(ratios):.2f})"
        print(
            f"  {what}: {per_image:.0f} us an image, {statistics.median(ratios):.2f} of Pillow's time {spread}",
            flush=True,
        )


def compare(rows: list[dict[str, Any]], folder: Path, repeats: int) -> None:
    count = len(rows)
    print(f"{count:,} faces of 48x48, three PNG images each; medians of {repeats} (lowest - highest)")
    content = sum(len(row[which]) for row in rows for which in TRIPLE) / count
    print(f"PNG images alone: {content:,.0f} bytes a face")
    ways: dict[str, tuple[Callable[[Path], None], Callable[[Path], Iterator[bytes]]]] = {
        "Parquet parts": (lambda place: write_parts(rows, count, place), read_parts),
        "PNG files + CSV": (lambda place: write_files(rows, place), read_files),
    }
    took: dict[tuple[str, str], list[float]] = {}
    for repeat in range(repeats):
        for way, (write, images) in ways.items():
            place = folder / f"{way}-{repeat}"
            work: dict[str, Callable[[], object]] = {
                "written": partial(write, place),
                "read": lambda: sum(1 for _ in images(place)),  # noqa: B023
                "read and decoded": lambda: decoded(images(place)),  # noqa: B023
            }
            for what, how in work.items():
                took.setdefault((way, what), []).append(count / seconds(how))
    for way in ways:
        held, aside = (size / count for size in sizes(folder / f"{way}-0"))
        print(f"{way}: {held:,.0f} bytes a face ({aside:,.0f} set aside)")
        for what in ("written", "read", "read and decoded"):
            rates = took[way, what]
            spread = f"({min(rates):,.0f} - {max(rates):,.0f})"
            print(f"  {what}: {statistics.median(rates):,.0f} faces/s {spread}", flush=True)


def look_through(run: Path, repeats: int) -> None:
    import duckdb

    print(f"{len(parts(run)):,} parts, {sizes(run / 'images')[0] / 1e6:,.0f} MB", flush=True)
    took = []
    for _ in range(repeats):
        with duckdb.connect() as database:  # a new one each time: nothing is left of the last
            took.append(seconds(lambda: database.execute(QUERY.format(run)).fetchall()))
    print(f"  DuckDB over the figures: {statistics.median(took):.2f} s ({min(took):.2f} - {max(took):.2f})", flush=True)
    print(f"  {command('show', run, '--out', run.parent)}", flush=True)
    ten = "name in (" + ", ".join(f"'{index:07d}.png'" for index in range(0, 1_000, 100)) + ")"
    with tempfile.TemporaryDirectory(dir=run.parent) as out:
        print(f"  {command('export', run, '--where', ten, '--out', out)}", flush=True)


# The kernel's own figure for a child would be no less than what its parent, this process, held when it was started.
COMMAND = """
import sys
from pathlib import Path
from dxray.orchestrator.cli.app import main
code = main(sys.argv[1:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(f"{int(peak.split()[1]) / 1024:,.0f} MB of memory")
sys.exit(code)
"""


def command(verb: str, *words: object) -> str:
    """Seconds of a command, its start included, and the most memory that it held."""
    started = time.perf_counter()
    process = [sys.executable, "-c", COMMAND, verb, *map(str, words)]
    said = subprocess.run(process, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return f"dxray {verb}: {time.perf_counter() - started:.1f} s, {said.splitlines()[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=4_000, help="of the first two parts (4,000)")
    parser.add_argument("--rows", type=int, default=200_000, help="of the third part (200,000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where it is done (the system's temporary folder)")
    options = parser.parse_args()
    rows = attacked_faces(options.faces)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        codecs(rows, options.repeats)
        compare(rows, Path(name) / "compared", options.repeats)
    for count in (options.rows // 10, options.rows):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            run = Path(name) / "run"
            write_parts(rows, count, run)
            print(f"{count:,} rows", flush=True)
            look_through(run, options.repeats)
            print(command("compact", run), flush=True)
            look_through(run, options.repeats)


if __name__ == "__main__":
    main()
