"""What is wrong with a training, and what to do about it: checks in place of a list of things to look at.

Each check is a pure function from `Evidence` to a `Finding` or none. It raises `NotChecked` where the evidence lacks
what it needs, so that the same checks serve a running sweep, which knows little, and `dxray doctor`, which takes time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dxray.models.doctor.data_checks import class_imbalance, leakage
from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.doctor.finding import FAULT, NOTE, Finding, NotChecked
from dxray.models.doctor.label_checks import contradicting_labels, label_noise, labels_swapped, need_fitting_labels
from dxray.models.doctor.lr_range_test import RateRange

FAR_OFF = 3.0  # deviations that the inputs' mean may be from 0: beyond, (1 + 9) to 1 is the curvature's worst ratio
SPREAD = (0.1, 10.0)  # deviations of the inputs with which default initialisation still gives useful activations
NO_BETTER = 0.99  # of the loss of a constant answer
HARDLY = 0.8  # of the same: a training that ended above it has not got going
ONE_CLASS = 0.99
DEAD = 0.9  # plain deep nets begin with up to 0.8 of a layer's units dead, and many of them learn
VANISHED = 1e-4  # 28 plain layers: 1e-12; 8 plain layers, which learn: 1e-3 at first, 0.1 later
EXPLODED = 50.0  # change of the loss for a relative change of a layer's weights; 0.3 to 5 in trainings that go well
GAP = 0.1  # of accuracies; healthy trainings on a few thousand images show 0.03
MODES = 0.05  # what is right without dropout and augmentation is more, not less


Check = Callable[[Evidence], Finding | None]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, which checks found nothing, and which could not be made and why."""

    findings: list[Finding]
    passed: list[str]
    not_checked: dict[str, str]


def diagnose(evidence: Evidence, checks: Mapping[str, Check] | None = None) -> Diagnosis:
    """The outcome of each check, in the order of `CHECKS`, which are all there are."""
    findings: list[Finding] = []
    passed: list[str] = []
    not_checked: dict[str, str] = {}
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            finding = check(evidence)
        except NotChecked as why:
            not_checked[name] = str(why)
            continue
        if finding:
            findings.append(finding)
        else:
            passed.append(name)
    return Diagnosis(findings, passed, not_checked)


def cheap_findings(evidence: Evidence, *, of_data: Sequence[str] = ()) -> list[str]:
    """Names of the faults, notes left out: what a table has room for, at the end of a training.

    Args:
        evidence: what is at hand then: history, labels, answers.
        of_data: `data_findings` of the same data, which are the same for each training on it.
    """
    checks = {name: check for name, check in CHECKS.items() if name not in OF_DATA}
    return [f.name for f in diagnose(evidence, checks).findings if f.severity == FAULT] + list(of_data)


def data_findings(splits: Mapping[str, Split], classes: Sequence[str]) -> list[str]:
    """Names of the faults that lie in the data alone, and take a second or two to find."""
    checks = {name: CHECKS[name] for name in OF_DATA}
    return [f.name for f in diagnose(Evidence(tuple(classes), splits), checks).findings if f.severity == FAULT]


def diverged(evidence: Evidence) -> Finding | None:
    if evidence.diverged is None:
        return None
    return Finding(
        "diverged",
        f"the training ended without a net: {evidence.diverged}",
        "Lower the learning rate tenfold; if it diverges still, look at the data for values that are no numbers",
    )


def inputs_not_normalised(evidence: Evidence) -> Finding | None:
    """Inputs of mean 0 and deviation 1 make the loss equally steep all round (LeCun et al. 1998)."""
    if evidence.inputs is None:
        raise NotChecked(evidence.absent.get("inputs", "the net was not looked at"))
    mean, std = evidence.inputs
    if abs(mean) <= FAR_OFF * std and SPREAD[0] <= std <= SPREAD[1]:
        return None
    return Finding(
        "inputs_not_normalised",
        f"what enters the first layer has mean {mean:.3g} and standard deviation {std:.3g}, expected about 0 and 1",
        "Subtract the mean of the training images and divide by their deviation, in the net's first layer",
    )


def final_activation(evidence: Evidence) -> Finding | None:
    if evidence.outputs is None:
        raise NotChecked(evidence.absent.get("outputs", "the net was not looked at"))
    outputs = evidence.outputs.astype(np.float64)
    if not np.isfinite(outputs).all():
        raise NotChecked("some outputs are no numbers")
    kind = _activation(outputs)
    if kind is None:
        return None
    classes = max(2, outputs.shape[1])
    floor = f"; with it the loss never falls below {math.log1p((classes - 1) / math.e):.3f}"
    return Finding(
        "final_activation",
        f"the outputs are those of a {kind}: in [{outputs.min():.3g}, {outputs.max():.3g}], also for noise far outside "
        "of [0, 1]" + (floor if kind in ("softmax", "sigmoid") else ""),
        "End the net with its last dense layer: cross-entropy takes logits, and applies log-softmax itself",
        NOTE if kind == "log-softmax" else FAULT,  # twice it is the same as once
    )


def _activation(outputs: np.ndarray) -> str | None:
    """The function that gave such outputs, for images and for noise so far out that logits would be large."""
    low, high = outputs.min(), outputs.max()
    if outputs.shape[1] > 1 and low > -1e-5 and np.abs(outputs.sum(1) - 1).max() < 1e-4:
        return "softmax"
    if outputs.shape[1] > 1 and high <= 1e-5 and np.abs(np.log(np.exp(outputs).sum(1))).max() < 1e-4:
        return "log-softmax"
    if low > -1e-5 and high < 1 + 1e-5 and high - low > 0.9:
        return "sigmoid"
    if low > -1 - 1e-5 and high < 1 + 1e-5 and high - low > 1.9:
        return "tanh"
    if low == 0 and (outputs == 0).mean() > 0.05:
        return "ReLU"
    return None


def loss_at_chance(evidence: Evidence) -> Finding | None:
    need_fitting_labels(evidence)
    chance, loss = evidence.chance, evidence.final_loss
    if chance is None or loss is None:
        raise NotChecked("no loss of the training is known")
    if loss < NO_BETTER * chance:
        return None
    classes = len(evidence.classes)
    return Finding(
        "loss_at_chance",
        f"the loss ended at {loss:.3f}, and {chance:.3f} is that of a net that knows only the classes' shares "
        f"(ln {classes} = {math.log(classes):.3f})",
        "Nothing was learnt: mend the other findings; if there are none, try batch norm, fewer layers, less dropout",
    )


def one_class(evidence: Evidence) -> Finding | None:
    """One answer to nearly everything, and next to none of the other classes' images recognised."""
    known = {name: split for name, split in evidence.splits.items() if len(split.answered)}
    if not known:
        raise NotChecked("no answers of the net are known")
    said = []
    for name, split in known.items():
        counts = np.bincount(split.answers, minlength=len(evidence.classes))
        most = int(counts.argmax())
        others = split.answered != most
        if counts[most] < ONE_CLASS * len(split.answers) or not others.any():
            continue
        if (split.answers == split.answered)[others].mean() > 0.1:
            continue
        said.append(
            f"'{evidence.classes[most]}' to {counts[most] / len(split.answers):.1%} of {len(split.answers):,} {name} "
            f"images, of which {1 - others.mean():.1%} are"
        )
    if not said:
        return None
    return Finding(
        "one_class",
        "the net answers " + "; ".join(said),
        "An accuracy means nothing here: mend the other findings first, balance the classes, or add batch norm",
    )


def evaluation_mode(evidence: Evidence) -> Finding | None:
    """Right while it learns, with dropout and the batch's own statistics, and wrong on the same images without them."""
    need_fitting_labels(evidence)
    train = evidence.splits.get("train")
    learnt = evidence.history[-1].get("train_accuracy") if evidence.history else None
    if train is None or train.accuracy is None or learnt is None:
        raise NotChecked("accuracy on the training images is not known both while learning and afterwards")
    error = 3 * math.sqrt(0.25 / len(train.answered))
    if learnt - train.accuracy < max(MODES, error):
        return None
    return Finding(
        "evaluation_mode",
        f"{learnt:.1%} of the training images were right while learning, and {train.accuracy:.1%} are in eval mode",
        "Activations differ in size there: take less dropout, or more steps for batch norm's statistics to settle",
    )


def dead_relus(evidence: Evidence) -> Finding | None:
    layers = [row for row in _layers(evidence) if row["dead_share"] is not None]
    if not layers:
        raise NotChecked("no ReLU follows a layer")
    dead = [row for row in layers if row["dead_share"] >= DEAD]
    if not dead:
        return None
    shares = _listed([f"{row['layer']} {row['dead_share']:.0%}" for row in dead])
    return Finding(
        "dead_relus",
        f"units that are zero for every image: {shares} ({len(dead)} of {len(layers)} layers with a ReLU)",
        "They get no gradient and stay dead: lower the learning rate, draw biases at 0, add batch norm, or LeakyReLU",
    )


def vanishing_gradients(evidence: Evidence) -> Finding | None:
    relative = _relative_gradients(_layers(evidence))
    if any(row["dead_share"] == 1 for row in _layers(evidence)):
        raise NotChecked("a layer is dead altogether, and no gradient passes it")
    largest = max(relative.values())
    if not math.isfinite(largest) or largest == 0:
        raise NotChecked("there is no gradient to compare" if largest == 0 else "a gradient is not a finite number")
    least = min(relative, key=lambda name: relative[name])
    if relative[least] >= VANISHED * largest:
        return None
    most = max(relative, key=lambda name: relative[name])
    weak = sum(value < VANISHED * largest for value in relative.values())
    return Finding(
        "vanishing_gradients",
        f"gradient over weight is {relative[least]:.1e} in {least} and {relative[most]:.1e} in {most}; "
        f"{weak} of {len(relative)} layers get less than 1/10,000 of the largest",
        "Add batch norm or dense connections, take ReLU for sigmoid or tanh, He initialisation, or fewer layers",
    )


def exploding_gradients(evidence: Evidence) -> Finding | None:
    """Looked for in every epoch: a training that exploded early may end with gradients of zero."""
    looks = [(f"after epoch {row['epoch']}", row["layers"]) for row in evidence.history if row.get("layers")]
    looks += [("at the end", evidence.layers)] if evidence.layers else []
    if not looks:
        raise NotChecked(evidence.absent.get("layers", "the layers were not looked at"))
    for when, layers in looks:
        force = {row["layer"]: row["gradient_norm"] * row["weight_norm"] for row in layers}
        exploded = {name: value for name, value in force.items() if not value <= EXPLODED}
        if exploded:
            worst = max(exploded, key=lambda name: exploded[name])
            return Finding(
                "exploding_gradients",
                f"{when}, changing the weights of {worst} by 1 % along their gradient would change the loss by "
                f"{force[worst] / 100:.2g}; so strong are {len(exploded)} of {len(force)} layers, and 0.05 is much",
                "Lower the learning rate, draw the weights smaller (He initialisation), add batch norm, clip gradients",
            )
    return None


def learning_rate_too_high(evidence: Evidence) -> Finding | None:
    lr, rates = _rates(evidence)
    if rates.upper is None:
        raise NotChecked("every rate that the range test tried made the loss jump")
    if lr <= rates.upper or not _hardly_learnt(evidence):
        return None
    return Finding(
        "learning_rate_too_high",
        f"the learning rate was {lr:.2g}, above {rates.upper:.1g} a few steps make the loss jump, {_ended(evidence)}",
        f"Try {rates.upper / 10:.1g}, or let the rate rise slowly from there",
    )


def learning_rate_too_low(evidence: Evidence) -> Finding | None:
    """A tenth of the lower end still learns, only slowly: the range test takes few steps at each rate."""
    lr, rates = _rates(evidence)
    if rates.lower is None or rates.upper is None:
        raise NotChecked("the range test found no rate at which the loss falls within its few steps")
    if lr >= rates.lower / 10 or not _hardly_learnt(evidence):
        return None
    return Finding(
        "learning_rate_too_low",
        f"the learning rate was {lr:.2g}, a range test's loss falls from {rates.lower:.1g} on, {_ended(evidence)}",
        f"Try {math.sqrt(rates.lower * rates.upper):.1g}, the middle of the usable band",
    )


def _rates(evidence: Evidence) -> tuple[float, RateRange]:
    if evidence.rates is None:
        raise NotChecked(evidence.absent.get("rates", "no range test was made"))
    if evidence.lr is None:
        raise NotChecked(evidence.absent.get("lr", "the learning rate of the training is not known"))
    return evidence.lr, evidence.rates


def _hardly_learnt(evidence: Evidence) -> bool:
    """A rate outside the band is no fault of a training that has learnt well with it."""
    if evidence.diverged is not None:
        return True
    chance, loss = evidence.chance, evidence.final_loss
    return chance is not None and loss is not None and loss > HARDLY * chance


def _ended(evidence: Evidence) -> str:
    if evidence.diverged is not None:
        return "and the training diverged"
    return f"and the training ended at a loss of {evidence.final_loss:.3f} (chance: {evidence.chance:.3f})"


def over_fitting(evidence: Evidence) -> Finding | None:
    need_fitting_labels(evidence)
    train = evidence.splits.get("train")
    last = evidence.history[-1] if evidence.history else {}
    learnt = train.accuracy if train is not None else None
    # What was seen while learning, through dropout and augmentation, is lower: the gap is then underrated.
    learnt = last.get("train_accuracy") if learnt is None else learnt
    held = next((split for split in reversed(evidence.held_out.values()) if len(split.answered)), None)
    if learnt is None or held is None or held.accuracy is None:
        raise NotChecked("accuracy is not known of both training and other images")
    name = next(name for name, split in evidence.held_out.items() if split is held)
    error = 3 * math.sqrt(max(held.accuracy * (1 - held.accuracy), 1e-4) / len(held.answered))
    if learnt - held.accuracy < max(GAP, error):
        return None
    return Finding(
        "over_fitting",
        f"the net has {learnt:.1%} of the training images right, and {held.accuracy:.1%} of the {name} images",
        "Train on more images, switch on augmentation, raise dropout or weight decay, or end earlier",
    )


def _layers(evidence: Evidence) -> Sequence[Mapping[str, Any]]:
    layers = evidence.layers or (evidence.history[-1].get("layers") if evidence.history else None)
    if not layers:
        raise NotChecked(evidence.absent.get("layers", "the layers were not looked at"))
    return layers


def _relative_gradients(layers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Gradient over weight of each layer: by how much of itself a step of rate 1 would change it."""
    return {row["layer"]: row["gradient_norm"] / max(row["weight_norm"], 1e-30) for row in layers}


def _listed(parts: Sequence[str], most: int = 5) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        diverged,
        inputs_not_normalised,
        final_activation,
        loss_at_chance,
        one_class,
        evaluation_mode,
        dead_relus,
        vanishing_gradients,
        exploding_gradients,
        learning_rate_too_high,
        learning_rate_too_low,
        over_fitting,
        class_imbalance,
        labels_swapped,
        label_noise,
        contradicting_labels,
        leakage,
    )
}
OF_DATA = ("contradicting_labels", "leakage")  # what needs no net, and is too slow to be found for each anew
