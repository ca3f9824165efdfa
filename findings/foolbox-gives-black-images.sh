#!/usr/bin/env bash
# foolbox 3.3.4, torch 2.13.0, seen 2026-11-30
#
# Expected: where L2CarliniWagnerAttack or EADAttack find nothing, the image comes back as it was and
#   `success` is False.
# Seen: it comes back all black. foolbox then asks the net about the black image, and where the net calls
#   black the other class, `success` is True.
# What follows for users of face classifiers: with two classes, black belongs to one of them. Every face
#   of the other class counts as fooled, also when the attack's budget was far too small, at an L2
#   distance equal to the image's own norm. Success rates are true only beside the distances.
# For dxray: its tables of peers must not give a success rate alone, but the median distance beside it.
#
# Run: bash findings/foolbox-gives-black-images.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 foolbox==3.3.4

run_python <<'PY'
import sys

import foolbox
import torch
from torch import nn


class Brightness(nn.Module):
    """Class 0 is dark, class 1 is bright."""

    def forward(self, x):
        bright = 20 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


torch.manual_seed(0)
dark, bright = torch.rand(3, 1, 48, 48) * 0.4, 0.6 + torch.rand(3, 1, 48, 48) * 0.4
images, labels = torch.cat([dark, bright]), torch.tensor([0, 0, 0, 1, 1, 1])
model = foolbox.PyTorchModel(Brightness().eval(), bounds=(0, 1), device="cpu")
attacks = {
    "CW": foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=3, steps=50),
    "EAD": foolbox.attacks.EADAttack(binary_search_steps=3, steps=50),
}
print("foolbox", foolbox.__version__)
print("expected: images that were not fooled come back unchanged, success False")
as_seen = True
for name, attack in attacks.items():
    results, _, success = attack(model, images, labels, epsilons=None)
    black = (results == 0).flatten(1).all(dim=1)
    unchanged = (results == images).flatten(1).all(dim=1)
    distance = (results - images).flatten(1).norm(dim=1)
    print(f"{name:4} unchanged: {unchanged.tolist()}")
    print(f"     black:     {black.tolist()}")
    print(f"     success:   {success.tolist()}, L2 {[round(d, 1) for d in distance.tolist()]}")
    as_seen &= bool(black.all()) and success.tolist() == [False] * 3 + [True] * 3
print("seen: all black, and black counts as success for the bright class" if as_seen else "seen: something else")
sys.exit(0 if as_seen else 1)
PY
