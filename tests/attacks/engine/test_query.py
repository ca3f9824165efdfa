"""The one window on the net: same bits for the same point, whoever else is looked at; everything counted."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.query import KEPT, Answers, Ledger, Query, cross_entropy, log_likelihood, margin
from dxray.models.nets.densenet import DenseNet


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_a_point_gives_the_same_bits_in_any_company(kind: str, helpers: Any) -> None:
    torch.manual_seed(0)
    net = helpers.ConvNet() if kind == "conv" else DenseNet(blocks=3)
    points = helpers.images(64, (1, 48, 48))
    labels, rows = torch.arange(64) % 2, torch.arange(64)
    with Query(net, labels) as query:
        whole = query.gradients(points, rows)
        assert whole.slope.abs().amax() > 0
        order = torch.randperm(64)
        shuffled = query.gradients(points[order], rows[order])
        twenty = query.gradients(points[12:32], rows[12:32])
        seven = query.gradients(points[20:27], rows[20:27])
        alone = query.gradients(points[63:], rows[63:])
        margins, all_margins = query.margins(points[11:12], rows[11:12]), query.margins(points, rows)
    assert torch.equal(margins, all_margins[11:12])
    assert torch.equal(all_margins, whole.margin)
    assert all(torch.equal(a[order], b) for a, b in zip(whole, shuffled, strict=True))
    assert all(torch.equal(a[12:32], b) for a, b in zip(whole, twenty, strict=True))
    assert all(torch.equal(a[20:27], b) for a, b in zip(whole, seven, strict=True))
    assert all(torch.equal(a[63:], b) for a, b in zip(whole, alone, strict=True))


def test_the_net_sees_channels_last_strides_even_with_one_channel() -> None:
    class Strides(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape == (4, 1, 6, 5)
            assert images.stride() == (30, 1, 5, 1)
            return images.flatten(1)[:, :2]

    with Query(Strides(), torch.zeros(9, dtype=torch.int64), batch=4) as query:
        query.gradients(torch.rand(9, 1, 6, 5), torch.arange(9))


def test_looks_are_counted_per_image_and_padding_is_not() -> None:
    ledger = Ledger.empty(3)
    with Query(nn.Flatten(), torch.zeros(3, dtype=torch.int64), ledger=ledger) as query:
        query.gradients(torch.rand(4, 1, 1, 2), torch.tensor([0, 2, 2, -1]))
        query.margins(torch.rand(2, 1, 1, 2), torch.tensor([1, -1]))
    assert ledger.gradients.tolist() == [1, 0, 2]
    assert ledger.forwards.tolist() == [0, 1, 0]


def test_flags_return_even_after_an_error() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Dropout())
    net[2].eval()
    with (
        pytest.raises(ValueError, match="gave NaN"),
        Query(net, torch.zeros(1, dtype=torch.int64)) as query,
    ):
        query.margins(torch.full((1, 1, 1, 2), torch.nan), torch.tensor([0]))
    assert net.training
    assert not net[2].training
    assert net[1].weight.requires_grad


def test_scores_by_hand() -> None:
    logits, labels, targets = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]), torch.tensor([0])
    assert margin(logits, labels).item() == -1
    assert margin(logits, labels, targets).item() == -2
    chance = logits.softmax(dim=1)[0]
    assert cross_entropy(logits, labels).item() == pytest.approx(-chance[1].log().item())
    assert cross_entropy(logits, labels, targets).item() == pytest.approx(chance[0].log().item())
    assert log_likelihood(logits, labels).item() == pytest.approx((1 - chance[1]).log().item())
    assert log_likelihood(logits, labels, targets).item() == pytest.approx(chance[0].log().item())


def test_probabilities_shaped_wrongly_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"must return logits \(N, classes\)"),
        Query(nn.Identity(), torch.zeros(1, dtype=torch.int64)) as query,
    ):
        query.margins(torch.rand(1, 1, 3, 3), torch.tensor([0]))


def test_what_the_net_answered_is_kept() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(3, 1, 2, 2)
    answers = Answers.empty(3)
    with Query(net, torch.zeros(3, dtype=torch.int64), batch=2, ledger=answers) as query:
        query.logits(images[[2]] + 0.1, torch.tensor([2]))  # not the image itself
        assert answers.at(images) == [None, None, None]
        query.gradients(images[[2, 1, 0]], torch.tensor([2, -1, 0]))  # -1: of no image
        query.logits(images[[0]] * 0.5, torch.tensor([0]))
    first, second, third = answers.at(images)
    assert second is None
    assert answers.at(images[[1, 1, 1]]) == [None, None, None]
    assert torch.allclose(torch.tensor([first, third]), net(images[[0, 2]]))
    halved = answers.at(images * 0.5)
    assert halved[1:] == [None, None]
    assert torch.allclose(torch.tensor(halved[:1]), net(images[:1] * 0.5))


def test_of_many_answers_the_first_and_the_latest_are_kept() -> None:
    answers, looks = Answers.empty(1), torch.rand(2 * KEPT, 1, 1, 2)
    with Query(nn.Flatten(), torch.zeros(1, dtype=torch.int64), ledger=answers) as query:
        for look in looks:
            query.logits(look[None], torch.tensor([0]))
    known = [answers.at(look[None]) != [None] for look in looks]
    assert known == [True] + [False] * KEPT + [True] * (KEPT - 1)


def test_what_an_attack_held_is_let_go_with_it() -> None:
    """At once, not when the garbage is looked through: a training by attacks makes one for each batch."""
    gc.disable()
    try:
        query = Query(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(3, dtype=torch.int64))
        held = weakref.ref(query)
        with query:
            query.logits(torch.rand(3, 1, 1, 4), torch.arange(3))
        del query
        assert held() is None
    finally:
        gc.enable()
