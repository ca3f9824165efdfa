#!/usr/bin/env bash
# foolbox 3.3.4, torchattacks 3.5.1, adversarial-robustness-toolbox 1.20.1, torch 2.13.0, seen 2026-11-30
#
# Expected: an attack asks for the gradient of its images, and the parameters' `.grad` is as it was: None
#   after zero_grad.
# Seen: foolbox's LinfPGD, torchattacks' CW and ART's PGD call `backward` on the whole graph, so the
#   gradients of all their steps add up in the parameters (ART clears them before each of its own
#   gradients, so those of its last step stay). torchattacks' PGD asks for the image's gradient only.
# What follows for users of face classifiers: in adversarial training in the common order (zero_grad,
#   attack, loss.backward, step) the optimizer steps by the sum of both. Here it is another direction
#   and many times longer. Put zero_grad after the attack, or freeze the parameters during it. It also
#   costs the time and memory of gradients that nobody needs.
# For dxray: nothing; its query layer asks for the gradients of inputs only and freezes the net.
#
# Run: bash findings/attacks-leave-gradients-in-the-net.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 tqdm six requests packaging foolbox==3.3.4
install --no-deps torchattacks==3.5.1 adversarial-robustness-toolbox==1.20.1

run_python <<'PY'
import sys
from importlib.metadata import version

import foolbox
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).eval()
images = torch.rand(8, 1, 16, 16)
labels = net(images).argmax(dim=1)
loss = nn.CrossEntropyLoss()


def by_foolbox():
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    return foolbox.attacks.LinfPGD(steps=20)(model, images, labels, epsilons=8 / 255)[1]


def by_art():
    classifier = PyTorchClassifier(net, loss, (1, 16, 16), 2, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescent(classifier, eps=8 / 255, eps_step=2 / 255, max_iter=20, verbose=False)
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def gradients():
    return torch.cat([p.grad.flatten() for p in net.parameters()])


attacks = {
    "foolbox LinfPGD": by_foolbox,
    "torchattacks CW": lambda: torchattacks.CW(net, steps=20)(images, labels),
    "torchattacks PGD": lambda: torchattacks.PGD(net, steps=20)(images, labels),
    "ART PGD": by_art,
}
for name in ("foolbox", "torchattacks", "adversarial-robustness-toolbox"):
    print(name, version(name))
print("expected: the step of (zero_grad, attack, backward) is the step of (attack, zero_grad, backward)")
leaving = set()
for name, attack in attacks.items():
    net.zero_grad()
    results = attack().detach()
    if any(p.grad is not None for p in net.parameters()):
        leaving.add(name)
    loss(net(results), labels).backward()
    common = gradients()
    net.zero_grad()
    loss(net(results), labels).backward()
    clean = gradients()
    angle = torch.cosine_similarity(common, clean, dim=0)
    print(f"seen: {name:17} the common order's gradient is {common.norm() / clean.norm():5.1f} x as long, cosine {angle:.2f}")
print("gradients left in the parameters by:", ", ".join(sorted(leaving)))
sys.exit(0 if leaving == {"foolbox LinfPGD", "torchattacks CW", "ART PGD"} else 1)
PY
