"""What is wrong with the labels that a net was trained and tested with: swapped, contradicting each other, or noisy."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from dxray.models.data.agreement import FEWEST as FEWEST_ANSWERS
from dxray.models.data.agreement import surely_below_chance, swapped
from dxray.models.doctor.copies import same_pictures, thumbnails
from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.doctor.finding import FAULT, NOTE, Finding, NotChecked, wilson

FEWEST = 100  # held-out images, without which shares of them say nothing
FEW = 30  # of a class, likewise
NOISY = 0.08  # errors among the surest tenth of the answers: nets that learn well have 0.01 to 0.05
FLAT = 1.4  # errors of the surest half over those of the surest tenth: to 1.4 where labels err, from 1.7 where not
LEARNT = 0.9  # of the loss at chance, that a net must be below to be held against labels: early on it is sure of errors
SPOILT = 0.01  # share of the images whose labels contradict each other, from which figures are spoilt


def labels_swapped(evidence: Evidence) -> Finding | None:
    """Labels the wrong way round, or of other classes than the net's; those that it learnt from are neither."""
    if evidence.answered_labels.sum() < FEWEST_ANSWERS:
        raise NotChecked(f"it needs the answers for {FEWEST_ANSWERS} labelled images")
    if not evidence.strange:
        return None
    found = swapped(evidence.answered_labels, evidence.classes, evidence.numbers)
    return Finding("labels_swapped", found[0], found[1][0].upper() + found[1][1:]) if found else None


def need_fitting_labels(evidence: Evidence) -> None:
    """NotChecked where the labels are swapped: what compares answers with them would blame the net."""
    if evidence.strange and surely_below_chance(evidence.answered_labels):
        raise NotChecked("the labels are not what the net's answers mean")


def contradicting_labels(evidence: Evidence) -> Finding | None:
    """The same picture under two classes: one of the labels is wrong, whatever the net says."""
    images = sum(map(len, evidence.splits.values()))
    if not images:
        raise NotChecked("there are no images")
    pairs = contradictions(evidence)
    if not pairs:
        return None
    return Finding(
        "contradicting_labels",
        f"{len(pairs):,} pictures of {images:,} are there twice, under two classes: {'; '.join(pairs[:3])}",
        "One label of each pair is wrong: look at them, correct it, and remove one of the two",
        FAULT if len(pairs) >= SPOILT * images else NOTE,
    )


def contradictions(evidence: Evidence) -> list[str]:
    """The pairs of images that show the same picture and have two labels: names and classes."""
    return [
        " and ".join(_called(evidence, split, at) for split, at in pair)
        for pair in _pairs(evidence)
        if len({int(evidence.splits[split].labels[at]) for split, at in pair}) > 1
    ]


def _pairs(evidence: Evidence) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    for first, *others in same_pictures({name: split.images for name, split in evidence.splits.items()}):
        yield from ((first, other) for other in others)
    if evidence.copies:
        for at in np.flatnonzero((evidence.copies.of >= 0) & ~evidence.copies.same):
            yield ("train", int(evidence.copies.of[at])), ("test", int(at))


def _called(evidence: Evidence, split: str, at: int) -> str:
    found = evidence.splits[split]
    name = f"{split} image {at}" if found.names is None else str(found.names[at])
    return f"{name} ({evidence.classes[found.labels[at]]})"


def label_noise(evidence: Evidence) -> Finding | None:
    """Labels that are wrong, judged by images that the net did not learn from.

    Where images are hard, a net's surest answers are right; where labels err, these err as often as any. So errors are
    counted among the surest tenth of the answers, and compared with those of the surest half. The images named are the
    off-diagonal of the confident joint (Northcutt et al. 2019, https://arxiv.org/abs/1911.00068).

    Labels without any relation to the images are told from a net that has not learnt by asking the nearest neighbours.
    """
    need_fitting_labels(evidence)
    held = {name: split for name, split in evidence.held_out.items() if len(split.answered)}
    count = sum(len(split.answered) for split in held.values())
    if count < FEWEST:
        raise NotChecked(f"it needs the answers for {FEWEST} images that the net did not learn from, and has {count}")
    labels = np.concatenate([split.answered for split in held.values()])
    probabilities = np.concatenate([split.probabilities for split in held.values()])
    wrong = probabilities.argmax(1) != labels
    if wilson(int((~wrong).sum()), count)[0] <= np.bincount(labels).max() / count:
        return _no_relation(evidence, held)
    loss, chance = sum(split.loss or 0.0 for split in held.values()) / len(held), evidence.chance
    if chance is not None and loss > LEARNT * chance:
        raise NotChecked("the net has learnt too little to be held against the labels")
    # Equal confidences (a saturated softmax) are taken in an order of their own, not in that of the labels.
    order = np.lexsort((np.random.default_rng(0).random(count), -probabilities.max(1)))
    tenth, half = wrong[order[: max(30, count // 10)]], wrong[order[: count // 2]]
    if wilson(int(tenth.sum()), len(tenth))[0] < NOISY or half.mean() > FLAT * tenth.mean():
        return None
    names = suspects(held)
    return Finding(
        "label_noise",
        f"{tenth.mean():.1%} of the {len(tenth):,} answers that the net is surest of contradict the label, nearly as "
        f"many as of the surest half ({half.mean():.1%}): errors of labels, not of a net in doubt. "
        f"{len(names):,} labels are suspicious, first {', '.join(names[:3])}",
        "Look at these images and correct or remove them, in the training images too; label smoothing bears a few",
    )


def _no_relation(evidence: Evidence, held: Mapping[str, Split]) -> Finding | None:
    """Whether the labels have nothing to do with the images, where the net has learnt nothing from them."""
    train = evidence.splits.get("train")
    images = np.concatenate([split.images[: len(split.answered)] for split in held.values()])
    labels = np.concatenate([split.answered for split in held.values()])
    kinds = np.unique(labels)
    if train is None or len(kinds) < 2 or min((train.labels == kind).sum() for kind in kinds) < FEW:
        raise NotChecked("the net does no better than guessing, and there are too few training images to ask instead")
    right = _neighbours_say(train, kinds, images) == labels
    recalls = [right[labels == kind].mean() for kind in kinds]
    error = math.sqrt(sum(r * (1 - r) / (labels == kind).sum() for r, kind in zip(recalls, kinds, strict=True)))
    mean, chance = float(np.mean(recalls)), 1 / len(kinds)
    if mean - 2 * error / len(kinds) > chance:
        raise NotChecked("the net has learnt nothing that could be held against the labels")
    if min((labels == kind).sum() for kind in kinds) < FEW:
        raise NotChecked(f"the net has learnt nothing, and of a class there are fewer than {FEW} other images")
    return Finding(
        "label_noise",
        f"the net has learnt nothing, and of {len(labels):,} other images, each class counting alike, the nearest "
        f"training images know {mean:.1%}, as guessing {chance:.1%}: labels and images show no relation",
        "Look at some images beside their labels: were they shuffled, or read from the wrong column?",
    )


def _neighbours_say(train: Split, kinds: np.ndarray, images: np.ndarray, *, neighbours: int = 15) -> np.ndarray:
    """The commonest label of the nearest training images, by correlation; of each class as many are asked."""
    most = min(1000, *(int((train.labels == kind).sum()) for kind in kinds))
    rows = np.concatenate([np.flatnonzero(train.labels == kind)[:most] for kind in kinds])
    known, labels = thumbnails(train.images[rows]), train.labels[rows]
    near = (thumbnails(images) @ known.T).topk(min(neighbours, len(rows)), dim=1).indices.numpy()
    said: np.ndarray = kinds[np.stack([(labels[near] == kind).sum(1) for kind in kinds], axis=1).argmax(1)]
    return said


def suspects(held: Mapping[str, Split]) -> list[str]:
    """Names of images whose label the net contradicts with the confidence it has in that class, the worst first.

    An image counts for a class when its probability is at least the mean of those labelled so; if the likeliest such
    class is not its label, the label is suspicious. Images without a name are called by split and number.
    """
    found: list[tuple[float, str]] = []
    for name, split in held.items():
        labels, probabilities = split.answered, split.probabilities
        if not len(labels):
            continue
        classes = probabilities.shape[1]
        mean = [probabilities[labels == c, c].mean() if (labels == c).any() else 2.0 for c in range(classes)]
        counted = np.where(probabilities >= np.array(mean), probabilities, -1.0)
        for at in np.flatnonzero((counted.max(1) >= 0) & (counted.argmax(1) != labels)):
            margin = probabilities[at].max() - probabilities[at, labels[at]]
            found.append((-float(margin), str(split.names[at]) if split.names is not None else f"{name} image {at}"))
    return [name for _, name in sorted(found)]
