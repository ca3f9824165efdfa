"""What is wrong with the images that a net was trained and tested on: their balance, and images on both sides."""

import numpy as np

from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.doctor.finding import FAULT, NOTE, Finding, NotChecked

RATIO = 4.0  # commonest class to rarest: one of two classes with less than 20 % is what is called moderately imbalanced
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


def leakage(evidence: Evidence) -> Finding | None:
    """Training images among the test images: the same, mirrored, or nearly (encoded anew, brighter, scaled)."""
    found = evidence.copies
    if found is None:
        raise NotChecked("there are not both training and test images")
    test = evidence.splits["test"]
    same, copies = found.same, found.of >= 0
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
