#!/usr/bin/env bash
# torchattacks 3.5.1, adversarial-robustness-toolbox 1.20.1, torch 2.13.0, seen 2026-11-30
#
# Expected: attacks that are told the number of classes, 2, run on a net with two classes, the smallest
#   classification there is, or refuse when they are made.
# Seen: torchattacks' AutoAttack(n_classes=2) runs as long as its first attack fools every image of the
#   batch, and ends in IndexError as soon as one image is robust: its second attack ranks the four
#   largest logits. JSMA aims at class `(label + 1) % 10` whatever the net has, so label 1 aims at class 2.
#   ART's Auto-PGD with the DLR loss raises the same IndexError at its first step.
# What follows for users of face classifiers: a gender net's robust accuracy by the standard AutoAttack is
#   not to be had, and the failure comes late and only for the better nets. Add two classes of logit
#   -1e9 (nothing reaches them), or use APGD with cross-entropy, FAB and Square by themselves.
# For dxray: nothing in its own attacks. AutoAttack as a peer needs the two added classes.
#
# Run: bash findings/two-classes-are-too-few.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 tqdm six requests packaging
install --no-deps torchattacks==3.5.1 adversarial-robustness-toolbox==1.20.1

run_python <<'PY'
import sys
from importlib.metadata import version

import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn


class Brightness(nn.Module):
    """Class 0 is dark, class 1 is bright."""

    def forward(self, x):
        bright = 20 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


def by_art(images, labels):
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 16, 16), 2, clip_values=(0.0, 1.0), device_type="cpu")
    attack = AutoProjectedGradientDescent(
        classifier, eps=8 / 255, eps_step=2 / 255, loss_type="difference_logits_ratio", max_iter=5, verbose=False
    )
    return attack.generate(images.numpy(), labels.numpy())


def outcome(attack, images, labels):
    try:
        attack(images, labels)
        return "runs"
    except IndexError as error:
        return f"IndexError: {error}"


net = Brightness().eval()
near = torch.cat([torch.full((2, 1, 16, 16), 0.49), torch.full((2, 1, 16, 16), 0.51)])
far = near.clone()
far[0], far[2] = 0.2, 0.8
labels = torch.tensor([0, 0, 1, 1])
autoattack = torchattacks.AutoAttack(net, eps=8 / 255, n_classes=2)
seen = {
    "torchattacks AutoAttack, every image near the border": outcome(autoattack, near, labels),
    "torchattacks AutoAttack, two images robust": outcome(autoattack, far, labels),
    "torchattacks JSMA, label 0": outcome(torchattacks.JSMA(net), near[:2], labels[:2]),
    "torchattacks JSMA, label 1": outcome(torchattacks.JSMA(net), near[2:], labels[2:]),
    "ART Auto-PGD, DLR loss": outcome(by_art, near, labels),
}
for name in ("torchattacks", "adversarial-robustness-toolbox"):
    print(name, version(name))
print("expected: each runs, or refuses two classes when it is made")
for what, result in seen.items():
    print(f"seen: {what}: {result}")
fine = [what for what, result in seen.items() if result == "runs"]
sys.exit(0 if fine == [list(seen)[0], list(seen)[2]] else 1)
PY
