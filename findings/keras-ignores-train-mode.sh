#!/usr/bin/env bash
# keras 3.15.1 on its torch backend, torch 2.13.0, seen 2026-12-01
#
# Expected: a Keras model on the torch backend is a torch.nn.Module, so after `model.train()` dropout drops
#   and batch norm learns its running statistics, as in every module of torch.
# Seen: `train()` sets the flag `training` and changes nothing: dropout lets all pass, batch norm takes its
#   stored statistics and never moves them. Only `model(x, training=True)` does what `train()` says.
# What follows for users of face classifiers: a Keras net in an ordinary torch loop (adversarial training,
#   fine-tuning, learning the statistics of other faces) trains with no dropout and with the batch norm it
#   came with, and nothing says so. (It also means that an attack never meets dropout by mistake.)
# For dxray: victims that are Keras nets are attacked rightly in either mode; whatever trains one passes
#   `training=True`, and a check of the flag `training` says nothing about them.
#
# Run: bash findings/keras-ignores-train-mode.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install torch==2.13.0 numpy==2.4.6 keras==3.15.1

KERAS_BACKEND=torch KERAS_HOME=$work/keras run_python <<'PY'
import sys

import keras
import torch

keras.utils.set_random_seed(0)
layers = keras.layers
net = keras.Sequential([
    keras.Input((16, 16, 1)),
    layers.Conv2D(4, 3),
    layers.BatchNormalization(),
    layers.Dropout(0.5),
    layers.Flatten(),
    layers.Dense(2),
])
images = torch.rand(8, 16, 16, 1)


def active(**options):
    """Whether dropout drops and whether batch norm's statistics move, in a call with `options`."""
    before = [weight.numpy().copy() for weight in net.layers[1].non_trainable_weights]
    random = not torch.equal(net(images, **options), net(images, **options))
    moved = any((old != new.numpy()).any() for old, new in zip(before, net.layers[1].non_trainable_weights))
    return random, moved


print("keras", keras.__version__, "torch", torch.__version__, "a torch module:", isinstance(net, torch.nn.Module))
print("expected: after train(): dropout True, batch norm True")
seen = {}
for name, options in {"train()": {}, "eval()": {}, "train(), training=True": {"training": True}}.items():
    net.eval() if name == "eval()" else net.train()
    seen[name] = active(**options)
    print(f"seen: after {name}: flag {net.training}, dropout {seen[name][0]}, batch norm {seen[name][1]}")
idle, busy = (False, False), (True, True)
sys.exit(0 if seen == {"train()": idle, "eval()": idle, "train(), training=True": busy} else 1)
PY
