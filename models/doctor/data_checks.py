"""What is wrong with the data that a net was trained and tested on: balance, labels, and images on both sides."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.doctor.finding import FAULT, NOTE, Finding, NotChecked, wilson

RATIO = 4.0  # commonest class to rarest: one of two classes with less than 20 % is what is called moderately imbalanced
FEWEST = 100  # held-out images, without which shares of them say nothing
FEW = 30  # of a class, likewise
NOISY = 0.08  # errors among the surest tenth of the answers: nets that learn well have 0.01 to 0.05
FLAT = 1.4  # errors of the surest half over those of the surest tenth: to 1.4 where labels err, from 1.7 where not
LEARNT = 0.9  # of the loss at chance, that a net must be below to be held against labels: early on it is sure of errors
SIDE = 16  # of the thumbnails that images are compared by
ALIKE, SAME = 0.98, 0.995  # correlation of thumbnails worth a second look, and of pictures that are one
LEAKED = 0.1  # share of copies among the test images that makes its accuracy a matter of memory


def class_imbalance(evidence: Evidence) -> Finding | None:
    train = evidence.splits.get("train")
    if train is None or not len(train):
        raise NotChecked("there are no training images")
    counts = np.bincount(train.labels, minlength=len(evidence.classes))
    rarest, commonest = int(counts.argmin()), int(counts.argmax())
    if counts[commonest] <= RATIO * counts[rarest]:
        return None
    evidence_of = (
        f"{counts[commonest]:,} training images are '{evidence.classes[commonest]}' and {counts[rarest]:,} "
        f"'{evidence.classes[rarest]}'"
    )
    recall = _recall(evidence, rarest)
    harmless = recall is not None and recall[0] > recall[1] - 0.1
    if recall is not None:
        evidence_of += f"; of other images {recall[0]:.1%} of the rare class are right, and {recall[1]:.1%} of all"
    return Finding(
        "class_imbalance",
        evidence_of,
        "Draw the rare class more often or weight its loss, and judge by the accuracy of each class",
        NOTE if harmless else FAULT,
    )


def _recall(evidence: Evidence, label: int) -> tuple[float, float] | None:
    """Share of a class, and of all, that the net has right among the images it did not learn from."""
    labels = [split.answered for split in evidence.held_out.values() if len(split.answered)]
    if not labels or not (np.concatenate(labels) == label).any():
        return None
    right = np.concatenate([split.answers == split.answered for split in evidence.held_out.values()])
    of_class = np.concatenate(labels) == label
    return float(right[of_class].mean()), float(right.mean())


def label_noise(evidence: Evidence) -> Finding | None:
    """Labels that are wrong, judged by images that the net did not learn from.

    Where images are hard, a net's surest answers are right; where labels err, these err as often as any. So errors are
    counted among the surest tenth of the answers, and compared with those of the surest half. The images named are the
    off-diagonal of the confident joint (Northcutt et al. 2019, https://arxiv.org/abs/1911.00068).

    Labels without any relation to the images are told from a net that has not learnt by asking the nearest neighbours.
    """
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
        raise NotChecked("the net has learnt nothing, and there are too few training images to ask in its place")
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


def leakage(evidence: Evidence) -> Finding | None:
    """Training images among the test images: the same, mirrored, or nearly (encoded anew, brighter, scaled)."""
    train, test = evidence.splits.get("train"), evidence.splits.get("test")
    if train is None or test is None or not len(train) or not len(test):
        raise NotChecked("there are not both training and test images")
    same = _same(train.images, test.images)
    copies = same | _nearly(train.images, test.images)
    if not copies.any():
        return None
    share, text = copies.mean(), f"{same.sum():,} of {len(test):,} test images are training images too"
    if (nearly := int(copies.sum() - same.sum())) > 0:
        text += f", a further {nearly:,} nearly so (mirrored, encoded anew, brighter)"
    names = test.names[copies] if test.names is not None else [f"test image {at}" for at in np.flatnonzero(copies)]
    text += f", {share:.1%} in all, such as {', '.join(map(str, names[:2]))}"
    lift = _lift(test, copies)
    if lift:
        text += f"; without them the accuracy is {lift[1]:.1%}, with them {lift[0]:.1%}"
    matters = share >= LEAKED or (lift is not None and lift[0] - lift[1] > lift[2])
    return Finding(
        "leakage",
        text,
        "Remove one of the two, and split by person or by source picture, not by file",
        FAULT if matters else NOTE,
    )


def _lift(test: Split, copies: np.ndarray) -> tuple[float, float, float] | None:
    """Accuracy with and without the copies, and the standard error of the latter."""
    copied = copies[: len(test.answered)]
    if copied.all():
        return None
    right = test.answers == test.answered
    rest = float(right[~copied].mean())
    return float(right.mean()), rest, float(np.sqrt(rest * (1 - rest) / (~copied).sum()))


def _same(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    known = {_hash(image) for image in train}
    return np.array([_hash(image) in known for image in test])


def _hash(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _nearly(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which test images correlate with a training image, or its mirror image, as no two photographs do.

    Thumbnails choose the pairs, whole images decide: small images of simple things are all alike.
    """
    found = np.zeros(len(test), dtype=bool)
    known = thumbnails(train)
    for view in (test, test[..., ::-1].copy()):
        best = [(part @ known.T).max(1) for part in thumbnails(view).split(256)]
        value, at = (torch.cat(parts).numpy() for parts in zip(*best, strict=True))
        close = np.flatnonzero((value >= ALIKE) & ~found)
        if len(close):
            pairs = _standardised(view[close]) * _standardised(train[at[close]])
            found[close] = pairs.sum(1).numpy() >= SAME
    return found


def thumbnails(images: np.ndarray) -> torch.Tensor:
    """uint8 `(N, C, H, W)` to `(N, C * 16 * 16)`: rows of mean 0 and length 1, whose products are correlations."""
    parts = [
        F.adaptive_avg_pool2d(torch.tensor(part).float(), SIDE)
        for part in np.array_split(images, max(1, len(images) // 1024))
    ]
    return _unit(torch.cat(parts).flatten(1))


def _standardised(images: np.ndarray) -> torch.Tensor:
    return _unit(torch.tensor(images).float().flatten(1))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows - rows.mean(1, keepdim=True), dim=1)
