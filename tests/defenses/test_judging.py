"""Judging: the flag fires on a net that masks its gradients and not on one that is hardened or merely weak."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.defenses import defended
from dxray.defenses.adversarial_training import adversarial
from dxray.defenses.judging import Expected, judged
from dxray.models.data.faces import Faces
from dxray.models.nets import build
from dxray.models.training.train import fit

EPS = 16 / 255
FEW: dict[str, Any] = {"budgets": [("linf", EPS)], "steps": 8, "queries": 60, "draws": 3}


def trained(faces: Faces, **options: Any) -> nn.Module:
    train = faces.split("train")
    torch.manual_seed(0)
    net = build("convnet", filters=4, convs=1, blocks=3, batch_norm=True)
    fit(net, train.images, train.labels, epochs=4, batch_size=16, lr=1e-2, **options)
    return net


@pytest.fixture(scope="module")
def plain(faces: Faces) -> nn.Module:
    return trained(faces)


@pytest.fixture(scope="module")
def hardened(faces: Faces) -> nn.Module:
    return trained(faces, objective=adversarial("pgd", eps=EPS))


@pytest.fixture(scope="module")
def few(faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    test = faces.split("test")
    return test.images[:40], test.labels[:40]


class Masked(nn.Module):
    """Hides the gradient and nothing else: it is that of rounding, which is zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net((images * 255).round() / 255)
        return logits


class Shaken(nn.Module):
    """Noise in front of a net, another at each look."""

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images + self.sigma * torch.randn_like(images))
        return logits


def test_masking_is_flagged_and_its_white_box_figure_does_not_count(
    plain: nn.Module, few: tuple[np.ndarray, np.ndarray]
) -> None:
    clean, row = judged(Masked(plain), *few, plain=plain, **FEW)
    assert row["white_box"] == clean["robust_accuracy"] > 0.9
    assert row["masked"]
    assert row["transfer"] < 0.5
    assert row["robust_accuracy"] <= row["transfer"]
    assert not clean["masked"]


def test_a_hardened_net_is_not_flagged(plain: nn.Module, hardened: nn.Module, few: Any) -> None:
    weak, strong = judged(plain, *few, plain=hardened, **FEW)[1], judged(hardened, *few, plain=plain, **FEW)[1]
    assert not weak["masked"]
    assert not strong["masked"]
    assert strong["robust_accuracy"] > weak["robust_accuracy"] + 0.2
    assert strong["white_box"] <= min(strong["transfer"], strong["gradient_free"])


@pytest.mark.parametrize(("name", "parameters"), [("bit_depth", {"bits": 5}), ("jpeg", {"quality": 80})])
def test_squeezing_is_seen_through(name: str, parameters: dict[str, Any], plain: nn.Module, few: Any) -> None:
    """The same rounding as in a net that masks, but with the gradient that who knows it would use."""
    row = judged(defended(plain, name, **parameters), *few, plain=plain, **FEW)[1]
    assert row["white_box"] < 0.5
    assert not row["masked"]


def test_a_row_for_each_budget_with_its_interval_and_the_majority(plain: nn.Module, few: Any) -> None:
    images, labels = few
    budgets = [("l2", 0.5), ("l2", 1.5)]
    rows = judged(plain, images, labels, plain=plain, **FEW | {"budgets": budgets})
    assert [(row["norm"], row["eps"]) for row in rows] == [("", 0.0), *budgets]
    for row in rows:
        assert row["n"] == 40
        assert row["low"] < row["robust_accuracy"] < row["high"] or row["robust_accuracy"] in (0, 1)
        assert row["majority"] == max((labels == 0).mean(), (labels == 1).mean())
        assert row["robust_accuracy"] <= min(row["white_box"], row["gradient_free"])
    assert rows[0]["robust_accuracy"] > rows[1]["robust_accuracy"] > rows[2]["robust_accuracy"]


def test_wilsons_interval(plain: nn.Module, few: Any) -> None:
    """Its ends are the shares p from which what was seen is 1.96 standard errors of p away."""
    (row,) = judged(plain, few[0][:20], np.zeros(20, np.int64), plain=plain, **FEW | {"budgets": []})
    right = round(row["robust_accuracy"] * 20)
    assert 0 < right < 20
    for p in (row["low"], row["high"]):
        assert abs(right / 20 - p) == pytest.approx(1.96 * (p * (1 - p) / 20) ** 0.5)


def test_a_random_net_is_judged_by_its_expectation_and_the_same_twice(plain: nn.Module, few: Any) -> None:
    shaken = Shaken(plain, 0.3)
    state = torch.get_rng_state()
    first = judged(shaken, *few, plain=plain, **FEW)
    assert torch.equal(torch.get_rng_state(), state)
    assert judged(shaken, *few, plain=plain, **FEW) == first
    assert first[1]["white_box"] < first[0]["white_box"] - 0.3


def test_the_expectations_gradient_points_where_that_of_one_look_does_not(plain: nn.Module, few: Any) -> None:
    images = torch.from_numpy(few[0][:8]).float() / 255

    def slope(net: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        points = images.clone().requires_grad_()
        return torch.autograd.grad(net(points).diff(dim=1).sum(), points)[0].flatten(1)

    def alike(net: nn.Module) -> float:
        return float(torch.cosine_similarity(slope(net, 1), slope(net, 2)).mean())

    assert alike(Expected(Shaken(plain, 0.5), 32)) > alike(Shaken(plain, 0.5)) + 0.1


def test_what_a_defence_costs_and_gives_by_its_parameter(plain: nn.Module, few: Any) -> None:
    def row(kappa: float) -> list[dict[str, Any]]:
        return judged(defended(plain, "jumprelu", kappa=kappa), *few, plain=plain, **FEW | {"queries": 0})

    clean, nothing = row(0.0)
    assert nothing["transfer"] == nothing["white_box"] < clean["white_box"]
    assert nothing["gradient_free"] is None
    # No unit fires: one answer for all, which nothing moves.
    clean, all_blocked = row(1e6)
    assert clean["white_box"] == all_blocked["transfer"] == all_blocked["white_box"]


def test_what_fools_within_a_budget_does_within_a_larger_one(plain: nn.Module, few: Any) -> None:
    """Found where the larger budget comes to nothing, for it is nearly no attack: one step from the image itself."""
    both = FEW | {"budgets": [("linf", EPS), ("linf", 1.0), ("l2", 0.1)], "queries": 0, "steps": 1}
    _, small, large, other = judged(plain, *few, plain=None, **both)
    assert large["white_box"] <= small["white_box"] < other["white_box"]
    assert small["transfer"] is None


def test_the_smallest_changes_have_a_median_in_each_norm(plain: nn.Module, few: Any) -> None:
    asked = FEW | {"budgets": [("linf", 4 / 255), ("linf", EPS), ("l2", 0.5)], "queries": 0, "smallest": True}
    clean, *rows = judged(plain, *few, plain=None, **asked)
    assert clean["median"] is None
    assert rows[0]["median"] == rows[1]["median"]
    for row in rows:  # half of the right ones fall within the median
        within = judged(plain, *few, plain=None, **asked | {"budgets": [(row["norm"], row["median"])]})[1]
        assert within["white_box"] < 0.7 * clean["white_box"]
    constant = defended(plain, "jumprelu", kappa=1e6)
    assert judged(constant, *few, plain=None, **asked)[1]["median"] is None


def test_nothing_to_judge_on_is_refused(plain: nn.Module, few: Any) -> None:
    with pytest.raises(ValueError, match="no images came"):
        judged(plain, few[0][:0], few[1][:0], plain=plain)
