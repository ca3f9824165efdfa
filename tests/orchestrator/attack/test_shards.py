"""Shards of an attack alone, without Ray: what a row holds, the triples, images and nets that fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dxray import attacks
from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.engine.query import Answers
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard, load, read
from dxray.models.victims.predict import predict
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, Shards, attack_shard, restored
from dxray.orchestrator.attack.triples import places
from dxray.orchestrator.runs.store import read_rows, write_image

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
    assert places(triple) == {
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

    monkeypatch.setattr("dxray.orchestrator.attack.triples.write_image", unlike)
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
