"""Slopes in bfloat16 only lead the way: what fools, and whether they are used at all, is decided by exact answers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.dx.minimal import EFFORTS, dx
from dxray.attacks.engine import low_precision
from dxray.attacks.engine.norms import find_norm
from dxray.attacks.engine.query import Ledger, Query


@pytest.fixture
def multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that multiplies in bfloat16."""
    monkeypatch.setattr(low_precision, "_multiplies", lambda device: True)


class Watched(nn.Module):
    """Answers as `net` does, `astray` logits nearer to the other of two classes in bfloat16, and counts these looks."""

    def __init__(self, net: nn.Module, astray: float = 0.0) -> None:
        super().__init__()
        self.net, self.astray, self.low_precision_looks, self.exact_slopes = net, astray, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        rough = torch.is_autocast_enabled("cpu")
        self.low_precision_looks += rough
        self.exact_slopes += images.requires_grad and not rough
        logits: Tensor = self.net(images)
        return logits + torch.tensor([-self.astray, self.astray]) / 2 if rough and self.astray else logits


def usable(net: nn.Module, points: Tensor) -> bool:
    with Query(net, torch.zeros(len(points), dtype=torch.int64)) as query:
        return query.low_precision_suffices(points.shape[1:])


@pytest.mark.usefixtures("multiplies")
def test_a_net_whose_low_precision_slopes_point_elsewhere_is_asked_exactly(helpers: Any) -> None:
    class Turning(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            values = images.flatten(1)
            half = values.shape[1] // 2
            seen = values[:, :half] if torch.is_autocast_enabled("cpu") else values[:, half:]
            return torch.stack([seen.sum(1), -seen.sum(1)], dim=1)

    class Refusing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not in this precision")
            return images.flatten(1)[:, :2]

    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2] * 0

    points = helpers.images(3, (1, 8, 8))
    assert usable(helpers.LinearNet((1, 8, 8)), points)
    assert usable(helpers.ConvNet(), points)
    for net in (Turning(), Refusing(), Silent()):
        assert not usable(net, points)


@pytest.mark.usefixtures("multiplies")
def test_a_net_that_has_learnt_since_is_tried_anew() -> None:
    class Learning(nn.Module):
        """In bfloat16 it looks at the values backwards until its weight is 0."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, images: Tensor) -> Tensor:
            values = images.flatten(1)
            if torch.is_autocast_enabled("cpu") and self.weight > 0:
                values = values.flip(1)
            seen = values @ torch.linspace(-1, 1, values.shape[1])
            return torch.stack([seen, -seen], dim=1)

    net, points = Learning(), torch.rand(3, 1, 8, 8)
    assert not usable(net, points)
    with torch.no_grad():
        net.weight.zero_()
    assert usable(net, points)


def test_a_machine_that_does_not_multiply_so_is_not_asked(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_precision, "_multiplies", lambda device: False)
    assert not usable(helpers.LinearNet((1, 8, 8)), helpers.images(3, (1, 8, 8)))


@pytest.mark.usefixtures("multiplies")
@pytest.mark.parametrize("astray", [0.0, 0.3, 100.0])
@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_what_low_precision_looks_take_for_fooled_fools_in_the_end(
    norm: str, effort: str, astray: float, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off by a little, the last looks put it right; where none of these fools, the image is searched exactly."""
    net, images = helpers.LinearNet(), helpers.images(400, (1, 12, 12))
    with torch.no_grad():
        gap = -net(images).diff(dim=1).flatten()
    images = images[(gap > 0.5) & (gap < 4)][:8]
    labels = torch.zeros(len(images), dtype=torch.int64)
    watched = Watched(net, astray)
    found = dx(watched, images, labels, norm=norm, effort=effort)
    assert watched.low_precision_looks > 0
    assert (helpers.predicted(net, found) == 1).all()
    monkeypatch.setattr(low_precision, "_multiplies", lambda device: False)
    exact, size = dx(net, images, labels, norm=norm, effort=effort), find_norm(norm)
    assert (size(found - images) <= 1.02 * size(exact - images)).all()


@pytest.mark.usefixtures("multiplies")
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_what_is_confirmed_is_not_searched_again(norm: str, helpers: Any) -> None:
    net, images = helpers.ConvNet(), helpers.images(20, (1, 12, 12))
    watched, labels = Watched(net), helpers.predicted(net, images)
    dx(watched, images, labels, norm=norm)
    tried = watched.exact_slopes  # once, whether low-precision slopes will do
    found = dx(watched, images, labels, norm=norm)
    assert (helpers.predicted(net, found) != labels).all()
    assert watched.exact_slopes == tried


@pytest.mark.usefixtures("multiplies")
def test_an_image_that_is_wrong_already_stays_whatever_low_precision_looks_say(helpers: Any) -> None:
    net, images = helpers.LinearNet(), helpers.images(60, (1, 12, 12))
    labels = helpers.predicted(net, images)
    assert set(labels.tolist()) == {0, 1}
    ledger = Ledger.empty(len(images))
    found = dx(Watched(net, -2.0), images, torch.zeros_like(labels), effort="fast", ledger=ledger)
    assert torch.equal((found != images).flatten(1).any(dim=1), labels == 0)
    assert (ledger.gradients[labels == 1] == 0).all()
    assert (ledger.forwards[labels == 1] == 1).all()


@pytest.mark.usefixtures("multiplies")
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_low_precision_search_ends_alike_in_any_company(norm: str, helpers: Any) -> None:
    net, images = helpers.ConvNet(), helpers.images(70, (1, 12, 12))
    labels = helpers.predicted(net, images)
    together = dx(net, images, labels, norm=norm, effort="fast")
    assert (helpers.predicted(net, together) != labels).any()
    backwards = dx(net, images.flip(0), labels.flip(0), norm=norm, effort="fast").flip(0)
    alone = torch.cat([dx(net, images[i : i + 1], labels[i : i + 1], norm=norm, effort="fast") for i in range(5)])
    assert torch.equal(together, backwards)
    assert torch.equal(together[:5], alone)


@pytest.mark.usefixtures("multiplies")
def test_other_norms_look_exactly(helpers: Any) -> None:
    images, labels = helpers.images(4, (1, 12, 12)), torch.zeros(4, dtype=torch.int64)
    for norm in ("l1", "l0"):
        watched = Watched(helpers.LinearNet())
        dx(watched, images, labels, norm=norm, effort="fast")
        assert watched.low_precision_looks == 0


@pytest.mark.usefixtures("multiplies")
def test_low_precision_looks_are_counted_and_what_they_answered_is_not_kept(helpers: Any) -> None:
    class Noting(Ledger):
        def note(self, points: Tensor, rows: Tensor, logits: Tensor) -> None:
            noted.append(logits)

    noted: list[Tensor] = []
    points, rows = helpers.images(2, (1, 12, 12)), torch.arange(2)
    ledger = Noting(*(torch.zeros(2, dtype=torch.int64) for _ in range(2)))
    with Query(Watched(helpers.LinearNet(), 5.0), torch.zeros(2, dtype=torch.int64), ledger=ledger) as query:
        rough, exact = query.low_precision_gradients(points, rows), query.gradients(points, rows)
    assert ledger.gradients.tolist() == [2, 2]
    assert len(noted) == 1
    assert rough.margin - exact.margin == pytest.approx(5.0, abs=0.5)
