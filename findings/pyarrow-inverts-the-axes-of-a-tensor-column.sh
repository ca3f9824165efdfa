#!/usr/bin/env bash
# pyarrow 26.0.1, numpy 2.4.6, seen 2026-11-30
#
# Expected: FixedShapeTensorArray.from_numpy_ndarray(images).to_numpy_ndarray() is `images`, whatever the
#   strides, since the type stores a permutation of the axes for exactly this.
# Seen: for a channels-first view of channels-last images, the usual `images.transpose(0, 3, 1, 2)`, the
#   permutation stored is the inverse of the one that reading applies. Reading raises ArrowInvalid or,
#   where the sizes allow it, returns another shape or other pixels without a word. An exchange of only two axes
#   is its own inverse and works, and so does one channel, which hides the fault from tests with grey images.
# What follows for users of face classifiers: a Parquet file of RGB faces can be written that pyarrow
#   itself cannot read. `numpy.ascontiguousarray` before the call avoids it.
# For dxray: nothing while it stores encoded images; a writer of tensor columns makes its arrays contiguous.
#
# Run: bash findings/pyarrow-inverts-the-axes-of-a-tensor-column.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install pyarrow==26.0.1 numpy==2.4.6

run_python <<'PY'
import sys

import numpy as np
import pyarrow as pa


def through_arrow(images):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    stored = f"stored shape {column.type.shape}, permutation {column.type.permutation}"
    try:
        back = column.to_numpy_ndarray()
    except pa.ArrowInvalid as error:
        return f"ArrowInvalid: {error}", stored
    if back.shape != images.shape:
        return f"shape {back.shape[1:]}", stored
    return "the same" if np.array_equal(back, images) else "other pixels", stored


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)


cases = {
    "RGB 48x32, channels last": (images(48, 32, 3), "the same"),
    "RGB 48x32, channels first, contiguous": (np.ascontiguousarray(images(48, 32, 3).transpose(0, 3, 1, 2)), "the same"),
    "grey 48x32, channels-first view": (images(48, 32, 1).transpose(0, 3, 1, 2), "the same"),
    "RGB 48x32, channels-first view": (images(48, 32, 3).transpose(0, 3, 1, 2), "ArrowInvalid"),
    "RGB 3x48x48, channels-last view": (images(3, 48, 48).transpose(0, 2, 3, 1), "shape (48, 3, 48)"),
    "RGB 3x3, channels-first view": (images(3, 3, 3).transpose(0, 3, 1, 2), "other pixels"),
}
print("pyarrow", pa.__version__, "numpy", np.__version__)
print("expected: each comes back the same")
as_seen = True
for name, (value, seen_before) in cases.items():
    result, stored = through_arrow(value)
    print(f"seen: {name}: {result} ({stored})")
    as_seen &= result.startswith(seen_before)
sys.exit(0 if as_seen else 1)
PY
