"""Folders of Hugging Face image classifiers, with the steps of their preprocessors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import CARD
from dxray.models.victims.victim import load_victim, payload_name, restore
from dxray.models.victims.victim import read as read_victim
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, attack_shard
from tests.models.victims.foreign_files import refused

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
