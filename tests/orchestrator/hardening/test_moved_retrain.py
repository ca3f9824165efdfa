"""A retraining whose folder or faces were moved goes on, and takes new faces in where those of before are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.orchestrator.console import Console
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.hardening.retrain import retrain
from dxray.orchestrator.hardening.stop_rules import Rules
from dxray.orchestrator.runs.store import read_json, write_json

Said = tuple[int, str, str]


def table(root: Path, faces: Faces, count: int = 120) -> str:
    """The first pictures as a table, with splits."""
    root.mkdir(parents=True, exist_ok=True)
    columns = {
        "name": faces.names[:count].tolist(),
        "split": ["train" if i % 4 else ("validation", "test")[i // 4 % 2] for i in range(count)],
        "gender": [faces.classes[label] for label in faces.labels[:count]],
        "image": [encode_png(image) for image in faces.images[:count]],
    }
    pq.write_table(pa.table(columns), root / "faces.parquet")
    return f"parquet:{root / 'faces.parquet'}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, faces: Faces, trained: Path, local_ray: None) -> Path:
    """A run of one round, whose faces are gone."""
    place = tmp_path_factory.mktemp("whole")
    asked = RetrainConfig(
        table(place / "old", faces), str(trained), epochs=1, held_out=10, attack_faces=20, rules=Rules(rounds=1)
    )
    retrain(asked, place / "run", Console())
    shutil.rmtree(place / "old")
    return place / "run"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_a_copy_that_was_stopped_in_an_attack_goes_on_with_its_own_faces(
    copied: Path, whole: Path, dxray: Callable[..., Said]
) -> None:
    run = copied
    rows = pq.read_table(run / "rounds.parquet")
    record = read_json(run / "retrain.json")
    for name in ("stop", "promotion"):
        del record["generations"][-1][name]
    write_json(run / "retrain.json", record)
    (run / "rounds/0001/round.json").unlink()
    next((run / "rounds/0001/judged/dx/images").iterdir()).unlink()
    whole.rename(whole.with_name("away"))  # what the copy was made of is not there
    try:
        code, _, errors = dxray("retrain", "--resume", run)
    finally:
        whole.with_name("away").rename(whole)
    assert code == 0, errors
    assert pq.read_table(run / "rounds.parquet").equals(rows)


def test_a_run_goes_on_where_its_faces_are_now_and_takes_in_what_is_new_there(
    copied: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    run = copied
    code, _, errors = dxray("retrain", "--update", run)
    assert code == 1
    assert f"if the faces are elsewhere now, say where: dxray retrain --update '{run}' --data SOURCE" in errors
    now = table(tmp_path / "new", faces)
    assert dxray("retrain", "--resume", run, "--data", now)[0] == 0
    assert read_json(run / "retrain.json")["config"]["data"] == now
    later = table(tmp_path / "later", faces, 128)
    code, said, errors = dxray("retrain", "--update", run, "--data", later, "--json")
    assert code == 0, errors
    assert json.loads(said)["new_faces"] == 8
    assert json.loads(dxray("retrain", "--update", run, "--json")[1])["new_faces"] == 0  # it knows the place


def test_another_image_name_or_label_at_the_new_place_is_refused(
    copied: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    run = copied
    before = (run / "retrain.json").read_bytes()
    fourth = np.arange(len(faces)) == 3
    others = {
        "is another image there": replace(faces, images=np.where(fourth[:, None, None, None], 0, faces.images)),
        "is not there": replace(faces, names=np.where(fourth, "new", faces.names)),
        "has another label there": replace(faces, labels=faces.labels ^ fourth),
    }
    for number, (sentence, now) in enumerate(others.items()):
        code, _, errors = dxray("retrain", "--resume", run, "--data", table(tmp_path / str(number), now))
        assert code == 1
        assert "does not hold the faces of" in errors
        assert f"{sentence}; say where the same faces are now" in errors
        assert "Traceback" not in errors
    assert (run / "retrain.json").read_bytes() == before
