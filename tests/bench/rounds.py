"""What rounds of retraining do: the share of held-out faces that a fresh minimal attack fools, round by round.

    python -m tests.bench.rounds --data parquet:FACES.parquet --rounds 4
    python -m tests.bench.rounds --data parquet:FACES.parquet --train-size 3000 --attack-faces 1500 --model NET

A net is trained plainly on the first `--train-size` training faces in a shuffled order, and hardened on the same ones
by `dxray retrain`. Each line is of one net: its clean accuracy on validation faces, the share of the held-out ones it
has right that `dx` fools within L2 0.25 (pixels in [0, 1]), the median of these smallest changes, and the accuracy left
by APGD and Square at Linf 2/255. Of these only `dx` is used in training. Only the number of rounds stops it. Each round
can be told to attack a sample of the training faces alone (`--attack-faces`), and then is cheap.
"""

import argparse
import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dxray.models.data.faces import SPLITS, Faces, read
from dxray.models.data.images import encode_png
from dxray.models.training.train import evaluate, fit
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.orchestrator.console import Console
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.hardening.retrain import retrain
from dxray.orchestrator.hardening.stop_rules import Rules

NET: dict[str, Any] = {"blocks": 4, "convs": 3, "filters": 16, "batch_norm": True}
PLAIN: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "augment_strength": 0.5, "ema": 0.99}


def table_of(faces: Faces, train_size: int | None, file: Path) -> None:
    """The faces of all splits, of the training ones only so many, as a Parquet table."""
    rows = [
        {"name": str(name), "split": split, "label": faces.classes[label], "image": encode_png(image)}
        for split in SPLITS
        for part in [faces.shuffled(split)]
        for name, label, image in list(zip(part.names, part.labels, part.images, strict=True))[
            : train_size if split == "train" else None
        ]
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled faces, as `dxray retrain --data` takes them")
    parser.add_argument("--train-size", type=int, help="only so many training faces")
    parser.add_argument("--plain-epochs", type=int, default=12, help="of the net that is begun with (12)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, help="of each round (what dxray retrain does)")
    parser.add_argument("--lr", type=float, help="of each round (what dxray retrain does)")
    parser.add_argument("--held-out", type=int, default=500, help="validation faces that are attacked (500)")
    parser.add_argument("--attack-faces", type=int, help="so many training faces are attacked in each round (all)")
    parser.add_argument("--model", help="begin with this net, in place of one trained here")
    options = parser.parse_args()
    faces = read(options.data)
    with tempfile.TemporaryDirectory() as folder:
        file, net_folder = Path(folder, "faces.parquet"), Path(folder, "net")
        table_of(faces, options.train_size, file)
        if options.model is None:
            train, test = faces.shuffled("train"), faces.split("test")
            images, labels = train.images[: options.train_size], train.labels[: options.train_size]
            card = ModelCard("densenet", NET, faces.classes)
            torch.manual_seed(0)
            net = card.build()
            fit(net, images, labels, epochs=options.plain_epochs, **PLAIN)
            save(net, card, net_folder)
            print(f"trained plainly: {evaluate(net, test.images, test.labels)['accuracy']:.1%} of the test faces right")
        config = RetrainConfig(
            data=f"parquet:{file}",
            model=options.model or str(net_folder),
            epochs=options.epochs,
            lr=options.lr,
            held_out=options.held_out,
            attack_faces=options.attack_faces,
            rules=Rules(options.rounds, min_changed=-1.0, patience=None),
        )
        rows = retrain(config, Path(folder, "run"), Console(as_json=True))["rounds"]
    print(
        f"{'round':>5} {'adversaries':>11} {'clean':>7} {'fooled within L2 0.25':>22} {'median L2':>10} {'robust':>7}"
    )
    for row in rows:
        print(
            f"{row['round']:5} {row['adversaries']:11,} {row['validation_accuracy']:7.1%} {row['fooled_within']:22.1%} "
            f"{row['median_l2'] or math.inf:10.4f} {row['robust_accuracy']:7.1%}"
        )
    shares = [row["fooled_within"] for row in rows]
    falls = all(later < before for before, later in pairwise(shares))
    print(f"the share falls from round to round: {'yes' if falls else 'NO'} (n = {rows[0]['held_out']} held-out faces)")


if __name__ == "__main__":
    main()
