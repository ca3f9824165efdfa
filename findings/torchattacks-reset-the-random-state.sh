#!/usr/bin/env bash
# torchattacks 3.5.1, torch 2.13.0, seen 2026-11-30
#
# Expected: an attack draws from torch's global random generator or leaves it alone. After two attacks
#   that began in different states, the next random numbers differ.
# Seen: APGD, FAB and Square call torch.manual_seed with their own `seed` (0 unless given) and do not put
#   the old state back. Whatever is drawn after each call is the same: here, five training steps with
#   APGD share one dropout mask.
# What follows for users of face classifiers: adversarial training with these attacks repeats the same
#   dropout, augmentation and shuffling at every step, without a word, and the evaluation of a
#   randomised defence becomes constant. Put the call inside `torch.random.fork_rng()`.
# For dxray: its attacks take a seed and a generator of their own; the benchmarks against peers must
#   call them inside fork_rng.
#
# Run: bash findings/torchattacks-reset-the-random-state.sh
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

net = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 3)).eval()
images = torch.rand(4, 1, 48, 48)
labels = torch.tensor([0, 1, 2, 0])


def drawn_after(attack, seed):
    torch.manual_seed(seed)
    attack(images, labels)
    return torch.rand(1).item()


attacks = {
    "PGD": torchattacks.PGD(net),
    "APGD": torchattacks.APGD(net, steps=3),
    "FAB": torchattacks.FAB(net, steps=3, n_classes=3),
    "Square": torchattacks.Square(net, n_queries=3),
}
print("torchattacks", torchattacks.__version__)
print("expected: the two numbers differ for every attack")
resetting = set()
for name, attack in attacks.items():
    first, second = drawn_after(attack, seed=1), drawn_after(attack, seed=2)
    print(f"{name:8} next random number after seed 1: {first:.6f}, after seed 2: {second:.6f}")
    if first == second:
        resetting.add(name)

dropout = nn.Dropout(0.5).train()
masks = set()
for _ in range(5):
    attacks["APGD"](images, labels)
    masks.add(tuple(dropout(torch.ones(64)).tolist()))
print(f"seen: {', '.join(sorted(resetting))} set the global state; {len(masks)} dropout mask(s) in 5 steps with APGD")
sys.exit(0 if resetting == {"APGD", "FAB", "Square"} and len(masks) == 1 else 1)
PY
