"""Each planted fault is named, and no more is said than follows from it; healthy trainings give no finding at all."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dxray.models.doctor.diagnosis import CHECKS, Diagnosis, cheap_findings, data_findings, diagnose
from dxray.models.doctor.evidence import Evidence, Split, examine
from dxray.models.doctor.label_checks import suspects
from dxray.models.doctor.lr_range_test import range_test
from dxray.models.nets import build
from dxray.models.training.train import fit

CLASSES = ("male", "female")
SIZE = 16
Data = dict[str, Split]
Planted = tuple[nn.Module, Data, dict[str, Any]]


def pictures(count: int, seed: int, *, shade: float = 20.0, rare: float = 0.5) -> Split:
    """Noise whose class is whether the upper or the lower half is brighter; `rare` is the share of class 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < rare).astype(np.int64)
    halves = np.where(np.arange(SIZE) < SIZE // 2, shade, -shade)[:, None]
    images = 128 + halves * np.where(labels, -1, 1)[:, None, None, None] + rng.normal(0, 40, (count, 1, SIZE, SIZE))
    names = np.array([f"{seed}/{i}" for i in range(count)])
    return Split(images.clip(0, 255).round().astype(np.uint8), labels, names)


def data_of(train: int = 400, held_out: int = 250, **parameters: float) -> Data:
    sizes = {"train": train, "validation": held_out, "test": held_out}
    return {name: pictures(count, seed, **parameters) for seed, (name, count) in enumerate(sizes.items())}


def relabelled(split: Split, labels: np.ndarray) -> Split:
    return Split(split.images, labels, split.names)


def net_of(kind: str = "convnet", **parameters: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(kind, **{"blocks": 2, "convs": 1, "filters": 8, "size": (SIZE, SIZE)} | parameters)


def examined(net: nn.Module, data: Data, **options: Any) -> tuple[Diagnosis, Evidence]:
    """A training by `fit`, and what the doctor says of it."""
    options = {"epochs": 3, "batch_size": 32, "lr": 5e-3, "augment": False} | options
    train, validation = data["train"], data["validation"]
    history = fit(net, train.images, train.labels, validation=(validation.images, validation.labels), **options)
    rates = range_test(net, train.images, train.labels, optimizer=options.get("optimizer", "adamw"))
    evidence = Evidence(CLASSES, history=history, lr=options["lr"], rates=rates, **examine(net, data))
    return diagnose(evidence), evidence


@cache
def outcome(plant: Callable[[], Planted]) -> tuple[Data, Diagnosis, Evidence]:
    """Of a training with a planted fault, trained once for all tests."""
    net, data, options = plant()
    return (data, *examined(net, data, **options))


def names(diagnosis: Diagnosis) -> set[str]:
    return {finding.name for finding in diagnosis.findings}


def not_normalised() -> Planted:
    """Images of a narrow and far-off range, before a net whose first layer is a convolution."""
    data = data_of()
    dark = {
        name: Split((220 + split.images // 32).astype(np.uint8), split.labels, split.names)
        for name, split in data.items()
    }
    net = net_of()
    return nn.Sequential(net.get_submodule("blocks"), net.get_submodule("head")), dark, {}


def softmax_at_the_end() -> Planted:
    net = net_of()
    net.get_submodule("head").append(nn.Softmax(1))  # type: ignore[operator]
    return net, data_of(), {}


def rate_too_high() -> Planted:
    return net_of(), data_of(), {"lr": 0.5}


def rate_too_low() -> Planted:
    return net_of(), data_of(), {"lr": 1e-6}


def dead() -> Planted:
    """A large negative bias in the first convolution."""
    net = net_of()
    nn.init.constant_(net.get_parameter("blocks.0.0.bias"), -30.0)
    return net, data_of(), {}


def vanishing() -> Planted:
    """Ten dense layers with sigmoids, as one built them before 2010."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(SIZE * SIZE, 16), nn.Sigmoid()]
    for _ in range(9):
        layers += [nn.Linear(16, 16), nn.Sigmoid()]
    net = nn.Sequential()
    net.add_module("normalise", net_of().get_submodule("normalise"))
    net.add_module("layers", nn.Sequential(*layers, nn.Linear(16, 2)))
    return net, data_of(), {}


def exploding() -> Planted:
    """Weights drawn five times as large, in every one of six convolutions."""
    net = net_of(convs=3)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.mul_(5 if "weight" in name else 1)
    return net, data_of(), {"epochs": 1}


def shuffled_labels() -> Planted:
    rng = np.random.default_rng(7)
    return net_of(), {k: relabelled(s, rng.permutation(s.labels)) for k, s in data_of().items()}, {}


def some_labels_wrong() -> Planted:
    rng = np.random.default_rng(7)
    data = {k: relabelled(s, np.where(rng.random(len(s)) < 0.2, 1 - s.labels, s.labels)) for k, s in data_of().items()}
    return net_of(), data, {}


def imbalance() -> Planted:
    return net_of(), data_of(shade=4.0, rare=0.05), {}


def leak() -> Planted:
    """A third of the test images are training images; of these, half are mirrored."""
    data = data_of()
    train, test = data["train"], data["test"]
    images, labels = test.images.copy(), test.labels.copy()
    images[:50], images[50:100], labels[:100] = train.images[:50], train.images[50:100, :, :, ::-1], train.labels[:100]
    return net_of(), data | {"test": Split(images, labels, test.names)}, {}


def few_images() -> Planted:
    return net_of(filters=16), data_of(train=60, shade=2.5), {"epochs": 40}


STUCK = {"loss_at_chance", "one_class"}  # what follows from most faults, for the net then learns nothing

FAULTS: list[tuple[str, Callable[[], Planted], set[str]]] = [
    ("inputs_not_normalised", not_normalised, STUCK),
    ("final_activation", softmax_at_the_end, set()),
    ("learning_rate_too_high", rate_too_high, STUCK | {"dead_relus", "exploding_gradients"}),
    ("learning_rate_too_low", rate_too_low, STUCK),
    ("dead_relus", dead, STUCK),
    ("vanishing_gradients", vanishing, STUCK),
    ("exploding_gradients", exploding, {"loss_at_chance"}),
    ("label_noise", shuffled_labels, STUCK | {"over_fitting"}),
    ("label_noise", some_labels_wrong, set()),
    ("class_imbalance", imbalance, STUCK),
    ("leakage", leak, set()),
    ("over_fitting", few_images, set()),
]


@pytest.mark.parametrize(("name", "plant", "consequences"), FAULTS, ids=[plant.__name__ for _, plant, _ in FAULTS])
def test_a_planted_fault_is_named_with_what_follows_from_it_and_no_more(
    name: str, plant: Callable[[], Planted], consequences: set[str]
) -> None:
    _, diagnosis, _ = outcome(plant)
    assert name in names(diagnosis)
    assert names(diagnosis) <= {name} | consequences
    for finding in diagnosis.findings:
        assert finding.severity == "fault"
        assert any(letter.isdigit() for letter in finding.evidence)
        assert len(finding.remedy) > 20
    assert names(diagnosis) | set(diagnosis.passed) | set(diagnosis.not_checked) == set(CHECKS)


HEALTHY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("convnet", {}, {}),
    ("convnet", {}, {"epochs": 1}),
    ("convnet", {"convs": 2, "filters": 4}, {"epochs": 5}),
    ("convnet", {"dropout": 0.5}, {"epochs": 6}),
    ("convnet", {"batch_norm": True, "dropout": 0.5}, {"optimizer": "sgd", "lr": 0.05}),
    ("densenet", {"batch_norm": True, "filters": 4}, {"augment": True}),
]


@pytest.mark.parametrize(("kind", "parameters", "options"), HEALTHY)
def test_a_healthy_training_has_no_finding(kind: str, parameters: dict[str, Any], options: dict[str, Any]) -> None:
    diagnosis, evidence = examined(net_of(kind, **parameters), data_of(), **options)
    assert diagnosis.findings == []
    assert diagnosis.not_checked == {}
    assert diagnosis.passed == list(CHECKS)
    known = {name: evidence.splits[name] for name in ("train", "test")}
    assert cheap_findings(Evidence(CLASSES, known, history=evidence.history)) == []
    assert data_findings(known, CLASSES) == []


@pytest.mark.parametrize("plant", [dead, imbalance, some_labels_wrong, few_images, vanishing])
def test_faults_are_seen_at_the_end_of_a_training_without_examining_the_net(plant: Callable[[], Planted]) -> None:
    """From history, labels and the answers for the test images alone."""
    data, diagnosis, evidence = outcome(plant)
    known = {"train": data["train"], "test": evidence.splits["test"]}
    cheap = Evidence(CLASSES, known, history=evidence.history)
    assert set(cheap_findings(cheap, of_data=["leakage"])) == names(diagnosis) | {"leakage"}


def test_leaks_are_found_in_the_data_alone() -> None:
    assert data_findings(leak()[1], CLASSES) == ["leakage"]


def test_the_names_of_wrong_labels_are_given_the_worst_first() -> None:
    data, diagnosis, evidence = outcome(some_labels_wrong)
    true = {name: data_of()[name].labels for name in data}
    wrong = {str(n) for k in ("validation", "test") for n in data[k].names[data[k].labels != true[k]]}  # type: ignore[index]
    found = suspects(evidence.held_out)
    assert len(set(found[:50]) & wrong) >= 45
    assert len(set(found) & wrong) >= 0.8 * len(wrong)
    (finding,) = diagnosis.findings
    assert ", ".join(found[:3]) in finding.evidence


def test_a_few_copies_that_lift_no_figure_are_a_note() -> None:
    data = data_of()
    images, labels = data["test"].images.copy(), data["test"].labels.copy()
    images[0], labels[0] = data["train"].images[3], data["train"].labels[3]
    leaky = data | {"test": Split(images, labels, data["test"].names)}
    (finding,) = diagnose(Evidence(CLASSES, leaky), {"leakage": CHECKS["leakage"]}).findings
    assert finding.severity == "note"
    assert finding.evidence.startswith("1 of 250 test images are training images too, 0.4% in all, such as 2/0")
    assert data_findings(leaky, CLASSES) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda image: image[:, :, ::-1], True),  # mirrored
        (lambda image: (image * 0.7 + 40).round(), True),  # less contrast
        (lambda image: 255 - image, False),
        (lambda image: np.roll(image, 8, axis=1), False),
    ],
)
def test_near_copies_are_those_of_the_same_picture(change: Callable[[np.ndarray], np.ndarray], found: bool) -> None:
    data = data_of()
    images = data["test"].images.copy()
    images[5] = change(data["train"].images[7].astype(float)).astype(np.uint8)
    leaky = data | {"test": Split(images, data["test"].labels)}
    findings = diagnose(Evidence(CLASSES, leaky), {"leakage": CHECKS["leakage"]}).findings
    assert [finding.evidence.count("a further 1 nearly so") for finding in findings] == ([1] if found else [])


@pytest.mark.parametrize(
    ("end", "kind", "severity"),
    [
        (nn.Softmax(1), "softmax", "fault"),
        (nn.Sigmoid(), "sigmoid", "fault"),
        (nn.Tanh(), "tanh", "fault"),
        (nn.ReLU(), "ReLU", "fault"),
        (nn.LogSoftmax(1), "log-softmax", "note"),
    ],
)
def test_each_final_activation_is_told_by_its_outputs(end: nn.Module, kind: str, severity: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2))
    data = {"train": pictures(64, 0)}
    checks = {"final_activation": CHECKS["final_activation"]}
    assert diagnose(Evidence(CLASSES, **examine(net, data)), checks).findings == []
    (finding,) = diagnose(Evidence(CLASSES, **examine(nn.Sequential(net, end), data)), checks).findings
    assert f"those of a {kind}:" in finding.evidence
    assert finding.severity == severity


def test_right_while_learning_and_wrong_in_eval_mode_is_a_finding() -> None:
    """Running statistics that never moved from where they began, before a batch norm that needs them."""
    net = net_of(batch_norm=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1e-6
            module.running_mean.fill_(5.0)  # type: ignore[union-attr]
    diagnosis, _ = examined(net, data_of())
    assert "evaluation_mode" in names(diagnosis)
    assert names(diagnosis) <= {"evaluation_mode"} | STUCK


def test_a_training_that_diverged_is_examined_without_a_net() -> None:
    data = data_of()
    rates = range_test(net_of(), data["train"].images, data["train"].labels)
    evidence = Evidence(CLASSES, data, diverged="diverged: the loss of epoch 1 is nan", lr=1000.0, rates=rates)
    diagnosis = diagnose(evidence)
    assert names(diagnosis) == {"diverged", "learning_rate_too_high"}
    assert set(diagnosis.not_checked) >= {"dead_relus", "final_activation", "label_noise", "loss_at_chance"}


def test_what_is_not_known_is_not_checked_and_says_why() -> None:
    diagnosis = diagnose(Evidence(CLASSES, {}, absent={"layers": "the file shows no layers"}))
    assert diagnosis.findings == []
    assert diagnosis.passed == ["diverged"]
    assert diagnosis.not_checked["dead_relus"] == "the file shows no layers"
    assert all(diagnosis.not_checked.values())


def test_examining_leaves_the_net_as_it_was() -> None:
    net = net_of(batch_norm=True, dropout=0.5).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.random.get_rng_state()
    data = data_of(train=64, held_out=32)
    examine(net, data)
    range_test(net, data["train"].images, data["train"].labels)
    assert net.training
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
