"""Small work as a person sees it: the time of a whole command, beside an older commit's.

    git worktree add ../old 51682d4
    python -m tests.bench.small --old ../old
    python -m tests.bench.small --smoke            # a minute: few images, one repeat; without --old this side alone

1. `dxray --help`, and an option that there is none of.
2. `dxray attack` on one face, and `dxray predict` on it.
3. `dxray verify` on a run of 2,000 images, and on one of a single image: what both need to start is in the one, and the
   difference is what an image takes. Both sides verify the same run, and what they say of it must be the same.

The net is a DenseNet of 4 blocks, 3 convolutions and 16 filters (93,672 parameters), trained for a moment; the faces
are those of `../shared/faces/utkface48.parquet` where that is, else drawn. In a repeat the two sides come one straight
after the other, each first in turn, and a ratio is that of the two. Every process is a new one, whose files are in
memory from the one before.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dxray.models.data.faces import Faces, read
from dxray.models.data.images import encode_png
from dxray.models.training.train import evaluate, fit
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.orchestrator.attack.attack import AttackConfig, attack
from dxray.orchestrator.console import Console

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "faces" / "utkface48.parquet"
NET: tuple[str, dict[str, int]] = ("densenet", {"blocks": 4, "convs": 3, "filters": 16})
QUICK: tuple[str, dict[str, int]] = ("convnet", {"filters": 8, "batch_norm": True})  # learns enough in a second
FACES = 6000  # that are read, to train on most of them


class Side(NamedTuple):
    """A checkout, and the module there that is the command."""

    name: str
    checkout: Path
    module: str

    @classmethod
    def of(cls, name: str, checkout: Path) -> "Side":
        new = (checkout / "orchestrator" / "cli").is_dir()
        return cls(name, checkout, "dxray.orchestrator.cli.app" if new else "orchestrator.cli")

    def must_read(self, work: Path) -> None:
        """Have the nets there say that they are of the format that this side reads: of such a net all else is alike."""
        (code,) = (file for room in ("", "victims/") for file in self.checkout.glob(f"models/{room}checkpoint.py"))
        form = next(line.split('"')[1] for line in code.read_text().splitlines() if line.startswith("FORMAT = "))
        for card in work.rglob("model.json"):
            card.write_text(json.dumps(json.loads(card.read_text()) | {"format": form}))

    def run(self, words: Sequence[object], *, code: int = 0) -> tuple[float, str]:
        """Seconds of the command, from start to end, and its standard output."""
        # Installed beside it may be another checkout: this one comes first.
        paths = os.pathsep.join(str(self.checkout / folder) for folder in ("src", "."))
        started = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", self.module, *map(str, words)],
            cwd=self.checkout,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if ended.returncode != code:
            raise RuntimeError(f"{self.name}: {words} ended with {ended.returncode}: {ended.stderr[-2000:]}")
        return seconds, ended.stdout


def made(work: Path, faces: Faces, kind: tuple[str, dict[str, int]], count: int, epochs: int) -> dict[str, Path]:
    """A net, a face, and runs against it on `count` faces and on that one, by this side."""
    card = ModelCard(*kind, faces.classes)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = card.build()
    train, test = faces.split("train"), faces.split("test")
    fit(net, train.images, train.labels, epochs=epochs, batch_size=32, seed=0)
    save(net, card, work / "net")
    accuracy = evaluate(net, test.images, test.labels)["accuracy"]
    print(f"net: {kind[0]} {kind[1]}, {accuracy:.1%} of {len(test.images)} test faces of {faces.source}", flush=True)
    for name, some in (("one", faces.images[:1]), ("many", faces.images[:count])):
        (work / name).mkdir()
        for i, image in enumerate(some):
            (work / name / f"{i:05d}.png").write_bytes(encode_png(image))
        config = AttackConfig([str(work / name)], str(work / "net"), options={"effort": "fast"})
        fooled = attack(config, work / f"run-{name}", Console(as_json=True), workers="local")["counts"]["fooled"]
        if fooled < len(some) / 2:
            raise RuntimeError(f"only {fooled} of {len(some)} faces were fooled: the net has learnt nothing")
    return {"net": work / "net", "face": work / "one" / "00000.png", "one": work / "run-one", "many": work / "run-many"}


def measured(
    sides: Sequence[Side], title: str, words: Sequence[object], out: Path, repeats: int, code: int = 0
) -> dict[str, list[float]]:
    """Seconds of each side, which are at work in turn; prints them, and their ratio."""
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    for repeat in range(repeats):
        said = set()
        for side in sides if repeat % 2 else reversed(sides):
            shutil.rmtree(out, ignore_errors=True)
            side.must_read(out.parent)
            seconds, output = side.run(words, code=code)
            took[side.name].append(seconds)
            if "verify" in words:
                said.add(json.dumps({name: json.loads(output)[name] for name in ("fooled", "still_fools", "failed")}))
        if len(said) > 1:
            raise RuntimeError(f"the two sides do not say the same: {said}")
    for side in sides:
        print(f"{title}, {side.name}: {spread(took[side.name])} s", flush=True)
    show_ratio(title, took)
    return took


def show_ratio(title: str, took: dict[str, list[float]], *, of: str = "time") -> None:
    if len(took) > 1:
        ratios = [new / old for new, old in zip(took["new"], took["old"], strict=True)]
        print(f"{title}: {spread(ratios)} of the old {of}", flush=True)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="DIR", help="a checkout of an older commit, to be compared with")
    parser.add_argument("--data", help="faces to train on and to attack (see above)")
    parser.add_argument("--images", type=int, default=2000, help="of the run that is verified (2000)")
    parser.add_argument("--epochs", type=int, default=3, help="of the net's training (3)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="see only that all of it works")
    options = parser.parse_args()
    if options.smoke:
        options.images, options.repeats, options.data = 40, 1, options.data or "synthetic:400"
    sides = [Side.of("new", ROOT)] + ([Side.of("old", options.old.resolve())] if options.old else [])
    count = max(FACES, options.images)
    source = options.data or (f"parquet:{REAL}" if REAL.exists() else f"synthetic:{count}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        held = made(work, read(source, limit=count), QUICK if options.smoke else NET, options.images, options.epochs)
        out = work / "out"
        attacked = ["attack", held["face"], "--model", held["net"], "--out", out, "--json"]
        repeats = options.repeats
        measured(sides, "--help", ["--help"], out, repeats)
        measured(sides, "a wrong option", ["attack", "--wrong"], out, repeats, code=2)
        measured(sides, "attack, one face", attacked, out, repeats)
        measured(sides, "predict, one face", ["predict", held["face"], "--model", held["net"]], out, repeats)
        one = measured(sides, "verify, one image", ["verify", held["one"], "--json"], out, repeats)
        many = measured(sides, f"verify, {options.images:,} images", ["verify", held["many"], "--json"], out, repeats)
        speeds = {side: [options.images / seconds for seconds in times] for side, times in many.items()}
        for side, rates in speeds.items():
            print(f"verify, {side}: {spread(rates)} images/s")
        show_ratio("verify", speeds, of="images/s")
        each = {side: [whole - start for whole, start in zip(many[side], one[side], strict=True)] for side in many}
        show_ratio("verify, a further image", each)


if __name__ == "__main__":
    main()
