"""Faces to read from: folders, tables and data sets that a test makes, and real ones where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data import faces
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png

REAL_FACES = Path(__file__).resolve().parents[4] / "shared" / "faces"
needs_real_faces = pytest.mark.skipif(
    not (REAL_FACES / "utkface48.parquet").is_file(), reason="the real faces (../shared/faces) are not on this machine"
)


def image(number: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (1, side, side), dtype=np.uint8)


def png(number: int, side: int = 48) -> bytes:
    return encode_png(image(number, side))


def write_folder(root: Path, **classes: int) -> Path:
    """A sub-folder per class with that many 48x48 images; image i of the c-th class is ``image(100 * c + i)``."""
    for c, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03d}.png").write_bytes(png(100 * c + i))
    return root


def write_table(file: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), file)
    return f"parquet:{file}"


def raw_table(file: Path, count: int = 10, **columns: Any) -> str:
    """A table like the UTKFace one: raw images, genders that alternate."""
    default = {
        "name": [f"face{i:03d}" for i in range(count)],
        "gender": pa.array([i % 2 for i in range(count)], pa.int8()),
        "image": [image(i).tobytes() for i in range(count)],
    }
    return write_table(file, **{name: values for name, values in (default | columns).items() if values is not None})


def check_contract(result: Faces) -> None:
    """What holds for the faces of every reader."""
    count = len(result)
    assert result.images.dtype == np.uint8
    assert result.images.shape[0] == count
    assert result.images.ndim == 4
    assert result.labels.dtype == np.int64
    assert result.labels.shape == (count,)
    assert set(result.labels) <= set(range(len(result.classes)))
    assert result.names.tolist() == sorted(set(result.names.tolist()))
    assert set(result.splits.tolist()) <= set(faces.SPLITS)
    assert sum(len(result.split(name)) for name in faces.SPLITS) == count


def spec_of(kind: str, tmp_path: Path) -> str:
    """A source of each kind with 30 faces or so, of both genders."""
    if kind == "synthetic":
        return "synthetic:30"
    if kind == "folder":
        return f"folder:{write_folder(tmp_path / 'faces', man=15, woman=15)}"
    if kind == "utkface":
        for i in range(30):
            (tmp_path / f"{20 + i}_{i % 2}_0_20170116174525{i:03d}.jpg.chip.jpg").write_bytes(png(i))
        return f"utkface:{tmp_path}"
    if kind == "parquet":
        return raw_table(tmp_path / "faces.parquet", 30)
    return f"hf:{save_hf(tmp_path / 'saved', 30)}"


def save_hf(root: Path, count: int, genders: list[Any] | None = None, feature: Any = None) -> Path:
    """A Hugging Face data set without splits, saved as save_to_disk does."""
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(count)],
        "gender": genders or [i % 2 for i in range(count)],
    }
    gender = feature or datasets.ClassLabel(names=["Male", "Female"])
    features = datasets.Features({"image": datasets.Image(), "gender": gender})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root))
    return root
