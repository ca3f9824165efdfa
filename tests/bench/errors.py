"""What the best nets still get wrong: how accurate they are, which errors they share, and a picture of these.

    dxray sweep --preset best --data parquet:FACES.parquet --out runs/best
    python -m tests.bench.errors runs/best --data parquet:FACES.parquet --out runs/best/errors.png

Of the test split: accuracy of each net, mean and standard deviation, the time that they took, and the faces that every
net gets wrong, the surest answers first. Whether a label is wrong only a person can say; the picture, one page for each
`--page` faces, is for that: under each face stands its number, its label and how sure the nets are of the other class.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw, ImageFont

from dxray.models.data.faces import read
from dxray.models.training.train import logits_of
from dxray.models.victims.checkpoint import load


def page(images: np.ndarray, captions: list[str], *, columns: int = 10, side: int = 96, text: int = 16) -> Image.Image:
    """Grey faces `(N, 1, H, W)`, enlarged to `side` pixels, row by row, each with its caption below."""
    rows = -(-len(images) // columns)
    sheet = Image.new("L", (columns * (side + 4), rows * (side + text + 4)), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (face, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = i % columns * (side + 4), i // columns * (side + text + 4)
        sheet.paste(Image.fromarray(face[0]).resize((side, side), Image.Resampling.BICUBIC), (left, top))
        draw.text((left + 2, top + side), caption, font=font, fill=0)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a sweep over seeds")
    parser.add_argument("--data", required=True, help="as the sweep took it")
    parser.add_argument("--out", type=Path, required=True, help="PNG file; further pages get a number")
    parser.add_argument("--page", type=int, default=100, help="faces on a page (100)")
    options = parser.parse_args()
    faces = read(options.data).split("test")
    probabilities = []
    for folder in sorted(path.parent for path in options.run.glob("trials/*/model.json")):
        net, _ = load(folder)
        probabilities.append(logits_of(net, faces.images).softmax(1).numpy())
    sure = np.stack(probabilities)
    right = sure.argmax(2) == faces.labels
    accuracies = right.mean(1)
    minutes = np.asarray(pq.read_table(options.run / "timing.parquet")["seconds"]) / 60
    spread = accuracies.std(ddof=1) if len(accuracies) > 1 else float("nan")
    print(f"{len(faces):,} test faces, {len(sure)} nets: {', '.join(f'{one:.2%}' for one in accuracies)}")
    print(
        f"mean {accuracies.mean():.2%}, standard deviation {spread:.2%}; {minutes.mean():.1f} minutes of training each"
    )
    print(f"the nets' mean probability: {(sure.mean(0).argmax(1) == faces.labels).mean():.2%}")
    shared = np.flatnonzero(~right.any(0))
    print(f"wrong by any net {(~right.all(0)).sum()}, by all {len(shared)}")
    other = 1 - sure.mean(0)[np.arange(len(faces)), faces.labels]
    shared = shared[np.argsort(-other[shared])]
    for least in (0.9, 0.8, 0.7, 0.5):
        print(f"  of which at least {least:.0%} sure of the other class: {(other[shared] >= least).sum()}")
    for number, first in enumerate(range(0, len(shared), options.page)):
        rows = shared[first : first + options.page]
        captions = [f"{first + i} {faces.classes[faces.labels[row]]} {other[row]:.0%}" for i, row in enumerate(rows)]
        target = options.out.with_stem(f"{options.out.stem}{number or ''}")
        page(faces.images[rows], captions).save(target)
        print(f"{target}: {', '.join(faces.names[row] for row in rows[:3])}, ...")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
