#!/usr/bin/env bash
# adversarial-robustness-toolbox 1.20.1, torch 2.13.0, seen 2026-11-30
#
# Expected: AutoConjugateGradient, by its paper a stronger relative of Auto-PGD, fools with Linf (its
#   default norm) at least what one step of FGSM at the same eps fools. So does RescalingAutoConjugateGradient.
# Seen: it fools almost nothing. For Linf the sign of the conjugate gradient is computed, but the step is
#   made with the gradient itself. Gradients of a mean over 48 x 48 pixels are near 1e-3, so 100 steps
#   stay near the random start.
# What follows for users of face classifiers: a net looks robust in such a table; how much so depends on
#   the size of its gradients, which gradient masking makes small, too. Never quote ACG from this library
#   without FGSM beside it.
# For dxray: not a peer to be measured against in Linf.
#
# Run: bash findings/art-acg-steps-by-raw-gradients.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 tqdm six requests packaging
install --no-deps adversarial-robustness-toolbox==1.20.1

run_python <<'PY'
import sys

import art
import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import nn


class Brightness(nn.Module):
    """Class 0 is dark, class 1 is bright."""

    def forward(self, x):
        bright = 20 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


eps = 8 / 255
rng = np.random.default_rng(0)
images = np.concatenate([rng.uniform(0.24, 0.72, (8, 1, 48, 48)), rng.uniform(0.28, 0.76, (8, 1, 48, 48))])
images, labels = images.astype(np.float32), np.repeat([0, 1], 8)
net = PyTorchClassifier(
    Brightness(), nn.CrossEntropyLoss(), (1, 48, 48), 2, clip_values=(0.0, 1.0), device_type="cpu"
)
attacks = {
    "FGSM": evasion.FastGradientMethod(net, eps=eps),
    "Auto-PGD": evasion.AutoProjectedGradientDescent(net, eps=eps, eps_step=eps / 4, verbose=False),
    "ACG": evasion.AutoConjugateGradient(net, eps=eps, eps_step=eps / 4, verbose=False),
    "ReACG": evasion.RescalingAutoConjugateGradient(net, eps=eps, eps_step=eps / 4, verbose=False),
}
np.random.seed(0)
print("adversarial-robustness-toolbox", art.__version__)
print(f"before any attack: {(net.predict(images).argmax(1) != labels).mean():.0%} wrong")
print("expected: ACG and ReACG fool at least what FGSM fools, Linf 8/255")
fooled = {}
for name, attack in attacks.items():
    results = attack.generate(images, labels)
    fooled[name] = (net.predict(results).argmax(1) != labels).mean()
    print(f"seen: {name:9} fools {fooled[name]:.0%}, Linf {np.abs(results - images).max() * 255:.2f}/255")
weak = max(fooled["ACG"], fooled["ReACG"])
sys.exit(0 if fooled["FGSM"] == fooled["Auto-PGD"] == 1 and weak < 0.5 else 1)
PY
