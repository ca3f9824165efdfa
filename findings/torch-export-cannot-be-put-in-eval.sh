#!/usr/bin/env bash
# torch 2.13.0, torchattacks 3.5.1, seen 2026-11-30
#
# Expected: the module of a torch.export program that was made from a net in evaluation mode says
#   `training == False`, and `eval()` on it changes nothing: the program is fixed, its answers are right.
# Seen: it says `training == True`, and both `eval()` and `train()` raise NotImplementedError. Code that
#   takes care, "put the net in evaluation mode, attack, put it back", stops: torchattacks' attacks all do.
# What follows for users of face classifiers: a net that came as a `.pt2` cannot be attacked by such
#   libraries until it is wrapped in a module whose `eval` and `train` leave the program alone.
# For dxray: `net.training` says nothing about an exported net; a function that takes any module
#   (attacks/engine/query.py) must not call `eval()` on it unguarded.
#
# Run: bash findings/torch-export-cannot-be-put-in-eval.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 tqdm requests
install --no-deps torchattacks==3.5.1 # its requirement torchvision is not used by these attacks

run_python <<'PY'
import sys

import torch
import torchattacks
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
exported = torch.export.export(net, (images,)).module()


class Fixed(nn.Module):
    """An exported program that lets `eval` and `train` pass."""

    def __init__(self, program):
        super().__init__()
        self.program = [program]  # a list hides it from eval and train

    def forward(self, x):
        return self.program[0](x)


def outcome(call):
    try:
        call()
        return "runs"
    except NotImplementedError as error:
        return f"NotImplementedError: {error}"


print("torch", torch.__version__, "torchattacks", torchattacks.__version__)
print("same answers as the net in evaluation mode:", torch.equal(exported(images), net(images)))
print("expected: training False, eval() runs, the attack runs")
seen = {
    "eval()": outcome(exported.eval),
    "train()": outcome(exported.train),
    "torchattacks PGD": outcome(lambda: torchattacks.PGD(exported)(images, labels)),
    "torchattacks PGD, wrapped": outcome(lambda: torchattacks.PGD(Fixed(exported))(images, labels)),
}
print("seen: training", exported.training)
for what, result in seen.items():
    print(f"seen: {what}: {result}")
refused = [what for what, result in seen.items() if result != "runs"]
sys.exit(0 if exported.training and refused == ["eval()", "train()", "torchattacks PGD"] else 1)
PY
