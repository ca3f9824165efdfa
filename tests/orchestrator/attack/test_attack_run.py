"""An attack run, from a folder of faces to saved images that fool: with Ray, stopped and resumed, added to, refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.defenses import defended
from dxray.defenses.victim import load_victim
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import load, save
from dxray.models.victims.predict import predict
from dxray.orchestrator.attack import sharding, workers
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError
from dxray.orchestrator.reports.verify import verify
from dxray.orchestrator.runs import store
from dxray.orchestrator.runs.store import IMAGES, read_rows

CLASSES = ("male", "female")


@pytest.fixture
def config(face_folder: Path, trained: Path) -> AttackConfig:
    return AttackConfig(paths=[str(face_folder)], model=str(trained))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "FIRST", 3)
    monkeypatch.setattr(sharding, "MOST", 3)


@pytest.mark.usefixtures("local_ray", "small_shards")
class TestWithRay:
    def test_a_run_has_one_row_for_each_image_and_its_files_verify(
        self, config: AttackConfig, tmp_path: Path, console: Console
    ) -> None:
        out = tmp_path / "out"
        result = attack(config, out, console)
        rows = list(read_rows(out))
        assert [row["name"] for row in rows] == [item.name for item in list_inputs(config.paths, classes=CLASSES)]
        assert len(list((out / "images").iterdir())) == 4
        assert result["inputs"] == 10
        assert result["counts"]["fooled"] == sum(row["status"] == "fooled" for row in rows) >= 8
        assert result["fooled_share"] == 1.0
        assert result["distances"]["l2"]["median"] == pytest.approx(
            np.median([row["l2"] for row in rows if row["status"] == "fooled"])
        )
        assert pq.read_schema(out / "images" / "part-00000.parquet").names == IMAGES.names
        checked = verify(out, console)
        assert checked["success"]
        assert checked["still_fools"] == checked["fooled"] == result["counts"]["fooled"]

    def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_stopped(
        self, config: AttackConfig, tmp_path: Path, console: Console
    ) -> None:
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        attack(config, whole, console)
        attack(config, stopped, console)
        kept = stopped / "images" / "part-00000.parquet"
        finished = kept.stat().st_mtime_ns
        for index in (1, 3):
            (stopped / "images" / f"part-0000{index}.parquet").unlink()
        resume(stopped, console)
        assert list(read_rows(stopped)) == list(read_rows(whole))
        assert kept.stat().st_mtime_ns == finished

    def test_a_folder_that_holds_another_run_is_refused(
        self, config: AttackConfig, tmp_path: Path, console: Console
    ) -> None:
        attack(config, tmp_path / "out", console)
        config.attack = "ddn"
        with pytest.raises(UserError, match=r"holds a finished run with attack 'dx', and 'ddn' came; .*--resume"):
            attack(config, tmp_path / "out", console)

    def test_a_resume_refuses_other_inputs_and_another_net(
        self, config: AttackConfig, face_folder: Path, tmp_path: Path, console: Console
    ) -> None:
        out = tmp_path / "out"
        attack(config, out, console)
        shutil.copytree(out / "model", tmp_path / "kept")
        card = load(out / "model")[1]
        save(card.build(), card, out / "model")
        with pytest.raises(UserError, match="not the one this run was started with"):
            resume(out, console)
        shutil.copytree(tmp_path / "kept", out / "model", dirs_exist_ok=True)
        shutil.copy(next(face_folder.rglob("*.png")), face_folder / "new.png")
        with pytest.raises(
            UserError, match=r"inputs of .* have changed since it was started: 'new.png' is new; .*--update"
        ):
            resume(out, console)

    def test_the_same_command_goes_on(self, config: AttackConfig, tmp_path: Path, console: Console) -> None:
        first = attack(config, tmp_path / "out", console)
        written = [part.stat().st_mtime_ns for part in store.parts(tmp_path / "out")]
        again = attack(config, tmp_path / "out", console)
        assert [part.stat().st_mtime_ns for part in store.parts(tmp_path / "out")] == written
        assert again["counts"] == first["counts"]

    def test_an_update_attacks_what_is_new_and_nothing_else(
        self, config: AttackConfig, face_folder: Path, faces: Faces, tmp_path: Path, console: Console
    ) -> None:
        out = tmp_path / "out"
        attack(config, out, console)
        before, written = list(read_rows(out)), {part: part.stat().st_mtime_ns for part in store.parts(out)}
        for i in range(20, 25):
            (face_folder / f"new{i}.png").write_bytes(encode_png(faces.images[i]))
        result = resume(out, console, update=True)
        assert {part: part.stat().st_mtime_ns for part in written} == written
        rows = list(read_rows(out))
        assert rows[:10] == before
        assert [row["name"] for row in rows[10:]] == [f"new{i}.png" for i in range(20, 25)]
        assert result["inputs"] == 15
        assert resume(out, console, update=True)["inputs"] == 15  # nothing is new
        attack(config, tmp_path / "whole", console)
        by_name = {row["name"]: row for row in read_rows(tmp_path / "whole")}
        assert {row["name"]: row for row in rows} == by_name

    def test_the_run_of_a_named_face_is_not_added_to(
        self, config: AttackConfig, face_folder: Path, faces: Faces, tmp_path: Path, console: Console
    ) -> None:
        config.paths, config.name = [str(tmp_path / "one" / "*.png")], "curie_marie"
        (tmp_path / "one").mkdir()
        for i in range(2):
            (tmp_path / "one" / f"{i}.png").write_bytes(encode_png(faces.images[i]))
            if not i:
                attack(config, tmp_path / "out", console)
        kept = {file: file.read_bytes() for file in (tmp_path / "out" / "triples").iterdir()}
        with pytest.raises(UserError, match="named 'curie_marie', so that others would take their place"):
            resume(tmp_path / "out", console, update=True)
        assert {file: file.read_bytes() for file in (tmp_path / "out" / "triples").iterdir()} == kept

    def test_a_part_of_any_list_that_was_deleted_is_done_again(
        self, config: AttackConfig, face_folder: Path, faces: Faces, tmp_path: Path, console: Console
    ) -> None:
        out = tmp_path / "out"
        attack(config, out, console)
        for i in range(20, 25):
            (face_folder / f"new{i}.png").write_bytes(encode_png(faces.images[i]))
        resume(out, console, update=True)
        whole = list(read_rows(out))
        for part in store.parts(out)[1::2]:
            part.unlink()
        assert resume(out, console)["inputs"] == 15
        assert list(read_rows(out)) == whole

    def test_the_bounds_of_shards_are_on_disk_before_the_first_is_begun(
        self, config: AttackConfig, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that was killed between a shard's end and its record measures anew, and must do so only once."""
        out = tmp_path / "out"
        attack(config, out, console)
        record = store.read_json(out / "attack.json")
        measured, record["lists"][0]["largest"] = record["lists"][0]["largest"], None
        store.write_json(out / "attack.json", record)
        store.parts(out)[-1].unlink()

        def stopped(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(workers.WorkerPool, "work_off", stopped)
        with pytest.raises(Interrupted):
            resume(out, console)
        assert store.read_json(out / "attack.json")["lists"][0]["largest"] == measured

    def test_a_stopped_run_is_finished_before_it_is_added_to(
        self, config: AttackConfig, face_folder: Path, faces: Faces, tmp_path: Path, console: Console
    ) -> None:
        out = tmp_path / "out"
        attack(config, out, console)
        store.parts(out)[1].unlink()
        record = store.read_json(out / "attack.json")
        record.pop("counts")
        store.write_json(out / "attack.json", record)
        (face_folder / "new.png").write_bytes(encode_png(faces.images[20]))
        assert resume(out, console, update=True)["inputs"] == 11

    def test_a_table_is_attacked_as_its_images_would_be(
        self, config: AttackConfig, face_folder: Path, tmp_path: Path, console: Console
    ) -> None:
        attack(config, tmp_path / "files", console)
        names = sorted(str(path.relative_to(face_folder)) for path in face_folder.rglob("*.png"))
        images = [(face_folder / name).read_bytes() for name in names]
        table = pa.table({"name": names, "image": images, "label": [Path(name).parent.name for name in names]})
        pq.write_table(table, tmp_path / "faces.parquet")
        config.paths = [f"parquet:{tmp_path / 'faces.parquet'}"]
        attack(config, tmp_path / "table", console)

        def rows(out: str) -> dict[str, Any]:
            places = ("original", "modified", "amplified")
            return {
                row["name"]: {name: value["bytes"] if name in places else value for name, value in row.items()}
                for row in read_rows(tmp_path / out)
            }

        assert rows("table") == rows("files")

    def test_two_at_once_are_refused(self, config: AttackConfig, tmp_path: Path, console: Console) -> None:
        with (
            store.locked(store.writable_folder(tmp_path / "out", "results")),
            pytest.raises(UserError, match="another dxray process"),
        ):
            attack(config, tmp_path / "out", console)


def test_a_net_is_attacked_behind_a_defence_which_is_the_runs_own(
    face_folder: Path, trained: Path, tmp_path: Path, console: Console
) -> None:
    out = tmp_path / "out"

    def asked(defense: str) -> AttackConfig:
        return AttackConfig([str(face_folder)], str(trained), defense=defense)

    attack(asked("jumprelu:kappa=.3"), out, console)
    record = store.read_json(out / "attack.json")
    assert record["config"]["defense"] == "jumprelu:kappa=0.3"
    _, card = load_victim(out / "model")
    assert card.sha256 == record["net_sha256"] != load(trained)[1].sha256
    assert card.defence == {"name": "jumprelu", "parameters": {"kappa": 0.3}}
    faces = list(face_folder.rglob("*.png"))
    behind = defended(load(trained)[0], "jumprelu", kappa=0.3)
    said = {f"{face.parent.name}/{face.name}": predict(behind, card, face).label for face in faces}
    assert {row["name"]: row["predicted_before"] for row in read_rows(out)} == said
    assert verify(out, console)["still_fools"] > 5
    assert attack(asked("jumprelu:kappa=0.3"), out, console)["inputs"] == 10
    for other in ("none", "jumprelu:kappa=0.2"):
        with pytest.raises(UserError, match=f"defense 'jumprelu:kappa=0.3', and '{other}' came"):
            attack(asked(other), out, console)


@pytest.mark.parametrize(
    ("defense", "sentence"),
    [
        ("magic", "--defense magic: no defence is called 'magic'"),
        ("jumprelu:kappa=-1", "--defense jumprelu:kappa=-1: kappa=-1.0: a threshold is not negative"),
        ("denoising_autoencoder", "must learn before it defends"),
    ],
)
def test_a_defence_that_cannot_be_is_said_before_anything_is_done(
    defense: str, sentence: str, face_folder: Path, trained: Path, tmp_path: Path, console: Console
) -> None:
    with pytest.raises(UserError, match=sentence):
        attack(AttackConfig([str(face_folder)], str(trained), defense=defense), tmp_path / "out", console)
    assert not (tmp_path / "out").exists()
