"""Adversarial training: what each method owes `fit`, that it hardens, and that a collapse is told and undone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxray.attacks.engine.lattice import from_levels
from dxray.attacks.fgsm import fgsm
from dxray.attacks.pgd import pgd
from dxray.defenses.adversarial_training import METHODS, Budget, _ascend, adversarial, against, collapsed, guard
from dxray.models.data.batches import to_device
from dxray.models.data.faces import Faces
from dxray.models.nets import build
from dxray.models.training.train import Objective, fit

EPS = 12 / 255
CPU = torch.device("cpu")


def small_net(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return build("convnet", filters=4, convs=1, blocks=3, batch_norm=True, dropout=dropout)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in net.state_dict().values()])


def batch(faces: Faces, count: int = 16) -> tuple[Tensor, Tensor]:
    return to_device(faces.images[:count], CPU), torch.from_numpy(faces.labels[:count])


def withstands(net: nn.Module, faces: Faces, attack: Callable[..., Tensor]) -> float:
    """The share of the test faces that `net` has right after `attack`."""
    test = faces.split("test")
    inputs, labels = from_levels(torch.from_numpy(test.images)), torch.from_numpy(test.labels)
    with torch.no_grad():
        return float((net(attack(net, inputs, labels)).argmax(dim=1) == labels).double().mean())


@pytest.fixture(scope="module")
def plain(faces: Faces) -> nn.Module:
    train = faces.split("train")
    net = small_net()
    fit(net, train.images, train.labels, epochs=4, batch_size=16, lr=1e-2)
    return net


METHODS_AND_GIVEN = {name: partial(adversarial, name, eps=EPS) for name in METHODS} | {
    "given": partial(against, partial(pgd, eps=EPS, steps=2, batch=32))
}


@pytest.fixture(params=METHODS_AND_GIVEN)
def objective(request: pytest.FixtureRequest) -> Objective:
    made: Objective = METHODS_AND_GIVEN[request.param]()
    return made


def test_a_net_withstands_afterwards_what_fools_one_trained_plainly(
    objective: Objective, faces: Faces, plain: nn.Module
) -> None:
    train = faces.split("train")
    net = small_net()
    fit(net, train.images, train.labels, epochs=4, batch_size=16, lr=1e-2, objective=objective)
    attack = partial(pgd, eps=EPS, steps=20, batch=60)
    assert withstands(net, faces, lambda _, inputs, labels: inputs) > 0.9
    assert withstands(net, faces, attack) > withstands(plain, faces, attack) + 0.15


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_after_a_kill_too(
    objective: Objective, precision: str, faces: Faces, tmp_path: Path
) -> None:
    images, labels = faces.images[:64], faces.labels[:64]
    options: dict[str, Any] = {"epochs": 3, "batch_size": 32, "objective": objective, "precision": precision}

    class Killed(BaseException):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Killed

    whole, again = small_net(), small_net(seed=9)
    fit(whole, images, labels, **options)
    with pytest.raises(Killed):
        fit(small_net(), images, labels, state=tmp_path / "state", on_epoch=kill, **options)
    fit(again, images, labels, state=tmp_path / "state", **options)
    assert torch.equal(weights(whole), weights(again))


def test_an_objective_gives_a_loss_that_teaches_and_leaves_the_net_as_it_was(
    objective: Objective, faces: Faces
) -> None:
    net = small_net(dropout=0.0).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    frozen = next(net.parameters()).requires_grad_(False)
    for loss, logits in objective(net, *batch(faces), 0.5):
        assert logits.shape == (16, 2)
        assert logits.dtype == torch.float32
        assert all(module.training for module in net.modules())
        assert [p.requires_grad for p in net.parameters()] == [p is not frozen for p in net.parameters()]
        assert all(p.grad is None for p in net.parameters()), "making the images left gradients on the weights"
        loss.backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in net.parameters() if p.grad is not None)
        net.zero_grad(set_to_none=True)


class Looking(nn.Module):
    """Any net, and the images that it was shown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        logits: Tensor = self.net(images)
        return logits


@pytest.mark.parametrize(("method", "reach"), [("nfgsm", 3), ("fgsm", 1), ("pgd", 1), ("free", 1), ("trades", 1)])
def test_images_stay_within_budget_and_box_and_in_the_fast_layout(method: str, reach: int, faces: Faces) -> None:
    """One channel fits both layouts: by its strides alone it can be told which it is in."""
    net = Looking(small_net()).train()
    inputs, labels = batch(faces)
    for loss, _ in adversarial(method, eps=EPS)(net, inputs, labels, 0.5):
        loss.backward()
    assert all(images.stride() == inputs.stride() for images in net.seen)
    assert all(bool(((images >= 0) & (images <= 1)).all()) for images in net.seen)
    changes = [float((images - inputs).abs().max()) for images in net.seen]
    assert EPS * 0.99 * max(1, reach - 1) < max(changes) < EPS * (reach + 1e-4)


@pytest.mark.parametrize(("method", "steps"), [("fgsm", 1), ("trades", 1), ("free", 4)])
def test_how_often_a_batch_is_learnt_from(method: str, steps: int, faces: Faces) -> None:
    losses = adversarial(method, eps=EPS)(small_net().train(), *batch(faces), 0.0)
    assert sum(1 for loss, _ in losses if loss.backward() is None) == steps


def test_more_steps_climb_higher_and_all_of_them_beyond_noise(faces: Faces, plain: nn.Module) -> None:
    inputs, labels = batch(faces, 60)
    eps = torch.full((60, 1, 1, 1), EPS)

    def loss(steps: int, step: float) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            points = _ascend(plain, inputs, labels, eps, start=1.0, step=step, steps=steps)
        with torch.no_grad():
            return float(F.cross_entropy(plain(points), labels))

    assert loss(1, 0.0) < loss(1, 0.25) < loss(8, 0.25)


def test_the_adversary_looks_at_the_net_in_eval_mode(faces: Faces) -> None:
    """Dropout would make it climb another net; running statistics would take in images that nothing is learnt of."""
    net = small_net(dropout=0.5).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    _ascend(net, *batch(faces), torch.full((16, 1, 1, 1), EPS), start=0.0, step=1.0, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_trades_weighs_accuracy_against_steadiness(faces: Faces) -> None:
    """Without its second term it is the plain loss; the term itself is never negative and grows with the budget."""

    def loss(beta: float, eps: float) -> float:
        torch.manual_seed(0)
        net = small_net(dropout=0.0).train()
        ((value, _),) = adversarial("trades", eps=eps, beta=beta, label_smoothing=0.0)(net, *batch(faces), 0.0)
        return float(value.detach())

    inputs, labels = batch(faces)
    with torch.no_grad():
        plain = float(F.cross_entropy(small_net(dropout=0.0).train()(inputs), labels))
    assert loss(0.0, EPS) == pytest.approx(plain)
    assert loss(0.0, EPS) < loss(3.0, EPS) < loss(3.0, 4 * EPS)


def test_a_budget_grows_and_each_image_draws_its_own(faces: Faces) -> None:
    inputs = torch.zeros(1000, 1, 2, 2)
    assert Budget(EPS).draw(inputs, 0.0).unique().tolist() == pytest.approx([EPS])
    assert Budget(EPS, warmup=0.5).draw(inputs, 0.25).unique().tolist() == pytest.approx([EPS / 2])
    assert Budget(EPS, warmup=0.5).draw(inputs, 0.75).unique().tolist() == pytest.approx([EPS])
    drawn = Budget(EPS, least=0.5).draw(inputs, 1.0)
    assert float(drawn.min()) == pytest.approx(EPS / 2, rel=0.05)
    assert float(drawn.max()) == pytest.approx(EPS, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "magic"}, "no adversarial training is called 'magic'; known are: fgsm, nfgsm, pgd, free, trades"),
        ({"method": "fgsm", "steps": 3}, "fgsm: got an unexpected keyword argument 'steps'"),
        ({"method": "fgsm", "eps": 8.0}, r"eps must lie in \(0, 1\]"),
        ({"method": "pgd", "least": 2.0}, "least=2"),
    ],
)
def test_what_is_no_method_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adversarial(**wrong)


def test_an_adversary_that_takes_no_step_is_refused(faces: Faces) -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        next(adversarial("pgd", steps=0, step=1.0)(small_net(), *batch(faces), 0.0))


class Rippled(nn.Module):
    """Class 0 for grey images; a change of brightness by `eps` / 2 makes it class 1, one by `eps` class 0 again.

    So does a net that has over-fitted to the images of one step.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.tensor(eps))

    def forward(self, images: Tensor) -> Tensor:
        z = torch.cos(2 * torch.pi * (images.mean((1, 2, 3)) - 0.5) / self.eps)
        return torch.stack([z, -z], dim=1) * 5


GREY = np.full((64, 1, 12, 12), 128, np.uint8), np.zeros(64, np.int64)  # not 127.5, where the slope is zero
WEAK, STRONG = partial(fgsm, eps=EPS), partial(pgd, eps=EPS, steps=10)


def test_the_guard_tells_one_step_from_many() -> None:
    found = guard(*GREY, weak=WEAK, strong=STRONG)(Rippled(EPS))
    assert (found["weak_accuracy"], found["strong_accuracy"]) == (1.0, 0.0)
    assert found["score"] == 0.5  # all are right without an attack
    assert found["doubt"] == pytest.approx((0.5 * 0.5 / 64) ** 0.5)  # of a share of 64 faces


def test_a_training_that_collapses_is_told_and_ends_with_the_best_net_before(faces: Faces) -> None:
    """The collapse is made by hand: from the third epoch on, a rippled net is judged in the learner's place."""
    images, labels = faces.images[:64], faces.labels[:64]
    healthy, rippled = guard(images, labels, weak=WEAK, strong=STRONG), guard(*GREY, weak=WEAK, strong=STRONG)
    seen: list[Tensor] = []

    def judge(net: nn.Module) -> dict[str, float]:
        seen.append(weights(net))
        return healthy(net) if len(seen) < 3 else rippled(Rippled(EPS))

    net = small_net()
    objective = adversarial("fgsm", eps=EPS)
    history = fit(net, images, labels, epochs=4, batch_size=16, objective=objective, judge=judge, ema=0.9)
    assert collapsed(history) == 3
    assert history[2]["score"] + history[2]["doubt"] < max(row["score"] for row in history[:2])
    best = 1 if history[1]["score"] + history[1]["doubt"] >= history[0]["score"] else 0
    assert torch.equal(weights(net), seen[best])


@pytest.mark.parametrize(
    ("weak", "strong", "epoch"),
    [
        ([0.5, 0.6, 0.9], [0.4, 0.5, 0.1], 3),
        ([0.5, 0.9, 0.6], [0.4, 0.1, 0.5], 2),  # though it came back
        ([0.4, 0.5, 0.6], [0.0, 0.0, 0.0], None),  # never robust
        ([0.6, 0.7, 0.5], [0.5, 0.6, 0.45], None),  # less robust against both
        ([0.6, 0.7, 0.7], [0.5, 0.6, 0.55], None),  # by chance
    ],
)
def test_what_is_a_collapse(weak: list[float], strong: list[float], epoch: int | None) -> None:
    rows = [
        {"epoch": i + 1, "weak_accuracy": w, "strong_accuracy": s}
        for i, (w, s) in enumerate(zip(weak, strong, strict=True))
    ]
    assert collapsed(rows) == epoch


def test_a_guard_without_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out images"):
        guard(GREY[0][:0], GREY[1][:0], weak=WEAK, strong=STRONG)
