#!/usr/bin/env bash
# foolbox 3.3.4, torch 2.13.0, seen 2026-11-30
#
# Expected: NewtonFoolAttack on a net that is wholly sure of an image (softmax exactly 1 in float32, so no
#   gradient) leaves the image as it is, and reports that it was not fooled.
# Seen: the result is NaN in every pixel. argmax of NaN logits is class 0, so with label 1 it counts as
#   fooled, even under a fixed epsilon, where the clipping to the ball leaves NaN as it is.
# What follows for users of face classifiers: a net that was trained to high confidence looks easy to fool;
#   the PNG of such a result is black or noise. Check `torch.isfinite` before success is counted.
# For dxray: a result with a value that is not finite is never a success (the saved file decides).
#
# Run: bash findings/foolbox-newtonfool-counts-nan.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 foolbox==3.3.4

run_python <<'PY'
import sys

import foolbox
import torch
from torch import nn


class Sure(nn.Module):
    """Class 0 is dark, class 1 is bright, with logits far apart."""

    def forward(self, x):
        bright = 400 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


torch.manual_seed(0)
images = torch.cat([torch.rand(2, 1, 48, 48) * 0.4, 0.6 + torch.rand(2, 1, 48, 48) * 0.4])
labels = torch.tensor([0, 0, 1, 1])
net = Sure().eval()
model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
_, results, success = foolbox.attacks.NewtonFoolAttack(steps=10)(model, images, labels, epsilons=0.5)
nan = results.isnan().flatten(1).all(dim=1)
print("foolbox", foolbox.__version__)
print("logits:", [[round(v) for v in row] for row in net(images).tolist()], "labels:", labels.tolist())
print("expected: finite images, success False")
print(f"seen: all pixels NaN {nan.tolist()}, success {success.tolist()} at L2 <= 0.5")
sys.exit(0 if nan.all() and success.tolist() == [False, False, True, True] else 1)
PY
