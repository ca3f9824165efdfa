"""The command line as a function, and what runs leave on disk without a training or an attack behind it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.console import Console
from dxray.orchestrator.runs import leases
from dxray.orchestrator.runs.store import TRIPLE, write_json, write_part
from dxray.orchestrator.sweep.grid import Grid, expand
from dxray.orchestrator.sweep.tables import pending_row, trial_row
from tests.orchestrator.amazon import SHORT, serving

Row = dict[str, Any]
Said = tuple[int, str, str]


@pytest.fixture
def dxray(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`dxray WORDS` in this process: its exit code, standard output and standard error."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3 server with a bucket called `lab`, empty at the beginning of each file of tests."""
    with serving() as address:
        yield address


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in zip(("BEAT", "LEASE", "SETTLE"), json.loads(SHORT), strict=True):
        monkeypatch.setattr(leases, name, seconds)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> Path:
    """48 faces, none of which asks for anything of the planted attack."""
    folder = tmp_path_factory.mktemp("many")
    for i, image in enumerate(faces.images[:48]):
        image = image.copy()
        image[0, 0, 0] = 0
        (folder / f"{i:02}.png").write_bytes(encode_png(image))
    return folder


@pytest.fixture(scope="session")
def two_nets(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[dict[str, Any], Path]:
    """What is asked of a sweep of two nets, long enough to lose a node in it, and its folder when none is lost."""
    from dxray.orchestrator.sweep.sweep import SweepConfig, sweep  # it loads Ray Tune, which takes seconds

    grid = {"net": ["convnet"], "convs": [1], "filters": [2], "epochs": [12], "dropout": [0.0], "seed": [0, 1]}
    asked: dict[str, Any] = {"data": "synthetic:600", "grid": grid, "cpus_per_trial": 1, "memory_limit": 2}
    out = tmp_path_factory.mktemp("two nets") / "whole"
    sweep(SweepConfig(**asked), out, Console())
    return asked, out


@pytest.fixture(scope="session")
def one_round(
    face_table: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> tuple[list[str], Path]:
    """What is asked of a retraining of the trained net in one round, and its folder when nobody kills it."""
    # As many epochs as leave a state to be seen for seconds: it is gone when the fit is over.
    asked = ["--data", f"parquet:{face_table}", "--rounds", "1", "--epochs", "40"]
    asked += ["--attack-faces", "40", "--held-out", "20"]
    out = tmp_path_factory.mktemp("one round") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        # One thread: several add up in another order.
        patch.setattr("dxray.orchestrator.hardening.retrain.largest_node", lambda: 1)
        assert main(["retrain", *asked, "--model", str(trained), "--out", str(out)]) == 0
    return asked, out


@pytest.fixture
def result() -> Callable[..., Row]:
    """What a trial's `result.json` says of a net that has learnt, or as it is given."""

    def made(accuracy: float = 0.9, **given: Any) -> Row:
        epoch = {"epoch": 1, "loss": 0.4, "train_accuracy": 0.8, "validation_loss": 0.3, "validation_accuracy": 0.8}
        measured = {
            "status": "ok",
            "reason": None,
            "accuracy": accuracy,
            "validation_accuracy": accuracy,
            "validation_loss": 0.3,
            "train_accuracy": 0.8,
            "loss": 0.4,
            "majority_share": 0.543,
            "largest_answer_share": 0.6,
            "parameter_count": 1_000,
            "train_images": 600,
            "sha256": "ab",
            "seconds": 12.0,
            "epochs": [epoch, epoch | {"epoch": 2}],
        }
        return measured | given

    return made


@pytest.fixture
def rows(result: Callable[..., Row]) -> Callable[..., list[Row]]:
    """A row for each trial of a grid: a net that has learnt, or what is given for its number (None: pending)."""

    def made(grid: Grid | Sequence[Grid], given: Mapping[int, Row | None] | None = None) -> list[Row]:
        found = []
        for index, trial in enumerate(expand(grid)):
            said = (given or {}).get(index, result())
            found.append(pending_row(index, trial) if said is None else trial_row(index, trial, said))
        return found

    return made


@pytest.fixture
def attacked(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """The folder of an attack on `images` faces in parts of `per_part`, as if it had been attacked without PNG files.

    Face i has an L2 of i / 100 and took i gradients; every tenth was missed, every seventh could not be read.
    """

    def made(images: int = 30, per_part: int = 4, *, finished: bool = True, options: Row | None = None) -> Path:
        run = tmp_path / "lr=0.1" / "run"  # such a folder is no partition of the data
        rows = [_attacked_row(i, rng) for i in range(images)]
        for part, first in enumerate(range(0, images, per_part)):
            write_part(run / "images" / f"part-{part:05d}.parquet", rows[first : first + per_part])
        record = {"inputs": images, "classes": ["male", "female"], "config": {"options": options or {}, "png": False}}
        write_json(run / "attack.json", record | ({"counts": {"fooled": 1}} if finished else {}))
        return run

    return made


@pytest.fixture
def spoil_images() -> Callable[[Path], None]:
    """Makes the image columns of a part unreadable, so that who opens them fails; all others stay whole."""

    def spoil(part: Path) -> None:
        groups = pq.read_metadata(part)
        content = bytearray(part.read_bytes())
        for group in map(groups.row_group, range(groups.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema.endswith(".bytes"):
                    first = chunk.dictionary_page_offset or chunk.data_page_offset
                    content[first : first + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        part.write_bytes(content)
        with pytest.raises(OSError, match="page header"):
            pq.read_table(part, partitioning=None)

    return spoil


def _attacked_row(i: int, rng: np.random.Generator) -> Row:
    row: Row = {"name": f"sub/face{i:04d}.jpg", "label": i % 2, "label_known": True, "input_sha256": f"{i:064x}"}
    if i % 7 == 3:
        return row | {"status": "unreadable", "reason": "it is empty" if i % 2 else "it is truncated", "label": None}
    row |= {"status": "missed" if i % 10 == 0 else "fooled", "predicted_before": i % 2, "predicted_after": 1 - i % 2}
    row |= {"probability_before": 0.9, "probability_after": 0.6, "gradients": i, "forwards": 1}
    row |= {"l0": i, "l1": i / 10, "l2": i / 100, "linf": 1 / (i + 1)}
    for which, short in zip(TRIPLE, ("ori", "mod", "amp"), strict=True):
        png = encode_png(rng.integers(0, 256, (1, 48, 48)).astype("uint8"))
        row[which] = {"bytes": png, "path": f"triples/sub/adv_face{i:04d}_{short}.png"}
    return row
