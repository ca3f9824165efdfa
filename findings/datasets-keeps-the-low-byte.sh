#!/usr/bin/env bash
# datasets 5.2.0, pillow 13.0.0, seen 2026-11-30
#
# Expected: an RGB array of 16 bits in an Image column is refused, as float RGB arrays are, or scaled to 8
#   bits (the high byte).
# Seen: it becomes an 8-bit PNG of the *low* bytes: noise. A warning speaks of downcasting only. A grey
#   array of 16 bits is kept whole.
# What follows for users of face classifiers: 16-bit PNG or TIFF faces that were loaded as arrays turn to
#   noise on their way into a data set, with the right size and labels; a net then learns nothing from
#   them. Divide by 257 and round to uint8 first.
# For dxray: nothing; its readers scale 16 bits to 8. A set that went through this step is noise already.
#
# Run: bash findings/datasets-keeps-the-low-byte.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install datasets==5.2.0 pillow==13.0.0 numpy==2.4.6

HF_HOME=$work/hub HF_HUB_OFFLINE=1 run_python <<'PY'
import sys

import datasets
import numpy as np

ramp = np.linspace(0, 65535, 48).astype(np.uint16)
rgb = np.stack([np.tile(ramp, (48, 1))] * 3, axis=-1)


def through_datasets(array):
    features = datasets.Features({"image": datasets.Image()})
    return np.asarray(datasets.Dataset.from_dict({"image": [array]}, features=features)[0]["image"])


print("datasets", datasets.__version__)
print("a row of the ramp, high bytes:", (rgb[0, :8, 0] >> 8).tolist())
print("expected: refused, or these high bytes")
try:
    back, grey = through_datasets(rgb), through_datasets(rgb[..., 0])
except TypeError as error:
    print("seen: TypeError:", error)
    sys.exit(1)
print("seen:", back.dtype, back[0, :8, 0].tolist(), "= the low bytes:", (rgb[0, :8, 0] & 255).tolist())
print("seen: grey 16-bit array kept whole:", np.array_equal(grey, rgb[..., 0]))
sys.exit(0 if np.array_equal(back, rgb & 255) and np.array_equal(grey, rgb[..., 0]) else 1)
PY
