"""An attack run, from a folder of faces to saved images that fool: shards alone, then with Ray; verify; resume."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import attacks
from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.engine.query import Answers
from dxray.defenses import defended
from dxray.defenses.victim import load_victim
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard, load, read, save
from dxray.models.victims.predict import predict
from dxray.orchestrator.attack import sharding, workers
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, Shards, _places, attack_shard, restored
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError
from dxray.orchestrator.reports.verify import verify
from dxray.orchestrator.runs import store
from dxray.orchestrator.runs.store import IMAGES, read_rows, write_image

CLASSES = ("male", "female")


def run_shard(folder: Path, net: Path, out: Path, **job: Any) -> list[dict[str, Any]]:
    """One shard over all of `folder`, in this process, without Ray."""
    attack_shard(Job(out=out, **job), 0, list(list_inputs([folder], classes=CLASSES)), *read(net))
    return list(read_rows(out))


def test_each_face_that_the_net_had_right_is_fooled_by_its_saved_file(
    face_folder: Path, trained: Path, tmp_path: Path
) -> None:
    rows = run_shard(face_folder, trained, tmp_path / "out")
    assert len(rows) == 10
    assert {row["status"] for row in rows} <= {"fooled", "already_wrong"}
    fooled = [row for row in rows if row["status"] == "fooled"]
    assert len(fooled) >= 8
    net, card = load(trained)
    for row in fooled:
        before = predict(net, card, tmp_path / "out" / row["original"]["path"])
        after = predict(net, card, tmp_path / "out" / row["modified"]["path"])
        assert before.name == Path(row["name"]).parent.name
        assert after.name != before.name
        assert row["margin_before"] < 0 < row["margin_after"]
        assert row["probability_after"] == pytest.approx(after.probability, abs=1e-4)


def test_a_row_measures_the_saved_images(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    for row in run_shard(face_folder, trained, tmp_path / "out"):
        original, modified, amplified = (
            np.array(Image.open(tmp_path / "out" / row[which]["path"])).astype(int)
            for which in ("original", "modified", "amplified")
        )
        change = modified - original
        assert row["l2"] == pytest.approx(np.sqrt((change**2).sum()) / 255, rel=1e-5, abs=1e-7)
        assert row["l1"] == pytest.approx(np.abs(change).sum() / 255, rel=1e-5, abs=1e-7)
        assert row["linf"] == pytest.approx(np.abs(change).max() / 255, rel=1e-5, abs=1e-7)
        assert row["l0"] == (change != 0).sum()
        assert np.array_equal(amplified, (np.abs(change) * 50).clip(0, 255))
        assert (tmp_path / "out" / row["modified"]["path"]).read_bytes() == row["modified"]["bytes"]


def test_the_three_images_have_the_courses_names(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    run_shard(face_folder, trained, tmp_path / "out", raw=True)
    label = next(p for p in face_folder.iterdir() if list(p.glob("face000.png"))).name
    for which in ("ori", "mod", "amp"):
        png = tmp_path / "out" / "triples" / label / f"adv_face000_{which}.png"
        assert png.with_suffix(".raw").read_bytes() == np.array(Image.open(png)).tobytes()
        assert png.with_suffix(".raw").stat().st_size == 2_304


def test_a_single_face_can_be_named(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    face = next(face_folder.rglob("face001.png"))
    out = tmp_path / "out"
    attack_shard(
        Job(out=out, name="curie_marie", raw=True), 0, list(list_inputs([face], classes=CLASSES)), *read(trained)
    )
    assert sorted(path.name for path in (out / "triples").iterdir()) == [
        f"adv_curie_marie_{which}.{ending}" for which in ("amp", "mod", "ori") for ending in ("png", "raw")
    ]


def test_two_files_of_one_name_are_saved_in_the_runs_folder(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    faces = [face_folder / which / "1.png" for which in ("a", "b")]
    for face, source in zip(faces, list(face_folder.rglob("*.png")), strict=False):
        face.parent.mkdir()
        source.rename(face)
    before = set(face_folder.rglob("*"))
    attack_shard(Job(out=tmp_path / "out"), 0, list(list_inputs(faces, classes=CLASSES)), *read(trained))
    assert set(face_folder.rglob("*")) == before
    assert len(list((tmp_path / "out" / "triples").rglob("*.png"))) == 6


@pytest.mark.parametrize(
    ("triple", "below"),
    [
        ("sub/face", "sub/adv_face"),
        ("face.1", "adv_face.1"),
        ("../../face", "adv_face"),
        ("/etc/../face", "etc/adv_face"),
        ("sub//./face/", "sub/adv_face"),
        ("..", "adv__"),
        ("", "adv__"),
    ],
)
def test_images_stay_below_the_runs_folder_whatever_the_name(triple: str, below: str) -> None:
    assert _places(triple) == {
        "original": f"triples/{below}_ori.png",
        "modified": f"triples/{below}_mod.png",
        "amplified": f"triples/{below}_amp.png",
    }


def test_an_unlabelled_face_leaves_the_class_that_the_net_gives_it(
    face_folder: Path, trained: Path, tmp_path: Path
) -> None:
    for face in face_folder.rglob("*.png"):
        face.rename(face_folder / face.name)
    rows = run_shard(face_folder, trained, tmp_path / "out")
    assert all(row["status"] == "fooled" and row["label"] == row["predicted_before"] for row in rows)
    assert not any(row["label_known"] for row in rows)


def test_a_face_whose_class_is_the_target_is_left_alone(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    rows = run_shard(face_folder, trained, tmp_path / "out", target=1)
    for row in rows:
        if row["label"] == 1:
            assert row["status"] == "is_target"
            assert row["l0"] == 0
        else:
            assert row["status"] == "already_wrong" or row["predicted_after"] == 1


def test_a_broken_image_is_a_row_with_its_reason_and_the_others_are_done(
    face_folder: Path, trained: Path, tmp_path: Path
) -> None:
    (face_folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (face_folder / "empty.png").touch()
    (face_folder / "gone.png").symlink_to(tmp_path / "nowhere")
    rows = {row["name"]: row for row in run_shard(face_folder, trained, tmp_path / "out")}
    assert len(rows) == 13
    for name in ("broken.jpg", "empty.png", "gone.png"):
        assert rows[name]["status"] == "unreadable"
        assert rows[name]["reason"]
        assert rows[name]["modified"] is None
    assert len({rows[name]["reason"] for name in ("broken.jpg", "empty.png", "gone.png")}) == 3
    assert sum(row["status"] == "fooled" for row in rows.values()) >= 8


def test_an_image_that_the_attack_never_looks_at_and_the_net_cannot_judge_has_failed(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its label is the target, so that its score is the first that asks the net, which answers NaN."""
    (face_folder / "male" / "poison.png").write_bytes(encode_png(np.full((1, 48, 48), 255, np.uint8)))

    def spoilt(*words: Any) -> tuple[torch.nn.Module, ModelCard]:
        net, card = restored.__wrapped__(*words)
        net.register_forward_hook(lambda _, given, said: said.where(given[0].mean((1, 2, 3))[:, None] < 1, torch.nan))
        return net, card

    monkeypatch.setattr("dxray.orchestrator.attack.shards.restored", spoilt)
    rows = {row["name"]: row for row in run_shard(face_folder, trained, tmp_path / "out", target=0)}
    poison = rows.pop("male/poison.png")
    assert poison["status"] == "failed"
    assert "cannot be scored: the net ConvNet gave NaN" in poison["reason"]
    assert poison["modified"] is None
    assert len(rows) == 10
    assert {row["status"] for row in rows.values()} <= {"fooled", "already_wrong", "is_target"}


def test_a_shard_of_broken_images_alone_is_written_too(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "empty.png").touch()
    rows = run_shard(tmp_path / "faces", trained, tmp_path / "out")
    assert [row["status"] for row in rows] == ["unreadable"]


def by_name(out: Path) -> dict[str, Any]:
    return {row["name"]: row for row in read_rows(out)}


def test_rows_do_not_depend_on_the_shard_or_the_order(face_folder: Path, trained: Path, tmp_path: Path) -> None:
    inputs = list(list_inputs([face_folder], classes=CLASSES))
    split = [inputs[7:][::-1], inputs[:1], inputs[1:7]]
    for out, shards in (("whole", [inputs]), ("split", split)):
        for index, shard in enumerate(shards):
            attack_shard(Job(out=tmp_path / out), index, shard, *read(trained))
    together = Shards(Job(out=tmp_path / "together"), *read(trained))
    assert list(together.attack(0, split[0])) == [], "the first shard ended before the next could fill its batch"
    ended = [*together.attack(1, split[1]), *together.attack(2, split[2]), *together.finish()]
    assert sorted(index for index, *_ in ended) == [0, 1, 2]
    assert by_name(tmp_path / "whole") == by_name(tmp_path / "split") == by_name(tmp_path / "together")


def test_an_image_at_which_the_net_fails_takes_no_other_shard_with_it(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four shards, the second holds one: those that are with it in the stream, and after, are as without it."""
    inputs = list(list_inputs([face_folder], classes=CLASSES))
    attack_shard(Job(out=tmp_path / "whole"), 0, inputs, *read(trained))
    encoded = np.full((1, 48, 48), 7, np.uint8)
    (tmp_path / "bad.png").write_bytes(encode_png(encoded))
    (bad,) = list_inputs([tmp_path / "bad.png"], classes=CLASSES)
    shards = Shards(Job(out=tmp_path / "out"), *read(trained))
    monkeypatch.setattr(shards, "_net", Picky(shards._net, encoded))
    ended = []
    for index, some in enumerate([inputs[:2], [*inputs[2:4], bad], inputs[4:6], inputs[6:]]):
        ended += list(shards.attack(index, some))
    assert [index for index, *_ in ended][:2] == [0, 1]
    ended += list(shards.finish())
    assert sorted(index for index, *_ in ended) == [0, 1, 2, 3]
    found = by_name(tmp_path / "out")
    assert {one.said for one in ended} == {""}, "what one image explains was told"
    failed = found.pop("bad.png")
    assert failed["status"] == "failed"
    assert failed["reason"].startswith("the attack 'dx' cannot work on this: the net Picky gave NaN")
    assert found == by_name(tmp_path / "whole")


def test_a_stream_that_fails_at_no_image_is_told(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setitem(attacks.STREAMS, "dx", broken)
    inputs = list(list_inputs([face_folder], classes=CLASSES))
    (ended,) = Shards(Job(out=tmp_path / "out"), *read(trained)).attack(0, inputs)
    assert ended.said == "images were attacked anew, for their stream ended with: a fault of ours"
    assert ended.rows["failed"] == 0
    assert ended.rows.total() == len(inputs)


class Picky(torch.nn.Module):
    """A net that has no answer to one image."""

    def __init__(self, net: torch.nn.Module, image: np.ndarray) -> None:
        super().__init__()
        self.net, self.image = net, from_levels(torch.from_numpy(image))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        close = (images - self.image).abs().flatten(1).mean(dim=1) < 0.05
        return logits.masked_fill(close.unsqueeze(1), torch.nan)


@pytest.mark.parametrize("attack", ["dx", "pgd", "hopskipjump"])
def test_what_the_net_said_to_the_attack_is_what_it_says_of_the_files(
    attack: str, face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack's own looks are taken where they were at the very images: they must be as good as others."""
    seen = run_shard(face_folder, trained, tmp_path / "seen", attack=attack)
    monkeypatch.setattr(Answers, "note", lambda *_: None)
    asked = run_shard(face_folder, trained, tmp_path / "asked", attack=attack)
    for one, other in zip(seen, asked, strict=True):
        for name in ("margin_before", "margin_after"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)
        for name in ("probability_before", "probability_after"):
            assert one[name] == pytest.approx(other[name], abs=1e-6)
        assert one["status"] == other["status"]


def test_what_dx_ends_at_is_not_asked_again(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the net was asked again")

    monkeypatch.setattr("dxray.orchestrator.attack.shards.Query", asked)  # the attack has its own
    assert {row["status"] for row in run_shard(face_folder, trained, tmp_path / "out")} <= {"fooled", "already_wrong"}


def test_what_counts_is_what_the_files_hold(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike(path: Path, content: bytes) -> None:
        original = path.with_name(path.name.replace("_mod.png", "_ori.png"))
        write_image(path, original.read_bytes() if original != path and original.exists() else content)

    monkeypatch.setattr("dxray.orchestrator.attack.shards.write_image", unlike)
    rows = run_shard(face_folder, trained, tmp_path / "out")
    assert {row["status"] for row in rows} <= {"missed", "already_wrong"}
    assert {row["l2"] for row in rows} == {0.0}


def test_an_attack_that_returns_its_input_fools_nothing(
    face_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(net: Any, inputs: torch.Tensor, labels: Any, **_: Any) -> torch.Tensor:
        return inputs

    monkeypatch.setitem(attacks.ATTACKS, "idle", idle)
    rows = run_shard(face_folder, trained, tmp_path / "out", attack="idle")
    assert {row["status"] for row in rows} <= {"missed", "already_wrong"}


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

    def test_options_that_the_attack_cannot_use_are_said(
        self, config: AttackConfig, tmp_path: Path, console: Console
    ) -> None:
        for attack_name, options, sentence in (
            ("none", {}, "unknown attack 'none'; known attacks: .*dx"),
            ("dx", {"weight": 1.0}, "has no option 'weight'"),
            ("dx", {"norm": "l7"}, "unknown norm 'l7'"),
        ):
            config.attack, config.options = attack_name, options
            with pytest.raises(UserError, match=sentence):
                attack(config, tmp_path / attack_name / str(len(options)) / sentence[:8], console)


@pytest.fixture
def attacked(face_folder: Path, trained: Path, tmp_path: Path, local_ray: None, console: Console) -> Path:
    attack(AttackConfig(paths=[str(face_folder)], model=str(trained)), tmp_path / "out", console)
    return tmp_path / "out"


def a_fooled_row(out: Path) -> dict[str, Any]:
    return next(row for row in read_rows(out) if row["status"] == "fooled")


def put_the_original_in_its_place(out: Path, row: dict[str, Any]) -> None:
    (out / row["modified"]["path"]).write_bytes((out / row["original"]["path"]).read_bytes())


def delete_it(out: Path, row: dict[str, Any]) -> None:
    (out / row["modified"]["path"]).unlink()


@pytest.mark.parametrize("spoil", [put_the_original_in_its_place, delete_it])
def test_verify_reads_the_files(
    attacked: Path, spoil: Callable[[Path, dict[str, Any]], None], console: Console
) -> None:
    """A file that no longer fools is found, though the Arrow row still holds the image that did."""
    row = a_fooled_row(attacked)
    spoil(attacked, row)
    checked = verify(attacked, console)
    assert not checked["success"]
    assert checked["still_fools"] == checked["fooled"] - 1
    assert [failure.split(":")[0] for failure in checked["failed"]] == [row["name"]]


def test_verify_looks_at_the_original_too(attacked: Path, faces: Faces, console: Console) -> None:
    row = a_fooled_row(attacked)
    other = faces.images[np.flatnonzero(faces.labels != row["label"])[:20]]
    net, card = load(attacked / "model")
    wrong = next(image for image in other if predict(net, card, encode_png(image)).label != row["label"])
    (attacked / row["original"]["path"]).write_bytes(encode_png(wrong))
    assert "even before the change" in verify(attacked, console)["failed"][0]


def test_verify_without_files_reads_the_parts(
    face_folder: Path, trained: Path, tmp_path: Path, local_ray: None, console: Console
) -> None:
    attack(AttackConfig(paths=[str(face_folder)], model=str(trained), png=False), tmp_path / "out", console)
    assert not (tmp_path / "out" / "triples").exists()
    checked = verify(tmp_path / "out", console)
    assert checked["success"]
    assert checked["fooled"] >= 8
    assert "Arrow" in checked["read"]


def test_verify_of_an_unfinished_run_is_no_success(attacked: Path, console: Console) -> None:
    record = store.read_json(attacked / "attack.json")
    store.write_json(attacked / "attack.json", record | {"inputs": record["inputs"] + 1})
    assert not verify(attacked, console)["success"]


def test_another_net_of_the_same_input_measures_transfer(attacked: Path, tmp_path: Path, console: Console) -> None:
    card = ModelCard("convnet", {"filters": 2}, CLASSES)
    save(card.build(), card, tmp_path / "other")
    checked = verify(attacked, console, model=str(tmp_path / "other"))
    assert checked["success"]
    assert not checked["same_net"]


def test_a_net_of_another_input_is_refused(attacked: Path, tmp_path: Path, console: Console) -> None:
    card = ModelCard("convnet", {"filters": 2}, CLASSES, size=(64, 64))
    save(card.build(), card, tmp_path / "other")
    with pytest.raises(UserError, match="takes 64x64 grey images, but those"):
        verify(attacked, console, model=str(tmp_path / "other"))


def test_a_net_is_attacked_behind_a_defence_which_is_the_runs_own(
    face_folder: Path, trained: Path, tmp_path: Path, local_ray: None, console: Console
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
