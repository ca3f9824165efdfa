"""Few points are asked about as few where that changes no bit, and are filled up to the whole batch where it might."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.query import Query
from dxray.models.nets.layers import Dense


class Sized(nn.Module):
    """Says by `of` what it is asked, and keeps how many points it was given each time."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of, self.sizes = of, []  # type: ignore[var-annotated]

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return self.of(images.flatten(1)[:, :2])


def together(images: Tensor) -> Tensor:
    return images + images.mean(dim=0)


def eight_only(images: Tensor) -> Tensor:
    if len(images) != 8:
        raise RuntimeError("8 images are what it was exported for")
    return images


def sizes(of: Callable[[Tensor], Tensor], points: int) -> list[int]:
    """How many points a net is given at once where a batch of 8 is asked about so many: its gradient, its logits."""
    net = Sized(of)
    with Query(net, torch.zeros(points, dtype=torch.int64), batch=8) as query:
        images, rows = torch.rand(points, 1, 2, 2), torch.arange(points)
        for _ in range(2):  # the first time it is tried what is the same
            net.sizes.clear()
            query.gradients(images, rows)
            query.logits(images, rows)
    return net.sizes


@pytest.mark.parametrize(("points", "given"), [(1, 2), (2, 2), (3, 4), (5, 6), (7, 8), (8, 8)])
def test_a_net_that_answers_each_point_alone_is_given_few(points: int, given: int) -> None:
    assert sizes(torch.sin, points) == [given, given]


@pytest.mark.parametrize("of", [together, eight_only, torch.rand_like])
def test_any_other_net_is_given_the_whole_batch(of: Callable[[Tensor], Tensor]) -> None:
    if of is torch.rand_like:
        torch.manual_seed(0)
    assert sizes(of, 1) == [8, 8]


def test_trying_it_draws_nothing_from_the_caller() -> None:
    net = Sized(lambda images: images + torch.rand(1))
    with Query(net, torch.zeros(1, dtype=torch.int64), batch=8) as query:
        torch.manual_seed(0)
        tried = query.logits(torch.zeros(1, 1, 2, 2), torch.arange(1))
        torch.manual_seed(0)
        assert torch.equal(query.logits(torch.zeros(1, 1, 2, 2), torch.arange(1)), tried)


def test_padding_is_not_asked_about() -> None:
    net = Sized(torch.sin)
    with Query(net, torch.zeros(9, dtype=torch.int64), batch=8) as query:
        points, rows = torch.rand(8, 1, 2, 2), torch.tensor([-1, 3, -1, -1, 8, -1, -1, -1])
        few, slope = query.logits(points, rows), query.gradients(points, rows).slope
        net.sizes.clear()
        assert torch.equal(query.logits(points, rows), few)
        assert net.sizes == [2]
        assert torch.equal(few[[1, 4]], query.logits(points[[1, 4]], torch.tensor([3, 8])))
    assert few[[1, 4]].ne(0).all()
    assert slope[[1, 4]].abs().sum() > 0
    rest = [0, 2, 3, 5, 6, 7]
    assert few[rest].eq(0).all()
    assert slope[rest].eq(0).all()


def test_a_dense_layer_rounds_a_row_alike_among_any_number() -> None:
    torch.manual_seed(0)
    layer, rows = Dense(288, 50).eval(), torch.rand(64, 288)
    assert torch.equal(layer(rows[:16]), nn.functional.linear(rows[:16], layer.weight, layer.bias))
    for count in (1, 2, 3, 8, 17):
        assert torch.equal(layer(rows[:count]), layer(rows)[:count]), count
