#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1, seen 2026-11-30
#
# Expected: datasets reads a Parquet file with a column of Arrow's own type for images of one size,
#   `arrow.fixed_shape_tensor`, as its Array3D.
# Seen: ValueError, the type "does not have a datasets dtype equivalent", though datasets stands on
#   pyarrow, which wrote the file. Polars and DuckDB read it, flattened, the shape lost.
# What follows for users of face classifiers: a set of raw faces in the canonical Arrow form does not open
#   in the most used data library of the field. A column of PNG bytes with `Image` metadata opens everywhere.
# For dxray: nothing; its tables keep encoded images, and should go on to.
#
# Run: bash findings/datasets-refuses-tensor-columns.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install datasets==5.2.0 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1 numpy==2.4.6

HF_HOME=$work/hub HF_HUB_OFFLINE=1 run_python <<'PY'
import sys

import datasets
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq

faces = np.random.default_rng(0).integers(0, 256, (4, 48, 32, 3), dtype=np.uint8)
pq.write_table(pa.table({"face": pa.FixedShapeTensorArray.from_numpy_ndarray(faces)}), "faces.parquet")
print("datasets", datasets.__version__, "pyarrow", pa.__version__)
print("pyarrow reads", pq.read_table("faces.parquet")["face"].combine_chunks().to_numpy_ndarray().shape)
print("polars reads", polars.read_parquet("faces.parquet")["face"].to_numpy().shape)
print("duckdb reads", duckdb.sql("select typeof(face), len(face) from 'faces.parquet' limit 1").fetchall()[0])
print("expected: datasets reads Array3D(shape=(48, 32, 3), dtype='uint8')")
try:
    print("seen: datasets reads", datasets.Dataset.from_parquet("faces.parquet").features)
except ValueError as error:
    print("seen: ValueError:", error)
    sys.exit(0 if "does not have a datasets dtype equivalent" in str(error) else 1)
sys.exit(1)
PY
