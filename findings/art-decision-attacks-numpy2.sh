#!/usr/bin/env bash
# adversarial-robustness-toolbox 1.20.1, numpy 2.4.6, torch 2.13.0, seen 2026-11-30
#
# Expected: HopSkipJump and BoundaryAttack work with numpy 2, which the package's requirements allow
#   (numpy>=1.18), since SquareAttack and ZooAttack do and all inputs are float32.
# Seen: both raise RuntimeError: they make their queries in float64, which a float32 net refuses. With
#   numpy 1.26 the same program ran. numpy 2 no longer keeps float32 when an array meets a float64 scalar.
# What follows for users of face classifiers: the two best-known attacks by answers alone cannot be run on
#   an ordinary net; wrap the net in a module that calls `x.float()`, or pin numpy below 2.
# For dxray: a service or a callable that is asked must be given float32 whatever the search computes in.
#
# Run: bash findings/art-decision-attacks-numpy2.sh
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

torch.manual_seed(0)
np.random.seed(0)
module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
net = PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 8, 8), 2, clip_values=(0.0, 1.0), device_type="cpu")
images = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
labels = net.predict(images).argmax(1)
attacks = {
    "SquareAttack": evasion.SquareAttack(net, eps=0.1, max_iter=20, verbose=False),
    "HopSkipJump": evasion.HopSkipJump(net, max_iter=2, max_eval=50, init_eval=10, verbose=False),
    "BoundaryAttack": evasion.BoundaryAttack(net, targeted=False, max_iter=5, verbose=False),
}
print("adversarial-robustness-toolbox", art.__version__, "numpy", np.__version__)
print("expected: each attack returns float32 images")
failing = set()
for name, attack in attacks.items():
    try:
        print(f"seen: {name}: {attack.generate(images, labels).dtype}")
    except RuntimeError as error:
        failing.add(name)
        print(f"seen: {name}: RuntimeError: {error}")
sys.exit(0 if failing == {"HopSkipJump", "BoundaryAttack"} else 1)
PY
