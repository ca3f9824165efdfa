"""Training: it learns, it is the same twice, and it says so when it goes wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dxray.models.data.faces import Faces
from dxray.models.nets import build
from dxray.models.training.state import load_judged
from dxray.models.training.train import Diverged, evaluate, fit, logits_of

Halves = Callable[[int], tuple[np.ndarray, np.ndarray]]


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("convnet", filters=4, convs=1, blocks=3, batch_norm=True, dropout=0.1)


@pytest.fixture
def halves(faces: Faces) -> Halves:
    return lambda count: (faces.images[:count].copy(), faces.labels[:count].copy())


def test_it_learns_what_can_be_learnt(halves: Halves) -> None:
    images, labels = halves(256)
    net = small_net()
    before = evaluate(net, images, labels)
    history = fit(net, images, labels, validation=(images, labels), epochs=3, batch_size=32, lr=1e-2)
    after = evaluate(net, images, labels)
    assert after["accuracy"] > 0.95 > before["accuracy"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["validation_accuracy"] == after["accuracy"]
    assert not net.training


def test_shuffled_labels_cannot_be_generalised(halves: Halves) -> None:
    """The same training on labels that mean nothing stays near chance on held-out images."""
    images, labels = halves(400)
    shuffled = np.random.default_rng(1).permutation(labels)
    net = small_net()
    fit(net, images[:300], shuffled[:300], epochs=3, batch_size=32, lr=1e-2)
    assert 0.25 < evaluate(net, images[300:], shuffled[300:])["accuracy"] < 0.75


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(precision: str, halves: Halves) -> None:
    images, labels = halves(96)

    def weights(seed: int) -> torch.Tensor:
        net = small_net()
        fit(net, images, labels, epochs=2, batch_size=32, seed=seed, precision=precision)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_the_callers_random_numbers_are_left_alone(halves: Halves) -> None:
    images, labels = halves(32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net = build("convnet", filters=2, convs=1)
    torch.manual_seed(5)
    fit(net, images, labels, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_read_only_images_are_read_and_stay_as_they_are(halves: Halves) -> None:
    """What comes out of Ray's object store cannot be written to, and is shared."""
    images, labels = halves(32)
    before = images.copy()
    images.setflags(write=False)
    fit(small_net(), images, labels, epochs=1)
    assert np.array_equal(images, before)


def test_statistics_come_from_the_images(halves: Halves) -> None:
    images, labels = halves(64)
    net = small_net()
    fit(net, images, labels, epochs=1)
    assert net.get_buffer("normalise.mean").item() == pytest.approx(images.mean() / 255, abs=1e-4)
    assert net.get_buffer("normalise.std").item() == pytest.approx(images.std() / 255, abs=1e-4)


def test_a_loss_that_is_not_finite_stops_the_training(halves: Halves) -> None:
    images, labels = halves(64)
    with pytest.raises(Diverged, match="lr="):
        fit(small_net(), images, labels, epochs=3, lr=1e12, optimizer="sgd", precision="float32")


def test_a_loss_that_is_a_number_but_absurd_stops_the_training_too(halves: Halves) -> None:
    """Adam's steps are bounded by the learning rate, and batch norm keeps what comes of them finite."""
    images, labels = halves(64)
    with pytest.raises(Diverged, match=r"the loss of epoch [123] is [0-9.e+]+; lr=1000 "):
        fit(small_net(), images, labels, epochs=3, lr=1e3)


def test_the_averaged_weights_are_those_that_are_validated_and_kept(halves: Halves) -> None:
    """With a share near 1 the average has hardly moved from its first weights, whatever the net learnt meanwhile."""
    images, labels = halves(256)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "validation": (images, labels)}
    plain, averaged = small_net(), small_net()
    fit(plain, images, labels, **options)
    history = fit(averaged, images, labels, ema=0.9, **options)
    first, second = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (plain, averaged))
    # The last steps of the schedule are small, so that the average comes close to the last weights, yet is not those.
    assert 0 < float((first - second).norm() / first.norm()) < 0.1
    assert history[-1]["validation_accuracy"] == evaluate(averaged, images, labels)["accuracy"] > 0.95
    with pytest.raises(ValueError, match="ema=1"):
        fit(plain, images, labels, ema=1)


@pytest.mark.parametrize("wrong", [{"optimizer": "lion"}, {"schedule": "flat"}, {"precision": "int4"}])
def test_unknown_choices_are_refused(wrong: dict[str, str], halves: Halves) -> None:
    images, labels = halves(8)
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        fit(small_net(), images, labels, epochs=1, **wrong)  # type: ignore[arg-type]


def test_nothing_to_train_or_evaluate_on_is_an_error() -> None:
    nothing = np.zeros((0, 1, 48, 48), np.uint8), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="0 images"):
        fit(small_net(), *nothing)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(small_net(), *nothing)


def test_a_net_without_weights_answers_too(faces: Faces) -> None:
    class Brightness(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), 0.5)], dim=1)

    assert logits_of(Brightness(), faces.images[:3]).shape == (3, 2)


def test_evaluation_does_not_depend_on_the_mode_and_leaves_it(faces: Faces) -> None:
    net = build("convnet", filters=4, dropout=0.5).train()
    first = logits_of(net, faces.images[:50])
    assert net.training
    assert torch.equal(first, logits_of(net.eval(), faces.images[:50]))


@pytest.mark.parametrize("how", [{"augment_strength": 0.5}, {"random_erasing": 0.5}, {"augment": False}])
def test_how_images_are_changed_reaches_the_training(halves: Halves, how: dict[str, Any]) -> None:
    images, labels = halves(96)
    nets = [small_net(), small_net()]
    for net, options in zip(nets, ({}, how), strict=True):
        fit(net, images, labels, epochs=1, **options)
    weights = [next(net.parameters()) for net in nets]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("scores", "doubt", "kept"),
    [([0.2, 0.7, 0.6, 0.1], None, 1), ([0.2, 0.7, 0.7, 0.1], None, 2), ([0.2, 0.7, 0.6, 0.55], 0.125, 2)],
)
def test_the_last_net_that_is_not_surely_worse_than_one_before_is_kept(
    halves: Halves, scores: list[float], doubt: float | None, kept: int
) -> None:
    images, labels = halves(64)
    seen: list[torch.Tensor] = []

    def judge(net: nn.Module) -> dict[str, Any]:
        seen.append(next(net.parameters()).detach().clone())
        told = {} if doubt is None else {"doubt": doubt}
        return {"score": scores[len(seen) - 1], "note": "any figure"} | told

    net = small_net()
    history = fit(net, images, labels, epochs=4, judge=judge)
    assert [torch.equal(next(net.parameters()), weights) for weights in seen] == [i == kept for i in range(4)]
    assert [(row["score"], row["note"]) for row in history][1] == (0.7, "any figure")


def judged_by_a_weight(net: nn.Module) -> dict[str, Any]:
    """A judge that needs no data; whatever it prefers, it prefers it again after a kill."""
    return {"score": float(next(net.parameters()).detach().sum())}


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"ema": 0.9},
        {"random_erasing": 0.5},
        {"auxiliary": {"age": np.arange(96) % 3}},
        {"auxiliary": {"age": np.arange(96) % 3}, "ema": 0.9},
        {"judge": judged_by_a_weight},
        {"judge": lambda net: {"score": -judged_by_a_weight(net)["score"]}},  # one of the two keeps an early epoch
    ],
)
def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    halves: Halves, tmp_path: Path, how: dict[str, Any]
) -> None:
    images, labels = halves(96)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 32, "validation": (images, labels)} | how

    class Killed(BaseException):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Killed

    whole = small_net()
    expected = fit(whole, images, labels, **options)
    with pytest.raises(Killed):
        fit(small_net(), images, labels, state=tmp_path / "state", on_epoch=kill, **options)
    again = small_net(seed=9)  # whatever its weights were, the state replaces them
    trained: list[int] = []
    history = fit(
        again, images, labels, state=tmp_path / "state", on_epoch=lambda row: trained.append(row["epoch"]), **options
    )
    assert trained == [3]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    timing = ("seconds", "images_per_second")
    without = [[{k: v for k, v in row.items() if k not in timing} for row in rows] for rows in (history, expected)]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    "how", [{}, {"ema": 0.9}, {"judge": lambda net: {"score": 0.0}}, {"auxiliary": {"age": np.arange(32) % 3}}]
)
def test_the_state_holds_the_net_that_the_training_would_end_with(
    halves: Halves, tmp_path: Path, how: dict[str, Any]
) -> None:
    net, found = small_net(), small_net(seed=9)
    fit(net, *halves(32), epochs=2, batch_size=16, state=tmp_path / "state", **how)
    assert [row["epoch"] for row in load_judged(tmp_path / "state", found)] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), found.state_dict().values(), strict=True))


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_state_that_cannot_be_used_is_a_training_from_the_start(
    halves: Halves, tmp_path: Path, content: bytes | None
) -> None:
    images, labels = halves(32)
    path = tmp_path / "state"
    if content is None:  # of another net
        fit(build("convnet", filters=2, convs=1), images, labels, epochs=1, state=path)
    else:
        path.write_bytes(content)
    assert len(fit(small_net(), images, labels, epochs=1, state=path, on_epoch=None)) == 1


def test_a_finished_training_is_not_done_again(halves: Halves, tmp_path: Path) -> None:
    images, labels = halves(32)
    first = fit(small_net(), images, labels, epochs=1, state=tmp_path / "state")
    net = small_net(seed=5)
    assert fit(net, images, labels, epochs=1, state=tmp_path / "state") == first
    assert not net.training
