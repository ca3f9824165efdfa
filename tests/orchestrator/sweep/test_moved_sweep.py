"""A sweep whose folder or faces were moved goes on where the same faces are, and is examined there."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dxray as api
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.orchestrator.console import Console
from dxray.orchestrator.runs.store import read_json
from dxray.orchestrator.sweep.sweep import SweepConfig, sweep

Said = tuple[int, str, str]
GRID: dict[str, list[Any]] = {"net": ["convnet"], "blocks": [1], "convs": [1], "filters": [2, 3], "epochs": [1]}


def table(root: Path, faces: Faces) -> dict[str, Any]:
    """With labels in a column of its own name."""
    root.mkdir(parents=True, exist_ok=True)
    columns = {
        "name": faces.names.tolist(),
        "split": faces.splits.tolist(),
        "who": [faces.classes[label] for label in faces.labels],
        "image": [encode_png(image) for image in faces.images],
    }
    pq.write_table(pa.table(columns), root / "faces.parquet")
    return {"data": f"parquet:{root / 'faces.parquet'}", "label": "who"}


def folder(root: Path, faces: Faces) -> dict[str, Any]:
    for name, label, split, image in zip(faces.names, faces.labels, faces.splits, faces.images, strict=True):
        place = root / split / faces.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.png").write_bytes(encode_png(image))
    return {"data": f"folder:{root}"}


def utkface(root: Path, faces: Faces) -> dict[str, Any]:
    root.mkdir(parents=True, exist_ok=True)
    for name, label, image in zip(faces.names, faces.labels, faces.images, strict=True):
        (root / f"30_{label}_0_2017010100{name[-3:]}.png").write_bytes(encode_png(image))
    return {"data": f"utkface:{root}"}


Kind = Callable[[Path, Faces], dict[str, Any]]
KINDS: list[Kind] = [table, folder, utkface]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def few(faces: Faces) -> Faces:
    """100 of the pictures, of each split some."""
    return faces._rows(np.arange(0, 400, 4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, few: Faces) -> dict[Kind, Path]:
    """Sweeps of each kind, measured also on a folder; all of these faces are gone."""
    found = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp("whole")
        validate = {"more": folder(place / "more", few)["data"]}
        asked = SweepConfig(**kind(place / "old", few), size=16, grid=GRID, validate=validate, cpus_per_trial=1)
        sweep(asked, place / "run", Console())
        shutil.rmtree(place / "old")
        shutil.rmtree(place / "more")
        found[kind] = place / "run"
    return found


@pytest.fixture
def copied(whole: dict[Kind, Path], tmp_path: Path) -> Callable[[Kind], Path]:
    """A copy of a sweep, as if it had been stopped in its second trial."""

    def copy(kind: Kind) -> Path:
        shutil.copytree(whole[kind], tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "trials" / "0001")
        return tmp_path / "run"

    return copy


@kinds
def test_a_copied_sweep_goes_on_where_its_faces_are_now(
    kind: Kind,
    copied: Callable[[Kind], Path],
    whole: dict[Kind, Path],
    few: Faces,
    tmp_path: Path,
    dxray: Callable[..., Said],
) -> None:
    run = copied(kind)
    code, _, errors = dxray("sweep", "--resume", run)
    assert code == 1
    assert f"if they are elsewhere now, say where: dxray sweep --resume '{run}' --data SOURCE and --validate" in errors
    now, more = kind(tmp_path / "new", few)["data"], folder(tmp_path / "more", few)["data"]
    code, _, errors = dxray("sweep", "--resume", run, "--data", now, "--validate", f"more={more}")
    assert code == 0, errors
    before = read_json(whole[kind] / "sweep.json")
    record = read_json(run / "sweep.json")
    assert record == before | {"config": before["config"] | {"data": now, "validate": {"more": more}}}
    tables = [pq.read_table(place / "trials.parquet") for place in (run, whole[kind])]
    assert tables[0]["sha256"].equals(tables[1]["sha256"])
    assert tables[0]["accuracy_more"].equals(tables[1]["accuracy_more"])
    assert dxray("sweep", "--resume", run)[0] == 0  # it knows the place from now on


@kinds
def test_another_image_name_or_label_at_the_new_place_is_refused(
    kind: Kind, copied: Callable[[Kind], Path], few: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    run = copied(kind)
    before = (run / "sweep.json").read_bytes()
    fourth = np.arange(len(few)) == 3
    others = [
        replace(few, images=np.where(fourth[:, None, None, None], 0, few.images)),
        replace(few, names=np.where(fourth, "face999", few.names)),
        replace(few, labels=few.labels ^ fourth),
        few._rows(~fourth),
    ]
    more = folder(tmp_path / "more", few)["data"]
    for number, other in enumerate(others):
        now = kind(tmp_path / str(number), other)["data"]
        code, _, errors = dxray("sweep", "--resume", run, "--data", now, "--validate", f"more={more}")
        assert code == 1
        assert f"'{now}' holds other faces than when '{run}' was started (another image, name or label)" in errors
    now = kind(tmp_path / "new", few)["data"]
    wrong = folder(tmp_path / "wrong", others[0])["data"]
    code, _, errors = dxray("sweep", "--resume", run, "--data", now, "--validate", f"more={wrong}")
    assert code == 1
    assert f"'{wrong}' holds other faces than when" in errors
    code, _, errors = dxray("sweep", "--resume", run, "--data", now, "--validate", f"others={more}")
    assert code == 1
    assert "is not measured on 'others'; of --validate only a place can be another" in errors
    assert (run / "sweep.json").read_bytes() == before


def test_in_python_the_same_call_with_another_place_goes_on(
    copied: Callable[[Kind], Path], few: Faces, tmp_path: Path
) -> None:
    run = copied(folder)
    record = read_json(run / "sweep.json")
    record["config"]["grid"] = [GRID]  # as it is begun in Python
    (run / "sweep.json").write_text(json.dumps(record))
    now, more = (folder(tmp_path / name, few)["data"] for name in ("new", "more"))
    api.sweep(out=run, data=now, validate={"more": more}, size=16, grid=GRID, cpus_per_trial=1)
    config = read_json(run / "sweep.json")["config"]
    assert (config["data"], config["validate"]) == (now, {"more": more})
    assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["ok", "ok"]


@kinds
def test_the_doctor_knows_the_faces_of_a_training_wherever_they_are(
    kind: Kind, whole: dict[Kind, Path], few: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    def not_checked(now: dict[str, Any], *words: object) -> set[str]:
        asked = ["doctor", whole[kind], "--data", now["data"], *words, "--json", "--out", tmp_path / "out"]
        code, said, errors = dxray(*asked)
        assert code in (0, 1), errors
        return {why for one in json.loads(said)["trainings"] for why in one["not_checked"].values()}

    others = "these are other faces than those of the training"
    assert others not in not_checked(kind(tmp_path / "new", few), "--trial", 0)
    assert others not in not_checked(kind(tmp_path / "new", few), "--trial", 1, "--quick")
    flipped = replace(few, images=255 - few.images)
    assert others in not_checked(kind(tmp_path / "others", flipped), "--trial", 0)
