#!/usr/bin/env bash
# secml-torch 1.5, torch 2.13.0, seen 2026-11-30
#
# Expected: an attack takes any DataLoader, also one whose last batch is smaller (20 images, batch 16), as
#   secml-torch's own PGD does.
# Seen: the native DDN raises RuntimeError at the smaller batch, after the work on all batches before it is
#   done and is lost: its L2 constraint still holds one radius for each image of the batch before.
# What follows for users of face classifiers: nearly every real set has a smaller last batch. Use
#   drop_last only where the faces left out do not matter, else a batch size that divides the set, or a
#   fresh attack object for each batch.
# For dxray: nothing; its attacks are functions and keep nothing from one batch to the next.
#
# Run: bash findings/secml-torch-ddn-last-batch.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6
install --no-deps secml-torch==1.5 # its requirement torchvision is not used by these attacks

run_python <<'PY'
import sys
from importlib.metadata import version

import torch
from secmlt.adv.evasion.ddn import DDN
from secmlt.adv.evasion.pgd import PGD
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
images = torch.rand(20, 1, 8, 8)
faces = TensorDataset(images, net(images).argmax(dim=1))
attacks = {
    "PGD": lambda: PGD("l2", epsilon=0.5, num_steps=5, step_size=0.1, backend="native"),
    "DDN": lambda: DDN(num_steps=5, backend="native"),
}
print("secml-torch", version("secml-torch"))
print("expected: 20 results from 20 images for each batch size")
failed = []
for name, make in attacks.items():
    for batch_size in (20, 10, 16):
        try:
            count = sum(len(batch) for batch, _ in make()(net, DataLoader(faces, batch_size=batch_size)))
            print(f"seen: {name}, batches of {batch_size}: {count} results")
        except RuntimeError as error:
            failed.append((name, batch_size))
            print(f"seen: {name}, batches of {batch_size}: RuntimeError: {error}")
sys.exit(0 if failed == [("DDN", 16)] else 1)
PY
