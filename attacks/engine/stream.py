"""An attack on groups of images that come one after the other, as if each group were attacked by itself.

While the last, hard images of a group are searched, a batch is ever less full, which costs the time of several images.
In a stream the next group takes the places that are free. What is found for an image does not depend on its company.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batched_search import Search
from dxray.attacks.engine.query import BATCH, Answers, Query, validate

# So long may a group be held up by an image whose like, which share its batches, are few: until so many groups are
# inside, or as many images have come after it as it has itself, or as `HELD`.
INSIDE, HELD = 4, 256


@dataclass(eq=False)
class Group:
    """M images that came together: `rows` (M,) while they are inside, `seconds` that their looks took.

    Once all have been found: `changed` (M, C, H, W), as an attack returns them, and `answers`, in their order.
    """

    rows: Tensor
    seconds: float = 0.0
    changed: Tensor = field(default_factory=lambda: torch.zeros(0))
    answers: Answers = field(default_factory=lambda: Answers.empty(0))


class Stream:
    """Groups that come, and leave once they have ended.

    Args:
        begin: of an attack, see `attacks.STREAMS`; `options` are its keyword arguments.
        shape: of an image, (C, H, W).
        targeted: whether images come with targets.
    """

    def __init__(
        self,
        net: nn.Module,
        begin: Callable[..., Search],
        shape: torch.Size,
        *,
        targeted: bool,
        batch: int = BATCH,
        **options: Any,
    ) -> None:
        nothing = torch.zeros(0, dtype=torch.int64)
        self._answers = Answers.empty(0)
        self._query = Query(net, nothing, nothing if targeted else None, batch=batch, ledger=self._answers)
        with self._query:
            self._search = begin(self._query, shape, **options)
        self._groups: list[Group] = []
        self._group_of: list[Group | None] = []  # by row; None: the row is free

    def take(self, inputs: Tensor, labels: Tensor, targets: Tensor | None = None) -> tuple[Group, Iterator[Group]]:
        """A group of images (M, C, H, W) enters, M at least 1; returns it, and the groups that end meanwhile.

        Those come as they end, until no batch can be filled: then the next group should be taken. While there may be
        more of them, the net is frozen as a `Query` has it. Arguments and errors are those of an attack.
        """
        validate(inputs, labels, targets, None)
        group = Group(torch.zeros(0, dtype=torch.int64))
        return group, self._taken(group, inputs, labels, targets)

    def finish(self) -> Iterator[Group]:
        """The groups that are left, as they end."""
        with self._query:
            yield from self._looked(full=False)

    def _taken(self, group: Group, inputs: Tensor, labels: Tensor, targets: Tensor | None) -> Iterator[Group]:
        if self._held_up():
            yield from self.finish()
        group.rows = self._free(len(inputs))
        for row in group.rows.tolist():
            self._group_of[row] = group
        self._query.labels[group.rows] = labels
        if self._query.targets is not None and targets is not None:
            self._query.targets[group.rows] = targets
        self._groups.append(group)
        with self._query:
            started = time.perf_counter()
            self._search.enter(group.rows, inputs)
            group.seconds += time.perf_counter() - started
            yield from self._looked(full=True)

    def _held_up(self) -> bool:
        first, *later = [len(group.rows) for group in self._groups] or [0]
        return len(self._groups) == INSIDE or sum(later) >= max(first, HELD)

    def _looked(self, *, full: bool) -> Iterator[Group]:
        while True:
            yield from self._ended()
            started = time.perf_counter()
            rows = self._search.look(full=full).tolist()
            if not rows:
                return
            share = (time.perf_counter() - started) / len(rows)  # of each image that was looked at
            for row in rows:
                if group := self._group_of[row]:
                    group.seconds += share

    def _ended(self) -> Iterator[Group]:
        inside = self._search.images.inside
        for group in [group for group in self._groups if not bool(inside[group.rows].any())]:
            group.changed, group.answers = self._search.changed(group.rows), self._answers.let_go(group.rows)
            for row in group.rows.tolist():
                self._group_of[row] = None
            self._groups.remove(group)
            yield group

    def _free(self, count: int) -> Tensor:
        """Rows that are free, made where there are too few."""
        free = [row for row, group in enumerate(self._group_of) if group is None][:count]
        if missing := count - len(free):
            free += range(len(self._group_of), len(self._group_of) + missing)
            self._group_of += [None] * missing
            self._answers.grow(missing)
            self._query.labels = _longer(self._query.labels, missing)
            if self._query.targets is not None:
                self._query.targets = _longer(self._query.targets, missing)
        return torch.tensor(free)


def _longer(classes: Tensor, missing: int) -> Tensor:
    return torch.cat([classes, classes.new_zeros(missing)])
