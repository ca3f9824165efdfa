"""Victims: each kind of file answers as the net that was saved, and is attacked through it."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.checks import Finding, check
from dxray.defenses import defended, parse
from dxray.defenses.victim import behind
from dxray.models.victims.checkpoint import CARD, CheckpointError, load, read
from dxray.models.victims.predict import predict
from dxray.models.victims.victim import load_victim, payload_name, restore
from dxray.models.victims.victim import read as read_victim
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, attack_shard
from dxray.orchestrator.console import Console
from dxray.orchestrator.reports.verify import verify
from dxray.orchestrator.runs.store import read_json, read_rows
from tests.models.victims.foreign_files import CLASSES, exported, scripted, write_side

KINDS = ("traced", "scripted", "exported", "exported, batch 3")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_answers_as_the_net_that_was_saved(
    kind: str, files: dict[str, Path], net: nn.Module, images: Tensor
) -> None:
    victim, card = load_victim(files[kind])
    assert (card.classes, card.channels, card.size) == (("male", "female"), 1, (48, 48))
    for count in (1, 5, 40):
        given = images[:count].to(memory_format=torch.channels_last)
        slopes = []
        for one in (victim, net):
            point = given.clone().requires_grad_(True)
            logits = one(point)
            slopes.append(torch.autograd.grad(logits[:, 0].sum(), point)[0])
            assert torch.allclose(logits, net(given), atol=1e-5)
        # At a corner of a ReLU or of a maximum the last bit of a rounding decides which of two slopes is right.
        alike = [torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*slopes, strict=True)]
        assert sum(alike) >= count - count // 20
    assert check(victim, images) == []


class Curves(nn.Module):
    """Arithmetic that TorchScript's optimiser rearranges."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        found = torch.sigmoid(found) * found * torch.tanh(found + 1) / (1 + found * found)
        return self.last((nn.functional.gelu(found) * found.exp()).mean(dim=[2, 3]))


def test_it_says_the_same_at_the_first_look_and_at_the_fifth(tmp_path: Path) -> None:
    """TorchScript left to itself profiles its first looks, and later gradients are rounded otherwise."""
    torch.manual_seed(0)
    path = write_side(scripted(Curves().eval(), tmp_path / "net.pt"), classes=list("abcde"), channels=3)
    victim, images = load_victim(path)[0], torch.rand(32, 3, 48, 48)
    looks = []
    for _ in range(5):
        point = images.clone().requires_grad_(True)
        logits = victim(point)
        looks.append(torch.cat([logits.flatten(), torch.autograd.grad(logits.sum(), point)[0].flatten()]))
    assert all(torch.equal(look, looks[0]) for look in looks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_is_attacked_through_a_file(
    kind: str, files: dict[str, Path], face_folder: Path, tmp_path: Path
) -> None:
    content = read_victim(files[kind])
    attack_shard(Job(out=tmp_path / "out"), 0, list(list_inputs([face_folder], classes=CLASSES)), *content)
    rows = [row for row in read_rows(tmp_path / "out") if row["status"] == "fooled"]
    assert len(rows) >= 8
    victim, card = restore(*content)
    for row in rows:
        assert row["net_sha256"] == card.sha256
        assert predict(victim, card, tmp_path / "out" / row["modified"]["path"]).label == row["target"]
        assert predict(victim, card, tmp_path / "out" / row["original"]["path"]).label == row["label"]


@pytest.mark.usefixtures("local_ray")
def test_a_run_attacks_a_file_verifies_and_records_what_the_checks_found(
    net: nn.Module,
    images: Tensor,
    face_folder: Path,
    tmp_path: Path,
    console: Console,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soft = nn.Sequential(net, nn.Softmax(dim=1)).eval()
    path = write_side(exported(soft, tmp_path / "net.pt2", images[:2]))
    result = attack(AttackConfig(paths=[str(face_folder)], model=str(path)), tmp_path / "out", console)
    assert result["counts"]["fooled"] >= 8
    assert sorted(held.name for held in (tmp_path / "out" / "model").iterdir()) == ["model.json", "model.pt2"]
    (finding,) = read_json(tmp_path / "out" / "attack.json")["findings"]
    assert finding["name"] == "probabilities"
    assert f"warning: the net may not be fit to be attacked: {Finding(**finding)}" in capsys.readouterr().out
    checked = verify(tmp_path / "out", console)
    assert checked["success"]
    assert checked["still_fools"] == result["counts"]["fooled"]
    (tmp_path / "out" / "images" / "part-00000.parquet").unlink()
    assert resume(tmp_path / "out", console)["counts"] == result["counts"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_run_holds_the_victim_itself(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    card_bytes, payload = read_victim(files[kind])
    (tmp_path / CARD).write_bytes(card_bytes)
    (tmp_path / payload_name(card_bytes)).write_bytes(payload)
    assert payload == files[kind].read_bytes()
    for path in (tmp_path, tmp_path / CARD, tmp_path / payload_name(card_bytes)):
        assert read_victim(path) == (card_bytes, payload)
    card = load_victim(tmp_path)[1]
    assert card.sha256 == load_victim(files[kind])[1].sha256 != load_victim(other(files, kind))[1].sha256
    shutil.copy(other(files, kind), tmp_path / payload_name(card_bytes))
    with pytest.raises(CheckpointError, match=r"not the file that model\.json was written for"):
        load_victim(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_put_behind_a_defence_that_needs_no_look_into_it(
    kind: str, files: dict[str, Path], images: Tensor, tmp_path: Path
) -> None:
    card_bytes, payload = behind(*read_victim(files[kind]), parse("bit_depth:bits=2"))
    (tmp_path / CARD).write_bytes(card_bytes)
    (tmp_path / payload_name(card_bytes)).write_bytes(payload)
    plain, card = load_victim(files[kind])
    with pytest.raises(CheckpointError, match="behind the defence 'bit_depth'"):
        load_victim(tmp_path)
    found, of_both = load_victim(tmp_path, defend=defended)
    assert of_both.sha256 != card.sha256
    with torch.no_grad():
        assert torch.allclose(found(images[:3]), plain((images[:3] * 3).round() / 3), atol=1e-5)
    with pytest.raises(ValueError, match="has none that it sees"):
        behind(*read_victim(files[kind]), parse("jumprelu"))


def other(files: dict[str, Path], kind: str) -> Path:
    return files[KINDS[KINDS.index(kind) - 1]]


def test_a_checkpoint_is_a_victim_as_it_is(trained: Path) -> None:
    assert read_victim(trained) == read(trained)
    assert load_victim(trained)[1] == load(trained)[1]
    assert payload_name(read(trained)[0]) == "model.safetensors"


def test_a_side_file_that_is_absent_is_replaced_by_trial_where_only_one_form_fits(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    card = load_victim(scripted(flat, tmp_path / "flat.pt"))[1]
    assert (len(card.classes), card.channels, card.size) == (10, 3, (32, 32))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    path = scripted(pooled, tmp_path / "pooled.pt")
    with pytest.raises(CheckpointError, match=r"takes images of many forms.*side file pooled\.json"):
        load_victim(path)
    (tmp_path / "pooled.json").write_text('{"size": 40}')
    card = load_victim(path)[1]
    assert (card.classes, card.channels, card.size) == (("class 0", "class 1"), 1, (40, 40))


class Viewed(nn.Module):
    """Its `view` needs images row by row in memory, and an export at a fixed batch size holds that size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.conv(images).view(images.shape[0], -1))


def test_a_batch_of_any_size_and_layout_is_brought_to_what_the_file_takes(tmp_path: Path) -> None:
    net, images = Viewed().eval(), torch.rand(7, 3, 8, 8)
    files = (
        exported(net, tmp_path / "free.pt2", images[:2]),
        exported(net, tmp_path / "fixed.pt2", images[:3], free=False),
        write_side(scripted(net, tmp_path / "traced.pt", images[:2]), classes=list("abcde"), channels=3, size=8),
    )
    for path in files:
        given = images.to(memory_format=torch.channels_last)
        assert torch.allclose(load_victim(path)[0](given), net(images), atol=1e-6)
