"""The stand-alone check: one image file, one answer, by its own path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dxray.models.data.faces import Faces
from dxray.models.data.images import UnreadableImage, encode_png
from dxray.models.training.train import logits_of
from dxray.models.victims.checkpoint import load
from dxray.models.victims.predict import predict


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
