"""Groups in a stream: each is found as if it were attacked by itself, and the batch stays full from one to the next."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxray.attacks import STREAMS, find
from dxray.attacks.engine.query import Answers, Query
from dxray.attacks.engine.stream import INSIDE, Group, Stream

SHAPE = torch.Size((1, 12, 12))


def groups_of(helpers: Any, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    images = helpers.images(sum(sizes), SHAPE)
    labels = torch.arange(sum(sizes)) % 2
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


def streamed(stream: Stream, groups: list[tuple[Tensor, Tensor]], *, targeted: bool) -> list[Group]:
    """In the order in which they came."""
    taken, ended = [], []
    for inputs, labels in groups:
        group, meanwhile = stream.take(inputs, labels, 1 - labels if targeted else None)
        taken.append(group)
        ended += list(meanwhile)
    ended += list(stream.finish())
    assert len(ended) == len(groups)
    assert set(ended) == set(taken)
    return taken


@pytest.mark.parametrize("options", [{}, {"norm": "linf"}, {"norm": "l0", "effort": "fast"}, {"steps": 2}])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_a_group_is_found_as_if_it_were_attacked_by_itself(
    name: str, targeted: bool, options: dict[str, Any], helpers: Any
) -> None:
    torch.manual_seed(0)
    net = helpers.ConvNet()
    groups = groups_of(helpers, [5, 1, 23, 9, 2, 14])
    stream = Stream(net, STREAMS[name], SHAPE, targeted=targeted, batch=8, **options)
    for group, (inputs, labels) in zip(streamed(stream, groups, targeted=targeted), groups, strict=True):
        answers = Answers.empty(len(inputs))
        targets = 1 - labels if targeted else None
        alone = find(name)(net, inputs, labels, targets=targets, batch=8, ledger=answers, **options)
        assert torch.equal(group.changed, alone)
        assert torch.equal(group.answers.gradients, answers.gradients)
        assert torch.equal(group.answers.forwards, answers.forwards)
        assert group.answers.at(inputs) == answers.at(inputs)
        assert group.answers.at(alone) == answers.at(alone)
        assert group.seconds > 0


@pytest.mark.parametrize("name", STREAMS)
def test_the_places_of_one_group_that_ends_are_taken_by_the_next(name: str, helpers: Any) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.places = helpers.ConvNet(), 0

        def forward(self, images: Tensor) -> Tensor:
            self.places += len(images)
            logits: Tensor = self.net(images)
            return logits

    torch.manual_seed(0)
    net, groups = Counting(), groups_of(helpers, [20] * 6)
    find(name)(net, *groups[0], batch=16)  # at which shapes it answers alike is found out once
    places = {}
    for way in ("one by one", "stream", "at once"):
        net.places = 0
        if way == "stream":
            streamed(Stream(net, STREAMS[name], SHAPE, targeted=False, batch=16), groups, targeted=False)
        else:
            for inputs, labels in groups if way == "one by one" else [map(torch.cat, zip(*groups, strict=True))]:
                find(name)(net, inputs, labels, batch=16)
        places[way] = net.places
    # How many places stay empty at all depends on the shapes that a processor rounds alike: so it is the share of what
    # groups by themselves waste. Seen: 0.22 with AMX.
    wasted = places["one by one"] - places["at once"]
    assert wasted > 0.1 * places["at once"]
    assert places["stream"] - places["at once"] < 0.3 * wasted


def test_no_group_is_held_up_for_long(helpers: Any) -> None:
    """By an image that waits for others of its kind: too many groups at a time are not let in."""
    torch.manual_seed(0)
    net = helpers.ConvNet().eval()
    stream = Stream(net, STREAMS["dx"], SHAPE, targeted=False, batch=64)
    groups = [inputs for inputs, _ in groups_of(helpers, [1] * (INSIDE + 1))]
    *right, last = [(inputs, net(inputs).argmax(dim=1)) for inputs in groups]
    for inputs, labels in right:
        assert list(stream.take(inputs, labels)[1]) == []
    assert len(list(stream.take(*last)[1])) == INSIDE
    assert len(list(stream.finish())) == 1
    assert len(stream._search.images.home) == INSIDE, "rows were taken before those of others were free"


def test_no_group_waits_for_more_images_than_it_has_itself(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dxray.attacks.engine.stream.HELD", 3)
    net = helpers.ConvNet().eval()
    images = [inputs for inputs, _ in groups_of(helpers, [1, 2, 1, 4, 3, 1, 1])]
    right = [(inputs, net(inputs).argmax(dim=1)) for inputs in images]
    stream = Stream(net, STREAMS["dx"], SHAPE, targeted=False, batch=64)
    assert [len(list(stream.take(*group)[1])) for group in right] == [0, 0, 0, 3, 0, 0, 3]


def test_rows_that_are_free_are_taken_again(helpers: Any) -> None:
    torch.manual_seed(0)
    stream = Stream(helpers.ConvNet(), STREAMS["dx"], SHAPE, targeted=False, batch=4)
    for group in groups_of(helpers, [7] * 5):
        taken, meanwhile = stream.take(*group)
        assert [*meanwhile, *stream.finish()] == [taken]
        assert taken.rows.tolist() == list(range(7))


def test_a_net_that_fails_is_left_as_it_was(helpers: Any) -> None:
    dense = nn.Linear(144, 2)
    net = nn.Sequential(nn.Flatten(), dense, nn.BatchNorm1d(2))
    stream = Stream(net, STREAMS["dx"], SHAPE, targeted=False, batch=4)
    with torch.no_grad():
        dense.bias[0] = torch.nan
    _, groups = stream.take(*groups_of(helpers, [6])[0])
    with pytest.raises(ValueError, match="gave NaN or infinite logits for images"):
        list(groups)
    assert net.training
    assert dense.weight.requires_grad


def test_what_an_attack_cannot_work_with_is_refused(helpers: Any) -> None:
    net = helpers.ConvNet()
    with pytest.raises(ValueError, match="unknown norm 'l7'"):
        Stream(net, STREAMS["dx"], SHAPE, targeted=False, norm="l7")
    stream = Stream(net, STREAMS["dx"], SHAPE, targeted=True)
    inputs, labels = groups_of(helpers, [3])[0]
    with pytest.raises(ValueError, match="a target must differ from the label"):
        stream.take(inputs, labels, labels)


def test_answers_of_images_that_leave_are_let_go() -> None:
    answers = Answers.empty(1)
    answers.grow(2)
    images = torch.rand(3, 1, 2, 2)
    with Query(nn.Flatten(), torch.zeros(3, dtype=torch.int64), ledger=answers) as query:
        query.logits(images, torch.arange(3))
        query.gradients(images[1:], torch.tensor([1, 2]))
    gone = answers.let_go(torch.tensor([2, 0]))
    assert gone.gradients.tolist() == [1, 0]
    assert gone.forwards.tolist() == [1, 1]
    assert gone.at(images[[2, 0]]) == images[[2, 0]].flatten(1).tolist()
    assert answers.gradients.tolist() == [0, 1, 0]
    assert [known is None for known in answers.at(images)] == [True, False, True]
