"""The nets of the course, and a ResNet: shapes, parameter counts, the grid's parameters, and what they refuse."""

from typing import Any

import pytest
import torch

from dxray.models.nets import MODELS, build
from dxray.models.nets.layers import Dropout


@pytest.mark.parametrize("net", MODELS)
@pytest.mark.parametrize("form", [(1, (48, 48), 2), (3, (32, 40), 5)])
def test_images_become_logits(net: str, form: tuple[int, tuple[int, int], int]) -> None:
    channels, size, classes = form
    made = build(net, channels=channels, size=size, classes=classes, blocks=3, filters=4)
    assert made(torch.rand(2, channels, *size)).shape == (2, classes)


@pytest.mark.parametrize(("net", "count"), [("densenet", 93_672), ("convnet", 23_752), ("resnet", 690_802)])
def test_the_parameter_count_is_the_documented_one(net: str, count: int) -> None:
    assert sum(p.numel() for p in build(net).parameters()) == count
    assert f"{count:,} parameters" in (MODELS[net].__doc__ or "")


@pytest.mark.parametrize("net", MODELS)
def test_the_first_layer_normalises(net: str) -> None:
    """A net with other statistics says of shifted images what it said of the originals."""
    made = build(net).eval()
    images = torch.rand(2, 1, 48, 48) / 2
    before = made(images)
    made.get_buffer("normalise.mean").add_(0.25)
    assert torch.allclose(made(images + 0.25), before, atol=1e-5)


def test_a_dense_block_sees_all_that_came_before() -> None:
    """The first convolution's filters reach every later one: its weights' shape says how much each reads."""
    weights = build("densenet", convs=3, filters=5).state_dict()
    assert [weights[f"blocks.1.convs.{i}.0.weight"].shape[1] for i in range(3)] == [32, 37, 42]


@pytest.mark.parametrize("net", ["convnet", "densenet"])
def test_parameters_change_the_net_as_their_names_say(net: str) -> None:
    modules = list(build(net, blocks=2, convs=3, dropout=0.5, batch_norm=True).modules())
    kinds = [type(m).__name__ for m in modules]
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in modules)
    assert kinds.count("Halve") == (4 if net == "densenet" else 2)  # what a dense block reads has one of its own
    assert kinds.count("BatchNorm2d") == kinds.count("Dropout") == convolutions
    assert convolutions == 2 * 3 + (2 if net == "densenet" else 0)
    assert "BatchNorm2d" not in [type(m).__name__ for m in build(net).modules()]


def test_a_residual_net_has_two_convolutions_a_residual_and_doubles_its_filters() -> None:
    modules = list(build("resnet", blocks=3, convs=6, filters=4, dropout=0.5).modules())
    widths = [m.out_channels for m in modules if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert widths == [2] + [4] * 6 + [8] * 6 + [16] * 6
    assert {m.share for m in modules if isinstance(m, Dropout)} == {0.5}
    with pytest.raises(ValueError, match="even number"):
        build("resnet", convs=3)


def test_a_residual_net_adds_what_it_read() -> None:
    """Its last batch norms at zero, each residual passes on what it reads."""
    made = build("resnet", blocks=1, filters=4).eval().get_submodule("blocks.2")
    for name, parameter in made.named_parameters():
        if "second_norm" in name:
            torch.nn.init.zeros_(parameter)
    read = torch.rand(2, 4, 6, 6)
    assert torch.equal(made(read), read)


def test_with_mirror_an_image_and_its_mirror_image_get_one_answer_but_not_while_learning() -> None:
    made = build("resnet", filters=4, tta_flip=True)
    images = torch.rand(3, 1, 48, 48)
    assert not torch.allclose(made(images), made(images.flip(3)))
    made.eval()
    assert torch.allclose(made(images), made(images.flip(3)), atol=1e-6)


def test_moved_answers_with_the_mean_over_five_places_but_not_while_learning() -> None:
    made = build("resnet", filters=4, tta_shift=True, tta_flip=True)
    alone = build("resnet", filters=4)
    images = torch.rand(3, 1, 48, 48)
    made(images)  # which moves the statistics of batch norm
    alone.load_state_dict(made.state_dict())
    assert torch.equal(made.train()(images), alone.train()(images))
    made.eval(), alone.eval()
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    places = [wide[:, :, y : y + 48, x : x + 48] for y, x in ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))]
    views = [view for place in places for view in (place, place.flip(3))]
    assert torch.allclose(made(images), torch.stack([alone(view) for view in views]).mean(0), atol=1e-6)
    assert not torch.allclose(made(images), alone(images), atol=1e-4)


def test_residuals_at_full_size_come_before_the_first_halving() -> None:
    made = build("resnet", filters=4, stem_blocks=2)
    kinds = [type(layer).__name__ for layer in made.get_submodule("blocks").children()]
    assert kinds[:3] == ["Residual", "Residual", "Halve"]
    assert made(torch.rand(2, 1, 48, 48)).shape == (2, 2)
    with pytest.raises(ValueError, match="stem_blocks=-1"):
        build("resnet", stem_blocks=-1)


@pytest.mark.parametrize("size", [(48, 48), (50, 38), (33, 17)])
def test_sizes_that_cannot_be_halved_evenly_fit_all_nets(size: tuple[int, int]) -> None:
    for net in MODELS:
        assert build(net, size=size, filters=2, dropout=0.1).train()(torch.rand(2, 1, *size)).shape == (2, 2)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"blocks": 6}, "can be halved fewer times"),
        ({"convs": 0}, "convs=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"colour": 1}, "colour"),
    ],
)
@pytest.mark.parametrize("net", MODELS)
def test_what_makes_no_net_is_refused(net: str, parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(net, **parameters)


def test_an_unknown_net_lists_the_known() -> None:
    with pytest.raises(ValueError, match="densenet"):
        build("alexnet")


@pytest.mark.parametrize("name", MODELS)
def test_slopes_in_bfloat16_show_the_way_of_those_in_float32(name: str) -> None:
    """What is negative, as a normalised image is in places, must not be pooled as if it were not."""
    torch.manual_seed(0)
    net, images = build(name).eval(), torch.rand(8, 1, 48, 48)

    def slopes(rough: bool) -> torch.Tensor:
        points = images.clone().requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rough):
            total = net(points).float().diff(dim=1).sum()
        return torch.autograd.grad(total, points)[0].flatten(1)

    assert torch.nn.functional.cosine_similarity(slopes(False), slopes(True)).mean() > 0.9
