"""Victims: each kind of file answers as the net that was saved, is attacked through it, and is refused for cause."""

import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.checks import Finding, check
from dxray.defenses import defended, parse
from dxray.defenses.victim import behind
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.nets import build
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

CLASSES = ["male", "female"]
SIDE = {"classes": CLASSES, "channels": 1, "size": [48, 48]}


def scripted(net: nn.Module, path: Path, images: Tensor | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and a tracer warns of what it freezes
        made = torch.jit.script(net) if images is None else torch.jit.trace(net, images, check_trace=False)
        torch.jit.save(made, path)
    return path


class Affine(nn.Module):
    """What `Normalise` does, in words that TorchScript understands."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalise: Any) -> None:
        super().__init__()
        self.register_buffer("mean", normalise.mean)
        self.register_buffer("std", normalise.std)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def exported(net: nn.Module, path: Path, images: Tensor, *, free: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=shapes), path)
    return path


def write_side(path: Path, **changes: Any) -> Path:
    path.with_suffix(".json").write_text(json.dumps(SIDE | changes))
    return path


@pytest.fixture(scope="module")
def net(trained: Path) -> nn.Module:
    return load(trained)[0].requires_grad_(False)


@pytest.fixture(scope="module")
def images(faces: Faces) -> Tensor:
    return torch.tensor(faces.images[:40]).float() / 255


@pytest.fixture(scope="module")
def files(net: nn.Module, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("victims")
    parts = dict(net.named_children())
    layers = Affine(parts["normalise"]), parts["blocks"], parts["head"]
    return {
        "traced": write_side(scripted(net, folder / "traced.pt", images[:2])),
        "scripted": write_side(scripted(nn.Sequential(*layers).eval(), folder / "scripted.pt")),
        "exported": write_side(exported(net, folder / "free.pt2", images[:2])),
        "exported, batch 3": write_side(exported(net, folder / "fixed.pt2", images[:3], free=False)),
    }


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


def test_an_exported_file_says_itself_what_it_takes(files: dict[str, Path], tmp_path: Path) -> None:
    alone = shutil.copy(files["exported"], tmp_path / "net.pt2")
    card = load_victim(alone)[1]
    assert (card.classes, card.channels, card.size) == (("class 0", "class 1"), 1, (48, 48))


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


class Sizes(nn.Module):
    """What a graph holds beside layers: sizes in arithmetic, several outputs of one call, constants, types, None."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(1, 8, 6))
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        patches = nn.functional.unfold((images - self.mean).to(torch.float64).float(), height // 2, stride=width // 2)
        first, second = patches.view(count, 8, -1)[:, :, :12].chunk(2, dim=2)
        mixed = nn.functional.scaled_dot_product_attention(first, second + self.table.expand(count, -1, -1), second)
        top, _ = torch.cat([mixed, images.new_zeros(count, 8, 2)], dim=2).max(dim=1)
        return top * (count + 1) / (count + 1)


@pytest.mark.parametrize("build_net", [Sizes, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.GELU())])
def test_a_graph_of_many_operators_is_run_as_torch_would(build_net: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images = build_net().eval(), torch.rand(7, 3, 8, 8)
    victim, card = load_victim(exported(net, tmp_path / "net.pt2", images[:2]))
    assert (len(card.classes), card.channels, card.size) == (8, 3, (8, 8))
    assert torch.allclose(victim(images), net(images), atol=1e-6)


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


def test_a_net_exported_in_training_mode_is_found_by_the_checks(trained: Path, images: Tensor, tmp_path: Path) -> None:
    net = load(trained)[0].train()
    victim, _ = load_victim(exported(net, tmp_path / "net.pt2", images[:2]))
    assert [finding.name for finding in check(victim, images)] in (["batch_mates"], ["random"])


class Trap:
    """What a hostile file would run."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, (f"open({str(self.flag)!r}, 'w').close()",)


def rewritten(source: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive in which `change` has had each record."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def test_what_an_exported_file_could_run_is_not_run(
    files: dict[str, Path], net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    """`torch.export.load` unpickles sample inputs and evaluates guards and sizes; this file has a trap in each."""
    flag = tmp_path / "ran"
    code = f"open({str(flag)!r}, 'w').close()"

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickle.dumps(Trap(flag))
        if not name.endswith("models/model.json"):
            return content
        model = json.loads(content)
        model["guards_code"] = [code]
        text = json.dumps(model)
        found = text.split('"expr_str": "')[1].split('"')[0]
        return text.replace(found, code).encode()

    victim, _ = load_victim(rewritten(files["exported"], tmp_path / "net.pt2", change))
    assert torch.allclose(victim(images), net(images), atol=1e-5)
    assert not flag.exists()


def to_pickled(name: str, content: bytes) -> bytes:
    return content.replace(b'"use_pickle": false', b'"use_pickle": true')


def to_write(name: str, content: bytes) -> bytes:
    return content.replace(b"torch.ops.aten.linear.default", b"torch.ops.aten.save.default")


def to_call(name: str, content: bytes) -> bytes:
    return content.replace(b"torch.ops.aten.linear.default", b"torch.utils.cpp_extension.load")


def to_other_weights(name: str, content: bytes) -> bytes:
    return content[:-4] if "data/weights/weight_" in name else content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (to_pickled, "is pickled and could run code"),
        (to_write, r"calls 'torch.ops.aten.save.default', which is no operator of aten"),
        (to_call, r"calls 'torch.utils.cpp_extension.load'"),
        (to_other_weights, "net.pt2 is damaged"),
    ],
)
def test_an_exported_file_that_is_not_plain_is_refused(
    change: Callable[[str, bytes], bytes], sentence: str, files: dict[str, Path], tmp_path: Path
) -> None:
    refused(rewritten(files["exported"], tmp_path / "net.pt2", change), sentence)


class Writes(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        torch.save(images, "written.bin")
        return images.flatten(1)


class Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1), images


class FixedBatch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, -1)


def test_a_file_that_could_harm_or_mislead_is_refused(
    files: dict[str, Path], net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flag, image = tmp_path / "ran", torch.rand(2, 1, 48, 48)
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Trap(flag)))
    torch.save({"net": Trap(flag)}, tmp_path / "saved.pt")
    (tmp_path / "short.pt2").write_bytes(files["exported"].read_bytes()[:9_000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile says what we do on purpose
        twice = Path(shutil.copy(files["traced"], tmp_path / "twice.pt"))
        with zipfile.ZipFile(twice, "a") as archive:
            archive.writestr(archive.namelist()[0], b"other")
    refused(tmp_path / "pickled.pth", "pickled files are never read")
    refused(tmp_path / "saved.pt", r"saved.pt is pickled; pickled files are never read")
    refused(tmp_path / "short.pt2", "neither checkpoint, torch.export file nor TorchScript")
    refused(twice, "two records of one name")
    refused(write_side(scripted(Writes(), tmp_path / "writes.pt")), "reads or writes files when it runs")
    refused(write_side(scripted(Pair(), tmp_path / "pair.pt")), "gives tuple for 1 images, expected logits")
    refused(write_side(scripted(FixedBatch(), tmp_path / "two.pt")), "with a free batch dimension")
    refused(exported(Pair(), tmp_path / "pair.pt2", image), "gives more than logits")
    refused(tmp_path / "nowhere.pt", "does not exist")
    assert not flag.exists()
    assert not (tmp_path / "written.bin").exists()


@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        ({"size": [64, 64]}, r"its side file says \(1, 64, 64\)"),
        ({"channels": 3}, r"its side file says \(3, 48, 48\)"),
        ({"channels": 2}, "is not as expected"),
        ({"size": "48"}, "is not as expected"),
        ({"classes": ["a", "b", "c"]}, "tells 2 classes apart, but 3 names were given"),
        ({"labels": 2}, r"holds \['labels'\]; a side file has only"),
    ],
)
def test_a_side_file_that_is_wrong_is_refused(
    side: dict[str, Any], sentence: str, files: dict[str, Path], tmp_path: Path
) -> None:
    refused(write_side(Path(shutil.copy(files["exported"], tmp_path / "net.pt2")), **side), sentence)


def test_a_side_file_that_does_not_fit_a_script_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    refused(write_side(Path(shutil.copy(files["traced"], tmp_path / "net.pt")), size=64), "correct the side file")


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as wrong:
        load_victim(path)
    assert "\n" not in str(wrong.value)


MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]
STEPS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A folder as `save_pretrained` writes it, of a tiny net with random weights, and the net."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'dxray[hf]'")
    folder = tmp_path_factory.mktemp("hf") / "vit"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"0": "cat", "1": "crane", "2": "crane"}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, id2label=labels, initializer_range=0.5)
    torch.manual_seed(0)
    net = transformers.AutoModelForImageClassification.from_config(config).eval()
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS))
    return folder, net


def test_a_hugging_face_folder_takes_pixels_and_normalises_them_itself(
    hugging_face: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, net = hugging_face
    content = read_victim(folder)
    victim, card = restore(*content)
    assert (card.classes, card.channels, card.size) == (("cat", "crane (1)", "crane (2)"), 3, (32, 32))
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(victim(images), net((images - mean) / std).logits, atol=1e-5)
    (tmp_path / "face.png").write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)))
    inputs = list(list_inputs([tmp_path / "face.png"], classes=card.classes))
    assert attack_shard(Job(out=tmp_path / "out"), 0, inputs, *content)["fooled"] == 1
    (tmp_path / CARD).write_bytes(content[0])
    (tmp_path / payload_name(content[0])).write_bytes(content[1])
    assert load_victim(tmp_path)[1].sha256 == card.sha256


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"size": {"shortest_edge": 24}}, (24, 24)),
        ({"size": {"height": 24, "width": 20}}, (24, 20)),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 24}}, (24, 24)),
        ({"size": 24}, (24, 24)),
        ({}, (224, 224)),
    ],
)
def test_a_net_of_any_size_is_given_that_of_its_preprocessor(
    size: dict[str, Any], expected: tuple[int, int], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'dxray[hf]'")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(STEPS | size))
    assert load_victim(tmp_path)[1].size == expected
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(STEPS | {"size": {"longest_edge": 24}}))
    refused(tmp_path, "has no size of images, a height and a width in pixels")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"do_normalize": False}, lambda x, mean, std: x),
        ({"do_rescale": False, "do_normalize": False}, lambda x, mean, std: 255 * x),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, lambda x, mean, std: 2 * x - 1),
        ({"include_top": True}, lambda x, mean, std: (x - mean) / std / std),
        ({"do_flip_channel_order": True}, lambda x, mean, std: (x.flip(1) - mean) / std),
        ({"image_mean": 0.5, "image_std": 0.5}, lambda x, mean, std: 2 * x - 1),
    ],
)
def test_each_step_of_a_preprocessor_is_kept(
    steps: dict[str, Any],
    expected: Callable[[Tensor, Tensor, Tensor], Tensor],
    hugging_face: tuple[Path, nn.Module],
    tmp_path: Path,
) -> None:
    source, net = hugging_face
    folder = Path(shutil.copytree(source, tmp_path / "vit"))
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS | steps))
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    wanted = net(expected(images, mean, std)).logits
    assert torch.allclose(load_victim(folder)[0](images), wanted, atol=1e-4)


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: (f / "preprocessor_config.json").write_text("{}"), "no mean and std"),
        (lambda f: (f / "model.safetensors").unlink(), "pickled weights are never read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "vit is damaged"),
        (lambda f: (f / "config.json").write_text("{}"), "describes no plain classifier"),
        (lambda f: (f / "config.json").write_text('{"model_type": "none"}'), "vit is damaged or of an unknown kind"),
        (without_a_tensor, "lacks 1 tensors of this classifier, such as classifier.weight"),
    ],
)
def test_a_hugging_face_folder_that_is_incomplete_is_refused(
    damage: Callable[[Path], object], sentence: str, hugging_face: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(hugging_face[0], tmp_path / "vit"))
    damage(folder)
    refused(folder, sentence)


def test_a_one_logit_net_is_one_of_two_classes(tmp_path: Path) -> None:
    net = build("convnet", filters=2, classes=1).eval()
    victim, card = load_victim(exported(net, tmp_path / "net.pt2", torch.rand(2, 1, 48, 48)))
    assert len(card.classes) == 2
    assert victim(torch.rand(3, 1, 48, 48)).shape == (3, 1)
