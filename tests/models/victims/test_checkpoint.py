"""Checkpoints: what is saved is what is loaded, and everything else is refused in one sentence."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dxray.models.nets import MODELS, parameters_of
from dxray.models.victims.checkpoint import CARD, WEIGHTS, CheckpointError, ModelCard, load, save

CARD_OF = {"net": "convnet", "parameters": {"filters": 4, "batch_norm": True}, "classes": ("male", "female")}
WHOLE = parameters_of("convnet") | {"filters": 4, "batch_norm": True}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    card = ModelCard(**CARD_OF)  # type: ignore[arg-type]
    save(card.build(), card, tmp_path / "net")
    return tmp_path / "net"


def test_a_loaded_net_answers_as_the_saved_one(tmp_path: Path) -> None:
    card = ModelCard("densenet", {"filters": 4}, ("a", "b", "c"), channels=3, size=(32, 24), trained={"seed": 7})
    net = card.build().eval()
    written = save(net, card, tmp_path)
    again, read = load(tmp_path)
    images = torch.rand(2, 3, 32, 24)
    assert torch.equal(net(images), again(images))
    assert read == written
    assert read.trained == {"seed": 7}
    assert not again.training


@pytest.mark.parametrize("net", MODELS)
def test_a_saved_net_is_built_again_without_any_default_of_the_code(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard(net, {"filters": 4}, ("a", "b"))
    saved = card.build().eval()
    written = save(saved, card, tmp_path)
    assert written.parameters == parameters_of(net) | {"filters": 4}
    other: dict[str, Any] = {"blocks": 2, "convs": 6, "filters": 3, "out_channels": 5, "stem_blocks": 1, "dropout": 0.9}
    other |= {"batch_norm": True, "tta_flip": True, "tta_shift": True}
    changed = {name: other[name] for name in parameters_of(net)}
    monkeypatch.setattr(
        MODELS[net].__init__, "__kwdefaults__", {**(MODELS[net].__init__.__kwdefaults__ or {}), **changed}
    )
    assert parameters_of(net) == changed
    again, read = load(tmp_path)
    assert str(again) == str(saved)
    images = torch.rand(2, 1, 48, 48)
    assert torch.equal(again(images), saved(images))
    assert read == written


@pytest.mark.parametrize("path", ["", WEIGHTS, CARD])
def test_a_folder_or_either_file_names_the_checkpoint(saved: Path, path: str) -> None:
    assert load(saved / path)[1].net == "convnet"


def test_a_sweeps_folder_names_its_best_net(saved: Path) -> None:
    saved.rename(saved.with_name("best"))
    assert load(saved.parent)[1].net == "convnet"


def test_the_hash_tells_nets_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = ModelCard(**CARD_OF)  # type: ignore[arg-type]
    net = card.build()
    first = save(net, card, tmp_path / "a").sha256
    assert save(net, card, tmp_path / "b").sha256 == first
    assert save(card.build(), card, tmp_path / "c").sha256 != first
    assert save(net, ModelCard("convnet", card.parameters, ("x", "y")), tmp_path / "d").sha256 != first


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def other_weights(folder: Path) -> None:
    card = ModelCard(**CARD_OF)  # type: ignore[arg-type]
    save(card.build(), card, folder / "other")
    (folder / "other" / WEIGHTS).replace(folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "damaged or truncated"),
        (lambda f: (f / WEIGHTS).unlink(), "cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged or truncated"),
        (lambda f: (f / CARD).unlink(), f"has no {CARD}"),
        (lambda f: (f / CARD).write_text("{"), "damaged"),
        (lambda f: (f / CARD).write_text("[]"), "damaged"),
        (lambda f: edit_card(f, net="densenet", parameters=WHOLE | {"out_channels": 4}), "does not hold the densenet"),
        (lambda f: edit_card(f, net="densenet"), "does not say the out_channels of its densenet"),
        (lambda f: edit_card(f, net="alexnet"), "known are: convnet, densenet"),
        (lambda f: edit_card(f, parameters=WHOLE | {"filters": 8}), "does not hold"),
        (
            lambda f: edit_card(f, parameters={"filters": 4, "batch_norm": True}),
            "not say the blocks, convs, dropout of",
        ),
        (lambda f: edit_card(f, parameters=None), "damaged"),
        (lambda f: edit_card(f, format="dxray checkpoint 1"), "of another format than 'dxray checkpoint 2'; train"),
        (lambda f: edit_card(f, classes=["female", "male"]), "not the file"),
        (other_weights, "not the file"),
        (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"x": 1})), "damaged or truncated"),
    ],
)
def test_a_damaged_checkpoint_is_refused(saved: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=sentence) as refused:
        load(saved)
    assert "\n" not in str(refused.value)


def test_a_pickle_is_refused_without_being_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)  # type: ignore[return-value]

    (tmp_path / "net.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="pickled files"):
        load(tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()


def test_a_path_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "nowhere")
