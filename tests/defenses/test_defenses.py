"""What every defence in DEFENSES owes; a new one is covered by its name in that dict. Then what is each one's own."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.pgd import pgd
from dxray.defenses import DEFENSES, TAUGHT, defended, parse, text_of
from dxray.defenses.denoising_autoencoder import Denoised, gaussian, reconstruction
from dxray.defenses.front import InFront
from dxray.defenses.jumprelu import JumpReLU
from dxray.defenses.victim import behind, load_victim, restore
from dxray.models.data.batches import to_device
from dxray.models.data.faces import Faces
from dxray.models.nets import MODELS, build
from dxray.models.training.train import evaluate, fit, logits_of
from dxray.models.victims.checkpoint import CARD, CheckpointError, ModelCard, load, read, save

# Those under which a defence does nothing to an 8-bit image.
IDENTITY: dict[str, dict[str, Any]] = {"jumprelu": {"kappa": 0.0}, "bit_depth": {"bits": 8}}
STRONG: dict[str, dict[str, Any]] = {
    "jumprelu": {"kappa": 0.5},
    "bit_depth": {"bits": 1},
    "jpeg": {"quality": 5},
    "denoising_autoencoder": {"filters": 4},
}


def small_net(net: str = "densenet", **parameters: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(net, filters=4, convs=1 if net != "resnet" else 2, blocks=3, **parameters).eval()


@pytest.fixture
def images(faces: Faces) -> Tensor:
    return to_device(faces.images[:6], torch.device("cpu"))


@pytest.fixture(params=DEFENSES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.mark.parametrize("net", MODELS)
def test_it_gives_logits_of_its_own_the_same_twice_and_leaves_the_net(name: str, net: str, images: Tensor) -> None:
    plain = small_net(net, dropout=0.5)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with torch.no_grad():
        unchanged = plain(images)
        found = defended(plain, name, **STRONG[name])
        assert not any(module.training for module in found.modules())
        logits = found(images)
        assert logits.shape == unchanged.shape
        assert torch.equal(logits, found(images))
        assert not torch.allclose(logits, unchanged), "even a strong defence changes nothing"
        assert torch.equal(plain(images), unchanged)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", IDENTITY)
def test_without_effect_it_gives_the_logits_of_the_plain_net(name: str, images: Tensor) -> None:
    plain = small_net()
    with torch.no_grad():
        assert torch.equal(defended(plain, name, **IDENTITY[name])(images), plain(images))


def test_an_attacker_finds_a_gradient(name: str, images: Tensor) -> None:
    points = images.requires_grad_()
    logits = defended(small_net(), name)(points)
    (slope,) = torch.autograd.grad(logits.diff(dim=1).sum(), points)
    assert bool(torch.isfinite(slope).all())
    assert bool((slope.flatten(1).abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 21, 30)])
def test_channels_and_size_are_those_of_the_net(name: str, shape: tuple[int, int, int]) -> None:
    channels, *size = shape
    plain = small_net(channels=channels, size=tuple(size))
    parameters = {"channels": channels} if name == "denoising_autoencoder" else {}
    with torch.no_grad():
        assert defended(plain, name, **parameters)(torch.rand(2, *shape)).shape == (2, 2)


def test_the_images_in_front_of_a_net_stay_images(name: str, images: Tensor) -> None:
    found = defended(small_net(), name)
    if not isinstance(found, InFront):
        pytest.skip("it is inside the net")
    seen: list[Tensor] = []
    found.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        found(torch.cat([images, torch.zeros_like(images), torch.ones_like(images)]))
    assert seen[0].shape == (18, 1, 48, 48)
    assert seen[0].stride() == (48 * 48, 1, 48, 1), "one channel fits both layouts; only this one is fast"
    assert bool(((seen[0] >= 0) & (seen[0] <= 1)).all())


def test_it_is_saved_and_comes_back_with_its_net(name: str, images: Tensor, tmp_path: Path) -> None:
    card = ModelCard("densenet", {"filters": 4, "convs": 1, "blocks": 3}, ("male", "female"))
    card.defence = {"name": name, "parameters": STRONG[name]}
    found = card.build(defended).eval()
    save(found, card, tmp_path)
    for loaded, of_card in (load_victim(tmp_path), restore(*read(tmp_path)), load(tmp_path, defend=defended)):
        assert of_card.defence == card.defence
        with torch.no_grad():
            assert torch.equal(loaded(images), found(images))
    with pytest.raises(CheckpointError, match=f"behind the defence '{name}'"):
        load(tmp_path)


def test_the_fingerprint_is_that_of_the_net_with_its_defence(tmp_path: Path) -> None:
    card = ModelCard("densenet", {"filters": 4, "convs": 1, "blocks": 3}, ("male", "female"))
    net = card.build()
    plain = save(net, card, tmp_path / "plain").sha256
    card.defence = {"name": "jumprelu", "parameters": {"kappa": 0.5}}
    assert save(net, card, tmp_path / "jump").sha256 != plain
    content = (tmp_path / "jump" / CARD).read_text().replace("0.5", "0.25")
    (tmp_path / "jump" / CARD).write_text(content)
    with pytest.raises(CheckpointError, match="not the file"):
        load_victim(tmp_path / "jump")


@pytest.mark.parametrize("defence", [{"name": "magic", "parameters": {}}, {"name": "jpeg"}, {"parameters": {}}])
def test_a_card_with_a_defence_that_is_none_is_refused(defence: dict[str, Any], tmp_path: Path) -> None:
    card = ModelCard("densenet", {"filters": 4, "convs": 1, "blocks": 3}, ("male", "female"))
    net = card.build()
    card.defence = defence
    save(net, card, tmp_path)
    with pytest.raises(CheckpointError, match="does not hold"):
        load_victim(tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "magic"}, "no defence is called 'magic'; known are: jumprelu"),
        ({"name": "jumprelu", "bits": 3}, "defence jumprelu: got an unexpected keyword argument 'bits'"),
        ({"name": "jumprelu", "kappa": -1.0}, "kappa=-1"),
        ({"name": "bit_depth", "bits": 9}, "bits=9"),
        ({"name": "jpeg", "quality": 0}, "quality=0"),
        ({"name": "denoising_autoencoder", "filters": 0}, "at least 1"),
    ],
)
def test_what_is_no_defence_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        defended(small_net(), **asked)


def test_a_defence_is_named_with_its_parameters(name: str) -> None:
    for asked in (name, f"{name}:{','.join(f'{key}={value}' for key, value in STRONG[name].items())}"):
        found = parse(asked, channels=3)
        assert parse(text_of(found), channels=3) == found
    assert found["parameters"].items() >= STRONG[name].items()
    assert (name == "denoising_autoencoder") == (found["parameters"].get("channels") == 3)
    assert (parse("none"), text_of({})) == ({}, "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("magic", "no defence is called 'magic'; known are: none, jumprelu"),
        ("jumprelu:bits=3", "defence jumprelu has no parameter 'bits'; it has: kappa"),
        ("jumprelu:kappa", "jumprelu: kappa is no number; without it, it is 0.1"),
        ("jpeg:quality=high", "jpeg: quality=high is no whole number"),
        ("jpeg:quality=0", "quality=0"),
        ("denoising_autoencoder:channels=3", "has no parameter 'channels'; it has: filters"),
    ],
)
def test_what_names_no_defence_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_a_net_is_put_behind_a_defence_as_if_it_had_been_saved_so(name: str, images: Tensor, trained: Path) -> None:
    plain, defence = read(trained), parse(name)
    assert behind(*plain, {}) == plain
    if name in TAUGHT:
        with pytest.raises(ValueError, match="must learn before it defends: `dxray sweep --defense"):
            behind(*plain, defence)
        return
    put = behind(*plain, defence)
    net, card = restore(*put)
    assert card.defence == defence
    assert card.sha256 != load(trained)[1].sha256
    with torch.no_grad():
        assert torch.equal(net(images), defended(load(trained)[0], name)(images))
    with pytest.raises(CheckpointError, match=f"is behind '{name}' already"):
        behind(*put, defence)


def test_jumprelu_needs_a_net_whose_relus_it_sees() -> None:
    with pytest.raises(ValueError, match="Linear has none that it sees"):
        defended(nn.Linear(2, 2), "jumprelu")


def test_jumprelu_lets_through_unchanged_what_is_above_its_threshold() -> None:
    given = torch.tensor([-2.0, 0.0, 0.3, 0.5, 0.6, 3.0], requires_grad=True)
    found = JumpReLU(0.5)(given)
    assert found.tolist() == pytest.approx([0, 0, 0, 0, 0.6, 3.0])
    found.sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [0, 0, 0, 0, 1, 1]


def test_jumprelu_takes_the_place_of_every_relu(name: str) -> None:
    for net in MODELS:
        plain = small_net(net)
        count = sum(isinstance(module, nn.ReLU) for module in plain.modules())
        modules = list(defended(plain, "jumprelu", kappa=0.3).modules())
        assert sum(isinstance(module, JumpReLU) for module in modules) == count > 1
        assert not any(isinstance(module, nn.ReLU) for module in modules)


def test_fewer_bits_are_fewer_grey_levels() -> None:
    ramp = from_levels(torch.arange(256).view(1, 1, 16, 16))
    found = defended(nn.Flatten(), "bit_depth", bits=2)(ramp)
    assert found.unique().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert float((found - ramp.flatten(1)).abs().max()) <= 1 / 6 + 1e-6


def test_jpeg_loses_more_the_lower_its_quality(images: Tensor) -> None:
    plain = nn.Flatten()
    errors = [float((defended(plain, "jpeg", quality=q)(images) - plain(images)).abs().mean()) for q in (95, 50, 5)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.3


@pytest.fixture(scope="module")
def halves(faces: Faces) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    train = faces.split("train")
    torch.manual_seed(0)
    net = build("convnet", filters=4, convs=1, blocks=3, batch_norm=True)
    fit(net, train.images, train.labels, epochs=4, batch_size=16, lr=1e-2)
    return net, train.images, train.labels


@pytest.mark.parametrize(
    "noises", [(gaussian(0.2),), (gaussian(0.2), partial(pgd, eps=12 / 255, steps=2))], ids=["gaussian", "both"]
)
def test_an_auto_encoder_learns_to_take_noise_away(
    noises: tuple[Any, ...], halves: tuple[nn.Module, np.ndarray, np.ndarray]
) -> None:
    plain, images, labels = halves
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    torch.manual_seed(0)
    net = defended(plain, "denoising_autoencoder", filters=4)
    assert isinstance(net, Denoised)
    inputs = from_levels(torch.from_numpy(images[:32]))
    noisy = gaussian(0.2)(plain, inputs, torch.zeros(32))

    def error() -> float:
        with torch.no_grad():
            return float((net.part(noisy) - inputs).square().mean())

    first = error()
    history = fit(
        net, images, labels, epochs=4, batch_size=16, lr=1e-2, objective=reconstruction(*noises), augment=False
    )
    # Half of what is in these pictures is noise of their own, which none can give back.
    assert error() < min(0.75 * first, 0.5 * float((noisy - inputs).square().mean()))
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items()), "the net behind it moved"
    assert evaluate(net, images, labels)["accuracy"] > 0.9
    assert not torch.equal(logits_of(net, images), logits_of(plain, images))


def test_what_a_jumprelu_cuts_off_is_a_zero_without_a_sign() -> None:
    """In bfloat16 `Halve` compares values by their bits, and would take -0.0 for the smallest of all."""
    kept = JumpReLU(0.5)(torch.tensor([-2.0, -0.0, 0.2, 3.0], dtype=torch.bfloat16))
    assert kept.tolist() == [0.0, 0.0, 0.0, 3.0]
    assert not kept.signbit().any()
