"""The stand-alone check: one image file, one answer, by its own path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dxray.models.data.faces import Faces
from dxray.models.data.images import UnreadableImage, encode_png
from dxray.models.training.train import logits_of
from dxray.models.victims import predict as predicting
from dxray.models.victims.checkpoint import ModelCard, load
from dxray.models.victims.predict import labels_of, predict


def test_it_says_what_the_net_says(trained: Path, faces: Faces, tmp_path: Path) -> None:
    net, card = load(trained)
    shares = logits_of(net, faces.images[:20]).softmax(1)
    for i in range(20):
        (tmp_path / "face.png").write_bytes(encode_png(faces.images[i]))
        said = predict(net, card, tmp_path / "face.png")
        assert said.name == card.classes[said.label]
        assert said.probability == pytest.approx(float(shares[i].max()), abs=1e-5)
        assert said.probabilities[said.name] == said.probability
        assert sum(said.probabilities.values()) == pytest.approx(1)


def test_another_size_and_mode_is_brought_to_the_nets(trained: Path, faces: Faces, tmp_path: Path) -> None:
    """A face enlarged and coloured is the same face; a net that saw only part of it would say something else."""
    net, card = load(trained)
    small = Image.fromarray(faces.images[0, 0])
    small.resize((192, 192), Image.Resampling.BICUBIC).convert("RGB").save(tmp_path / "large.png")
    small.save(tmp_path / "small.png")
    large, same = predict(net, card, tmp_path / "large.png"), predict(net, card, tmp_path / "small.png")
    assert large.label == same.label
    assert large.probability == pytest.approx(same.probability, abs=0.2)


def test_one_grey_level_makes_a_difference(trained: Path, faces: Faces) -> None:
    """It looks at the file's pixels themselves, not at a copy that was smoothed on the way."""
    net, card = load(trained)
    changed = faces.images[0].copy()
    changed[0, 20:28, 20:28] ^= 1
    before, after = (predict(net, card, encode_png(image)).probability for image in (faces.images[0], changed))
    assert before != after


def test_what_is_no_image_is_said(trained: Path, tmp_path: Path) -> None:
    net, card = load(trained)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UnreadableImage):
        predict(net, card, tmp_path / "text.png")


def test_a_net_of_one_logit_is_one_of_two_classes(trained: Path) -> None:
    class OneLogit(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_tensor([[2.0]])

    said = predict(OneLogit(), load(trained)[1], encode_png(np.zeros((1, 48, 48), np.uint8)))
    assert said.name == "female"
    assert said.probability == pytest.approx(1 / (1 + np.exp(-2.0)))


def alone(net: nn.Module, card: ModelCard, images: np.ndarray) -> list[int]:
    return [predict(net, card, encode_png(image)).label for image in images]


@pytest.fixture
def asked_alone(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The images that a net is asked about one by one."""
    found: list[np.ndarray] = []
    ask = predicting._alone

    def noted(net: nn.Module, pixels: np.ndarray) -> Tensor:
        found.append(pixels)
        return ask(net, pixels)

    monkeypatch.setattr(predicting, "_alone", noted)
    return found


@pytest.mark.parametrize("low_precision", [False, True])
def test_the_labels_of_many_are_those_of_each(
    low_precision: bool, trained: Path, faces: Faces, asked_alone: list[np.ndarray]
) -> None:
    net, card = load(trained)
    labels = labels_of(net, card, faces.images, low_precision=low_precision)
    assert 1 <= len(asked_alone) < 5
    assert labels == alone(net, card, faces.images)


class Tied(nn.Module):
    """Two classes apart by `apart`, the other way round for an image among others: so far can rounding go."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.apart = apart

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[0.0, self.apart if len(images) == 1 else -self.apart]]).repeat(len(images), 1)


class Company(nn.Module):
    """A net that looks at its images together: how bright an image is beside the mean of all."""

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3))
        return torch.stack([light - light.mean() + 1e-3, torch.zeros_like(light)], dim=1)


class Cancelling(nn.Module):
    """What is left of two large numbers, which bfloat16 does not tell apart."""

    def forward(self, images: Tensor) -> Tensor:
        light = nn.functional.linear(images.flatten(1), torch.ones(1, images[0].numel()))
        return (
            torch.cat([light - images.flatten(1).double().sum(1, keepdim=True).float(), light * 0 + 0.05], dim=1) * 10
        )


@pytest.mark.parametrize("net", [Tied(1e-6), Tied(0.0), Company(), Cancelling()])
@pytest.mark.parametrize("low_precision", [False, True])
def test_a_net_that_answers_otherwise_to_many_is_asked_about_each(
    low_precision: bool, net: nn.Module, faces: Faces
) -> None:
    card = ModelCard("convnet", {}, faces.classes)
    assert labels_of(net, card, faces.images[:50], low_precision=low_precision) == alone(net, card, faces.images[:50])


def test_a_net_of_one_logit_has_two_labels(faces: Faces) -> None:
    class OneLogit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, :24].mean((1, 2, 3))[:, None] - images[:, :, 24:].mean((1, 2, 3))[:, None]

    card = ModelCard("convnet", {}, faces.classes)
    labels = labels_of(OneLogit(), card, faces.images[:50])
    assert labels == alone(OneLogit(), card, faces.images[:50])
    assert set(labels) == {0, 1}
