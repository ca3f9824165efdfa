#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, pillow 13.0.0, seen 2026-11-30
#
# Expected: a colour PNG read as grey is the same for OpenCV's imread(IMREAD_GRAYSCALE), OpenCV's own
#   cvtColor and Pillow's convert("L") but for rare roundings, as all three use the weights 0.299, 0.587,
#   0.114; a colour JPEG read as grey is the same for OpenCV and Pillow to the bit.
# Seen: JPEG is the same to the bit. For PNG, imread differs from both others in about half of the pixels,
#   by one level; cvtColor and Pillow agree in 99.9 %.
# What follows for users of face classifiers: the smallest Linf changes that fool a net are one or two
#   levels. An image made for a net that is fed by Pillow is, at another reader of the same PNG, changed
#   by as much again. Judge with the reader that the service uses, or save grey PNG, which all read alike.
# For dxray: what it saves for grey nets is a grey PNG, so its result does not depend on the reader; the
#   original in colour does.
#
# Run: bash findings/opencv-reads-grey-another-way.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6

run_python <<'PY'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image

rows, columns = np.mgrid[0:64, 0:64]
smooth = 128 + 60 * np.sin(columns / 7) + 40 * np.cos(rows / 5)
rgb = np.stack([smooth, np.roll(smooth, 5, 0), np.roll(smooth, 9, 1)], axis=-1)
rgb = np.clip(rgb + np.random.default_rng(0).normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)
Image.fromarray(rgb).save("face.png")
Image.fromarray(rgb).save("face.jpg", quality=95)


def by_imread(name):
    return cv2.imread(name, cv2.IMREAD_GRAYSCALE)


def by_cvtcolor(name):
    return cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2GRAY)


def by_pillow(name):
    with Image.open(name) as image:
        return np.asarray(image.convert("L"))


def differing(one, other):
    apart = np.abs(one.astype(int) - other.astype(int))
    return (apart > 0).mean(), apart.max()


print("opencv", cv2.__version__, "pillow", PIL.__version__)
print("expected: nearly no pixel differs")
comparisons = {
    "JPEG, imread / Pillow": (by_imread("face.jpg"), by_pillow("face.jpg")),
    "PNG, cvtColor / Pillow": (by_cvtcolor("face.png"), by_pillow("face.png")),
    "PNG, imread / Pillow": (by_imread("face.png"), by_pillow("face.png")),
    "PNG, imread / cvtColor": (by_imread("face.png"), by_cvtcolor("face.png")),
}
shares = {}
for name, pair in comparisons.items():
    shares[name], most = differing(*pair)
    print(f"seen: {name:23} {shares[name]:6.2%} of the pixels differ, by at most {most}")
alike = shares["JPEG, imread / Pillow"] == 0 and shares["PNG, cvtColor / Pillow"] < 0.01
sys.exit(0 if alike and shares["PNG, imread / Pillow"] > 0.3 and shares["PNG, imread / cvtColor"] > 0.3 else 1)
PY
