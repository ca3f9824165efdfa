"""What is said of a net and its labels before it is attacked: on a sample of the images, of every class some."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest

import numpy as np
import torch
from torch import nn

from dxray.attacks.engine.checks import Finding, check
from dxray.attacks.engine.lattice import from_levels
from dxray.models.data.agreement import counted, swapped
from dxray.models.victims.checkpoint import ModelCard
from dxray.models.victims.pixels import better_form
from dxray.models.victims.predict import answers_of
from dxray.models.victims.victim import PAYLOADS
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.inputs import Input

CHECKED, LABELLED = 32, 64  # images that the net is looked at with; those with a label that it is held against
MOST = 1024  # of these, where a form of inputs looks better than [0, 1]; of each class an equal share

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 (N, C, H, W), labels int64 (N,), -1 where unknown


class Sample:
    """The first inputs of each class among those that go by; where labels are unknown, the first of these."""

    def __init__(self, classes: int) -> None:
        self._each = max(1, MOST // classes)
        self._kept: dict[int | None, list[Input]] = defaultdict(list)

    def of(self, inputs: Iterable[Input]) -> Iterator[Input]:
        for item in inputs:
            kept = self._kept[item.label]
            if len(kept) < self._each:
                kept.append(item)
            yield item

    def __iter__(self) -> Iterator[Input]:
        """One of each class after the other."""
        yield from filter(None, chain.from_iterable(zip_longest(*self._kept.values())))


def findings(net: nn.Module, card: ModelCard, sample: Iterable[Input], numbers: Sequence[str]) -> list[Finding]:
    """What is wrong with net or labels, as far as the sample shows; images that cannot be read are passed over.

    Args:
        numbers: the names that were counted where the labels were numbers.
    """
    batches = _read(iter(sample), card)
    first = next(batches, None)
    if first is None:
        return []
    images, labels = first
    found = check(net, from_levels(torch.from_numpy(images[:CHECKED])), torch.from_numpy(labels[:CHECKED]))
    if any(finding.name == "output" for finding in found):
        return found
    more = [] if any(finding.name == "input_range" for finding in found) else batches
    of_the_labels = of_labels(net, card, chain([first], more), numbers)
    if any(finding.name == "labels_swapped" for finding in of_the_labels):
        found = [finding for finding in found if finding.name != "chance"]
    return found + of_the_labels


def of_labels(net: nn.Module, card: ModelCard, batches: Iterable[Batch], numbers: Sequence[str]) -> list[Finding]:
    """What labelled images show: labels that are swapped, or a net that wants its pixels in another form.

    Args:
        batches: as many are taken as are needed, the first at least.
        numbers: as for `findings`.
    """
    rest = ((images[labels >= 0], labels[labels >= 0]) for images, labels in batches)
    images, labels = next(rest)
    if not len(labels):
        return []
    found = swapped(counted(labels, answers_of(net, images), len(card.classes)), card.classes, numbers)
    if found:
        seen, remedy = found
        return [Finding("labels_swapped", seen, "What is called right is wrong, and no figure means anything", remedy)]
    if card.net not in PAYLOADS or card.defence:  # dxray's own nets are trained on [0, 1]
        return []
    whole = ((images, labels) for images, labels in chain([(images, labels)], rest) if len(labels))
    better = better_form(net, whole, len(card.classes))
    if better is None:
        return []
    remedy = f"Write {better.form.in_side_file} into its side file (net.json beside net.pt)"
    if card.parameters:
        where = "preprocessor_config.json" if card.net == "huggingface" else "its side file"
        remedy = f"Correct the mean, std and order of channels in {where}"
    seen = (
        f"of {better.images:,} labelled images the net has {better.usual:.1%} right as it gets them, and "
        f"{better.share:.1%} with pixels {better.form.said}"
    )
    return [
        Finding("input_form", seen, "It does not see what it knows, and looks more or less robust than it is", remedy)
    ]


def _read(sample: Iterator[Input], card: ModelCard) -> Iterator[Batch]:
    while some := list(islice(sample, LABELLED)):
        read = zip(some, contents(some, card), strict=True)
        seen = [(content.pixels, item.label) for item, content in read if content.pixels is not None]
        if seen:
            labels = np.array([-1 if label is None else label for _, label in seen])
            yield np.stack([pixels for pixels, _ in seen]), labels
