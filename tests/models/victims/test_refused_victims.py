"""Files that could run code, harm or mislead are refused in one sentence, and nothing in them is run."""

import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.models.victims.victim import load_victim
from tests.models.victims.foreign_files import exported, refused, scripted, write_side


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


@pytest.mark.parametrize("prefix", ["", "model/"])
def test_a_keras_model_is_called_one(tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(prefix + name, b"{}")
    refused(tmp_path / "net.keras", "net.keras is a Keras model, which is not read; .* torch.export.save")
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(tmp_path / "old.h5", "old.h5 is a Keras model")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", b"")
    refused(tmp_path / "other.zip", "other.zip is a zip file that holds no net")
