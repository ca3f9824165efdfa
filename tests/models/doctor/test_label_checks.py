"""Labels that are swapped, and those that contradict each other."""

import numpy as np

from dxray.models.doctor.diagnosis import CHECKS, data_findings, diagnose
from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.doctor.label_checks import contradictions

CLASSES = ("male", "female")


def pictures(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    return Split(images, np.arange(count) % 2, np.array([f"{seed}/{i}" for i in range(count)]))


def test_the_same_picture_under_both_classes_is_a_finding_that_names_the_pair() -> None:
    train, test = pictures(100, 0), pictures(40, 1)
    test.images[1] = train.images[2]
    test.images[4] = train.images[7, :, :, ::-1]  # mirrored
    test.images[6] = train.images[8]  # of one class: a leak alone
    evidence = Evidence(CLASSES, {"train": train, "test": test})
    assert contradictions(evidence) == ["0/2 (male) and 1/1 (female)", "0/7 (female) and 1/4 (male)"]
    (finding,) = diagnose(evidence, {"labels": CHECKS["contradicting_labels"]}).findings
    assert finding.severity == "fault"
    assert "2 pictures of 140 are there twice, under two classes: 0/2 (male) and 1/1 (female); 0/7" in finding.evidence
    assert "contradicting_labels" in data_findings(evidence.splits, CLASSES)


def test_copies_within_a_split_contradict_each_other_too_and_a_few_are_a_note() -> None:
    train = pictures(400, 0)
    train.images[3] = train.images[2]
    evidence = Evidence(CLASSES, {"train": train})
    (finding,) = diagnose(evidence, {"labels": CHECKS["contradicting_labels"]}).findings
    assert finding.severity == "note"
    assert "0/2 (male) and 0/3 (female)" in finding.evidence


def swapped(strange: bool) -> Evidence:
    """A net that is right on nearly all, with the labels turned round."""
    split = pictures(200, 0)
    logits = np.eye(2)[split.labels] * 3
    logits[:10] = 1 - logits[:10]
    test = Split(split.images, 1 - split.labels, split.names, logits)
    history = [{"epoch": 1, "train_accuracy": 0.97, "loss": 0.2}]
    return Evidence(CLASSES, {"train": test, "test": test}, history=history, strange=strange, numbers=CLASSES)


def test_swapped_labels_take_the_place_of_what_would_blame_the_net() -> None:
    diagnosis = diagnose(swapped(strange=True))
    names = {finding.name for finding in diagnosis.findings}
    assert "labels_swapped" in names
    assert not names & {"evaluation_mode", "over_fitting", "label_noise", "loss_at_chance"}
    assert diagnosis.not_checked["label_noise"] == "the labels are not what the net's answers mean"
    (finding,) = (finding for finding in diagnosis.findings if finding.name == "labels_swapped")
    assert "right on 20 of 400" in finding.evidence
    assert finding.remedy.endswith("--classes female,male")


def test_labels_that_a_net_has_learnt_from_are_never_called_swapped() -> None:
    assert "labels_swapped" not in {finding.name for finding in diagnose(swapped(strange=False)).findings}
